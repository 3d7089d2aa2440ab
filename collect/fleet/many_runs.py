"""Training many runs of one experiment: what is committed is skipped, the rest goes to processes or a device."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import numpy as np
import torch

from ...store.errors import AlreadyExists, InvalidOption, LosslakeError, TrainingFailed
from ...store.format.records import Run
from ..callables import is_callable_spec, load_callable
from ..data.training import DeviceData
from ..experiment.prepare import Prepared
from ..grad_norms.layers import watched_layers
from ..models.build import build_model
from ..progress import Progress
from ..recipe import Recipe, to_json
from ..run_facts import available_cpus
from ..signals.ask import Recording
from ..train.checkpoint import Checkpointing
from ..train.dp import check_private
from ..train.early_stopping import held_out
from ..train.plan import RunPlan
from ..train.step import TrainStep, compiles
from ..train.trainer import train_run
from .ray.cluster import OnRay
from .ray.runs import train_on_ray
from .stacked import stack_size, train_stacked
from .work import FleetWork, RecordsOf, Watch, train_side_by_side


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
    checkpointing: Checkpointing | None = None,
    engine: OnRay | None = None,
) -> list[Run]:
    """Train the runs that are not committed yet; all runs of ``plans``, in order.

    ``records`` tells what each trains on. On a CPU ``jobs`` processes with one thread each work side by side
    (default: one a CPU); with one job, or one run, this process trains. On a GPU it trains one after another, unless
    ``jobs`` says how many processes are to share it, each with the data on the device. ``compiled`` as in `compiles`.

    ``stack`` models at a time are trained as one (see `train_stack`), in a process that is as above; by default on a GPU
    where that is possible, and not on a CPU. With an ``engine`` the nodes of a Ray cluster train, in place of this machine,
    ``jobs`` runs at a time at most (see `train_on_ray`), and stacks are for those who ask. With ``checkpointing`` runs that were stopped are gone on with, stacked ones excepted.
    A run that fails does not stop the others. Raises AlreadyExists, before any training, where a committed run
    of one of the names was made otherwise, InvalidOption for a model that does not exist; TrainingFailed at the end where runs failed, naming them.
    """
    if jobs is not None and jobs < 1:
        raise InvalidOption(f"jobs is {jobs}; it must be 1 or more")
    if engine is not None and stack is None:
        stack = 1  # a stack of all runs would leave all nodes but one idle
    stack = stack_size(stack, prepared, recipe, recording, device, jobs)
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
            there = prepared.data.population & ~prepared.data.forgotten
            held_out(there, np.zeros(len(prepared.data), dtype=np.bool_))
        _check_model(prepared, recipe, recording)
    progress.start(len(todo) * recipe.epochs, "epochs")
    try:
        if len(todo) < len(plans):
            progress.advance(0, f"{len(plans) - len(todo)} of {len(plans)} runs are in the lake already")
        watch = Watch(plans, recipe.epochs, progress)
        work = FleetWork(prepared, recipe, plans, todo, records, recording, device, checkpointing, watch)
        with _terminated_by_exception():
            if engine is not None and todo:
                train_on_ray(work, engine, compiled=compiled, jobs=jobs, stack=stack)
            elif todo:
                _train_here(work, compiled=compiled, jobs=jobs, stack=stack)
    finally:
        progress.finish()
    if watch.failed:
        raise TrainingFailed(watch.summary(len(todo)))
    return [lake.run(experiment, plan.run) for plan in plans]


def _train_here(work: FleetWork, *, compiled: bool, jobs: int | None, stack: int) -> None:
    jobs = min(jobs or (available_cpus() if work.device.type == "cpu" else 1), -(-len(work.todo) // stack))
    if jobs > 1:
        train_side_by_side(work, compiled=compiled, jobs=jobs, stack=stack)
    elif stack > 1:
        train_stacked(work, stack)
    else:
        _one_by_one(work, compiled=compiled)


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


def _one_by_one(work: FleetWork, *, compiled: bool) -> None:
    prepared, recipe, plans, watch = work.prepared, work.recipe, work.plans, work.watch
    held = DeviceData(prepared.data, work.device, normalize=recipe.normalize)
    step = TrainStep(held, recipe, compiled=compiled)
    for number in work.todo:

        def on_epoch(epoch: int, loss: float, number: int = number) -> None:
            watch.epoch(number, epoch)

        try:
            train_run(
                prepared.lake,
                prepared.experiment.name,
                prepared.data,
                recipe,
                plans[number],
                work.records(number),
                recording=work.recording,
                step=step,
                checkpointing=work.checkpointing,
                on_epoch=on_epoch,
                on_note=watch.note,
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
