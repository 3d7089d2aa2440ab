"""What an audit asks of a classifier: its labels as class numbers, its answers as logits, and what is odd about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ...store.format.records import AUDIT
from ..estimators.logits import (
    Output,
    as_logits,
    class_numbers,
    in_order,
    kind_of,
    least_given,
    least_of,
)
from ..importers.runs import Universe
from .answers import Said, Way, way_of
from .records import Records
from .rows import read_labels
from .same import Distinct, some_of

_TWICE, _SAME = 8, 1e-3
"""How many records a model is asked about twice, and how near the answers must be."""


@dataclass(frozen=True, eq=False)
class Audited:
    """What all models of an audit are asked about, members first, then non-members, then the population."""

    parts: tuple[Records, ...]
    labels: np.ndarray
    classes: list[Any] | None
    output: Output
    least: float
    width: int

    def logits(self, way: Way, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (N, C) of what a model says of the parts, C as the target has. Raises InvalidInput where these are none."""
        flat = [in_order(part, way.name, way.output, way.classes, self.classes) for part in outputs]
        widths = {part.shape[1:] for part in flat}
        if len(widths) > 1:
            raise InvalidInput(f"{way.name} gives outputs of several shapes: {sorted(widths)}")
        z = as_logits(np.concatenate(flat), way.output or self.output, self.least, self.where)
        if z.shape[1] != self.width:
            raise InvalidInput(
                f"{way.name}, a shadow model or reference, gives {z.shape[1]} outputs a record, and the audited model {self.width}: they are of "
                "other classes, and do not compare"
            )
        return z

    def where(self, row: int) -> str:
        """A record as errors call it."""
        return record_of(self.parts, row)

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


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited: the target's answers about the records, and how another model is asked about the same ones.

    ask    (model, what it is called) -> its answers
    notes  sentences a reader must know
    facts  of the target's run
    """

    target: Said
    universe: Universe
    ask: Callable[[Any, str], Said]
    notes: list[str]
    facts: Mapping[str, Any] = field(default_factory=dict)


def classifier_subject(way: Way, once: Distinct, least: float | None, how: Mapping[str, Any]) -> Subject:
    """A classifier asked about distinct records; ``how`` other models are asked, see `way_of`. Raises InvalidInput, InvalidOption."""
    parts = once.parts
    outputs, labels = asked(way, parts)
    audited = audited_by(way, parts, outputs, labels, least)

    def said(its: Way, outputs: Sequence[np.ndarray]) -> Said:
        logits = audited.logits(its, outputs)
        return Said(its.name, {"logits": logits}, logits, lambda: losses_of(logits, audited.labels))

    def ask(model: Any, called: str) -> Said:
        if isinstance(model, str):
            raise InvalidInput(
                f"{called} is the text {model!r}; give a model ('base' names the one below a LoRA, of a language model with its tokenizer=)"
            )
        its = way_of(model, **how)
        return said(its, asked(its, parts)[0])

    target = said(way, outputs)
    audited.check_classes(way, target.compared.shape[1])
    notes = [*saturated(audited, outputs), *inconstant(way, parts[0], outputs[0]), *apart(audited)]
    universe = universe_of(parts, audited.labels, audited.classes, np.bincount(once.samples))
    return Subject(target, universe, ask, notes, {"outputs": audited.output})


def record_of(parts: Sequence[Records], row: int) -> str:
    """A record as errors call it, by its row among those of all parts."""
    for part in parts:
        if row < len(part):
            return f"record {row} of {part.what}"
        row -= len(part)
    raise IndexError(row)


def inconstant(way: Way, part: Records, answers: np.ndarray) -> list[str]:
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


def asked(way: Way, parts: Sequence[Records]) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """What a model says of each part, and the labels where the records alone tell them."""
    answers = [way.ask(part) for part in parts]
    return [output for output, _ in answers], [labels for _, labels in answers]


def audited_by(
    way: Way,
    parts: tuple[Records, ...],
    outputs: list[np.ndarray],
    labels: list[np.ndarray | None],
    least: float | None,
) -> Audited:
    """The records with their labels as class numbers, and what the target's outputs are."""
    if len({part.ndim for part in outputs}) > 1:
        raise InvalidInput(
            f"{way.name} gives outputs of several shapes: {', '.join(str(part.shape) for part in outputs)}"
        )
    together = np.concatenate(outputs)
    finite = together[np.isfinite(together).reshape(len(together), -1).all(axis=1)]
    output = way.output or kind_of(finite, way.name)
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
    least = least_of(finite) if least is None else least
    # One number a record is the logit, or the probability, of the second of two classes.
    width = 2 if together.ndim == 1 else max(2, together.shape[1])
    return Audited(parts, np.concatenate(numbers), way.classes, output, least, width)


def universe_of(
    parts: Sequence[Records],
    labels: np.ndarray | None,
    classes: Sequence[Any] | None,
    copies: np.ndarray,
    **more: pa.Array,
) -> Universe:
    """The samples, as all runs share them; ``copies`` says how often each was given, and is kept where one was more than once.

    ``more`` are further columns.
    """
    size = sum(map(len, parts))
    keys = [key for part in parts for key in part.keys or ()]
    if len(set(keys)) < size:  # not all have one, or numbers of two frames that are the same
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
            columns |= {name: own[name] for name in own.column_names if name.casefold() not in more}
    columns |= more
    if copies.max() > 1 and "copies" not in map(str.casefold, columns):
        columns["copies"] = pa.array(copies)
    facts: dict[str, Any] = {"recorded_by": AUDIT}
    if classes is not None:
        facts["classes"] = [str(each) for each in classes]
    population = np.concatenate([np.full(len(part), part.what == "population") for part in parts])
    return Universe(labels, population, columns, facts)


def apart(audited: Audited) -> list[str]:
    """A note where no member has the label of a non-member: what tells one class from another then tells members too."""
    ends = np.cumsum([len(part) for part in audited.parts[:2]])
    ours, theirs = (set(part.tolist()) for part in np.split(audited.labels[: ends[1]], ends[:1]))
    if ours & theirs:
        return []
    return [
        "members and nonmembers have no label in common: whatever tells their classes apart tells members from non-members, so nothing here "
        "speaks for or against the model"
    ]


def saturated(audited: Audited, outputs: Sequence[np.ndarray]) -> list[str]:
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


def losses_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropies (N,) of logits (N, C) at class numbers (N,)."""
    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
