"""The hook for training loops of one's own: three added lines, and the run is in the lake."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...store.errors import AlreadyExists, InvalidInput, InvalidOption
from ...store.format.records import ROLES, Role, RunInfo
from ...store.lake import Lake
from ...store.upkeep.remove import unused_removed
from ...store.write.run_writer import RunWriter
from ..callables import unknown_choice
from ..signals.calls import Forward
from ..signals.queries import parse_queries
from .given import key_lookup, read_members, read_samples
from .recorded_run import RecordedRun


def start_run(
    lake: Lake,
    experiment: str,
    *,
    samples: Any = None,
    members: Any,
    role: Role = "target",
    run: str | None = None,
    recipe: Any = None,
    seed: int | None = None,
    model: str = "",
    dataset: str = "",
    queries: str | Sequence[str] = "original",
    forward: Forward | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    design: Mapping[str, Any] | None = None,
) -> RecordedRun:
    """Start recording one training run. Use it as ``with start_run(...) as run:``.

    samples   what the experiment consists of, in the order of sample ids: labels, or a table with a column label (pandas, Polars,
              Arrow, a Hugging Face Dataset, a mapping of columns, a list of rows). Labels are class numbers from 0, or names,
              which are counted in sorted order (a categorical column's in its own) and kept. Columns key (a name for each
              record), group, split and pool mean something to losslake; pool is audit, or population for records that no
              run trains on and that attacks take for outsiders. Others are kept as they are; of a Dataset only numbers
              and truth values. None where the experiment is there already
    members   who is trained on: a mask over the samples (truth values, or 0 and 1), sample ids in any order, keys as text, or a torch
              Subset of the data set of all samples
    run       its name; by default the role, then role-2, role-3, ...
              A name that another process commits meanwhile is its own: this run is committed as the next free one, and says so
    recipe    how it is trained: a mapping, a dataclass or a namespace, stored as JSON
    queries   the views that `evaluate` asks for, such as "original,flip,crop:8"; see `queries.parse_queries`.
              noise:N:SIGMA is in units of what the model takes
    forward   how the loop calls the model, where it is not model(x) of records (x, y), as for several inputs, dict records and
              texts: forward(model, batch) -> (outputs, targets), what the criterion is called with. `trace_eval` and
              `evaluate` use it on batches made as the loop's own, on the model's device
    collate   records -> batch for them; by default that of the watched loader. Give one where the loop's draws at random (mixup)
    design    how its members were drawn, kept with the run; `shadow_runs` says it

    Leaving the block commits the run; an exception leaves nothing behind, nor an experiment that was made for the run, unless
    others are at work in the lake. Samples that the experiment has forgotten may
    stand in the data that the model is asked about, where nothing is recorded of them, but not in a batch. Raises
    InvalidInput for members that do not fit or were forgotten, NotFound, AlreadyExists, InvalidOption.
    """
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)
    views = views_of(queries, forward, collate)
    info = RunInfo(role=role, seed=seed, dataset=dataset, model=model, recipe=_recipe_mapping(recipe))
    if design is not None:
        info = dataclasses.replace(info, extra={"design": dict(design)})
    with unused_removed(lake, experiment) as made:
        if samples is not None:
            _make_experiment(lake, experiment, samples, dataset)
        table = lake.samples(experiment)
        mask, order = read_members(members, table["key"])
        name = run if run is not None else _free_run_name(lake, experiment, role)
        writer = lake.write_run(experiment, name, members=mask, made=made)
        # A run of a design stands for its members: where another process committed it, there is one already.
        free = None if design is not None else lambda: _free_run_name(lake, experiment, name)
        return recorded_run(lake, table, writer, order, info, views, forward, collate, free)


def recorded_run(
    lake: Lake,
    samples: pa.Table,
    writer: RunWriter,
    order: npt.NDArray[np.int64],
    info: RunInfo,
    views: tuple[str, ...],
    forward: Forward | None,
    collate: Callable[[list[Any]], Any] | None,
    free_name: Callable[[], str] | None,
) -> RecordedRun:
    """A run on its way, of an experiment's table of samples; ``order`` are its members in the order of their positions."""
    labels = samples["label"].fill_null(-1).to_numpy().astype(np.int64)
    # Forgotten samples are as those of the population here: never trained on, and never audited.
    population = np.asarray(samples["pool"].to_numpy(zero_copy_only=False) != "audit")
    return RecordedRun(
        writer, labels, population, order, info, views, key_lookup(samples["key"]), forward, collate, free_name,
        lambda run, members: lake.write_signals(run, members=members),
    )  # fmt: skip


def views_of(
    queries: str | Sequence[str], forward: Forward | None, collate: Callable[[list[Any]], Any] | None
) -> tuple[str, ...]:
    """The views that ``queries`` ask for. Raises InvalidOption where they, forward and collate do not go together."""
    views = parse_queries(queries, pictures=True)
    if forward is not None and views != ("original",):
        raise InvalidOption(
            "queries are views of x in records (x, y): leave queries out where forward= is given"
        )
    if collate is not None and forward is None:
        raise InvalidOption("collate makes the batches that forward= takes: give both")
    return views


def _make_experiment(lake: Lake, experiment: str, samples: Any, dataset: str) -> None:
    """Make the experiment, or find it with the same samples, whose classes are called the same."""
    table, names = read_samples(samples)
    facts: dict[str, Any] = {"recorded_by": "start_run", **({"spec": dataset} if dataset else {})}
    if names is not None:
        facts["classes"] = names
    known = lake.create_experiment(experiment, table, dataset=facts).dataset.get("classes")
    # None stands for the name of a class whose samples were all forgotten.
    kept = [name if now is None else now for name, now in zip(names or (), known or (), strict=False)]
    if names is not None and known is not None and (kept != names or len(known) != len(names)):
        raise AlreadyExists(
            f"the classes of experiment {experiment!r} are called {', '.join(map(str, known[:5]))}, not {', '.join(names[:5])}; "
            "choose another experiment name"
        )


def _free_run_name(lake: Lake, experiment: str, name: str) -> str:
    """The name, or name-2, name-3, ...: the first that no committed run has."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not lake.has_run(experiment, name))


def _recipe_mapping(recipe: Any) -> dict[str, Any]:
    """A recipe (mapping, dataclass or namespace) as JSON values; what JSON cannot hold becomes its text."""
    if recipe is None:
        return {}
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        recipe = dataclasses.asdict(recipe)
    elif not isinstance(recipe, Mapping) and hasattr(recipe, "__dict__"):
        recipe = vars(recipe)
    if not isinstance(recipe, Mapping):
        raise InvalidInput(f"recipe is a {type(recipe).__name__}; give a mapping, a dataclass or a namespace")
    by_name = {str(key): value for key, value in recipe.items()}
    return dict(json.loads(json.dumps(by_name, default=str)))
