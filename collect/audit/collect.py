"""An audit's experiment in a lake: the records, the target's answers, shadow and reference models; as an import would have written them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from ...store.errors import AlreadyExists, InvalidInput, InvalidOption
from ...store.format.records import AUDIT, Role
from ...store.lake import Lake
from ...store.upkeep.remove import unused_removed
from ..callables import unknown_choice
from ..estimators.fitting import Train, parameters, trained, trainer_of
from ..estimators.logits import (
    Output,
    as_logits,
    class_numbers,
    in_order,
    kind_of,
    least_given,
    least_of,
)
from ..experiment.membership import design_members
from ..fleet.design import Block, derived, lay_down, numbered
from ..importers.runs import GivenRun, Universe, import_runs
from ..progress import Progress, Silent
from .answers import Way, is_module, way_of
from .dependence import (
    REMEDY,
    Shadow,
    agreement,
    check_another,
    check_depends,
    digest_of,
    is_constant,
    is_telling,
)
from .records import Columns, Records, check_alike, read_labels, read_records
from .same import Overlap, distinct, some_of
from .shadows import (
    FLEET,
    check_made_alike,
    check_numbers,
    made_by,
    maker_of,
    members_of_all,
)

_SEEDS = 17
_TWICE, _SAME = 8, 1e-3
"""How many records a model is asked about twice, and how near the answers must be."""

_FEWER = 0.75
"""How far apart the numbers of records that target and shadow models are trained on may be before a note says it."""


@dataclass(frozen=True, eq=False)
class _Audited:
    """What all models of an audit are asked about, members first, then non-members, then the population."""

    parts: tuple[Records, ...]
    labels: np.ndarray
    classes: list[Any] | None
    output: Output
    least: float

    def logits(self, way: Way, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (N, C) of what a model says of the parts. Raises InvalidInput where these are none."""
        flat = [in_order(part, way.name, way.output, way.classes, self.classes) for part in outputs]
        widths = {part.shape[1:] for part in flat}
        if len(widths) > 1:
            raise InvalidInput(f"{way.name} gives outputs of several shapes: {sorted(widths)}")
        return as_logits(np.concatenate(flat), way.output or self.output, self.least, self.where)

    def where(self, row: int) -> str:
        """A record as errors call it."""
        for part in self.parts:
            if row < len(part):
                return f"record {row} of {part.what}"
            row -= len(part)
        raise IndexError(row)

    def check_classes(self, way: Way, outputs: int) -> None:
        """Raises InvalidInput where the target has not an output for each class, or a label is none of its classes."""
        if self.classes is not None and len(self.classes) != outputs:
            raise InvalidInput(
                f"{way.name} gives {outputs} outputs a record, and there are {len(self.classes)} classes"
            )
        unknown = self.labels >= outputs
        if unknown.any():
            row = int(np.argmax(unknown))
            raise InvalidInput(
                f"label {self.labels[row]} of {self.where(row)} is one that the model does not know: it gives {outputs} outputs, of the "
                f"classes 0 to {outputs - 1}"
            )


def collect_audit(
    lake: Lake,
    experiment: str,
    model: Any,
    members: Any,
    nonmembers: Any,
    *,
    population: Any = None,
    shadows: int = 0,
    train: Train | None = None,
    references: Sequence[Any] = (),
    run: str = "target",
    label: str = "label",
    key: str | None = None,
    group: str | None = None,
    features: str | Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    output: Output | None = None,
    least_probability: float | None = None,
    overlap: Overlap = "refuse",
    batch_size: int = 512,
    forward: Callable[..., Any] | None = None,
    collate: Callable[..., Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Ask the model about all records, fit shadow models, and write it all as runs of an experiment; sentences a reader must know.

    The arguments are told in `losslake.audit`. Shadow models that the lake holds already are not fitted again; the target is
    asked again, and AlreadyExists says where it gives other answers than the lake has. Raises InvalidInput, InvalidOption.
    """
    check_numbers(shadows, seed)
    asked_for = shadows
    if re.fullmatch(r"(shadow|reference)-\d+", run):
        raise InvalidOption(f"run is {run!r}, as shadow and reference models are called; choose another name")
    if overlap not in get_args(Overlap):
        raise unknown_choice("overlap", overlap, get_args(Overlap))
    how: dict[str, Any] = {"output": output, "batch_size": batch_size, "forward": forward, "collate": collate}
    way = way_of(model, classes=classes, **how)
    if way.classes is not None and len(way.classes) < 2:
        raise InvalidInput(
            f"{way.name} knows one class only, {', '.join(map(repr, way.classes))}: whatever it is asked it says the same, and nothing can be told"
        )
    fit = trainer_of(model, train) if shadows else None
    if train is not None and not shadows:
        raise InvalidOption("train fits shadow models; say with shadows= how many")
    maker = maker_of(model, train) if train is not None or hasattr(model, "get_params") else None
    check_made_alike(lake, experiment, maker, seed if shadows else None)
    columns = Columns(label, key, group, features)
    sides = (("members", members), ("nonmembers", nonmembers), ("population", population))
    parts = check_alike(
        [
            read_records(given, what, columns, whole=is_module(model), expected=way.columns)
            for what, given in sides
            if given is not None or what != "population"
        ]
    )
    once = distinct(parts, overlap)
    parts, notes = once.parts, once.notes
    progress = progress or Silent()
    progress.note(f"asking {way.name} about {sum(map(len, parts)):,} records")
    outputs, labels = _asked(way, parts)
    audited = _audited(way, parts, outputs, labels, least_probability)
    logits = audited.logits(way, outputs)
    audited.check_classes(way, logits.shape[1])
    notes += [*_saturated(audited, outputs), *_inconstant(way, parts[0], outputs[0])]
    members_here, audit = len(parts[0]), len(parts[0]) + len(parts[1])
    everybody = np.arange(len(logits))
    universe = _universe(audited, np.bincount(once.samples))

    def write(
        name: str, its: Way, values: np.ndarray, who: np.ndarray, role: Role, made: Any, **extra: Any
    ) -> None:
        given = GivenRun(
            name,
            its.name,
            who,
            {"logits": values},
            role=role,
            model=its.name,
            recipe=parameters(made, parts=False),
            extra=extra,
        )
        target = name if role == "target" else None
        import_runs(
            lake,
            experiment,
            universe,
            lambda: [given],
            [name],
            layout="audit",
            source="",
            target=target,
            progress=None,
        )

    with unused_removed(lake, experiment):
        write(run, way, logits, everybody < members_here, "target", model, outputs=audited.output)
        if shadows and is_constant(logits):
            notes.append(
                f"{way.name} says the same of all {len(logits):,} records: nothing in its answers depends on a record, nothing can be told by "
                "them, and no shadow models are fitted"
            )
            shadows = 0
        laid = list(_shadow_runs(lake, experiment, shadows, seed))
        progress.start(sum(not lake.has_run(experiment, name) for name, _, _ in laid), "shadow models")
        answers: dict[str, str] = {}
        waiting: list[tuple[Shadow, Callable[[], None]]] = []
        compared, before = False, None

        def kept(several: list[tuple[Shadow, Callable[[], None]]]) -> None:
            for one, keep in several:
                keep()
                progress.advance(1, one.name)
            several.clear()

        try:
            for name, number, block in laid:
                if lake.has_run(experiment, name):
                    there = lake.run(experiment, name).info
                    if there.role != "shadow":
                        raise AlreadyExists(
                            f"run {name!r} of experiment {experiment!r} is no shadow model; choose another experiment name"
                        )
                    answers[str(there.extra.get("answers"))] = name
                    continue
                assert fit is not None
                drawn = design_members(audit, block["count"], design="balanced", seed=block["seed"])
                chosen = drawn[number - block["first"]]
                # Copies of a record are in or out together: a model without one that knows the other is none without it.
                rows = chosen[once.samples[: len(once.whole[0]) + len(once.whole[1])]]
                given = members_of_all(once.whole[0], once.whole[1], rows, pair=train is None)
                its_seed = derived(block["seed"], _SEEDS, number)
                made = trained(fit, given, its_seed, f"shadow model {name}")
                check_another(made, model, before, f"shadow model {name}", "train")
                before = made
                its = way_of(made, **how)
                values = audited.logits(its, _asked(its, parts)[0])
                within = np.append(chosen, np.zeros(len(logits) - audit, dtype=bool))
                shadow = Shadow(name, its_seed, values, chosen)
                keep = partial(
                    write, name, its, values, within, "shadow", made, design=dict(block), answers=digest_of(values), maker=maker
                )  # fmt: skip
                if compared:
                    keep()
                    progress.advance(1, name)
                    continue
                # The first two are kept together, once it is known that their members make a difference to them.
                notes += _told_alike(shadow, logits, answers, refuse=train is not None)
                compared = bool(answers)
                answers[digest_of(values)] = name
                waiting.append((shadow, keep))
                if not compared:
                    continue
                if len(waiting) > 1 and train is not None:
                    first = waiting[0][0]

                    def again(seed: int = first.seed, given: Any = given) -> np.ndarray:
                        its = way_of(trained(train, given, seed, "a shadow model"), **how)
                        return audited.logits(its, _asked(its, parts)[0])

                    notes += check_depends(first, shadow, audited.labels, members_here, again)
                kept(waiting)
            kept(waiting)
        finally:
            progress.finish()
        known = {} if is_constant(logits) else {digest_of(logits): "the audited model"}
        for number, other in enumerate(references):
            name = f"reference-{number:04d}"
            check_another(other, model, references[number - 1] if number else None, name, "references=")
            its = way_of(other, **how)
            values = audited.logits(its, _asked(its, parts)[0])
            if is_telling(values) and digest_of(values) in known:
                raise InvalidInput(
                    f"{name} answers as {known[digest_of(values)]} does, about all {len(values):,} records: a reference is another model, "
                    "trained on none of these records"
                )
            known[digest_of(values)] = name
            write(name, its, values, everybody < 0, "reference", other)
    sizes = [one.members for one in lake.runs(experiment, FLEET)]
    if len(sizes) > asked_for:
        notes.append(
            f"all {len(sizes)} shadow models that experiment {experiment!r} holds in the lake are used, where shadows={asked_for} was asked "
            f"for; they were made by {made_by(lake, experiment)}"
        )
    if sizes and not _FEWER * members_here <= np.mean(sizes) <= members_here / _FEWER:
        notes.append(
            f"the shadow models are trained on {round(np.mean(sizes)):,} records each, half of all, and the target on {members_here:,}: with "
            "as many non-members as members they would be trained on as many"
        )
    return tuple(notes)


def _shadow_runs(lake: Lake, experiment: str, count: int, seed: int) -> Iterator[tuple[str, int, Block]]:
    """Name, number and block of each shadow model, as they are laid down in the lake."""
    if count:
        blocks = lay_down(
            lake,
            experiment,
            FLEET,
            count,
            seed=seed,
            options={"design": "balanced", "probability": 0.5},
        )
        yield from numbered(FLEET, blocks, count)


def _inconstant(way: Way, part: Records, answers: np.ndarray) -> list[str]:
    """A note where a few records, asked about once more and in another batch, get another answer."""
    ids = np.arange(min(_TWICE, len(part)) - 1, -1, -1)
    again = way.ask(some_of(part, ids))[0]
    apart = np.abs(again.astype(np.float64) - answers[ids])
    close = np.isclose(again, answers[ids], rtol=_SAME, atol=_SAME / 10, equal_nan=True)
    if close.all():
        return []
    rows = int((~close).reshape(len(ids), -1).any(axis=1).sum())
    return [
        f"{way.name}, asked twice about {len(ids)} {part.what}, gives other answers about {rows} of them, by up to {np.nanmax(apart):.2g}: it "
        "draws at random, as dropout does, or they depend on the other records of a batch, as with batch normalisation in training mode. "
        "Each answer here is one of many, and an attacker who asks more often may learn more; where that is not meant, audit it in eval mode"
    ]


def _told_alike(shadow: Shadow, target: np.ndarray, others: dict[str, str], *, refuse: bool) -> list[str]:
    """A note where a shadow model answers as the target or another one; to ``refuse`` where that is no chance."""
    like = agreement(shadow, target, others)
    if like is None:
        return []
    told = f"shadow model {shadow.name} answers about all {len(target):,} records exactly as {like} does, which was given other ones"
    if refuse and is_telling(shadow.logits):
        raise InvalidInput(f"{told}: train does not depend on its members{REMEDY}")
    return [f"{told}: what such models learn of these records is the same from any of them"]


def _asked(way: Way, parts: Sequence[Records]) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """What a model says of each part, and the labels where the records alone tell them."""
    answers = [way.ask(part) for part in parts]
    return [output for output, _ in answers], [labels for _, labels in answers]


def _audited(
    way: Way,
    parts: tuple[Records, ...],
    outputs: list[np.ndarray],
    labels: list[np.ndarray | None],
    least: float | None,
) -> _Audited:
    """The records with their labels as class numbers, and what the target's outputs are."""
    if len({part.ndim for part in outputs}) > 1:
        raise InvalidInput(
            f"{way.name} gives outputs of several shapes: {', '.join(str(part.shape) for part in outputs)}"
        )
    together = np.concatenate(outputs)
    finite = together[np.isfinite(together).reshape(len(together), -1).all(axis=1)]
    output = way.output or kind_of(finite, way.name)
    if least is not None and not 0 < least < 0.5:
        raise InvalidOption(f"least_probability is {least}; it lies above 0 and below 0.5")
    if least is not None and output == "probabilities":
        there = least_given(finite)
        if least > there:
            raise InvalidOption(
                f"least_probability is {least:g}, above {there:.3g}, the least that {way.name} gives a class: what it calls impossible would be "
                f"likelier than what it calls possible; give {there:.2g} or less, or leave it out"
            )
    given = [
        read_labels(own if part.labels is None else part.labels, part.what)
        for part, own in zip(parts, labels, strict=True)
    ]
    numbers = [class_numbers(each, way.classes, part.what) for each, part in zip(given, parts, strict=True)]
    return _Audited(
        parts, np.concatenate(numbers), way.classes, output, least_of(finite) if least is None else least
    )


def _universe(audited: _Audited, copies: np.ndarray) -> Universe:
    """The samples, as all runs share them; ``copies`` says how often each was given, and is kept where one was more than once."""
    parts = audited.parts
    keys = [key for part in parts for key in part.keys or ()]
    if len(set(keys)) < len(audited.labels):  # not all have one, or numbers of two frames that are the same
        keys = [f"{part.what}/{place}" for part in parts for place in part.places.tolist()]
    columns: dict[str, Any] = {"key": pa.array(keys, pa.string())}
    if any(part.group is not None for part in parts):
        groups = [value for part in parts for value in part.group or [None] * len(part)]
        columns["group"] = pa.array(groups, pa.string())
    tables = [part.table for part in parts]
    if all(table is not None for table in tables):
        with contextlib.suppress(
            pa.ArrowException
        ):  # of types that do not go together: the report does without
            own = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
            columns |= {name: own[name] for name in own.column_names}
    if copies.max() > 1 and "copies" not in map(str.casefold, columns):
        columns["copies"] = pa.array(copies)
    facts: dict[str, Any] = {"recorded_by": AUDIT}
    if audited.classes is not None:
        facts["classes"] = [str(each) for each in audited.classes]
    population = np.concatenate([np.full(len(part), part.what == "population") for part in parts])
    return Universe(audited.labels, population, columns, facts)


def _saturated(audited: _Audited, outputs: Sequence[np.ndarray]) -> list[str]:
    """A note where probabilities are exactly 0."""
    if audited.output != "probabilities":
        return []
    values = np.concatenate(outputs)
    zero = (values == 0) | (values == 1) if values.ndim == 1 or values.shape[1] == 1 else values == 0
    many = int(zero.reshape(len(values), -1).any(axis=1).sum())
    if not many:
        return []
    return [
        f"the model gives {many:,} of {len(values):,} records a probability of exactly 0, which is read as {audited.least:.2g} "
        "(least_probability)"
    ]
