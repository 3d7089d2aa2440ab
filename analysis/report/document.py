"""The report as a document to hand over and to file: a paginated, tagged PDF with contents and page numbers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Literal

from ...store.errors import MissingExtra
from .data import Report
from .page import printed_page
from .parts import Section
from .words import Verdict

Paper = Literal["A4", "Letter"]


def need_weasyprint() -> Any:
    """WeasyPrint. Raises MissingExtra where it, or the library Pango that it draws text with, is not there."""
    try:
        import weasyprint
    except (ImportError, OSError) as error:
        raise MissingExtra(
            "a report as PDF needs the extra 'pdf', pip install 'losslake[pdf]', and the library Pango (Debian: libpango-1.0-0 and "
            f"libpangoft2-1.0-0; macOS: brew install pango): {str(error).splitlines()[0]}. A browser prints report.html, too"
        ) from error
    return weasyprint


def document(report: Report, verdict: Verdict, sections: Sequence[Section], paper: Paper = "A4") -> bytes:
    """The whole report as a PDF on this paper, made from the page that a browser shows; nothing is fetched from anywhere.

    Raises MissingExtra as `need_weasyprint`.
    """
    weasyprint = need_weasyprint()
    from weasyprint.urls import URLFetcher

    # It tells of every line of CSS for the screen that means nothing on paper.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    text = printed_page(report, verdict, sections)
    page = weasyprint.HTML(string=text, url_fetcher=URLFetcher(allowed_protocols=("data",)))
    size = weasyprint.CSS(string=f"@page {{ size: {paper} }}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:32].encode()
    made: bytes = page.write_pdf(stylesheets=[size], pdf_tags=True, pdf_identifier=digest)
    return made
