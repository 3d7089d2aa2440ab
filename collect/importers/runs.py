"""What importers share: all runs are looked through before the first is written, and none is written twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import AlreadyExists, InvalidInput, InvalidOption
from ...store.format.paths import check_name
from ...store.format.records import Role, Run, RunInfo
from ...store.lake import Lake
from ..callables import unknown_choice
from ..progress import Progress, Silent
from ..run_facts import versions
from ..signals.from_logits import loss_from_phi, phi_from_loss, signals_from_logits
from .tokens import tokens_of

SIGNALS = ("logits", "loss", "phi")

_GREATEST = np.float32(1e38)
"""Logits and phi beyond it would be infinite as float32, or their differences would. As half precision it is infinite itself."""

_ROUNDING = 5e-3
"""How far from 1 the probabilities of a sample may add up in half precision."""


@dataclass(frozen=True, eq=False)
class Universe:
    """What all runs of an import share.

    labels       integers (N,); None where nobody knows them
    population   bool (N,): never trained on by any run
    columns      further columns of the samples
    facts        what more the experiment says of its data
    """

    labels: np.ndarray | None
    population: np.ndarray
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

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
    values    any of logits (n, Q, C) or (n, C), C = 1 being the one logit of a model of two classes, loss and phi (n[, Q]) of the samples ``ids``; traces, grad_norms and
              margins (N, E) of all samples, epoch 0 = before training; token_losses and token_z (n, T), NaN after a text's
              last token, and lower_loss (n,), with a single query. May be memory-mapped.
    ids       sample ids (n,) of the signals; None: all samples
    model, recipe, extra   what the run's facts say of the model, where it is known
    """

    name: str
    origin: str
    members: np.ndarray
    values: Mapping[str, np.ndarray]
    ids: np.ndarray | None = None
    role: Role = "shadow"
    parent: str | None = None
    model: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    progress: Progress | None,
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
    progress = progress or Silent()
    table = universe.table()
    dataset = {"imported": layout, **({"file": source} if source else {}), **universe.facts}
    if experiment in lake.experiments():
        lake.create_experiment(experiment, table, dataset=dataset)  # raises where it holds other samples
    progress.start(len(names), "runs")
    try:
        for note in notes:
            progress.note(note)
        digests: dict[str, str] = {}
        told = False
        for given in _with_target(runs(), target):
            run = _in_two_classes(given)
            if run is not given and not told:
                progress.note("one logit a sample is taken for that of class 1, beside 0 for class 0")
                told = True
            progress.advance(0, f"checking {run.name}")
            tokens_of(run.values, run.origin)
            _check_values(run.values, _labels_of(universe, run), run.origin)
            digests[run.name] = _digest(run)
            _check_same(lake, experiment, run, digests[run.name])
        held = lake.create_experiment(experiment, table, dataset=dataset)
        if held.forgotten:
            progress.note(
                f"nothing is imported of {len(held.forgotten)} samples that the experiment has forgotten"
            )
        written = []
        for run in map(_in_two_classes, _with_target(runs(), target)):
            if lake.has_run(experiment, run.name):
                written.append(lake.run(experiment, run.name))
            else:
                extra = {**run.extra, "imported": layout, "digest": digests[run.name], "from": run.origin}
                written.append(_write(lake, experiment, universe, run, extra))
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


def _usable(name: str) -> bool:
    try:
        check_name("run", name)
    except InvalidOption:
        return False
    return True


def _with_target(runs: Iterable[GivenRun], target: str | None) -> Iterator[GivenRun]:
    for run in runs:
        yield replace(run, role="target") if run.name == target else run


def _in_two_classes(run: GivenRun) -> GivenRun:
    """The run with two logits a sample where its model gives one, z: p of class 1 = 1 / (1 + exp(-z)).

    Raises InvalidInput where these are probabilities.
    """
    logits = run.values.get("logits")
    if logits is None or logits.shape[-1] != 1:
        return run
    if ((logits >= 0) & (logits <= 1)).all():
        raise InvalidInput(
            f"logits of {run.origin} all lie from 0 to 1: they are probabilities of class 1, not logits; give "
            "log(p / (1 - p)), or both logits of a sample"
        )
    return replace(
        run, values={**run.values, "logits": np.concatenate([np.zeros_like(logits), logits], axis=-1)}
    )


def _are_probabilities(logits: np.ndarray) -> bool:
    """Whether all rows (n, C) are shares that add up to 1, to half precision: what softmax gives, and not logits."""
    if not len(logits) or not ((logits >= 0) & (logits <= 1 + _ROUNDING)).all():
        return False
    return bool((np.abs(logits.sum(axis=1, dtype=np.float64) - 1) <= _ROUNDING).all())


def _labels_of(universe: Universe, run: GivenRun) -> np.ndarray | None:
    return universe.labels if universe.labels is None or run.ids is None else universe.labels[run.ids]


def _check_same(lake: Lake, experiment: str, run: GivenRun, digest: str) -> None:
    if not lake.has_run(experiment, run.name):
        return
    there = lake.run(experiment, run.name).info
    place = f"run {run.name!r} of experiment {experiment!r} is in the lake with"
    if there.extra.get("digest") != digest:
        raise AlreadyExists(f"{place} other values than {run.origin} has; choose another experiment name")
    if there.role != run.role:
        raise AlreadyExists(f"{place} the role {there.role}, not {run.role}; choose another experiment name")


def _write(lake: Lake, experiment: str, universe: Universe, run: GivenRun, extra: dict[str, Any]) -> Run:
    values, labels = run.values, _labels_of(universe, run)
    ids = np.arange(len(run.members)) if run.ids is None else run.ids
    accuracies: tuple[float | None, float | None] = (None, None)
    kept = np.ones(len(run.members), dtype=bool)
    kept[list(lake.experiment(experiment).forgotten)] = False
    with lake.write_run(experiment, run.name, members=run.members & kept) as writer:
        tokens = tokens_of(values, run.origin)
        for query, given in enumerate(_each_query(values)):
            loss, phi, correct = _signals_of(given, labels, f"{run.origin} query {query}")
            logits = given.get("logits")
            if logits is not None and logits.dtype != np.float16:
                logits = logits.astype(np.float32)
            writer.append_signals(
                ids,
                np.full(len(ids), query),
                labels,
                loss=loss,
                phi=phi,
                correct=correct,
                logits=logits,
                **tokens,
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
                role=run.role,
                model=run.model,
                recipe=dict(run.recipe),
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


def _each_query(values: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The signals among ``values``, query by query: logits (n, C), loss and phi (n,)."""
    signals = {name: values[name] for name in SIGNALS if name in values}
    for name, given in signals.items():
        if given.ndim < (3 if name == "logits" else 2):
            signals[name] = given[:, None]
    for query in range(max((given.shape[1] for given in signals.values()), default=0)):
        yield {name: given[:, query] for name, given in signals.items()}


def _check_values(values: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str) -> None:
    """Raises InvalidInput for a loss, phi or logit that cannot be, with its query and sample.

    Traces may hold anything: a run that diverged has NaN in them.
    """
    for query, given in enumerate(_each_query(values)):
        place = f"{where} query {query}"
        logits = given.get("logits")
        if logits is not None and (logits.shape[1] < 2 or not (np.abs(logits) <= _GREATEST).all()):
            _signals_of({"logits": logits}, labels, place)  # says what is wrong, and where
            raise InvalidInput(f"logits of {place} go beyond {_GREATEST:g}; the model has probably diverged")
        if logits is not None and _are_probabilities(logits):
            raise InvalidInput(
                f"logits of {place} are probabilities: each sample's lie from 0 to 1 and add up to 1; give the model's "
                "output before softmax, or the probabilities' logarithm"
            )
        rest = {name: value for name, value in given.items() if name != "logits"}
        if rest:
            _signals_of(rest, labels, place)


def _signals_of(
    given: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """loss, phi and correct (n,): as given, else from logits, else from the other one; correct from logits alone.

    ``where`` names run and query in errors. Raises InvalidInput.
    """
    from_logits = None
    if "logits" in given:
        if labels is None:
            raise InvalidInput(f"logits of {where} are of no use without labels; give them with --labels")
        from_logits = signals_from_logits(given["logits"], labels, where=f"logits of {where}")
    loss, phi = (given[name].astype(np.float64) if name in given else None for name in ("loss", "phi"))
    if phi is not None and not (np.abs(phi) <= _GREATEST).all():
        sample = int(np.argmin(np.abs(phi) <= _GREATEST))
        raise InvalidInput(
            f"phi of {where}, sample {sample} is {phi[sample]}; phi must be finite: give loss or logits instead"
        )
    # Checks the losses even where phi does not come from them.
    converted = None if loss is None else phi_from_loss(loss, where=f"loss of {where}, sample ")
    if from_logits is not None:
        loss = from_logits.loss if loss is None else loss
        phi = from_logits.phi if phi is None else phi
    if phi is None:
        phi = converted
    assert phi is not None  # of the three one is given
    if loss is None:
        loss = loss_from_phi(phi)
    return loss, phi, None if from_logits is None else from_logits.correct
