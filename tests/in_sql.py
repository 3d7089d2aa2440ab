"""A source for which queries add up what many runs say, as on Spark."""

from __future__ import annotations

from losslake.analysis.source import Source


class InSql(Source):
    """Asks DuckDB for what NumPy adds up otherwise: the SQL texts are the definition."""

    adds_up_in_sql = True
