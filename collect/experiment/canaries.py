"""Canaries: records planted to be audited, whose membership in the target is decided by independent fair coins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...store.errors import InvalidInput, InvalidOption, NotEnoughData
from ...store.format.records import CANARY
from ..callables import unknown_choice
from ..data.nested import Nested
from .selection import check_seed

Kind = Literal["mislabelled", "blank", "noise"]
KINDS: tuple[str, ...] = get_args(Kind)

_CHOICE, _LABELS, _CONTENT = 301, 302, 303


@dataclass(frozen=True)
class Canaries:
    """``count`` canaries of one kind.

    mislabelled  audit records chosen at random that get another label, uniform among the others
    blank        new records of one value each, no two alike: a picture of one colour; a row that lies equally many
                 standard deviations, within 2, from the mean of every column. Labels are random
    noise        new records of uniform noise, between the columns' least and greatest values for rows of features.
                 Labels are random

    Blank ones resemble each other, so that training on one tells something of its neighbours too: audits of them bound
    epsilon lower than those of noise.
    """

    kind: Kind
    count: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}"


def parse_canaries(text: str) -> Canaries:
    """Read KIND:N, such as mislabelled:100. Raises InvalidOption for anything else."""
    kind, _, number = text.partition(":")
    if kind not in KINDS:
        raise unknown_choice("kind of canaries", kind, KINDS)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise InvalidOption(f"canaries are KIND:N with N from 1 on, such as {kind}:100, not {text!r}")
    return Canaries(kind, int(number))  # type: ignore[arg-type]


def plant_canaries(
    canaries: Canaries, x: np.ndarray | Nested, y: np.ndarray, samples: pa.Table, *, classes: int, seed: int
) -> tuple[np.ndarray | Nested, np.ndarray, pa.Table]:
    """The records with canaries among them: x (N, ...), y int64 (N,) and the table of samples, as they then are.

    Mislabelled ones stand where they stood, others are appended to the audit pool with keys canary/0, canary/1, ... and
    nothing in the user's columns. All are in group `CANARY`. Deterministic in seed; what is given is not written to.

    Raises InvalidOption for data of a single class and for new records of several inputs, NotEnoughData where there are fewer records, or fewer colours, than
    canaries asked for, InvalidInput where the data has a group of that name.
    """
    check_seed(seed)
    if classes < 2:
        raise InvalidOption("canaries need another label to take, and the data has a single class")
    if "group" in samples.column_names and pc.any(pc.equal(samples["group"], CANARY)).as_py():
        raise InvalidInput(f"the data has a group {CANARY!r} of its own; rename it, or leave --canaries out")
    pool = samples["pool"].to_numpy(zero_copy_only=False)
    audit = np.flatnonzero(pool == "audit")
    labels = np.random.default_rng([_LABELS, seed])
    if canaries.kind == "mislabelled":
        if canaries.count > len(audit):
            raise NotEnoughData(
                f"{canaries.count} canaries asked for, but there are {len(audit)} audit records"
            )
        order = np.random.default_rng([_CHOICE, seed]).permutation(len(audit))
        rows = np.sort(audit[order[: canaries.count]])
        y = y.copy()
        # 1 to classes - 1 steps round the labels: each of the others equally often, never the same.
        y[rows] = (y[rows] + labels.integers(1, classes, len(rows))) % classes
        return x, y, _marked(samples, rows, y)
    if isinstance(x, Nested):
        raise InvalidOption(
            f"canaries of kind {canaries.kind} are new records of one array, and these have several inputs "
            f"({', '.join(x.names())}), whose blank or noise nobody knows; plant mislabelled ones: --canaries mislabelled:{canaries.count}"
        )
    rng = np.random.default_rng([_CONTENT, seed])
    make = _blank if canaries.kind == "blank" else _noise
    rows = np.arange(len(y), len(y) + canaries.count)
    x = np.concatenate([x, make(x, audit, canaries.count, rng)])
    y = np.concatenate([y, labels.integers(0, classes, canaries.count)])
    added = pa.table(
        {
            "pool": ["audit"] * canaries.count,
            "split": ["train"] * canaries.count,
            "key": [f"canary/{number}" for number in range(canaries.count)],
        }
    )
    return x, y, _marked(pa.concat_tables([samples, added], promote_options="default"), rows, y)


def canary_mask(samples: pa.Table) -> np.ndarray:
    """Which samples of an experiment are in the group of canaries: bool (N,)."""
    if "group" not in samples.column_names:
        return np.zeros(len(samples), dtype=bool)
    return np.asarray(pc.fill_null(pc.equal(samples["group"], CANARY), False))


def _marked(samples: pa.Table, rows: np.ndarray, y: np.ndarray) -> pa.Table:
    """The samples with labels y and with ``rows`` in the group of canaries."""
    groups = samples["group"].to_pylist() if "group" in samples.column_names else [None] * len(samples)
    for row in rows.tolist():
        groups[row] = CANARY
    columns = {name: samples[name] for name in samples.column_names}
    columns["label"] = pa.array(y.astype(np.int32))
    columns["group"] = pa.array(groups, pa.string())
    return pa.table(columns)


def _blank(x: np.ndarray, audit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Records of one value each, like x without its rows: (count, ...), no two alike."""
    if x.ndim == 2:
        levels = rng.permutation(np.linspace(-2, 2, count)) if count > 1 else np.zeros(1)
        mean, spread = x[audit].mean(axis=0, dtype=np.float64), x[audit].std(axis=0, dtype=np.float64)
        return (mean + levels[:, None] * spread).astype(np.float32)
    coded = min(x.shape[1], 3)  # channels that tell colours apart; 16 million are enough
    if count > 256**coded:
        raise NotEnoughData(
            f"{count} blank canaries asked for, but pictures of one channel have 256 colours; plant noise instead"
        )
    chosen = rng.choice(256**coded, count, replace=False)
    values = np.stack([chosen >> (8 * (channel % coded)) & 255 for channel in range(x.shape[1])], axis=1)
    return np.broadcast_to(values[:, :, None, None].astype(np.uint8), (count, *x.shape[1:]))


def _noise(x: np.ndarray, audit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Records of uniform noise, like x without its rows: (count, ...)."""
    if x.ndim == 2:
        low, high = x[audit].min(axis=0), x[audit].max(axis=0)
        return (low + rng.random((count, x.shape[1]), dtype=np.float32) * (high - low)).astype(np.float32)
    return rng.integers(0, 256, (count, *x.shape[1:]), dtype=np.uint8)
