"""Label memorization: does the model need the record to get it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData
from ..attacks.in_and_out import query_in_parts
from ..attacks.phi_matrix import why_no_phi
from ..scores import Scores, count_unscored
from ..source import Source, with_membership
from ..statistics.metric import Metric
from ..statistics.reestimation import Outcomes, shares_beyond

LEVELS = (0.4, 0.8)


def memorization(
    source: Source,
    *,
    of: Annotated[
        Literal["correct", "probability"], "correct predictions, or the probability of the label"
    ] = "correct",
) -> Scores:
    """Memorization: Pr[correct | trained on it] - Pr[correct | not trained on it], over shadow runs.

    Columns se (standard error, dividing by n), ci_low and ci_high (what Agresti & Caffo 2000 and Newcombe 1998 give, both), mean_in, mean_out, n_in,
    n_out. Near 1: the label is known only to models that saw the record. Higher = more exposed.

    Metrics of its own: the mean over records, and share_above, the share of records whose memorization is above 0.4 and above
    0.8. Estimates from few runs scatter and exceed a level by chance, so the share is estimated from how they are spread
    (nonparametric maximum likelihood), with bounds that hold every share that could have spread them so; estimates is the
    share of estimates above the level, by_chance what that would be were no record memorized. For --of probability share_above is
    the share of estimates, without an interval.

    Needs: shadow runs with and without each sample; for correct, logits (or signals that say what was right).

    Source: Feldman & Zhang 2020, "What Neural Networks Memorize and Why", equation 1.
    """
    frame = estimates(source, of)
    known = frame["score"].drop_nulls().to_numpy()
    above = shares_above(_scored(frame), of, LEVELS)
    notes = count_unscored(frame, "no shadow run trained on them, or none did without them")
    return Scores(with_membership(source, frame), notes, (_mean(known), *above))


def _scored(frame: pl.DataFrame) -> pl.DataFrame:
    """What `shares_above` looks at, of records with a score."""
    told = frame.select("score", "n_in", "mean_in", "n_out", "mean_out")
    return told.filter(pl.col("score").is_not_null()) if told["score"].null_count() else told


def estimates(source: Source, of: str) -> pl.DataFrame:
    """`memorized`, of some sample at least. Raises NotEnoughData, with what is lacking, where no sample has an estimate."""
    shadows = source.need_shadows()
    frame = memorized(source, of)
    if frame["score"].null_count() == len(frame):
        reason = (
            "they store whether the label was predicted (try --of probability)"
            if of == "correct"
            else "enough runs"
        )
        raise NotEnoughData(
            why_no_phi(source)
            or f"memorization needs shadow runs with and without each sample, and that {reason}; "
            f"experiment {source.experiment!r} has {len(shadows)} shadow runs"
        )
    return frame


def memorized(source: Source, of: str) -> pl.DataFrame:
    """The estimates and their intervals, a row a sample; see sql/memorization.sql. Several analyses ask for them: kept since."""
    shadows = source.need_shadows()
    key = ("memorized", of, *source.compared())
    known: pl.DataFrame | None = source.kept.find(key)
    if known is not None:
        return known
    column, outcome = ("correct", None) if of == "correct" else ("loss", lambda loss: np.exp(-loss))
    asked = {"target": source.target_name, "of": of}
    found = query_in_parts(source, "memorization", asked, shadows, column, outcome)
    if source.kept.allows(key, found.estimated_size()):
        source.kept.keep(key, found)
    return found


def shares_above(frame: pl.DataFrame, of: str, levels: Sequence[float]) -> list[Metric]:
    """The share of records memorized above each level, from scores that are all there; see `memorization`."""
    n = len(frame)
    if of != "correct":
        score = frame["score"].to_numpy()
        return [
            Metric("share_above", float((score > level).mean()), n=n, parameters={"threshold": level})
            for level in levels
        ]
    return [
        Metric(
            "share_above",
            found.share,
            found.low,
            found.high,
            n,
            {"threshold": level, "estimates": found.estimates, "by_chance": found.by_chance},
        )
        for level, found in zip(levels, shares_beyond(Outcomes.of(frame), levels), strict=True)
    ]


def _mean(known: npt.NDArray[np.float64]) -> Metric:
    centre = float(known.mean())
    if len(known) == 1:
        return Metric("mean", centre, -1.0, 1.0, n=1)
    spread = 1.959963984540054 * float(known.std(ddof=1)) / len(known) ** 0.5
    return Metric("mean", centre, centre - spread, centre + spread, n=len(known))
