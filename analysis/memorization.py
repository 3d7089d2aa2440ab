"""Label memorization: does the model need the record to get it right."""

from __future__ import annotations

from typing import Annotated, Literal

import polars as pl

from ..store.errors import NotEnoughData
from .membership import with_membership
from .metric import Metric
from .scores import Scores, count_unscored
from .source import Source


def memorization(
    source: Source,
    *,
    of: Annotated[Literal["correct", "probability"], "correct predictions, or the probability of the label"] = "correct",
) -> Scores:
    """Memorization: Pr[correct | trained on it] - Pr[correct | not trained on it], over shadow runs.

    Columns se (standard error, dividing by n), ci_low and ci_high (Agresti & Caffo 2000), mean_in, mean_out, n_in,
    n_out. Near 1: the label is known only to models that saw the record. Higher = more exposed.

    Source: Feldman & Zhang 2020, "What Neural Networks Memorize and Why", equation 1.
    """
    shadows = source.need_shadows()
    frame = source.query("memorization", {"target": source.target_name, "of": of})
    if frame["score"].null_count() == len(frame):
        reason = "they store whether the label was predicted (try --of probability)" if of == "correct" else "enough runs"
        raise NotEnoughData(
            f"memorization needs shadow runs with and without each sample, and that {reason}; "
            f"experiment {source.experiment!r} has {len(shadows)} shadow runs"
        )
    known = frame["score"].drop_nulls()
    metrics = [
        Metric("mean", float(known.mean() or 0.0), *_mean_interval(known), n=len(known)),
        *(_share_above(known, threshold) for threshold in (0.4, 0.8)),
    ]
    notes = count_unscored(frame, "no shadow run trained on them, or none did without them")
    return Scores(with_membership(source, frame), notes, tuple(metrics))


def _mean_interval(known: pl.Series) -> tuple[float, float]:
    centre = float(known.mean() or 0.0)  # type: ignore[arg-type]
    spread = float(known.std() or 0.0) / max(len(known), 1) ** 0.5  # type: ignore[arg-type]
    return centre - 1.959963984540054 * spread, centre + 1.959963984540054 * spread


def _share_above(known: pl.Series, threshold: float) -> Metric:
    from .intervals import clopper_pearson

    hits = int((known > threshold).sum())
    return Metric(
        "share_above", hits / len(known), *clopper_pearson(hits, len(known)), n=len(known), parameters={"threshold": threshold}
    )
