"""The report as a PDF: the whole page on paper, tagged, the same each time, and refused clearly where it cannot be made."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import altair as alt
import pytest
from losslake.analysis.report.document import document, need_weasyprint
from losslake.analysis.report.gather import gather
from losslake.analysis.report.page import build, page, printed_page
from losslake.analysis.report.parts import Figure
from losslake.analysis.report.still import as_image, figures_of
from losslake.analysis.report.words import verdict
from losslake.analysis.report.write import write_report
from losslake.store.errors import MissingExtra
from losslake.store.lake import Lake

from .test_report import make

try:
    need_weasyprint()
    MISSING = ""
except MissingExtra as error:
    MISSING = str(error)
needs_weasyprint = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make(tmp_path_factory.mktemp("paper") / "lake", samples=60)


def words_of(html: str) -> list[str]:
    """The visible text of a page, word by word."""
    folded = re.sub(
        r'<details class="more">.*?</details>|<div class="picked".*?</div>|<span class="hint(?: tip)?">.*?</span>|<p class="narrowed".*?</p>',
        " ",
        html,
        flags=re.DOTALL,
    )
    body = re.sub(
        r"<(script|style|noscript|svg|button)\b.*?</\1>", " ", folded.partition("<body>")[2], flags=re.DOTALL
    )
    return re.sub(r"<[^>]*>", " ", body).split()


def test_paper_says_what_the_screen_says(small: Lake) -> None:
    report = gather(small, "e")
    said, sections = verdict(report), build(report)
    screen, paper = page(report, said, sections), printed_page(report, said, sections)
    assert set(words_of(screen)) - set(words_of(paper)) <= {"more"}
    for section in sections:
        assert f'<a href="#{section.name}">' in paper
        assert f'<section id="{section.name}"' in paper
    for record in report.exposed:
        assert f"sample {record.sample_id}" in paper
    # Nothing runs, nothing is folded away for want of a click, nothing is fetched.
    assert "<script" not in paper
    assert "<button" not in paper
    assert not re.search(r'(?:src|href)="(?!data:|#)', paper)
    figures = re.findall(r'<img src="data:image/svg[^"]*" alt="([^"]*)"', paper)
    assert len(figures) == paper.count("<figure>") > 3
    assert all(figures)
    # What only a pointer does is told where one is.
    pointers = re.compile(r"\bclick|double click|rectangle")
    assert pointers.search(" ".join(words_of(screen.replace('class="hint tip"', ""))))
    assert not pointers.search(" ".join(words_of(paper)))
    for drawn in figures_of(sections):
        assert not pointers.search(str(drawn.spec.get("title")))


@needs_weasyprint
def test_records_begin_under_their_heading_and_fill_pages(small: Lake) -> None:
    import weasyprint

    report = gather(small, "e")
    text = printed_page(report, verdict(report), build(report))
    told = [
        [
            box.element.get("data-sample")
            for box in page._page_box.descendants()
            if box.element_tag == "li" and box.element is not None
        ]
        for page in weasyprint.HTML(string=text).render().pages
    ]
    pages = [list(dict.fromkeys(filter(None, cards))) for cards in told]
    pages = [cards for cards in pages if cards]
    assert [int(sample) for cards in pages for sample in cards] == [one.sample_id for one in report.exposed]
    assert all(len(cards) in range(4, 99, 2) for cards in pages[1:-1])  # whole rows, and not one alone


@needs_weasyprint
def test_contents_and_short_tables_are_on_one_page(small: Lake) -> None:
    """However long what stands before them is."""
    import weasyprint

    report = gather(small, "e")
    said, sections = verdict(report), build(report)
    text = printed_page(report, replace(said, text=f"{said.text} " * 9), sections)
    links: set[int] = set()
    rows: dict[int, set[int]] = {}
    for number, sheet in enumerate(weasyprint.HTML(string=text).render().pages):
        for box in sheet._page_box.descendants():
            if box.element is None:
                continue
            if box.element_tag == "a":
                links.add(number)
            elif box.element_tag == "tbody" and len(box.element) <= 12:
                rows.setdefault(id(box.element), set()).add(number)
    assert links == {1}
    assert len(rows) > 2
    assert all(len(numbers) == 1 for numbers in rows.values())


def test_colours_of_a_legend_are_drawn_on_paper() -> None:
    """WeasyPrint draws no gradient in shares of what it fills: a scale of colours was blank."""
    cells = alt.Chart(alt.InlineData(values=[{"x": 1, "y": 2, "share": 0.5}, {"x": 2, "y": 2, "share": 1}]))
    chart = cells.mark_rect().encode(x="x:O", y="y:O", color=alt.Color("share:Q", legend=alt.Legend()))
    svg = base64.b64decode(as_image(Figure("scale", chart)).partition(",")[2]).decode()
    (gradient,) = re.findall(r"<linearGradient[^>]*>", svg)
    name = re.search(r'id="(\w+)"', gradient)
    assert name is not None
    width = re.search(rf'd="M0,0h([\d.]+)v[^"]*" fill="url\(#{name[1]}\)', svg)
    assert width is not None
    assert 'gradientUnits="userSpaceOnUse"' in gradient
    assert f'x2="{width[1]}"' in gradient


def test_a_chart_alone_is_wider_and_lower(small: Lake) -> None:
    report = gather(small, "e")
    figure = next(one for one in figures_of(build(report)) if one.name == "roc")
    wide, beside = (
        re.search(r'width="([\d.]+)" height="([\d.]+)"', base64.b64decode(url.partition(",")[2]).decode())
        for url in (as_image(figure, alone=True), as_image(figure))
    )
    assert wide is not None
    assert beside is not None
    assert float(wide[1]) > float(beside[1]) + 100
    assert float(wide[2]) < float(beside[2]) - 50


def unpacked(pdf: bytes) -> bytes:
    """A PDF with what its compressed streams hold behind it."""
    found = [pdf]
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):
            found.append(zlib.decompress(packed))
    return b"\n".join(found)


@needs_weasyprint
def test_pdf_is_tagged_titled_and_the_same_each_time(small: Lake) -> None:
    report = gather(small, "e")
    said, sections = verdict(report), build(report)
    made = document(report, said, sections)
    assert made.startswith(b"%PDF")
    inside = unpacked(made)
    # By their places: a difference of such bytes tells nobody anything.
    for told in (b"/Marked true", b"/Lang (en)", b"/Title (e: privacy report)", b"/MediaBox [0 0 595.27"):
        assert inside.find(told) > 0, told
    assert len(re.findall(rb"/Type /Page\b", inside)) > 2
    again = document(report, said, sections)
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(made).hexdigest()
    assert unpacked(document(report, said, sections, "Letter")).find(b"/MediaBox [0 0 612") > 0


@needs_weasyprint
def test_written_by_its_suffix(small: Lake, tmp_path: Path) -> None:
    write_report(small, "e", tmp_path / "report.pdf", pictures=False)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert [one.name for one in tmp_path.iterdir()] == ["report.pdf"]


def test_without_weasyprint_the_extra_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make(tmp_path / "lake", samples=60)
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(MissingExtra, match=r"pip install 'losslake\[pdf\]'.*Pango"):
        write_report(lake, "e", tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()
    assert lake.sql("select count(*) as n from metrics")["n"].to_list() == [0]
