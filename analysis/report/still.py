"""Charts as pictures that do not move: on paper, in a page without scripts, and as a sheet of all of them."""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from ...store.format.outgoing import drawable, spelled
from ..charts.style import theme
from .data import Report
from .parts import Figure, Figures, Section
from .words import Verdict

WIDTH = 460
ON_PAPER = 340
"""Narrower, as two stand in a row of a page: their words are not made smaller than one reads."""
ALONE, LOW = 480, 260
"""Width of one that stands alone there, and its height at most: two of these fill a page."""
FONT = "sans-serif"
INK = "#1d2328"
PIXELS_A_UNIT = 2.0


def figures_of(sections: Sequence[Section]) -> list[Figure]:
    """Every chart of the sections, in order."""
    return [
        item
        for section in sections
        for part in section.parts
        if isinstance(part, Figures)
        for item in part.items
    ]


def as_image(figure: Figure, *, alone: bool = False) -> str:
    """A chart without its title as a vector picture in a data URL, on white; ``alone``: nothing stands beside it."""
    config = {**theme(INK, FONT), "background": "white"}
    svg = _in_pixels(_svg(figure, config, ALONE if alone else ON_PAPER, LOW if alone else None))
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _in_pixels(svg: str) -> str:
    """The picture with the gradients of its legends in pixels: WeasyPrint draws none that is in shares of what it fills."""
    for width, name in re.findall(r'<path d="M0,0h([\d.]+)v[^"]*" fill="url\(#(\w+)\)"', svg):
        svg = re.sub(
            rf'(<linearGradient id="{name}") x1="0" x2="1"',
            rf'\1 gradientUnits="userSpaceOnUse" x1="0" x2="{width}"',
            svg,
        )
    return svg


def inlined(figure: Figure) -> Markup:
    """The same as an element of the page, in the page's colours; what it says is its label."""
    svg = _svg(figure, theme(font=FONT), WIDTH)
    label = str(escape(spelled(figure.spec.get("description", ""))))
    # Names of clips and gradients are the page's: no two charts may have the same.
    svg = re.sub(r'(url\(#|id=")(part\d+)', rf"\1{figure.name}-\2", svg)
    return Markup(svg.replace('class="marks"', f'class="still" role="img" aria-label="{label}"', 1))


def _svg(figure: Figure, config: dict[str, Any], width: int, highest: int | None = None) -> str:
    """A chart to be looked at: without title, tooltips, what only a pointer meets, and digits that nobody sees."""
    spec = _still(figure.spec | {"width": width})
    spec.pop("title", None)
    if highest is not None and isinstance(spec.get("height"), int | float):
        spec["height"] = min(spec["height"], highest)
    spec["config"] = {**config, "aria": False}
    # Another program than the one that measured the words may draw them, in a wider font.
    spec["padding"] = {"left": 16, "right": 8, "top": 5, "bottom": 5}
    return re.sub(r"<[^>]+>", lambda tag: _PLACES.sub(_rounded, tag[0]), _drawn(spec))


_PLACES = re.compile(r' (?:d|transform)="[^"]*"')


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"(\d\.\d)\d+", r"\1", attribute[0])


def _still(spec: Any) -> Any:
    if isinstance(spec, dict):
        kept = {name: _still(value) for name, value in spec.items() if name != "tooltip"}
        if "layer" in kept:
            kept["layer"] = [layer for layer in kept["layer"] if not _unseen(layer)]
        return kept
    return [_still(value) for value in spec] if isinstance(spec, list) else spec


def _unseen(layer: dict[str, Any]) -> bool:
    mark, opacity = layer.get("mark"), layer.get("encoding", {}).get("opacity", {})
    return (isinstance(mark, dict) and mark.get("opacity") == 0) or opacity.get("value") == 0


def _drawn(spec: dict[str, Any]) -> str:
    """A chart as SVG, the same each time: what is drawn earlier in a process counts the names of clips and gradients on."""
    import vl_convert

    places: dict[str, str] = {}
    return re.sub(
        r'(url\(#|id=")((?:clip|gradient_)\d+)',
        lambda found: found[1] + places.setdefault(found[2], f"part{len(places)}"),
        str(vl_convert.vegalite_to_svg(spec)),
    )


def picture(report: Report, verdict: Verdict, sections: Sequence[Section], kind: str) -> bytes:
    """A sheet of all charts on white, two in a row, under the verdict: a png or svg."""
    import vl_convert

    spec = _compose(report, verdict, sections)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_A_UNIT))
    return _drawn(spec).encode("utf-8")


def _compose(report: Report, verdict: Verdict, sections: Sequence[Section]) -> dict[str, Any]:
    import altair as alt

    drawn: list[Any] = []
    for figure in figures_of(sections):
        chart = figure.chart.copy(deep=True).properties(width=WIDTH)
        heading = chart.title
        told = [] if heading.subtitle is alt.Undefined else heading.subtitle
        subtitle = [line for text in told for line in textwrap.wrap(text, 78)]
        drawn.append(chart.properties(title=alt.TitleParams(text=heading.text, subtitle=subtitle)))
    apart: dict[str, Any] = {"color": "independent", "strokeDash": "independent", "shape": "independent"}
    rows = [
        alt.hconcat(*drawn[i : i + 2], spacing=48).resolve_scale(**apart) for i in range(0, len(drawn), 2)
    ]
    about = f"{report.experiment.name}: {verdict.text}"
    what = (
        "This is a sheet of the report's charts. Its tables, records and limits, and what to do, are in the report as .html or .pdf. "
        f"Audit: {report.audit.line}."
    )
    whole = alt.vconcat(*rows, spacing=36).resolve_scale(**apart)
    whole = whole.properties(
        title=alt.TitleParams(
            text=verdict.title,
            subtitle=[*textwrap.wrap(about, 150), *textwrap.wrap(what, 150)],
            fontSize=20,
            subtitleFontSize=13,
            anchor="start",
            offset=24,
        ),
        padding=28,
    )
    spec: dict[str, Any] = drawable(whole.to_dict())
    spec["config"] = {**theme(INK, FONT), "background": "white"}
    return spec
