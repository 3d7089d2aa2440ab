"""What the target and its shadow models answer to some of the records: enough to see whether they are of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ...store.format.tables import table_of_rows
from ..attacks.run_answers import answers_of
from ..source import Source

LOOKED_AT = 10_000
"""Samples from which a shift is known to half a hundredth of AUC; of more, as many are drawn by their ids, always the same."""

_COMPARED = pa.schema({"run": pa.string(), "row": pa.int32()})


@dataclass(frozen=True, eq=False)
class SomeAnswers:
    """``phi``, ``loss`` and ``member`` (runs, samples) of records as they are; NaN where a run has none. The target is the first run."""

    phi: npt.NDArray[np.float32]
    loss: npt.NDArray[np.float32]
    member: npt.NDArray[np.bool_]


def some_answers(source: Source, target: Run, shadows: Sequence[Run]) -> SomeAnswers:
    """The answers to `LOOKED_AT` of the audit pool's records, or to all where they are fewer.

    Single cells that the target is not compared with stay in: they are no property of a model, nor of a record.
    """
    audit, runs = source.audited(), (target, *shadows)
    share = min(1.0, LOOKED_AT / max(int(audit.sum()), 1))
    if source.adds_up_in_sql:
        return _in_sql(source, runs, share)
    sample_id = np.flatnonzero(audit)
    sample_id = sample_id[is_drawn(sample_id, share)]
    found = SomeAnswers(*_arrays(len(runs), len(sample_id)))
    answers = answers_of(source, runs, ["phi", "loss"], sample_id, [ORIGINAL], passing_over=False)
    for row, one in enumerate(answers):
        found.phi[row], found.loss[row] = one.columns[0][:, 0], one.columns[1][:, 0]
        found.member[row] = one.member
    return found


def is_drawn(sample_id: npt.NDArray[np.integer], share: float) -> npt.NDArray[np.bool_]:
    """Whether each sample is among a share of all that is drawn by their ids: the macro of this name in sql/."""
    return sample_id.astype(np.int64) * 2_654_435_761 % 2**32 < share * 2**32


def _in_sql(source: Source, runs: Sequence[Run], share: float) -> SomeAnswers:
    named = [{"run": run.run, "row": row} for row, run in enumerate(runs)]
    source.provide("compared", table_of_rows(named, _COMPARED))
    rows = source.query("some_answers", {"share": share})
    ids, column = np.unique(rows["sample_id"].to_numpy(), return_inverse=True)
    found, row = SomeAnswers(*_arrays(len(runs), len(ids))), rows["row"].to_numpy()
    for name, array in (("phi", found.phi), ("loss", found.loss), ("member", found.member)):
        array[row, column] = rows[name].to_numpy()
    return found


def _arrays(runs: int, samples: int) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    phi, loss = (np.full((runs, samples), np.nan, np.float32) for _ in range(2))
    return phi, loss, np.zeros((runs, samples), dtype=bool)
