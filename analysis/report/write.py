"""Writing the report of an experiment: an HTML page, a picture of its charts, or its numbers."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from ...store.errors import InvalidOption, LosslakeError
from ...store.lake import Lake
from ..charts.style import theme
from ..scoring.run import FPRS
from .data import Report
from .gather import gather
from .page import figures
from .parts import Section
from .words import Verdict, verdict

FORMATS = (".html", ".pdf", ".png", ".svg", ".json")


def write_report(
    lake: Lake,
    experiment: str,
    out: Path,
    *,
    target: str | None = None,
    pictures: bool = True,
    fprs: tuple[float, ...] = FPRS,
    defended: str | None = None,
) -> Report:
    """Write the report of an experiment to ``out`` and return what it tells.

    The suffix chooses: .html is the whole report in one file that needs no network, .png, .svg and .pdf are its
    charts, .json its numbers. Scores that are missing or stale are computed and kept in the lake.
    Without ``pictures`` the report shows no record itself: neither its picture nor the columns of its own. The
    leading figures are at the lowest of ``fprs`` that the target's non-members resolve. ``defended`` is another
    experiment of the same records, trained with a defence, to set beside this one.

    Raises InvalidOption for another suffix, NotFound for an unknown experiment or run, NotEnoughData when the
    experiment has nothing to report on. The file appears whole or not at all.
    """
    kind = check_format(out)
    if not out.parent.is_dir():
        raise InvalidOption(
            f"the folder {out.parent} for the report does not exist; make it, or choose another"
        )
    report = gather(lake, experiment, target=target, pictures=pictures, fprs=fprs, defended=defended)
    _write(out, render(report, kind))
    return report


def check_format(out: Path) -> str:
    """The suffix of a report's file, in lower case. Raises InvalidOption for one that cannot be written."""
    kind = out.suffix.lower()
    if kind not in FORMATS:
        raise InvalidOption(
            f"a report cannot be written as {out.name!r}; end the name in one of {', '.join(FORMATS)}"
        )
    return kind


def render(report: Report, kind: str) -> bytes:
    """A gathered report in one of `FORMATS`."""
    said = verdict(report)
    if kind == ".json":
        from .as_json import to_json

        return to_json(report, said).encode("utf-8")
    from .sections.all import build

    sections = build(report)
    if kind == ".html":
        from .page import page

        return page(report, said, sections).encode("utf-8")

    if kind == ".png":
        return picture(report, said, sections, "png")
    return picture(report, said, sections, "pdf" if kind == ".pdf" else "svg")


def _write(out: Path, content: bytes) -> None:
    # Beside the goal, so that replacing it is one step of the same file system.
    passing = out.with_name(f".{out.name}.{token_hex(4)}")
    try:
        passing.write_bytes(content)
        os.replace(passing, out)
    except OSError as error:
        raise LosslakeError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        passing.unlink(missing_ok=True)


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
