"""Writing the report of an experiment: an HTML page, a picture of its charts, or its numbers."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex

from ...store.errors import InvalidOption, LosslakeError
from ...store.lake import Lake
from ..scoring.run import FPRS
from .data import Report
from .gather import gather
from .words import verdict

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
    from .figure import picture

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
