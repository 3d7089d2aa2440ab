"""Laying a report out: its sections in order, as one HTML page that needs nothing else, or as one picture of its charts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from ...store.format.outgoing import spelled
from ..charts.axes import number
from ..charts.style import theme
from .as_json import content
from .bundle import kept_bundle
from .data import Record, Report
from .next_steps import audit_call
from .parts import Figure, Figures, Section, without_gaps
from .sections.attacks import agreement, attacks, bounds, defended, known_losses
from .sections.groups import groups
from .sections.look_at import look_at
from .sections.more import further, notes, queries, questions
from .sections.over_time import over_time
from .sections.records import exposed, lt_iqr, memorization
from .sections.training import evolution, fleets, traces, trained
from .still import as_image, figures_of, inlined
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
    over_time,
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


@dataclass(frozen=True)
class Drawing:
    """A chart as the page holds it: its heading as text that wraps, its specification without."""

    title: str
    subtitle: str
    description: str
    spec: Markup


def build(report: Report) -> tuple[Section, ...]:
    """The sections whose data is there, in order."""
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):  # what charts are made of is checked by tests, not each time
        found = [builder(report) for builder in SECTIONS]
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
        drawn={figure.name: inlined(figure) for figure in figures_of(sections)},
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
        drawn={
            figure.name: as_image(figure, alone=len(part.items) == 1)
            for section in sections
            for part in section.parts
            if isinstance(part, Figures)
            for figure in part.items
        },
    )


def uncharted(report: Report, verdict: Verdict, sections: Sequence[Section]) -> str:
    """The page in its words, style and scripts, without charts and numbers to be read by programs."""
    given = {"style": _text_of("report.css"), "script": _text_of("report.js"), "vega": Markup(_vega())}
    nothing = dict.fromkeys(("theme", "numbers"), Markup())
    return _filled(report, verdict, sections, **given, **nothing, nonce="", printed=False, drawn={})


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
    environment.filters |= {"number": number, "picture": _picture, "values": _values, "unbroken": unbroken}
    environment.globals |= {"spark": _spark, "spark_size": SPARK}
    return environment.get_template("report.html").render(
        report=report,
        verdict=verdict,
        sections=sections,
        keep=audit_call({"lake": "audits"}, shell=report.shell),
        drawings={figure.name: _drawing(figure) for figure in figures_of(sections)},
        **more,
    )


def _drawing(figure: Figure) -> Drawing:
    """Take a chart's title out of its specification: as text of the page it wraps on a narrow screen."""
    spec = dict(figure.spec)
    heading = spec.pop("title", {})
    spec.pop("config", None)
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding", "resize": True}
    subtitle = " ".join(heading.get("subtitle", []))
    return Drawing(heading.get("text", ""), subtitle, spec.get("description", ""), Markup(_as_json(spec)))


def _as_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    script = kept_bundle("window.vegaEmbed = vegaEmbed;")
    # Inside a string of the script both spellings mean the same; to the page only the first would end it.
    return re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)


def _holdable(value: Any) -> Any:
    """Text of the page without characters that HTML cannot hold or that hide or turn others; what the page made itself as it is."""
    return spelled(value) if type(value) is str else value


_WHOLE = re.compile(r"(?<!\S)--?[a-z][a-z-]{,30}|(?<= )\([^()]{,24}\)")


def unbroken(text: str) -> Markup:
    """A text of which no line ends within an option of a command, or within an interval in brackets."""
    held, place = Markup(), 0
    for found in _WHOLE.finditer(whole := spelled(text)):
        held += whole[place : found.start()] + Markup('<span class="whole">{}</span>').format(found[0])
        place = found.end()
    return held + whole[place:]


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
