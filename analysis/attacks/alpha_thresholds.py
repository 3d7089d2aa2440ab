"""At which loss an attack that rejects at F(loss) <= alpha begins to do so: the thresholds c_alpha of its levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption

ALPHAS = (0.001, 0.01, 0.05, 0.1)
"""Significance levels that the attacks are judged at unless told otherwise."""

ALPHA_HELP = "significance levels to reject at: the false-positive rates that are aimed at"

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def levels_of(alpha: tuple[float, ...]) -> tuple[float, ...]:
    """The distinct levels, ascending. Raises InvalidOption for one outside 0..1 and for none."""
    if not alpha:
        raise InvalidOption("give at least one significance level")
    for level in alpha:
        if not 0 < level < 1:
            raise InvalidOption(f"a significance level lies between 0 and 1, not {level}")
    return tuple(sorted(set(alpha)))


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
    levels: Sequence[float],
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


def with_thresholds(frame: pl.DataFrame, thresholds: Floats, levels: Sequence[float]) -> pl.DataFrame:
    """Add the column thresholds: a list of {alpha, loss} a row, NULL where there is no reference loss."""
    columns = pl.DataFrame({str(at): thresholds[:, at] for at in range(len(levels))})
    pairs = [
        pl.struct(pl.lit(level, pl.Float64).alias("alpha"), pl.col(str(at)).alias("loss"))
        for at, level in enumerate(levels)
    ]
    listed = columns.select(pl.when(pl.col("0").is_not_nan()).then(pl.concat_list(pairs)))
    return frame.with_columns(listed.to_series().alias("thresholds"))
