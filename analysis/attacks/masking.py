"""Analyses under a defence that hides part of what a model answers: the adversary sees masked probabilities alone.

He can put the same mask on the shadow models he trained, and is taken to: every run is masked, and everything that an
analysis reads of it (loss, phi, correctness, logits) is computed again from the masked probabilities.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidInput, InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.lake import Lake
from ..source import Source
from .logits import NO_LABEL, Piece, logits_of, need_lists

Floats = npt.NDArray[np.float64]

KINDS = "top-k:K, round:DECIMALS, temperature:T or label-only"

_UNSURE = 0.01
"""What label-only leaves to the other classes; which attacks use the values, and not their order, depend on it little."""

_HUGE = 1e30


@dataclass(frozen=True)
class Mask:
    """A parsed mask: its ``spec``, and ``apply`` from logits (R, C) to log probabilities as the adversary reads them."""

    spec: str
    apply: Callable[[Floats], Floats]


def parse_mask(spec: str) -> Mask:
    """Read a mask.

    top-k:K        the K largest probabilities (of equal ones the first classes); what is left is spread evenly over the
                   other classes, as an adversary would
    round:D        probabilities rounded to D decimals. What is missing to 1 is spread evenly over the classes that
                   read 0, a quarter of the last decimal where nothing is missing: 0 and 1 stand for the middle of what
                   rounds to them. Then divided by their sum
    temperature:T  softmax(logits / T)
    label-only     the predicted class alone, read as probability .99, the others sharing the rest

    Raises InvalidOption for anything else.
    """
    kind, _, value = spec.partition(":")
    try:
        if kind == "top-k":
            count = int(value)
            if count >= 1:
                return Mask(f"top-k:{count}", lambda z: _top_k(z, count))
        elif kind == "round":
            decimals = int(value)
            if 0 <= decimals <= 12:
                return Mask(f"round:{decimals}", lambda z: _rounded(z, decimals))
        elif kind == "temperature":
            temperature = float(value)
            if 0 < temperature < math.inf:
                return Mask(f"temperature:{temperature:g}", lambda z: _log_softmax(z / temperature))
        elif spec == "label-only":
            return Mask(spec, _label_only)
    except ValueError:
        pass
    raise InvalidOption(
        f"mask {spec!r} is none of {KINDS}, with K of 1 or more, DECIMALS from 0 to 12 and T above 0"
    )


@contextmanager
def masked_source(source: Source, mask: Mask) -> Iterator[tuple[Source, tuple[str, ...]]]:
    """A source of the same experiment and target with masked signals, and sentences a reader must know.

    It is a lake of its own in a temporary folder that nobody else can read, removed afterwards: masked signals of every
    run that kept logits, written piece by piece, and neither traces nor features, which no adversary is shown. Raises
    NotEnoughData where the target kept no logits; what an analysis lacks under the mask is told as such.
    """
    if source.target is not None:
        need_lists(source, source.target)
    with tempfile.TemporaryDirectory(prefix="losslake-mask-") as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        known = source.lake.experiment(source.experiment)
        samples = source.lake.samples(source.experiment)
        lake.create_experiment(source.experiment, samples, dataset=known.dataset, digest=known.digest)
        left_out = [run.run for run in source.runs if not _write_masked(source, run, lake, mask)]
        notes: tuple[str, ...] = ()
        if left_out:
            named = f"{', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}"
            notes = (
                f"{len(left_out)} of {len(source.runs)} runs kept no logits to mask and are left out: {named}",
            )
        try:
            with source.beside(source.target_name or None, lake=lake) as hidden:
                yield hidden, notes
        except NotEnoughData as error:
            raise NotEnoughData(
                f"{error} (under mask {mask.spec} there is what follows from masked answers alone: no traces, no features, "
                "no runs without logits)"
            ) from error


def masked_signals(
    logits: npt.NDArray[np.floating], label: npt.NDArray[np.integer], mask: Mask
) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_]]:
    """Log probabilities (R, C) under a mask, and loss, phi and correctness (R,) of them at labels (R,).

    phi = log p_y - log(1 - p_y). Infinite logits count as 1e30.
    """
    hidden = mask.apply(np.nan_to_num(logits.astype(np.float64), posinf=_HUGE, neginf=-_HUGE))
    rows = np.arange(len(hidden))
    own = hidden[rows, label]
    others = hidden.copy()
    others[rows, label] = -np.inf
    phi = own - _log_sum(others)
    loss = np.maximum(-phi, 0) + np.log1p(np.exp(-np.abs(phi)))
    return hidden, loss, phi, hidden.argmax(axis=1) == label


def _write_masked(source: Source, run: Run, lake: Lake, mask: Mask) -> bool:
    """Write a run's masked signals; False where it kept no logits. Rows without a label have no loss and are left out."""
    members = _members(source, run)
    with lake.write_run(source.experiment, run.run, members=members) as writer:
        wrote = False
        for piece in logits_of(source, run, query=None):
            rows = _labelled(piece, run)
            if len(rows) == 0:
                continue
            hidden, loss, phi, correct = masked_signals(rows.values, rows.label, mask)
            writer.append_signals(
                rows.sample_id,
                rows.query,
                rows.label,
                loss=loss.astype(np.float32),
                phi=phi.astype(np.float32),
                correct=correct,
                logits=hidden.astype(np.float32),
            )
            wrote = True
        if wrote:
            writer.commit(run.info)
    return wrote


def _labelled(piece: Piece, run: Run) -> Piece:
    if piece.values.shape[1] < 2:
        raise InvalidInput(
            f"logits of run {run.run!r} have one class; a mask is of probabilities over several"
        )
    if (piece.label >= piece.values.shape[1]).any():
        raise InvalidInput(f"run {run.run!r} has logits of {piece.values.shape[1]} classes and labels beyond")
    known = np.flatnonzero(piece.label != NO_LABEL)
    return piece if len(known) == len(piece) else piece.rows(known)


def _members(source: Source, run: Run) -> npt.NDArray[np.bool_]:
    members = np.zeros(source.lake.experiment(source.experiment).samples, dtype=bool)
    for table in sorted(run.tables()):
        rows = source.rows(run, table, ["sample_id", "member"])
        members[rows["sample_id"].to_numpy()[rows["member"].to_numpy()]] = True
    return members


def _top_k(logits: Floats, count: int) -> Floats:
    classes = logits.shape[1]
    if count >= classes:
        return _log_softmax(logits)
    # A stable sort keeps the first of equal classes; of the K shown, it is the K before the rest.
    order = np.argsort(-logits, axis=1, kind="stable")
    rest = np.take_along_axis(logits, order[:, count:], axis=1)
    found = logits.copy()
    spread = _log_sum(rest) - math.log(classes - count)
    np.put_along_axis(found, order[:, count:], spread[:, None], axis=1)
    return _log_softmax(found)


def _rounded(logits: Floats, decimals: int) -> Floats:
    shown = np.round(np.exp(_log_softmax(logits)), decimals)
    zero = shown == 0
    missing = np.maximum(1 - shown.sum(axis=1), 0.25 * 10.0**-decimals)
    spread = missing / np.maximum(zero.sum(axis=1), 1)
    found = np.where(zero, spread[:, None], shown)
    return np.log(found / found.sum(axis=1, keepdims=True))


def _label_only(logits: Floats) -> Floats:
    rows, classes = logits.shape
    found = np.full((rows, classes), math.log(_UNSURE / max(classes - 1, 1)))
    found[np.arange(rows), logits.argmax(axis=1)] = math.log(1 - _UNSURE)
    return found


def _log_softmax(logits: Floats) -> Floats:
    return logits - _log_sum(logits)[:, None]


def _log_sum(values: Floats) -> Floats:
    """log sum exp of each row."""
    highest = values.max(axis=1)
    return highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
