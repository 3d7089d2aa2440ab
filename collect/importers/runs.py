"""What importers share: all runs are looked through before the first is written, and none is written twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import AlreadyExists, InvalidInput, InvalidOption
from ...store.format.paths import check_name
from ...store.format.records import ROLES, Role, Run, RunInfo
from ...store.lake import Lake
from ..callables import unknown_choice
from ..progress import Progress
from ..run_facts import versions
from .files import check_values, of_query, queries_of, signals_of


@dataclass(frozen=True, eq=False)
class Universe:
    """What all runs of an import share.

    labels       integers (N,); None where nobody knows them
    population   bool (N,): never trained on by any run
    columns      further columns of the samples
    """

    labels: np.ndarray | None
    population: np.ndarray
    columns: Mapping[str, pa.Array] = field(default_factory=dict)

    def table(self) -> pa.Table:
        size = len(self.population)
        labels = pa.nulls(size, pa.int32()) if self.labels is None else pa.array(self.labels.astype(np.int32))
        pool = pa.array(np.where(self.population, "population", "audit").tolist(), pa.string())
        return pa.table({"label": labels, "pool": pool, **self.columns})


@dataclass(frozen=True, eq=False)
class GivenRun:
    """A run that was trained elsewhere.

    origin    where it was found, as errors name it
    members   bool (N,): its training set
    values    any of logits (n, Q, C) or (n, C), loss and phi (n[, Q]) of the samples ``ids``; traces, grad_norms and
              margins (N, E) of all samples, epoch 0 = before training. May be memory-mapped.
    ids       sample ids (n,) of the signals; None: all samples
    """

    name: str
    origin: str
    members: np.ndarray
    values: Mapping[str, np.ndarray]
    ids: np.ndarray | None = None
    role: Role = "shadow"
    parent: str | None = None


def import_runs(
    lake: Lake,
    experiment: str,
    universe: Universe,
    runs: Callable[[], Iterable[GivenRun]],
    names: Sequence[str],
    *,
    layout: str,
    source: str,
    target: str | None,
    progress: Progress,
    notes: Sequence[str] = (),
) -> list[Run]:
    """Write the runs that are not in the lake yet; all of them, in order.

    ``runs`` is called twice and gives the runs called ``names`` one after the other: once to check every value and to
    compare with what the lake holds, and only then to write. ``target`` names the run that gets the role target.
    Raises InvalidInput for values that cannot be, AlreadyExists where the lake has other values under a run's name.
    """
    check_name("experiment", experiment)
    if target is not None and target not in names:
        raise unknown_choice("run to be the target", target, names)
    table = universe.table()
    dataset = {"imported": layout, "file": source}
    if experiment in lake.experiments():
        lake.create_experiment(experiment, table, dataset=dataset)  # raises where it holds other samples
    progress.start(len(names), "runs")
    try:
        for note in notes:
            progress.advance(0, note)
        digests: dict[str, str] = {}
        for run in runs():
            progress.advance(0, f"checking {run.name}")
            check_values(run.values, _labels_of(universe, run), run.origin)
            digests[run.name] = _digest(run)
            _check_same(lake, experiment, run, _role(run, target), digests[run.name])
        held = lake.create_experiment(experiment, table, dataset=dataset)
        if held.forgotten:
            progress.advance(
                0, f"nothing is imported of {len(held.forgotten)} samples that the experiment has forgotten"
            )
        written = []
        for run in runs():
            if lake.has_run(experiment, run.name):
                written.append(lake.run(experiment, run.name))
            else:
                extra = {"imported": layout, "digest": digests[run.name], "from": run.origin}
                written.append(_write(lake, experiment, universe, run, _role(run, target), extra))
            progress.advance(1, run.name)
        return written
    finally:
        progress.finish()


def run_names(ids: Sequence[str]) -> list[str]:
    """Names for the runs that a peer calls ``ids``: the same where the lake can hold them, else run-0000, run-0001, ...

    Raises InvalidInput where two names would be one.
    """
    names = [given if _usable(given) else f"run-{number:04d}" for number, given in enumerate(ids)]
    seen: dict[str, str] = {}
    for given, name in zip(ids, names, strict=True):
        other = seen.setdefault(name.casefold(), given)
        if other != given:
            raise InvalidInput(f"the runs {other!r} and {given!r} would both be called {name!r}; rename one")
    return names


def check_role(role: str) -> None:
    """Raises InvalidOption for a role that runs cannot have."""
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)


def _usable(name: str) -> bool:
    try:
        check_name("run", name)
    except InvalidOption:
        return False
    return True


def _role(run: GivenRun, target: str | None) -> Role:
    return "target" if run.name == target else run.role


def _labels_of(universe: Universe, run: GivenRun) -> np.ndarray | None:
    return universe.labels if universe.labels is None or run.ids is None else universe.labels[run.ids]


def _check_same(lake: Lake, experiment: str, run: GivenRun, role: Role, digest: str) -> None:
    if not lake.has_run(experiment, run.name):
        return
    there = lake.run(experiment, run.name).info
    place = f"run {run.name!r} of experiment {experiment!r} is in the lake with"
    if there.extra.get("digest") != digest:
        raise AlreadyExists(f"{place} other values than {run.origin} has; choose another experiment name")
    if there.role != role:
        raise AlreadyExists(f"{place} the role {there.role}, not {role}; choose another experiment name")


def _write(
    lake: Lake, experiment: str, universe: Universe, run: GivenRun, role: Role, extra: dict[str, Any]
) -> Run:
    values, labels = run.values, _labels_of(universe, run)
    ids = np.arange(len(run.members)) if run.ids is None else run.ids
    accuracies: tuple[float | None, float | None] = (None, None)
    kept = np.ones(len(run.members), dtype=bool)
    kept[list(lake.experiment(experiment).forgotten)] = False
    with lake.write_run(experiment, run.name, members=run.members & kept) as writer:
        for query in range(queries_of(values)):
            given = of_query(values, query)
            loss, phi, correct = signals_of(given, labels, f"{run.origin} query {query}")
            logits = given.get("logits")
            writer.append_signals(
                ids,
                np.full(len(ids), query),
                labels,
                loss=loss,
                phi=phi,
                correct=correct,
                logits=None
                if logits is None
                else logits.astype(np.float16 if logits.dtype == np.float16 else np.float32),
            )
            if query == 0 and correct is not None:
                members, outside = run.members & kept, ~run.members & ~universe.population & kept
                members, outside = members[ids], outside[ids]
                accuracies = (_share(correct[members]), _share(correct[outside]))
        traces = {
            column: values[name]
            for name, column in (("traces", "loss"), ("grad_norms", "grad_norm"), ("margins", "margin"))
            if name in values
        }
        if traces:
            writer.append_traces("eval", np.arange(len(run.members)), **traces)
        return writer.commit(
            RunInfo(
                role=role,
                epochs=next(iter(traces.values())).shape[1] - 1 if traces else None,
                train_accuracy=accuracies[0],
                test_accuracy=accuracies[1],
                versions=versions(trained=False),
                parent=run.parent,
                extra=extra,
            )
        )


def _digest(run: GivenRun) -> str:
    sink = hashlib.sha256(np.packbits(run.members).tobytes())
    given = {**run.values} if run.ids is None else {**run.values, "ids": run.ids}
    for name in sorted(given):
        sink.update(f"{name} {given[name].dtype.str} {given[name].shape}".encode())
        sink.update(np.ascontiguousarray(given[name]).data)
    return sink.hexdigest()


def _share(correct: np.ndarray) -> float | None:
    return float(correct.mean()) if len(correct) else None
