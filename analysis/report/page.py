"""Laying a report out: its sections in order, as one HTML page that needs nothing else, or as one picture of its charts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import secrets
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from ...store.format.outgoing import drawable, spelled
from ..charts.axes import number
from ..charts.style import theme
from .as_json import content
from .data import Record, Report
from .parts import Figure, Figures, Section, without_gaps
from .sections.attacks import agreement, attacks, bounds, defended, known_losses
from .sections.groups import groups
from .sections.look_at import look_at
from .sections.more import further, notes, queries, questions
from .sections.records import exposed, lt_iqr, memorization
from .sections.training import evolution, fleets, traces, trained
from .words import Verdict

SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    attacks,
    exposed,
    look_at,
    lt_iqr,
    traces,
    evolution,
    memorization,
    groups,
    agreement,
    known_losses,
    fleets,
    bounds,
    defended,
    further,
    trained,
    notes,
    questions,
    queries,
)
"""A new section is one more function here, from a report to a section, or None where its data is not there."""

SPARK = (120.0, 34.0)
"""Width and height of a small loss curve, in its own units."""

NONCE = secrets.token_hex(16)
"""Stands for the page's nonce until that is known."""

WIDTH = 460
FONT = "sans-serif"
INK = "#1d2328"
PIXELS_A_UNIT = 2.0


@dataclass(frozen=True)
class Drawing:
    """A chart as the page holds it: its heading as text that wraps, its specification without."""

    title: str
    subtitle: str
    description: str
    spec: Markup


def build(report: Report) -> tuple[Section, ...]:
    """The sections whose data is there, in order."""
    found = (builder(report) for builder in SECTIONS)
    told = (without_gaps(section) for section in found if section is not None)
    return tuple(section for section in told if section.parts)


def page(report: Report, verdict: Verdict, sections: Sequence[Section]) -> str:
    """The report as HTML.

    Whatever comes from the lake is escaped or quoted as JSON. A content security policy lets run only the
    scripts that carry this page's nonce, and no request leave it.
    """
    text = _filled(
        report,
        verdict,
        sections,
        style=_text_of("report.css"),
        script=_text_of("report.js"),
        vega=Markup(_vega()),
        theme=Markup(_as_json(theme())),
        numbers=Markup(_as_json(content(report, verdict, traces=False))),
        nonce=NONCE,
        printed=False,
        drawn={},
    )
    # Nothing in the page can know it beforehand, and the same page has the same.
    return text.replace(NONCE, hashlib.sha256(text.replace(NONCE, "").encode()).hexdigest())


def printed_page(report: Report, verdict: Verdict, sections: Sequence[Section]) -> str:
    """The same page for paper: charts are vector pictures, contents have page numbers, nothing is folded and no script is there."""
    return _filled(
        report,
        verdict,
        sections,
        style=_text_of("report.css") + _text_of("paper.css"),
        printed=True,
        drawn={figure.name: _svg(figure) for figure in _figures(sections)},
    )


def _text_of(name: str) -> Markup:
    return Markup((files(__package__) / name).read_text(encoding="utf-8"))


def _filled(report: Report, verdict: Verdict, sections: Sequence[Section], **more: Any) -> str:
    import jinja2

    folder = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        finalize=_holdable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "picture": _picture, "values": _values}
    environment.globals |= {"spark": _spark, "spark_size": SPARK}
    return environment.get_template("report.html").render(
        report=report,
        verdict=verdict,
        sections=sections,
        drawings={figure.name: _drawing(figure) for figure in _figures(sections)},
        **more,
    )


def _figures(sections: Sequence[Section]) -> list[Figure]:
    """Every chart of the sections, in order."""
    return [
        item
        for section in sections
        for part in section.parts
        if isinstance(part, Figures)
        for item in part.items
    ]


def _drawing(figure: Figure) -> Drawing:
    """Take a chart's title out of its specification: as text of the page it wraps on a narrow screen."""
    spec = drawable(figure.chart.to_dict())
    heading = spec.pop("title", {})
    spec.pop("config", None)
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding", "resize": True}
    subtitle = " ".join(heading.get("subtitle", []))
    return Drawing(heading.get("text", ""), subtitle, spec.get("description", ""), Markup(_as_json(spec)))


def _svg(figure: Figure) -> str:
    """A chart without its title as a vector picture in a data URL."""
    spec: dict[str, Any] = drawable(figure.chart.copy(deep=True).properties(width=WIDTH).to_dict())
    spec.pop("title", None)
    spec["config"] = {**theme(INK, FONT), "background": "white"}
    svg = _drawn(spec)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _drawn(spec: dict[str, Any]) -> str:
    """A chart as SVG, the same each time: what is drawn earlier in a process counts the names of clips and gradients on."""
    import vl_convert

    places: dict[str, str] = {}
    return re.sub(
        r'(url\(#|id=")((?:clip|gradient_)\d+)',
        lambda found: found[1] + places.setdefault(found[2], f"part{len(places)}"),
        str(vl_convert.vegalite_to_svg(spec)),
    )


def _as_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    import vl_convert

    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    # Inside a string of the script both spellings mean the same; to the page only the first would end it.
    return re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)


def _holdable(value: Any) -> Any:
    """Text of the page without characters that HTML cannot hold or that hide or turn others; what the page made itself as it is."""
    return spelled(value) if type(value) is str else value


def _values(record: Record) -> str:
    """The scores of a record as JSON, by their labels."""
    return json.dumps({label: score for label, score, _ in record.scores if math.isfinite(score)})


def _picture(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _spark(values: Sequence[float], highest: float) -> str:
    """Points of a small curve for an SVG polyline; ``highest`` is the value at its top edge."""
    width, height = SPARK
    step = width / max(len(values) - 1, 1)
    top = highest or 1.0
    return " ".join(
        f"{i * step:.1f},{height - (height - 2) * min(max(value, 0.0), top) / top - 1:.1f}"
        for i, value in enumerate(values)
        if math.isfinite(value)
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
    for figure in _figures(sections):
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
    whole = alt.vconcat(*rows, spacing=36).resolve_scale(**apart)
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
    spec: dict[str, Any] = drawable(whole.to_dict())
    spec["config"] = {**theme(INK, FONT), "background": "white"}
    return spec
