"""Laying a report out as one HTML page that needs nothing else: no network, no file beside it."""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from ..charts.axes import number
from ..charts.style import theme
from .data import Record, Report
from .parts import Figure, Figures, Section, brush_of
from .words import Verdict

SPARK = (120.0, 34.0)
"""Width and height of a small loss curve, in its own units."""


@dataclass(frozen=True)
class Drawing:
    """A chart as the page holds it: its heading as text that wraps, its specification without."""

    name: str
    title: str
    subtitle: str
    description: str
    spec: Markup
    linked: tuple[str, ...]
    brush: str


def page(report: Report, verdict: Verdict, sections: Sequence[Section]) -> str:
    """The report as HTML.

    Whatever comes from the lake is escaped or quoted as JSON. A content security policy lets run only the
    scripts that carry this page's nonce, and no request leave it.
    """
    import jinja2

    folder = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
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
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        vega=Markup(_vega()),
        theme=Markup(as_json(theme())),
        drawings={figure.name: drawing(figure) for figure in figures(sections)},
        nonce=secrets.token_urlsafe(16),
    )


def figures(sections: Sequence[Section]) -> list[Figure]:
    """Every chart of the sections, in order."""
    return [
        item
        for section in sections
        for part in section.parts
        if isinstance(part, Figures)
        for item in part.items
    ]


def drawing(figure: Figure) -> Drawing:
    """Take a chart's title out of its specification: as text of the page it wraps on a narrow screen."""
    spec = figure.chart.to_dict()
    heading = spec.pop("title", {})
    spec.pop("config", None)
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding", "resize": True}
    subtitle = " ".join(heading.get("subtitle", []))
    return Drawing(
        figure.name,
        heading.get("text", ""),
        subtitle,
        spec.get("description", ""),
        Markup(as_json(spec)),
        figure.linked,
        brush_of(figure.name),
    )


def as_json(value: Any) -> str:
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
