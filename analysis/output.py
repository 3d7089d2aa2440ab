"""Metrics as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..store.errors import LosslakeError
from .statistics.metric import Metric

_QUIET = {"resolved", "non_members", "strength", "p_value"}


def metric_lines(metrics: Iterable[Metric]) -> list[str]:
    """One aligned line a metric: name with parameters, value, 95% interval, n. What cannot be measured says so."""
    rows: list[tuple[object, ...]] = [("metric", "value", "95% interval", "n")]
    for metric in metrics:
        shown = " ".join(
            f"{key}={_word(value)}" for key, value in metric.parameters.items() if key not in _QUIET
        )
        value = "not resolved" if metric.value is None else _number(metric.value)
        interval = ""
        if metric.ci_low is not None and metric.ci_high is not None:
            interval = f"{_number(metric.ci_low)} to {_number(metric.ci_high)}"
        strength = metric.parameters.get("strength")
        count = "" if metric.n is None else str(metric.n)
        rows.append(
            (
                f"{metric.metric} {shown}".strip(),
                value,
                interval,
                f"{count} ({strength})" if strength else count,
            )
        )
    return aligned(rows)


def aligned(rows: Sequence[tuple[object, ...]]) -> list[str]:
    """Rows of cells as lines, columns aligned; floats with four decimals."""
    cells = [[_number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write or replace a file and make its folder. Raises LosslakeError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise LosslakeError(f"cannot write {path}: {error.strerror or error}") from error
