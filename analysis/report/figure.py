"""The report's main charts as one picture: PNG, SVG or PDF."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from ..charts.style import theme
from .data import Report
from .page import figures
from .parts import Section
from .words import Verdict

Format = Literal["png", "svg", "pdf"]
WIDTH = 460
FONT = "sans-serif"
INK = "#1d2328"
PIXELS_A_UNIT = 2.0


def picture(report: Report, verdict: Verdict, sections: Sequence[Section], kind: Format) -> bytes:
    """All charts on white, two in a row, under the verdict."""
    import vl_convert

    spec = _compose(report, verdict, sections)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_A_UNIT))
    if kind == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(spec))
    return str(vl_convert.vegalite_to_svg(spec)).encode("utf-8")


def _compose(report: Report, verdict: Verdict, sections: Sequence[Section]) -> dict[str, Any]:
    import altair as alt

    drawn: list[Any] = []
    for figure in figures(sections):
        chart = figure.chart.copy(deep=True).properties(width=WIDTH)
        heading = chart.title
        subtitle = [line for text in _lines(heading) for line in textwrap.wrap(text, 78)]
        drawn.append(chart.properties(title=alt.TitleParams(text=heading.text, subtitle=subtitle)))
    rows = [
        alt.hconcat(*drawn[i : i + 2], spacing=48).resolve_scale(
            color="independent", strokeDash="independent", shape="independent"
        )
        for i in range(0, len(drawn), 2)
    ]
    about = f"{report.experiment.name}: {verdict.text}"
    whole = alt.vconcat(*rows, spacing=36).resolve_scale(
        color="independent", strokeDash="independent", shape="independent"
    )
    whole = whole.properties(
        title=alt.TitleParams(
            text=verdict.title,
            subtitle=textwrap.wrap(about, 150),
            fontSize=20,
            subtitleFontSize=13,
            anchor="start",
            offset=24,
        ),
        padding=28,
    )
    spec: dict[str, Any] = whole.to_dict()
    spec["config"] = {**theme(INK, FONT), "background": "white"}
    return spec


def _lines(heading: Any) -> list[str]:
    import altair as alt

    found = heading.subtitle
    return [] if found is alt.Undefined else [str(line) for line in found]
