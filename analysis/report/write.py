"""Writing the report of an experiment: an HTML page, a PDF, a sheet of its charts, or its numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...store.errors import InvalidOption
from ...store.format.out_file import check_out_file, out_file
from ...store.lake import Lake
from ..scoring.run import FPRS
from .as_json import as_json
from .data import Report
from .document import Paper, document, need_weasyprint
from .gather import gather
from .page import build, page
from .still import picture
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
    compare: tuple[str, ...] = (),
    paper: Paper = "A4",
    kept: bool = True,
    shell: bool = False,
    notes: Sequence[str] = (),
) -> Report:
    """Write the report of an experiment to ``out`` and return what it tells.

    The suffix chooses: .html is the whole report in one file that needs no network, .pdf the same on ``paper`` with contents and
    page numbers, .png and .svg are a sheet of its charts, .json its numbers. Scores that are missing or stale are computed and kept in the lake.
    Without ``pictures`` the report shows no record itself: neither its picture nor the columns of its own. The
    leading figures are at the lowest of ``fprs`` that the target's non-members resolve. ``defended`` is another
    experiment of the same records, trained with a defence, to set beside this one; ``compare`` names
    models, as `models_named` takes them, over which risk is followed. A lake that is not ``kept`` is none that a reader could ask; ``shell``
    is told in `Report`, ``notes`` in `gather`.

    Raises InvalidOption for another suffix, NotFound for an unknown experiment or run, NotEnoughData when the
    experiment has nothing to report on. The file is written as by `out_file`.
    """
    check_report_file(out)
    kind = out.suffix.lower()
    report = gather(
        lake,
        experiment,
        target=target,
        pictures=pictures,
        fprs=fprs,
        defended=defended,
        compare=compare,
        kept=kept,
        shell=shell,
        notes=notes,
    )
    said = verdict(report)
    if kind == ".json":
        content = as_json(report, said).encode()
    elif kind == ".html":
        content = page(report, said, build(report)).encode()
    elif kind == ".pdf":
        content = document(report, said, build(report), paper)
    else:
        content = picture(report, said, build(report), kind.removeprefix("."))
    with out_file(out) as file:
        file.write(content)
    return report


def check_report_file(out: Path) -> None:
    """Raises InvalidOption where no report can be written to ``out``, as its name ends, MissingExtra or LosslakeError where none can be made or stored."""
    kind = out.suffix.lower()
    if kind not in FORMATS:
        raise InvalidOption(
            f"a report cannot be written as {out.name!r}; end the name in one of {', '.join(FORMATS)}"
        )
    if kind == ".pdf":
        need_weasyprint()
    check_out_file(out)
