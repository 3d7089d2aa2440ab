"""Attacks that ask how usual a loss is for a model that did not train on the record: Attack P, R, S, D and L.

Their null hypothesis is that the target did not; F(loss), the share of reference losses at or under the target's,
is its p-value but for 1 / (n + 1), and rejecting at F <= alpha should have the false-positive rate alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidOption
from ..scores import Scores, count_unscored
from ..statistics.metric import Metric
from ..statistics.roc import rates

ALPHAS = (0.001, 0.01, 0.05, 0.1)
"""Significance levels that the attacks are judged at unless told otherwise."""

Alpha = Annotated[
    tuple[float, ...], "significance levels to reject at: the false-positive rates that are aimed at"
]
Interpolate = Annotated[
    bool,
    "let F run straight between reference losses (from F = 0 at loss 0), not in steps: records under all of them keep an order",
]

_BLOCK = 1 << 16
"""Rows whose thresholds are looked for together."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Levels = Sequence[float]


def levels_of(alpha: tuple[float, ...]) -> tuple[float, ...]:
    """The distinct levels, ascending. Raises InvalidOption for one outside 0..1 and for none."""
    if not alpha:
        raise InvalidOption("give at least one significance level")
    for level in alpha:
        if not 0 < level < 1:
            raise InvalidOption(f"a significance level lies between 0 and 1, not {level}")
    return tuple(sorted(set(alpha)))


def share_scores(frame: pl.DataFrame, levels: Levels, interpolate: bool, why: str) -> Scores:
    """Scores with notes and the rates at each level, from rows of sample_id, member, score, share, n_reference.

    ``why`` says why a sample may have no score.
    """
    scored = frame.select("member", "share", "n_reference").filter(frame["score"].is_not_null())
    known = scored.filter(pl.col("member").is_not_null())
    member, share = known["member"].to_numpy(), known["share"].to_numpy()
    metrics = [
        metric for level in levels for metric in rates(share <= level, member, "at_alpha", {"alpha": level})
    ]
    typical = scored["n_reference"].median()
    notes = list(count_unscored(frame, why))
    if isinstance(typical, float):
        notes += _beyond_the_level(metrics, 0.0 if interpolate else typical)
        if not interpolate:
            notes += _too_coarse(levels, typical)
            notes += _tied_at_the_top(share, member, levels)
    return Scores(frame, tuple(notes), tuple(metrics))


def _beyond_the_level(metrics: Sequence[Metric], typical: float) -> list[str]:
    """A note where surely more non-members are rejected than the level, or steps of 1 / ``typical``, would have."""
    over = []
    for one in metrics:
        level = one.parameters["alpha"]
        aim = (int(level * typical) + 1) / (typical + 1) if typical else level
        if one.metric == "fpr_at_alpha" and one.ci_low is not None and one.ci_low > max(level, aim):
            over.append(f"{level:g} ({one.value:.2g})")
    if not over:
        return []
    return [
        f"rejecting at alpha {', '.join(over)} has the false-positive rate in brackets: the reference losses are higher than "
        "the target's on records it did not train on; the score ranks records, but 1 - score is no p-value"
    ]


def _too_coarse(levels: Levels, typical: float) -> list[str]:
    """A note on levels below one reference loss of ``typical`` many."""
    coarse = [f"{level:g}" for level in levels if level * typical < 1]
    if not coarse:
        return []
    return [
        f"{typical:g} reference losses a sample cannot resolve alpha {', '.join(coarse)}: that rejects where all of them lie "
        f"above the target's, which a non-member's do with probability {1 / (typical + 1):.2g}"
    ]


def _tied_at_the_top(share: Floats, member: npt.NDArray[np.bool_], levels: Levels) -> list[str]:
    """A note where so many non-members share the highest score that no threshold on it comes down to the lowest level."""
    first = share == share.min() if len(share) else np.zeros(0, dtype=bool)
    others = int((first & ~member).sum())
    if others < 2 or others <= levels[0] * int((~member).sum()):
        return []
    return [
        f"{others} of {int((~member).sum())} non-members and {int((first & member).sum())} members have one and the same score, the highest: "
        "at a lower false-positive rate it names nobody, and a TPR of 0 there is this tie and no absence of a leak; --interpolate puts them in order"
    ]


def most_below(count: Counts, level: float) -> Counts:
    """How many of ``count`` reference losses, (R,), may lie at or under a loss that is rejected: the largest k with k / count <= level."""
    whole = np.floor(level * count).astype(np.int64)
    n = np.maximum(count, 1)
    # Shares are quotients: 29 / 100 is 0.29, though 0.29 * 100 is below 29.
    whole += (whole + 1) / n <= level
    whole -= whole / n > level
    return whole


def thresholds_at(
    ranked: npt.NDArray[np.floating],
    start: Counts,
    count: Counts,
    levels: Levels,
    interpolate: bool,
) -> Floats:
    """c_alpha of R references at L levels, (R, L): losses under it are rejected, losses above it are not.

    ``ranked`` holds the lowest losses of one reference after another, ascending, each from ``start`` (R,) on; ``count``
    (R,) is how many it has in all. In steps c is the reference loss that would be one too many; interpolated it lies
    where F reaches the level. Infinite where any finite loss is rejected, NaN without reference losses. (The paper's
    alpha-percentile of these losses, but for which of the two neighbours it takes.)
    """
    found = np.full((len(count), len(levels)), np.nan)
    some = np.flatnonzero(count)
    start, n = start[some], count[some]
    for column, level in enumerate(levels):
        whole = most_below(n, level)
        threshold = ranked[start + whole].astype(np.float64)
        if interpolate:
            low = np.where(whole > 0, ranked[start + np.maximum(whole - 1, 0)], 0.0)
            part = np.clip(level * n - whole, 0.0, 1.0)
            inside = np.isfinite(threshold)  # nothing runs towards an infinite loss
            threshold[inside] = low[inside] + part[inside] * (threshold[inside] - low[inside])
        found[some, column] = threshold
    return found


def with_thresholds(
    frame: pl.DataFrame, thresholds: Callable[[slice], Floats], levels: Levels
) -> pl.DataFrame:
    """Add the column thresholds: a list of {alpha, loss} a row, NULL where there is no reference loss.

    ``thresholds`` says what those of some rows are, (rows, L): asked for block by block, as the column takes more than all others.
    """
    rows, width = len(frame), len(levels)
    known = np.empty(rows, dtype=bool)
    losses, held = np.empty(rows * width), 0
    for start in range(0, rows, _BLOCK):
        part = slice(start, min(start + _BLOCK, rows))
        found = thresholds(part)
        known[part] = ~np.isnan(found[:, 0])
        there = found[known[part]].ravel()
        losses[held : held + len(there)] = there
        held += len(there)
    pairs = pa.StructArray.from_arrays(
        [np.tile(np.array(levels, dtype=np.float64), held // width), losses[:held]], names=["alpha", "loss"]
    )
    starts = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(known, out=starts[1:])
    starts *= width
    listed = pa.LargeListArray.from_arrays(starts, pairs, mask=pa.array(~known))
    return frame.with_columns(pl.Series("thresholds", listed))
