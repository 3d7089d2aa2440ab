"""Training many runs of one experiment: what is committed is skipped, the rest goes to processes or a device."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType

import numpy as np
import torch

from ...store.errors import AlreadyExists, InvalidOption, TrainingFailed
from ...store.format.records import Run
from ..callables import is_callable_spec, load_callable
from ..estimators.run import LEAST
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
from ..train.run import RunPlan
from ..train.stacked_mlp import stackable
from ..train.step import compiles
from .design import Shard
from .pool import train_side_by_side
from .ray.cluster import OnRay
from .ray.runs import train_on_ray
from .runs import Runs
from .work import FleetWork, RecordsOf, Watch

_STACK = 32
"""Models in a stack unless told."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """A fleet that is ready to train. ``seed`` is the one all seeds of its runs are derived from.

    ``least`` is what estimators' probabilities of exactly 0 are read as; None: each says it itself, as targets do.
    """

    prepared: Prepared
    recipe: Recipe
    recording: Recording
    seed: int
    device: torch.device
    jobs: int | None
    compiled: bool | None
    stack: int | None
    engine: OnRay | None
    shard: Shard
    progress: Progress
    least: float | None = None

    def train(
        self, plans: Sequence[RunPlan], records: RecordsOf, *, checkpointing: Checkpointing | None = None
    ) -> list[Run]:
        """See `train_fleet`; of the shard's plans alone. Records that the experiment has forgotten are left out of every run."""
        own = self.shard.of(len(plans))
        return train_fleet(
            self,
            [self._planned(plans[number]) for number in own],
            lambda number: records(own[number]) & ~self.prepared.data.forgotten,
            checkpointing=checkpointing,
        )

    def _planned(self, plan: RunPlan) -> RunPlan:
        return plan if self.least is None else replace(plan, extra={**plan.extra, LEAST: self.least})


def train_fleet(
    fleet: Fleet,
    plans: Sequence[RunPlan],
    records: RecordsOf,
    *,
    checkpointing: Checkpointing | None = None,
) -> list[Run]:
    """Train the runs that are not committed yet; all runs of ``plans``, in order.

    ``records`` tells what each trains on. On a CPU ``jobs`` processes with one thread each work side by side
    (default: one a CPU); with one job, or one run, this process trains. On a GPU it trains one after another, unless
    ``jobs`` says how many processes are to share it, each with the data on the device. ``compiled`` as in `compiles`.

    ``stack`` models at a time are trained as one (see `train_stack`), in a process that is as above; by default on a GPU
    where that is possible, and not on a CPU. With an ``engine`` the nodes of a Ray cluster train, in place of this machine,
    ``jobs`` runs at a time at most (see `train_on_ray`), and stacks are for those who ask. With ``checkpointing`` runs that
    were stopped are gone on with, stacked ones excepted.

    A run that fails does not stop the others. Raises AlreadyExists, before any training, where a committed run
    of one of the names was made otherwise, InvalidOption for a model that does not exist; TrainingFailed at the end where
    runs failed, naming them.
    """
    prepared, recipe, recording, progress = fleet.prepared, fleet.recipe, fleet.recording, fleet.progress
    if fleet.jobs is not None and fleet.jobs < 1:
        raise InvalidOption(f"jobs is {fleet.jobs}; it must be 1 or more")
    stack = _stack_size(fleet)
    lake, experiment = prepared.lake, prepared.experiment.name
    todo = []
    for number, plan in enumerate(plans):
        if lake.has_run(experiment, plan.run):
            check_same(lake.run(experiment, plan.run), plan, recipe, recording)
        else:
            todo.append(number)
    compiled = compiles(
        fleet.compiled, recipe, grad_norms=recording.grad_norms, device=fleet.device, runs=len(todo)
    )
    if todo:
        if recipe.early_stop is not None:
            held_out(prepared.data.outsiders, np.zeros(len(prepared.data), dtype=np.bool_))
        _check_model(prepared, recipe, recording)
    steps = recipe.epochs if recipe.estimator is None else recipe.passes or 1
    watch = Watch(plans, steps, progress)
    work = FleetWork(
        prepared,
        recipe,
        plans,
        todo,
        records,
        recording,
        fleet.device,
        compiled,
        stack,
        checkpointing,
        watch,
    )
    progress.start(len(todo) * steps, "epochs" if recipe.estimator is None or recipe.passes else "models")
    try:
        if len(todo) < len(plans):
            watch.say(f"{len(plans) - len(todo)} of {len(plans)} runs are in the lake already")
        with _terminated_by_exception():
            if fleet.engine is not None and todo:
                train_on_ray(work, fleet.engine, jobs=fleet.jobs)
            elif todo:
                _train_here(work, fleet.jobs)
    finally:
        progress.finish()
    if watch.failed:
        raise TrainingFailed(watch.summary(len(todo)))
    return [lake.run(experiment, plan.run) for plan in plans]


def _stack_size(fleet: Fleet) -> int:
    """How many models to train as one; 1: each on its own. Raises InvalidOption where that is not possible."""
    data, recipe, wanted = fleet.prepared.data, fleet.recipe, fleet.stack
    if wanted is None and (fleet.engine is not None or fleet.jobs is not None or fleet.device.type != "cuda"):
        return 1  # on Ray a stack of all runs would leave all nodes but one idle
    augmented = data.pictures and (recipe.flip or recipe.crop > 0)
    possible = stackable(recipe, fleet.recording, augmented=augmented, soft=data.soft is not None)
    if wanted is None:
        return _STACK if possible else 1
    if wanted < 1:
        raise InvalidOption(f"stack is {wanted}; it must be 1 or more")
    if wanted > 1 and not possible:
        raise InvalidOption(
            "only plain mlps can be trained as a stack: by sgd in fp32, without dropout, flips, crops, clipped gradients, "
            "DP-SGD, early stopping, traces or soft labels; leave stack out"
        )
    return wanted


def _check_model(prepared: Prepared, recipe: Recipe, recording: Recording) -> None:
    """Raises InvalidOption or InvalidInput for a model that cannot be built or recorded, once and before any run starts.

    A function of the user's is looked up but not called: what it does belongs to the run that it fails.
    """
    if recipe.forward is not None:
        load_callable(recipe.forward)
    if is_callable_spec(recipe.model):
        load_callable(recipe.model)
        return
    with torch.device("meta"):  # no memory, no arithmetic, no random draws
        model = build_model(
            recipe.model,
            input_shape=prepared.data.input_shape,
            classes=prepared.data.classes,
            options=recipe.model_options,
        )
    if recording.grad_norms != "none":
        watched_layers(model.train(recording.grad_norms == "train"))
    if recipe.private:
        check_private(model)


def _train_here(work: FleetWork, jobs: int | None) -> None:
    parts = list(work.parts())
    jobs = min(jobs or (available_cpus() if work.device.type == "cpu" else 1), len(parts))
    if jobs > 1:
        train_side_by_side(work, jobs=jobs)
        return
    runs = Runs(work.prepared.lake, work.setup(), work.prepared.data, work.watch.tell)
    for part in parts:
        runs.train(part, [work.plans[number] for number in part], [work.records(number) for number in part])


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
        # What a network's recipe does not tell of had its default when the run was made; an estimator's tells all.
        **(to_json(Recipe()) if info.recipe and "estimator" not in info.recipe else {}),
        **info.recipe,
        "seed": info.seed,
        "role": info.role,
        "parent": info.parent,
        **_choices(info.extra),
    }
    wanted = {**to_json(recipe), "seed": plan.seed, "role": plan.role, "parent": plan.parent}
    wanted |= _choices({**plan.extra, "recording": recording.to_json()})
    for name, value in {**dict.fromkeys(info.recipe), **wanted}.items():  # a forward, too, that is not wanted
        if stored.get(name) != value:
            raise AlreadyExists(
                f"run {run.run!r} of experiment {run.experiment!r} is in the lake, but was made with {name} = "
                f"{stored.get(name)!r}, not {value!r}; give the same options, or choose another run or experiment name"
            )


def _choices(extra: object) -> dict[str, object]:
    """What of a run's extra facts was chosen beforehand, rather than found; what it does not tell was the default."""
    chosen: dict[str, object] = {"recording.grad_norms": "none"}
    if isinstance(extra, dict):
        if LEAST in extra:
            chosen[LEAST] = extra[LEAST]
        for key in ("recording", "design"):
            if isinstance(extra.get(key), dict):
                chosen |= {f"{key}.{name}": value for name, value in extra[key].items()}
    return chosen
