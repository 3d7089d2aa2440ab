"""Training many runs of one experiment: what is committed is skipped, the rest goes to processes or a device."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from ..store.errors import AlreadyExists, InvalidOption, LosslakeError, TrainingFailed
from ..store.records import Run
from .answers import Recording
from .callables import is_callable_spec, load_callable
from .experiment import Prepared
from .models import build_model
from .progress import Progress
from .recipe import Recipe, to_json
from .run_facts import available_cpus
from .train import RunPlan, train_run
from .training_data import DeviceData
from .worker_pool import Event, run_in_workers

_FOLDER = "losslake-fleet-"


def train_fleet(
    prepared: Prepared,
    recipe: Recipe,
    plans: Sequence[RunPlan],
    members: np.ndarray,
    *,
    recording: Recording,
    device: torch.device,
    jobs: int | None,
    progress: Progress,
) -> list[Run]:
    """Train the runs that are not committed yet; all runs of ``plans``, in order.

    ``members`` is bool (len(plans), N). On a CPU ``jobs`` processes with one thread each work side by side
    (default: one a CPU); with one job, or one run, this process trains. On a GPU it trains one after another.
    A run that fails does not stop the others. Raises AlreadyExists, before any training, where a committed run
    of one of the names was made otherwise, InvalidOption for a model that does not exist; TrainingFailed at the end where runs failed, naming them.
    """
    if jobs is not None and jobs < 1:
        raise InvalidOption(f"jobs is {jobs}; it must be 1 or more")
    lake, experiment = prepared.lake, prepared.experiment.name
    todo = []
    for number, plan in enumerate(plans):
        if lake.has_run(experiment, plan.run):
            check_same(lake.run(experiment, plan.run), plan, recipe, recording)
        else:
            todo.append(number)
    if todo:
        _check_model(prepared, recipe)
    progress.start(len(todo) * recipe.epochs, "epochs")
    try:
        if len(todo) < len(plans):
            progress.advance(0, f"{len(plans) - len(todo)} of {len(plans)} runs are in the lake already")
        watch = _Watch(plans, recipe.epochs, progress)
        jobs = min(jobs or available_cpus(), len(todo))
        with _terminated_by_exception():
            if jobs > 1 and device.type == "cpu":
                _side_by_side(prepared, recipe, plans, todo, members, recording, jobs, watch)
            elif todo:
                _one_by_one(prepared, recipe, plans, todo, members, recording, device, watch)
    finally:
        progress.finish()
    if watch.failed:
        raise TrainingFailed(_summary(plans, watch.failed, len(todo)))
    return [lake.run(experiment, plan.run) for plan in plans]


def _check_model(prepared: Prepared, recipe: Recipe) -> None:
    """Raises InvalidOption or InvalidInput for a model that cannot be built, once and before any run starts.

    A function of the user's is looked up but not called: what it does belongs to the run that it fails.
    """
    if is_callable_spec(recipe.model):
        load_callable(recipe.model)
        return
    with torch.device("meta"):  # no memory, no arithmetic, no random draws
        build_model(
            recipe.model,
            input_shape=prepared.data.x.shape[1:],
            classes=prepared.data.classes,
            options=recipe.model_options,
        )


def check_same(run: Run, plan: RunPlan, recipe: Recipe, recording: Recording) -> None:
    """Raises AlreadyExists where a committed run was not made from this plan, recipe and recording."""
    info = run.info
    stored = {
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
    """What of a run's extra facts was chosen beforehand, rather than found."""
    chosen: dict[str, object] = {}
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
    members: np.ndarray,
    recording: Recording,
    device: torch.device,
    watch: _Watch,
) -> None:
    held = DeviceData(prepared.data, device, normalize=recipe.normalize)
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
                members[number],
                recording=recording,
                held=held,
                on_epoch=on_epoch,
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
    members: np.ndarray,
    recording: Recording,
    jobs: int,
    watch: _Watch,
) -> None:
    with _shared_folder() as folder:
        prepared.data.save(folder)
        np.save(folder / "memberships.npy", members, allow_pickle=False)
        setup = {
            "lake": prepared.lake.path,
            "experiment": prepared.experiment.name,
            "folder": str(folder),
            "recipe": to_json(recipe),
            "recording": recording.to_json(),
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
