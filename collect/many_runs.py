"""Training many runs of one experiment: what is committed is skipped, the rest goes to processes or a device."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from ..store.errors import AlreadyExists, InvalidOption, LosslakeError, TrainingFailed
from ..store.records import Run
from .answers import Recording
from .callables import is_callable_spec, load_callable
from .dp_training import check_private
from .early_stopping import held_out
from .experiment import Prepared
from .grad_norm_layers import watched_layers
from .models import build_model
from .progress import Progress
from .recipe import Recipe, to_json
from .run_facts import available_cpus
from .stacked_mlp import stackable, train_stack
from .train import RunPlan, commit_trained, train_run
from .train_step import TrainStep, compiles
from .training_data import DeviceData
from .worker_pool import Event, run_in_workers

_FOLDER = "losslake-fleet-"
_STACK = 32
"""Models in a stack unless told."""

RecordsOf = Callable[[int], np.ndarray]
"""What the plan of that number trains on: bool (N,). A function, so that no fleet needs a row a run in memory."""


def train_fleet(
    prepared: Prepared,
    recipe: Recipe,
    plans: Sequence[RunPlan],
    records: RecordsOf,
    *,
    recording: Recording,
    device: torch.device,
    jobs: int | None,
    compiled: bool | None,
    stack: int | None,
    progress: Progress,
) -> list[Run]:
    """Train the runs that are not committed yet; all runs of ``plans``, in order.

    ``records`` tells what each trains on. On a CPU ``jobs`` processes with one thread each work side by side
    (default: one a CPU); with one job, or one run, this process trains. On a GPU it trains one after another, unless
    ``jobs`` says how many processes are to share it, each with the data on the device. ``compiled`` as in `compiles`.

    ``stack`` models at a time are trained in this process as one (see `train_stack`); by default on a GPU where that is
    possible, and not on a CPU.
    A run that fails does not stop the others. Raises AlreadyExists, before any training, where a committed run
    of one of the names was made otherwise, InvalidOption for a model that does not exist; TrainingFailed at the end where runs failed, naming them.
    """
    if jobs is not None and jobs < 1:
        raise InvalidOption(f"jobs is {jobs}; it must be 1 or more")
    stack = _stack_size(stack, prepared, recipe, recording, device, jobs)
    lake, experiment = prepared.lake, prepared.experiment.name
    todo = []
    for number, plan in enumerate(plans):
        if lake.has_run(experiment, plan.run):
            check_same(lake.run(experiment, plan.run), plan, recipe, recording)
        else:
            todo.append(number)
    compiled = compiles(compiled, recipe, grad_norms=recording.grad_norms, device=device, runs=len(todo))
    if todo:
        if recipe.early_stop is not None:
            held_out(prepared.data.population, np.zeros(len(prepared.data), dtype=np.bool_))
        _check_model(prepared, recipe, recording)
    progress.start(len(todo) * recipe.epochs, "epochs")
    try:
        if len(todo) < len(plans):
            progress.advance(0, f"{len(plans) - len(todo)} of {len(plans)} runs are in the lake already")
        watch = _Watch(plans, recipe.epochs, progress)
        jobs = min(jobs or (available_cpus() if device.type == "cpu" else 1), len(todo))
        with _terminated_by_exception():
            if stack > 1:
                _stacked(prepared, recipe, plans, todo, records, recording, device, stack, watch)
            elif jobs > 1:
                _side_by_side(
                    prepared, recipe, plans, todo, records, recording, device, compiled, jobs, watch
                )
            elif todo:
                _one_by_one(prepared, recipe, plans, todo, records, recording, device, compiled, watch)
    finally:
        progress.finish()
    if watch.failed:
        raise TrainingFailed(_summary(plans, watch.failed, len(todo)))
    return [lake.run(experiment, plan.run) for plan in plans]


def _check_model(prepared: Prepared, recipe: Recipe, recording: Recording) -> None:
    """Raises InvalidOption or InvalidInput for a model that cannot be built or recorded, once and before any run starts.

    A function of the user's is looked up but not called: what it does belongs to the run that it fails.
    """
    if is_callable_spec(recipe.model):
        load_callable(recipe.model)
        return
    with torch.device("meta"):  # no memory, no arithmetic, no random draws
        model = build_model(
            recipe.model,
            input_shape=prepared.data.x.shape[1:],
            classes=prepared.data.classes,
            options=recipe.model_options,
        )
    if recording.grad_norms != "none":
        watched_layers(model.train(recording.grad_norms == "train"))
    if recipe.private:
        check_private(model)


def check_same(run: Run, plan: RunPlan, recipe: Recipe, recording: Recording) -> None:
    """Raises AlreadyExists where a committed run was not made from this plan, recipe and recording."""
    info = run.info
    stored = {
        # What a recipe does not tell of had its default when the run was made.
        **(to_json(Recipe()) if info.recipe else {}),
        **info.recipe,
        "seed": info.seed,
        "role": info.role,
        "parent": info.parent,
        **_choices(info.extra),
    }
    wanted = {**to_json(recipe), "seed": plan.seed, "role": plan.role, "parent": plan.parent}
    wanted |= _choices({**plan.extra, "recording": recording.to_json()})
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise AlreadyExists(
                f"run {run.run!r} of experiment {run.experiment!r} is in the lake, but was made with {name} = "
                f"{stored.get(name)!r}, not {value!r}; give the same options, or choose another run or experiment name"
            )


def _choices(extra: object) -> dict[str, object]:
    """What of a run's extra facts was chosen beforehand, rather than found; what it does not tell was the default."""
    chosen: dict[str, object] = {"recording.grad_norms": "none"}
    if isinstance(extra, dict):
        for key in ("recording", "design"):
            if isinstance(extra.get(key), dict):
                chosen |= {f"{key}.{name}": value for name, value in extra[key].items()}
    return chosen


class _Watch:
    """Counts epochs over all runs and remembers which runs failed."""

    def __init__(self, plans: Sequence[RunPlan], epochs: int, progress: Progress) -> None:
        self._plans, self._epochs, self._progress = plans, epochs, progress
        self._at = [0] * len(plans)
        self.failed: dict[int, str] = {}

    def epoch(self, number: int, epoch: int) -> None:
        self._at[number] = epoch
        self._progress.advance(1, f"{self._plans[number].run} epoch {epoch}/{self._epochs}")

    def done(self, number: int) -> None:
        self._progress.advance(self._epochs - self._at[number], f"{self._plans[number].run} is in the lake")

    def fail(self, number: int, message: str) -> None:
        self.failed[number] = message
        self._progress.advance(
            self._epochs - self._at[number], f"{self._plans[number].run} failed: {message}"
        )

    def event(self, event: Event) -> None:
        number = event["number"]
        if event["event"] == "epoch":
            self.epoch(number, event["epoch"])
        elif event["event"] == "done":
            self.done(number)
        else:
            self.fail(number, event["message"])


def _one_by_one(
    prepared: Prepared,
    recipe: Recipe,
    plans: Sequence[RunPlan],
    todo: Sequence[int],
    records: RecordsOf,
    recording: Recording,
    device: torch.device,
    compiled: bool,
    watch: _Watch,
) -> None:
    held = DeviceData(prepared.data, device, normalize=recipe.normalize)
    step = TrainStep(held, recipe, compiled=compiled)
    for number in todo:

        def on_epoch(epoch: int, loss: float, number: int = number) -> None:
            watch.epoch(number, epoch)

        try:
            train_run(
                prepared.lake,
                prepared.experiment.name,
                prepared.data,
                recipe,
                plans[number],
                records(number),
                recording=recording,
                step=step,
                on_epoch=on_epoch,
            )
        except AlreadyExists:
            pass  # another process committed the same run in the meantime
        except LosslakeError as error:
            watch.fail(number, str(error))
            continue
        except Exception as error:  # a model of the user's, as a rule; the others go on, as with workers
            traceback.print_exc()
            watch.fail(number, f"{type(error).__name__}: {error}")
            continue
        watch.done(number)


def _stack_size(
    wanted: int | None,
    prepared: Prepared,
    recipe: Recipe,
    recording: Recording,
    device: torch.device,
    jobs: int | None,
) -> int:
    """How many models to train as one; 1: each on its own. Raises InvalidOption where that is not possible."""
    data = prepared.data
    augmented = data.pictures and (recipe.flip or recipe.crop > 0)
    possible = stackable(recipe, recording, augmented=augmented, soft=data.soft is not None)
    if wanted is None:
        return _STACK if possible and device.type == "cuda" and jobs is None else 1
    if wanted < 1:
        raise InvalidOption(f"stack is {wanted}; it must be 1 or more")
    if wanted > 1 and not possible:
        raise InvalidOption(
            "only plain mlps can be trained as a stack: by sgd in fp32, without dropout, flips, crops, clipped gradients, "
            "DP-SGD, early stopping, traces or soft labels; leave stack out"
        )
    if wanted > 1 and (jobs or 1) > 1:
        raise InvalidOption("a stack is trained by one process; leave jobs or stack out")
    return wanted


def _stacked(
    prepared: Prepared,
    recipe: Recipe,
    plans: Sequence[RunPlan],
    todo: Sequence[int],
    records: RecordsOf,
    recording: Recording,
    device: torch.device,
    stack: int,
    watch: _Watch,
) -> None:
    held = DeviceData(prepared.data, device, normalize=recipe.normalize)
    for start in range(0, len(todo), stack):
        numbers = todo[start : start + stack]
        rows = [records(number) for number in numbers]

        def on_epoch(place: int, epoch: int, numbers: Sequence[int] = numbers) -> None:
            watch.epoch(numbers[place], epoch)

        trained = train_stack(held, recipe, [plans[number] for number in numbers], rows, on_epoch=on_epoch)
        for number, row, each in zip(numbers, rows, trained, strict=True):
            try:
                if each.model is None:
                    raise TrainingFailed(each.failure)
                commit_trained(
                    prepared.lake,
                    prepared.experiment.name,
                    prepared.data,
                    held,
                    recipe,
                    plans[number],
                    row,
                    each.model,
                    recording=recording,
                    seconds=each.seconds,
                    told={"stacked": len(numbers)},
                )
            except AlreadyExists:
                pass  # another process committed the same run in the meantime
            except LosslakeError as error:
                watch.fail(number, str(error))
                continue
            watch.done(number)


def _side_by_side(
    prepared: Prepared,
    recipe: Recipe,
    plans: Sequence[RunPlan],
    todo: Sequence[int],
    records: RecordsOf,
    recording: Recording,
    device: torch.device,
    compiled: bool,
    jobs: int,
    watch: _Watch,
) -> None:
    with _shared_folder() as folder:
        prepared.data.save(folder)
        rows = np.lib.format.open_memmap(
            folder / "records.npy", mode="w+", dtype=np.bool_, shape=(len(plans), len(prepared.data))
        )
        for number in todo:
            rows[number] = records(number)
        rows.flush()
        setup = {
            "lake": prepared.lake.path,
            "experiment": prepared.experiment.name,
            "folder": str(folder),
            "recipe": to_json(recipe),
            "recording": recording.to_json(),
            "device": str(device),
            "compiled": compiled,
        }
        tasks = [{"number": number, "plan": dataclasses.asdict(plans[number])} for number in todo]
        run_in_workers(setup, tasks, jobs=jobs, on_event=watch.event)


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """A temporary folder that names its process, so that what a killed one left can be removed by the next."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_FOLDER}*"):
        owner = left.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's process
    return True


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """In the block SIGTERM raises SystemExit, so that workers are stopped and temporary files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        with suppress(TypeError):  # a handler that was not set from Python cannot be put back
            signal.signal(signal.SIGTERM, before)


def _summary(plans: Sequence[RunPlan], failed: dict[int, str], tried: int) -> str:
    named = [
        message if plans[number].run in message else f"{plans[number].run}: {message}"
        for number, message in sorted(failed.items())
    ]
    more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
    rest = "; the others are in the lake" if tried > len(named) else ""
    return f"{len(named)} of {tried} runs failed{rest}: {'; '.join(named[:3])}{more}"
