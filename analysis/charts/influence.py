"""How large the largest influence of each sample is, beside what shuffled runs would show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ..scores import Scores
from ..statistics.intervals import CHANCE
from .axes import number
from .scores import Group, grouped_histogram
from .style import BLUE, VERMILION, inline

if TYPE_CHECKING:
    import altair as alt


def influence_histogram(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Histogram of the largest influence, with a line where chance alone stops being an explanation."""
    import altair as alt

    known = scores.frame.filter(pl.col("score").is_not_null())
    values = known["score"].to_numpy().astype(np.float64)
    beyond = (
        known.filter(pl.col("p_value") <= CHANCE)["score"] if len(known) else pl.Series([], dtype=pl.Float64)
    )
    text = f"{len(beyond):,} of {len(known):,} samples have p ≤ {CHANCE:g}; {CHANCE * len(known):,.0f} would by chance"
    level = beyond.min()
    if isinstance(level, float):
        text += f" (dashed line: from {number(level)} on)"
    drawn = grouped_histogram(
        [Group("samples", values, BLUE)],
        "Largest influence on a test record",
        "largest influence, a difference of probabilities",
        subtitle=[f"{text}."],
    )
    if not isinstance(level, float):
        return drawn
    line = alt.Chart(inline([{"at": level}])).mark_rule(color=VERMILION, strokeDash=[4, 3]).encode(x="at:Q")
    return drawn + line
