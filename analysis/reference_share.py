"""Attacks that ask how usual a loss is for a model that did not train on the record: Attack P, R and S.

Their null hypothesis is that the target did not; F(loss), the share of reference losses at or under the target's,
is its p-value but for 1 / (n + 1), and rejecting at F <= alpha should have the false-positive rate alpha.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ..store.errors import InvalidOption
from .metric import Metric
from .rates import rates
from .scores import Scores, count_unscored

ALPHAS = (0.001, 0.01, 0.05, 0.1)
"""Significance levels that the attacks are judged at unless told otherwise."""

ALPHA_HELP = "significance levels to reject at: the false-positive rates that are aimed at"
INTERPOLATE_HELP = "let F run straight between reference losses (from F = 0 at loss 0), not in steps"

Floats = npt.NDArray[np.float64]


def check_alphas(alpha: tuple[float, ...]) -> None:
    """Raises InvalidOption for a level outside 0..1."""
    for level in alpha:
        if not 0 < level < 1:
            raise InvalidOption(f"a significance level lies between 0 and 1, not {level}")


def share_scores(frame: pl.DataFrame, alpha: tuple[float, ...], interpolate: bool, why: str) -> Scores:
    """Scores with notes and the rates at each alpha, from rows of sample_id, member, score, share, n_reference.

    ``why`` says why a sample may have no score.
    """
    known = frame.filter(pl.col("member").is_not_null() & pl.col("score").is_not_null())
    member, share = known["member"].to_numpy(), known["share"].to_numpy()
    levels = sorted(set(alpha))
    metrics = [metric for level in levels for metric in _at(level, share, member)]
    notes = [*count_unscored(frame, why)]
    typical = frame.filter(pl.col("score").is_not_null())["n_reference"].median()
    if isinstance(typical, float) and not interpolate and any(level * typical < 1 for level in levels):
        coarse = ", ".join(f"{level:g}" for level in levels if level * typical < 1)
        notes.append(
            f"{typical:g} reference losses a sample cannot resolve alpha {coarse}: that rejects where all of them lie "
            f"above the target's, which a non-member's do with probability {1 / (typical + 1):.2g}"
        )
    return Scores(frame.drop("label", strict=False), tuple(notes), tuple(metrics))


def _at(level: float, share: Floats, member: npt.NDArray[np.bool_]) -> tuple[Metric, ...]:
    return rates(share <= level, member, "at_alpha", {"alpha": level})


def with_share(
    frame: pl.DataFrame, reference: pl.DataFrame, by: str | None, interpolate: bool
) -> pl.DataFrame:
    """Add share and n_reference and set score = 1 - share, from the columns loss of both frames; label is dropped.

    ``by`` names an integer column of both whose values are kept apart. The score is NULL where no reference loss
    is of its kind or where it was NULL.
    """
    loss = frame["loss"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    others = reference["loss"].to_numpy()
    share, count = np.full(len(loss), np.nan), np.zeros(len(loss), dtype=np.int64)
    if by is None:
        share[:], count[:] = share_at_or_below(np.sort(others), loss, interpolate), len(others)
    else:
        kinds = reference[by].to_numpy()
        grouped = np.argsort(kinds, kind="stable")
        others, kinds, own = others[grouped], kinds[grouped], frame[by].to_numpy()
        rows_of = np.argsort(own, kind="stable")
        for kind in np.unique(own):
            rows = rows_of[slice(*np.searchsorted(own, [kind, kind + 1], sorter=rows_of))]
            part = np.sort(others[slice(*np.searchsorted(kinds, [kind, kind + 1]))])
            share[rows], count[rows] = share_at_or_below(part, loss[rows], interpolate), len(part)
    scored = frame["score"].is_not_null().to_numpy() & (count > 0)
    share = np.where(scored, share, np.nan)
    return frame.drop("label").with_columns(
        pl.Series("score", 1 - share).fill_nan(None),
        pl.Series("share", share).fill_nan(None),
        pl.Series("n_reference", count),
    )


def share_at_or_below(ranked: Floats, loss: Floats, interpolate: bool) -> Floats:
    """F at each loss: the share of ``ranked`` values (sorted) at or under it; NaN where there are none.

    Interpolated, F goes on in a straight line from each reference loss towards the next one, by one value's share,
    and from 0 at loss 0 to the first; at a reference loss both are equal.
    """
    n = len(ranked)
    if n == 0:
        return np.full(len(loss), np.nan)
    below = np.searchsorted(ranked, loss, "right").astype(np.float64)
    if not interpolate:
        return below / n
    at = below.astype(np.int64)
    low = np.where(at > 0, ranked[np.maximum(at - 1, 0)], 0.0)
    high = ranked[np.minimum(at, n - 1)].astype(np.float64)
    inside = (at < n) & np.isfinite(high) & (loss > low)
    below[inside] += (loss[inside] - low[inside]) / (high[inside] - low[inside])
    return below / n
