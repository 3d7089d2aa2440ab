"""Looking at what analyses and evaluations find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from losslake.analysis.scores import Finding
from losslake.analysis.statistics.metric import Metric


def pick(finding: Finding, metric: str, **parameters: Any) -> Metric:
    """The only metric of this name with these parameters, whatever others it has."""
    (found,) = (
        m
        for m in finding.metrics
        if m.metric == metric and all(m.parameters.get(key) == value for key, value in parameters.items())
    )
    return found


def assert_scores(frame: pl.DataFrame, expected: Sequence[float | None]) -> None:
    """The column score has these values, and nulls where None is expected."""
    assert [value is None for value in frame["score"]] == [value is None for value in expected]
    known = [value for value in expected if value is not None]
    np.testing.assert_allclose(frame["score"].drop_nulls().to_numpy(), known, rtol=1e-9)
