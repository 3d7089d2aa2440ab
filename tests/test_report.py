"""Reports: what they say, what they show when data is missing, and that nothing in a lake can act through them."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.analysis import report_words
from losslake.analysis.report import FORMATS, write_report
from losslake.analysis.report_gather import gather
from losslake.analysis.report_records import class_name
from losslake.analysis.report_sections import build
from losslake.analysis.report_sql import next_queries
from losslake.store.errors import InvalidOption, NotEnoughData, NotFound
from losslake.store.lake import Lake
from losslake.store.records import RunInfo
from PIL import Image

HOSTILE = "</script><img src=x onerror=alert(1)>"
QUOTES = "\"'><svg onload=alert(2)>{{ 7*7 }}<!--<script>"
SAMPLES, EPOCHS = 400, 8
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALL = ("attacks", "exposed", "lt-iqr", "traces", "memorization", "runs", "notes", "sql")


def make(
    path: Path,
    *,
    shadows: int = 6,
    target: bool = True,
    signals: bool = True,
    traces: str | None = "eval",
    pictures: bool = True,
    samples: int = SAMPLES,
    leak: float = 4.0,
) -> Lake:
    """A small lake whose later samples a model gives away the more; every text in it is hostile."""
    rng = np.random.default_rng(0)
    lake = Lake.open(path, create=True)
    label = np.arange(samples) % 3
    table = pa.table(
        {
            "label": label,
            "group": [HOSTILE if i % 2 else QUOTES for i in range(samples)],
            "key": [f"{QUOTES}{HOSTILE}{i}" for i in range(samples)],
            "age": rng.integers(18, 90, samples),
            HOSTILE: [QUOTES] * samples,
        }
    )
    lake.create_experiment(
        "e",
        table,
        dataset={"name": HOSTILE, "classes": [HOSTILE, QUOTES, "plain"]},
        pictures=pa.array([_png(i) for i in range(samples)], pa.binary()) if pictures else None,
    )
    ids = np.arange(samples)
    effect = leak * ids / samples
    for name in [*(["target"] if target else []), *(f"shadow-{i:04d}" for i in range(shadows))]:
        members = rng.random(samples) < 0.5
        with lake.write_run("e", name, members=members) as writer:
            if signals or name != "target":
                phi = (1 + effect * members + rng.normal(0, 0.7, samples)).astype(np.float32)
                loss = np.logaddexp(0, -phi.astype(np.float64)).astype(np.float32)
                writer.append_signals(
                    ids, np.zeros(samples, np.int16), label, loss=loss, phi=phi, correct=phi > 0.5
                )
            if name == "target" and traces:
                rows = ids[members] if traces == "train" else ids
                for epoch in range(traces == "train", EPOCHS + 1):
                    late = np.exp(-epoch / (1 + effect[rows]))
                    writer.append_epoch(traces, epoch, rows, loss=(2.3 * late).astype(np.float32))  # type: ignore[arg-type]
            info = RunInfo(
                role="target" if name == "target" else "shadow",
                model=HOSTILE,
                recipe={HOSTILE: QUOTES, "lr": 0.1},
                epochs=EPOCHS,
                train_accuracy=0.98,
                test_accuracy=0.81,
                versions={"torch": QUOTES},
            )
            writer.commit(info)
    return lake


def _png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), number % 256, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make(tmp_path_factory.mktemp("full") / "lake")


@pytest.fixture(scope="module")
def page(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(lake, "e", out)
    return out


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)

    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.found if "id" in attributes}


def section_names(path: Path) -> set[str]:
    return Elements(path.read_text("utf-8")).ids() & set(ALL)


# --- the page ---------------------------------------------------------------------------------------------


def test_page_loads_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    elements = Elements(text)
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, name, value)
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    policy = next(
        a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe-inline", policy)


def test_nothing_from_the_lake_becomes_markup(page: Path) -> None:
    elements = Elements(page.read_text("utf-8"))
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
    scripts = [attributes for tag, attributes in elements.found if tag == "script"]
    nonces = {attributes["nonce"] for attributes in scripts if "type" not in attributes}
    assert len(nonces) == 1
    assert {attributes.get("type") for attributes in scripts} == {None, "application/json"}
    words = "".join(elements.words)
    assert HOSTILE in words
    assert QUOTES in words  # as it stands: no template in it was filled in


def test_specifications_are_json_that_cannot_end_its_element(page: Path) -> None:
    text = page.read_text("utf-8")
    specs = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', text, re.DOTALL)
    assert len(specs) > 6
    for name, spec in specs:
        assert "<" not in spec, name
        json.loads(spec)


def test_two_reports_do_not_share_a_nonce(page: Path, lake: Lake, tmp_path: Path) -> None:
    write_report(lake, "e", tmp_path / "again.html")
    nonces = [
        re.findall(r'nonce="([^"]+)"', one.read_text("utf-8"))[0] for one in (page, tmp_path / "again.html")
    ]
    assert nonces[0] != nonces[1]


def test_full_lake_has_every_section(page: Path) -> None:
    assert section_names(page) == set(ALL)


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({"shadows": 0}, {"attacks", "exposed", "lt-iqr", "traces", "runs", "notes", "sql"}),
        (
            {"shadows": 0, "signals": False, "traces": "train"},
            {"exposed", "lt-iqr", "traces", "runs", "notes", "sql"},
        ),
        ({"traces": None}, {"attacks", "exposed", "memorization", "runs", "notes", "sql"}),
        ({"target": False}, {"exposed", "memorization", "runs", "notes", "sql"}),
    ],
    ids=["traces only", "train traces only", "no traces", "shadows only"],
)
def test_sections_follow_the_data(options: dict[str, Any], there: set[str], tmp_path: Path) -> None:
    write_report(make(tmp_path / "lake", **options), "e", tmp_path / "report.html")
    assert section_names(tmp_path / "report.html") == there


@pytest.mark.parametrize(
    "options", [{"shadows": 0, "target": False}, {"shadows": 0, "traces": None, "signals": False}]
)
def test_nothing_to_say_is_an_error(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData):
        write_report(make(tmp_path / "lake", **options), "e", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_without_pictures_no_record_is_shown_itself(lake: Lake, tmp_path: Path) -> None:
    report = write_report(lake, "e", tmp_path / "report.html", pictures=False)
    assert "data:image/png" not in (tmp_path / "report.html").read_text("utf-8")
    assert all(record.picture is None and record.facts == () for record in report.exposed)


def test_records_without_pictures_show_their_own_columns(tmp_path: Path) -> None:
    report = gather(make(tmp_path / "lake", pictures=False), "e")
    assert {name for name, _ in report.exposed[0].facts} == {"age", HOSTILE}


# --- what it says -----------------------------------------------------------------------------------------


def test_headline_counts_the_members_above_the_threshold(lake: Lake) -> None:
    head = gather(lake, "e").headline
    assert head is not None
    assert head.tpr is not None
    frame = head.attack.scored.scores.frame
    others = frame.filter(~frame["member"])["score"].sort(descending=True)
    edge = others[int(0.01 * len(others))]
    above = frame.filter(frame["member"] & (frame["score"] > edge))
    assert head.fpr == 0.01  # about 200 non-members do not resolve 0.1%
    assert head.found == set(above["sample_id"])
    assert head.tpr.value == pytest.approx(len(head.found) / head.members)
    assert head.accused == (others > edge).sum()


def test_coarser_rate_is_used_and_said(lake: Lake) -> None:
    said = report_words.verdict(gather(lake, "e"))
    caution = next(item for item in said.trust if "non-member" in item.name)
    assert caution.caution
    assert "0.1% was asked for" in caution.text
    assert "TPR at FPR 1%" in [figure.name for figure in said.figures]


def test_asked_rates_are_used(lake: Lake) -> None:
    report = gather(lake, "e", fprs=(0.2, 0.05))
    assert report.headline is not None
    assert report.headline.fpr == 0.05
    for bad in ((), (0.0,), (1.5,)):
        with pytest.raises(InvalidOption):
            gather(lake, "e", fprs=bad)


def test_verdict_names_a_number_only_when_it_is_clear(tmp_path: Path) -> None:
    clear = report_words.verdict(gather(make(tmp_path / "clear", samples=2_000, leak=12), "e", fprs=(0.01,)))
    assert re.match(r"\d[\d,]* of \d[\d,]* training records can be singled out", clear.title)
    none = report_words.verdict(gather(make(tmp_path / "none", samples=1_000, leak=0), "e", fprs=(0.01,)))
    assert none.title.startswith("No sign")
    few = report_words.verdict(gather(make(tmp_path / "few", samples=60, leak=12), "e", fprs=(0.001,)))
    assert few.title.startswith("Too few non-members")
    assert few.figures[0].value == "not resolved"


def test_unresolved_rates_are_marked_everywhere(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    report = write_report(make(tmp_path / "lake", samples=100), "e", out)
    assert report.attacks[0].tprs[0].value is None
    words = "".join(Elements(out.read_text("utf-8")).words)
    assert "not resolved (" in words


def test_most_exposed_are_members_by_falling_score(lake: Lake) -> None:
    report = gather(lake, "e")
    assert report.headline is not None
    scores = report.headline.attack.scored.by_sample()
    shown = [scores[record.sample_id] for record in report.exposed]
    assert shown == sorted(shown, reverse=True)
    member = dict(report.headline.attack.scored.scores.frame.select("sample_id", "member").iter_rows())
    assert all(member[record.sample_id] for record in report.exposed)
    first = report.exposed[0]
    assert first.scores[0] == ("LiRA", pytest.approx(shown[0]), 1)
    assert first.found
    assert first.picture == _png(first.sample_id)
    assert first.trace is not None
    assert len(first.trace) == EPOCHS + 1


def test_precision_table_is_what_compare_says(lake: Lake) -> None:
    report = gather(lake, "e")
    section = next(one for one in build(report) if one.name == "lt-iqr")
    table = next(part for part in section.parts if part.kind == "table")
    metrics = report.comparison.metrics if report.comparison else ()
    first = next(m for m in metrics if m.metric == "precision_at_k" and m.parameters["score"] == "lt-iqr")
    assert table.rows[0][1].startswith(f"{first.value:.2f} (")


def test_queries_run_as_they_stand(lake: Lake, tmp_path: Path) -> None:
    shadows = make(tmp_path / "shadows", target=False)
    traces = make(tmp_path / "traces", shadows=0, signals=False)
    for one in (lake, shadows, traces):
        queries = next_queries(gather(one, "e"))
        assert len(queries) >= 3
        for what, text in queries:
            assert len(one.sql(text)) > 0, what


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ({"name": "cifar10"}, "cifar10"),
        ({"spec": "/home/me/secret/cats/"}, "cats"),
        ({"spec": "C:\\me\\cats.npz"}, "cats.npz"),
        ({}, "not named"),
    ],
)
def test_data_set_is_named_without_its_folders(lake: Lake, dataset: dict[str, str], name: str) -> None:
    report = gather(lake, "e")
    named = replace(report, experiment=replace(report.experiment, dataset=dataset))
    assert named.dataset == name


@pytest.mark.parametrize(
    ("names", "label", "name"),
    [
        (["a", "b"], 1, "b"),
        (["a", "b"], 2, None),
        (["a"], -1, None),
        ({"0": "zero"}, 0, "zero"),
        ("abc", 0, None),
        (None, 3, None),
        (["a"], None, None),
    ],
)
def test_class_names(names: Any, label: int | None, name: str | None) -> None:
    assert class_name(names, label) == name


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<svg"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_pictures_of_the_charts(lake: Lake, suffix: str, start: bytes, tmp_path: Path) -> None:
    out = tmp_path / f"report{suffix}"
    write_report(lake, "e", out)
    assert out.read_bytes().startswith(start)
    assert [one.name for one in tmp_path.iterdir()] == [out.name]


def test_json_has_the_numbers(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    report = write_report(lake, "e", out)
    told = json.loads(out.read_text("utf-8"))
    assert report.headline is not None
    assert told["headline"]["singled_out"] == len(report.headline.found)
    assert told["headline"]["fpr"] == 0.01
    unresolved = [m for m in told["attacks"][0]["metrics"] if m.get("fpr") == 0.001]
    assert unresolved[0]["value"] is None
    assert [one["sample_id"] for one in told["most_exposed"]] == [
        record.sample_id for record in report.exposed
    ]
    assert told["shadow_runs"] == 6


def test_unknown_formats_are_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    for name in ("report.docx", "report"):
        with pytest.raises(InvalidOption) as refused:
            write_report(lake, "e", tmp_path / name)
        assert all(suffix in str(refused.value) for suffix in FORMATS)
    with pytest.raises(InvalidOption, match="folder"):
        write_report(lake, "e", tmp_path / "nowhere" / "report.html")


def test_unknown_names_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        write_report(lake, "other", tmp_path / "report.html")
    with pytest.raises(NotFound):
        write_report(lake, "e", tmp_path / "report.html", target="other")


def test_failed_report_leaves_the_old_one(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.json"
    out.write_text("old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(Exception, match="No space left"):
        write_report(lake, "e", out)
    assert out.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == [out.name]


# --- in a browser -----------------------------------------------------------------------------------------


FRAME = """<!doctype html><iframe src="{page}" style="width:{width}px;height:1200px;border:0"></iframe><script>
const frame = document.querySelector("iframe");
const wait = setInterval(() => {{
  const inside = frame.contentDocument.documentElement;
  if (!inside?.dataset.drawn) return;
  clearInterval(wait);
  inside.dataset.across = inside.scrollWidth;
  document.body.append(document.adoptNode(inside));
}}, 50);
</script>"""
"""A page that shows another in a frame, since no window gets as narrow as a phone, and takes over what was drawn."""

Opened = Callable[[Path, int], tuple[Elements, list[str]]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Open a page in a browser of some width: its elements once drawn, and what it wrote to the console."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")

    def run(path: Path, width: int) -> tuple[Elements, list[str]]:
        folder = tmp_path_factory.mktemp("browser")
        (folder / "frame.html").write_text(FRAME.format(page=path.as_uri(), width=width))
        answer = subprocess.run(
            [
                str(CHROMIUM),
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000"),
                *("--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"),
                *(f"--window-size={width + 300},1400", "--dump-dom", (folder / "frame.html").as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr[-2000:]
        return Elements(answer.stdout), [line for line in answer.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.mark.parametrize("width", [1280, 390])
def test_page_in_a_browser(page: Path, opened: Opened, width: int) -> None:
    drawn, console = opened(page, width)
    assert console == []
    assert drawn.ids() >= set(ALL)
    boxes = [attributes for _, attributes in drawn.found if attributes.get("class", "").startswith("chart ")]
    charts = [
        attributes for tag, attributes in drawn.found if tag == "svg" and attributes.get("class") == "marks"
    ]
    assert len(charts) == len(boxes) == 7
    assert all(100 < float(chart["width"]) <= width for chart in charts)
    across = next(attributes["data-across"] for _, attributes in drawn.found if "data-across" in attributes)
    assert int(across) <= width  # nothing sticks out sideways
    assert sum(tag in ("path", "line", "rect") for tag, _ in drawn.found) > 500
    assert not any(name.startswith("on") for tag, attributes in drawn.found for name in attributes)
    assert sum(tag == "img" for tag, _ in drawn.found) == 24


@pytest.mark.parametrize(
    "options", [{"shadows": 0}, {"target": False, "pictures": False}], ids=["traces", "shadows"]
)
def test_smaller_pages_in_a_browser(options: dict[str, Any], opened: Opened, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(make(tmp_path / "lake", **options), "e", out)
    drawn, console = opened(out, 1280)
    assert console == []
    assert any(attributes.get("class") == "marks" for tag, attributes in drawn.found if tag == "svg")
