"""Charts in a page without scripts: there, in words as well, the same each time, and with the texts that the live ones have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from losslake.analysis.charts.style import BLUE, theme
from losslake.analysis.report.gather import gather
from losslake.analysis.report.page import build, page
from losslake.analysis.report.still import figures_of, inlined
from losslake.analysis.report.words import verdict
from losslake.analysis.report.write import write_report
from losslake.store.format.outgoing import drawable
from losslake.store.lake import Lake
from PIL import Image
from warm import HANGS

from .test_report import CHROMIUM, HOSTILE, make

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make(tmp_path_factory.mktemp("still") / "lake", samples=120)


def test_every_chart_is_there_without_scripts_and_in_words(lake: Lake) -> None:
    report = gather(lake, "e")
    sections = build(report)
    text = page(report, verdict(report), sections)
    found = re.findall(r"<noscript>(<svg.*?</svg>)</noscript>", text, re.DOTALL)
    figures = figures_of(sections)
    assert len(found) == len(figures) > 8
    for svg, figure in zip(found, figures, strict=True):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == figure.chart.to_dict()["description"]
        assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)
        assert not any(element.tag in (f"{SVG}script", f"{SVG}foreignObject") for element in root.iter())
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))
    for name in re.findall(r"url\(#([^)]+)\)", text.partition("<main>")[2].partition("<script")[0]):
        assert name in names


def test_texts_are_those_of_the_chart_to_the_last_digit(lake: Lake) -> None:
    hostile = 0
    for figure in figures_of(build(gather(lake, "e"))):
        spec = drawable(figure.chart.to_dict()) | {"width": 460}
        spec.pop("title")
        spec["config"] = theme(font="sans-serif")
        whole = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec))
        words = [element.text for element in ElementTree.fromstring(inlined(figure)).iter(f"{SVG}text")]
        assert words == [element.text for element in whole.iter(f"{SVG}text")], figure.name
        assert any(words)
        hostile += sum(HOSTILE[:9] in (word or "") for word in words)
    assert hostile  # names from the lake are among them, as text


def test_still_charts_are_small_and_the_same_each_time(lake: Lake) -> None:
    for figure in figures_of(build(gather(lake, "e"))):
        first = inlined(figure)
        assert first == inlined(figure)
        assert not re.search(r'd="[^"]*\.\d\d', first)
        assert len(first) < 250_000


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_without_scripts_shows_curves(lake: Lake, tmp_path: Path) -> None:
    write_report(lake, "e", tmp_path / "report.html")
    shown, frame = tmp_path / "shown.png", tmp_path / "frame.html"
    # A frame that is sandboxed runs no script.
    frame.write_text('<iframe sandbox="" src="report.html" style="width:1250px;height:2500px"></iframe>')
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--window-size=1280,2600", f"--screenshot={shown}", frame.as_uri()),
    ]
    wanted = tuple(int(BLUE[place : place + 2], 16) for place in (1, 3, 5))
    blue = 0
    # On a busy machine the picture may be taken before the frame, which has a process of its own, is painted.
    for _ in range(6):
        subprocess.run(command, capture_output=True, timeout=HANGS, check=True)
        blue = int((np.asarray(Image.open(shown).convert("RGB")) == wanted).all(axis=2).sum())
        if blue:
            break
    assert blue > 200  # LiRA's curve, in its colour


def test_a_sheet_says_that_it_is_one(lake: Lake, tmp_path: Path) -> None:
    report = write_report(lake, "e", tmp_path / "report.svg")
    words = " ".join(
        "".join(element.itertext())
        for element in ElementTree.parse(tmp_path / "report.svg").iter(f"{SVG}text")
    )
    assert "This is a sheet of the report's charts." in words
    assert f"data {report.audit.data[:16]}" in words
