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
from losslake.analysis.evaluations.catalogue import EVALUATIONS, find_evaluation, run_evaluation
from losslake.analysis.report import words as report_words
from losslake.analysis.report.data import LABELS
from losslake.analysis.report.desk import QUESTIONS
from losslake.analysis.report.gather import OTHERS, gather
from losslake.analysis.report.page import build
from losslake.analysis.report.parts import Table
from losslake.analysis.report.records import class_name
from losslake.analysis.report.sections.more import MORE, next_queries
from losslake.analysis.report.write import FORMATS, write_report
from losslake.analysis.scoring.catalogue import ANALYSES, find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import InvalidOption, NotEnoughData, NotFound
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from PIL import Image
from places import ROOT
from warm import HANGS

HOSTILE = "</script><img src=x onerror=alert(1)>"
QUOTES = "\"'><svg onload=alert(2)>{{ 7*7 }}<!--<script>"
SAMPLES, EPOCHS = 400, 8
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALWAYS = {"runs", "notes", "sql"}
COMPUTED = {"attacks", "exposed", "lt-iqr", "traces", "evolution", "memorization", "groups", "agreement"}
"""Sections of a lake with everything that a report computes by itself."""
KEPT = {"kde", "models", "bounds", "further", "look-at"}
"""Sections that show only what was asked for before."""
ALL = COMPUTED | KEPT | ALWAYS | {"questions"}
SCORES = ("kde", "entropy", "influence", "hellinger", "subpopulation", "ood", "vulnerability", "suspects")
FINDINGS = ("likeness", "shadow-curve", "per-model", "quantile-ablation", "dp-audit", "duci")


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
    population: int = 0,
    lists: bool = False,
    grad_norms: bool = False,
    experiment: str = "e",
    epochs_are: str | None = None,
) -> Lake:
    """A small lake whose later samples a model gives away the more; every text in it is hostile.

    No run trains on the last ``population`` samples; ``lists`` are logits and features.
    """
    rng = np.random.default_rng(0)
    lake = Lake.open(path, create=True)
    label = np.arange(samples) % 3
    table = pa.table(
        {
            "label": label,
            "pool": np.where(np.arange(samples) < samples - population, "audit", "population"),
            "group": [HOSTILE if i % 2 else QUOTES for i in range(samples)],
            "key": [f"{QUOTES}{HOSTILE}{i}" for i in range(samples)],
            "age": rng.integers(18, 90, samples),
            HOSTILE: [QUOTES] * samples,
        }
    )
    lake.create_experiment(
        experiment,
        table,
        dataset={"name": HOSTILE, "classes": [HOSTILE, QUOTES, "plain"]},
        pictures=pa.array([_png(i) for i in range(samples)], pa.binary()) if pictures else None,
    )
    ids = np.arange(samples)
    effect = leak * ids / samples
    for name in [*(["target"] if target else []), *(f"shadow-{i:04d}" for i in range(shadows))]:
        members = (rng.random(samples) < 0.5) & (ids < samples - population)
        with lake.write_run(experiment, name, members=members) as writer:
            if signals or name != "target":
                phi = (1 + effect * members + rng.normal(0, 0.7, samples)).astype(np.float32)
                loss = np.logaddexp(0, -phi.astype(np.float64)).astype(np.float32)
                logits = np.where(np.arange(3) == label[:, None], phi[:, None], -np.log(2)).astype(np.float32)
                writer.append_signals(
                    ids,
                    np.zeros(samples, np.int16),
                    label,
                    loss=loss,
                    phi=phi,
                    correct=phi > 0.5,
                    logits=logits if lists else None,
                    features=(logits + rng.normal(size=logits.shape)).astype(np.float32) if lists else None,
                )
            if name == "target" and traces:
                rows = ids[members] if traces == "train" else ids
                for epoch in range(traces == "train", EPOCHS + 1):
                    late = np.exp(-epoch / (1 + effect[rows]))
                    norms = (9 * late).astype(np.float32) if grad_norms else None
                    loss = (2.3 * late).astype(np.float32)
                    writer.append_epoch(traces, epoch, rows, loss=loss, grad_norm=norms)  # type: ignore[arg-type]
            info = RunInfo(
                role="target" if name == "target" else "shadow",
                model=HOSTILE,
                recipe={HOSTILE: QUOTES, "lr": 0.1},
                epochs=EPOCHS,
                train_accuracy=0.98,
                test_accuracy=0.81,
                versions={"torch": QUOTES},
                extra={} if epochs_are is None else {"epochs_are": epochs_are},
            )
            writer.commit(info)
    return lake


@pytest.mark.parametrize("epochs_are", [None, "trees", "boosting rounds", "passes of partial_fit"])
def test_it_says_what_the_epochs_of_an_estimator_are(tmp_path: Path, epochs_are: str | None) -> None:
    given: dict[str, Any] = {"samples": 60, "shadows": 0, "pictures": False}
    out = tmp_path / "report.html"
    write_report(make(tmp_path / "lake", **given, epochs_are=epochs_are), "e", out)
    page = out.read_text()
    assert ("after each epoch." in page) == (epochs_are is None)
    assert (
        f"Epochs are the model&#x27;s {epochs_are}"
        in page.replace("&#39;", "&#x27;").replace("model's", "model&#x27;s")
    ) == (epochs_are is not None)


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


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake that holds every kind of data, and the results of analyses that a report does not run by itself."""
    lake = make(
        tmp_path_factory.mktemp("asked") / "lake", samples=240, population=40, lists=True, grad_norms=True
    )
    with open_source(lake, "e") as source:
        for name in SCORES:
            run_analysis(source, find(name))
        for name in FINDINGS:
            options = {"draws": 2} if name == "shadow-curve" else {}
            run_evaluation(source, find_evaluation(name), (), options)
        run_evaluation(source, find_evaluation("by-group"), ("lira",), {"by": "singletons"})
    return lake


@pytest.fixture(scope="module")
def asked_page(asked: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asked-page") / "report.html"
    write_report(asked, "e", out)
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
    return Elements(path.read_text("utf-8")).ids() & ALL


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


def test_nonces_are_of_the_whole_page(page: Path, lake: Lake, tmp_path: Path) -> None:
    # The same page has the same, so that the same lake and command give the same bytes; any other has another.
    write_report(lake, "e", tmp_path / "again.html", pictures=False)
    nonces = [
        set(re.findall(r"nonce[=-]\"?([0-9a-f]+)", one.read_text("utf-8").partition("<style>")[0]))
        | set(re.findall(r'nonce="([^"]+)"', one.read_text("utf-8")))
        for one in (page, tmp_path / "again.html")
    ]
    assert [len(found) for found in nonces] == [1, 1]
    assert nonces[0] != nonces[1]


def test_sections_of_what_is_computed(page: Path) -> None:
    assert section_names(page) == COMPUTED | ALWAYS | {"questions"}


def test_sections_of_what_was_asked_for(asked_page: Path) -> None:
    assert section_names(asked_page) == ALL
    charts = {name for name in Elements(asked_page.read_text("utf-8")).ids() if name.startswith("chart-")}
    assert charts >= {
        f"chart-{name}"
        for name in (
            *("roc", "roc-linear", "tpr", "lt-iqr", "lt-iqr-attack", "traces", "grad-norms", "evolution"),
            *("quantiles", "memorization", "privacy", "groups-tpr-0", "groups-auc-1", "groups-auc-2"),
            *(
                "agreement",
                "kde-densities",
                "kde-confusion",
                "likeness",
                "shadow-curve",
                "per-model",
                "vulnerability",
            ),
            *("dp-audit", "duci", "influence", "hellinger", "subpopulation", "ood"),
        )
    }


def test_kept_attacks_stand_beside_the_computed_ones(asked: Lake) -> None:
    report = gather(asked, "e")
    names = [attack.scored.name for attack in report.attacks]
    assert names[:3] == ["lira", "lira[mode=offline]", "rmia"]
    assert {"kde", "entropy"} < set(names)
    assert report.headline is not None
    assert report.headline.attack.scored.name == "lira"
    # Two learn, which takes seconds.
    assert [ask.name for ask in report.asks] == ["trajectory", "free", "shadow-nn"]


def test_a_defended_experiment_stands_beside_the_plain_one(tmp_path: Path) -> None:
    plain = make(tmp_path / "lake", samples=120)
    make(tmp_path / "lake", samples=120, leak=0, experiment="defended")
    out = tmp_path / "report.html"
    write_report(plain, "e", out, defended="defended")
    assert "defences" in Elements(out.read_text("utf-8")).ids()
    report = gather(plain, "e", defended="defended")
    section = next(one for one in build(report) if one.name == "defences")
    attacks, costs = (part for part in section.parts if isinstance(part, Table))
    said = report.said("defences")[0].finding
    areas = [m for m in said.metrics if m.metric == "auc" and m.parameters["score"] == "lira"]
    first = next(row for row in attacks.rows if row[0] == "LiRA, AUC")
    for cell, metric in zip(first[1:], areas):
        assert cell.startswith(f"{metric.value:.3f} (")
    assert float(first[3].split()[0]) == pytest.approx(areas[1].value - areas[0].value, abs=1e-3)  # type: ignore[operator]
    assert costs.rows == (
        ("e", "81%", "98%", "none promised"),
        ("defended", "81%", "98%", "none promised"),
    )
    assert gather(plain, "e").said("defences") == ()


def test_a_defended_experiment_that_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", samples=60)
    with pytest.raises(NotFound, match="no experiment 'gone'"):
        gather(lake, "e", defended="gone")
    make(tmp_path / "lake", samples=61, experiment="others")
    with pytest.raises(InvalidOption, match="records"):
        gather(lake, "e", defended="others")


def test_stale_results_are_not_shown(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", samples=60)
    with open_source(lake, "e") as source:
        run_analysis(source, find("hellinger"))
        run_analysis(source, find("kde"))
    assert [one.name for one in gather(lake, "e").others] == ["hellinger"]
    rng = np.random.default_rng(1)
    with lake.write_run("e", "late", members=rng.random(60) < 0.5) as writer:
        writer.append_signals(
            np.arange(60), np.zeros(60, np.int16), None, loss=rng.random(60), phi=rng.normal(size=60)
        )
        writer.commit(RunInfo(role="shadow"))
    report = gather(lake, "e")
    assert report.others == ()
    assert "kde" not in [attack.scored.name for attack in report.attacks]
    assert {"hellinger", "kde"} < {ask.name for ask in report.asks}


def test_only_what_the_data_allow_can_be_asked(tmp_path: Path) -> None:
    names = {one.name for one in (*ANALYSES, *EVALUATIONS)}
    assert {one.name for one in QUESTIONS} < names
    traces = gather(make(tmp_path / "traces", samples=60, shadows=0, signals=False), "e")
    assert [ask.name for ask in traces.asks] == ["trajectory", "free"]
    few = gather(make(tmp_path / "few", samples=60), "e")
    assert {"kde", "shadow-curve", "per-model", "hellinger"} < {ask.name for ask in few.asks}
    assert not {"shadow-nn", "influence", "ramia", "subpopulation"} & {ask.name for ask in few.asks}
    commands = next(section for section in build(few) if section.name == "questions").parts[0]
    assert commands.kind == "commands"
    assert ("losslake analyze kde --experiment e --target target") in [text for text, _ in commands.items]


def test_everything_has_a_place_in_the_report() -> None:
    files = [path for path in (ROOT / "analysis" / "report").rglob("*.py") if path.name != "data.py"]
    named = set(re.findall(r'"([a-z-]+)["[]', "".join(path.read_text() for path in files)))
    entries = {one.name for one in (*ANALYSES, *EVALUATIONS)} - {"trace"}  # trace: LOSSES, in data.py
    assert entries - named == set(), "show them (gather.py), or say what they would add (desk.QUESTIONS)"
    assert {one.name for one in ANALYSES} - {"trace"} - set(LABELS) == set()
    assert set(OTHERS) == {*MORE, "vulnerability"}  # which the section on fleets shows
    assert {one.name for one in ANALYSES if one.name in OTHERS and one.attack} == set()


def test_a_second_report_computes_nothing_anew(
    lake: Lake, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    before = gather(lake, "e")
    monkeypatch.setattr("losslake.analysis.report.desk.run_evaluation", computed)
    monkeypatch.setattr(
        "losslake.analysis.scoring.stored.run_analysis",
        lambda source, analysis, options: (
            run_analysis(source, analysis, options)
            if analysis.name in ("rmia", "attack-p")  # nothing to compare with: they cannot be kept
            else computed()
        ),
    )
    after = gather(lake, "e")
    assert after.findings == before.findings
    assert after.comparison == before.comparison


def test_kept_scores_say_the_same_as_computed_ones(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", samples=60, target=False)
    first, second = (report_words.verdict(gather(lake, "e")) for _ in range(2))
    assert first == second
    assert first.figures[0].interval.startswith("95%: ")


def test_groups_are_judged_at_one_threshold(lake: Lake) -> None:
    report = gather(lake, "e")
    assert report.headline is not None
    said = next(one for one in report.said("by-group") if "by=label" in one.variant)
    rates = [m for m in said.finding.metrics if m.metric == "tpr_at_fpr" and m.parameters["group"] != "all"]
    assert sum(round((m.value or 0) * (m.n or 0)) for m in rates) == len(report.headline.found)
    section = next(one for one in build(report) if one.name == "groups")
    table = next(part for part in section.parts if part.kind == "table")
    assert [row[0] for row in table.rows] == ["all", HOSTILE, QUOTES, "plain"]
    assert table.rows[0][2].startswith(report_words.percent(report.headline.tpr.value))  # type: ignore[union-attr]


def test_groups_of_other_rates_are_not_shown_twice(asked: Lake) -> None:
    gather(asked, "e")
    again = [one.variant for one in gather(asked, "e", fprs=(0.05,)).said("by-group")]
    assert len(again) == 3
    assert [sum(f"by={by}" in variant for variant in again) for by in ("label", "group")] == [1, 1]
    assert "lira" in again


def test_agreement_leaves_out_attacks_without_a_score_of_all_records(asked: Lake) -> None:
    said = gather(asked, "e").said("agreement")[0]
    named = {m.parameters["first"] for m in said.finding.metrics}
    assert "kde" not in named
    assert {"lira", "rmia", "loss"} < named


@pytest.mark.parametrize(
    ("options", "there"),
    [
        # Two attacks do without shadow models: residual and loss.
        ({"shadows": 0}, COMPUTED - {"memorization"} | {"questions"}),
        (
            {"shadows": 0, "signals": False, "traces": "train"},
            {"exposed", "lt-iqr", "traces", "evolution", "questions"},  # free may be asked
        ),
        ({"traces": None}, COMPUTED - {"lt-iqr", "traces", "evolution"} | {"questions"}),
        ({"target": False}, {"exposed", "memorization", "questions"}),
    ],
    ids=["traces only", "train traces only", "no traces", "shadows only"],
)
def test_sections_follow_the_data(options: dict[str, Any], there: set[str], tmp_path: Path) -> None:
    write_report(make(tmp_path / "lake", **options), "e", tmp_path / "report.html")
    assert section_names(tmp_path / "report.html") == there | ALWAYS


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
    edge = others[int(0.1 * len(others))]
    above = frame.filter(frame["member"] & (frame["score"] > edge))
    assert head.fpr == 0.1  # of about 200 non-members fewer than five lie above a threshold at 1%
    assert head.found == set(above["sample_id"])
    assert head.tpr.value == pytest.approx(len(head.found) / head.members)
    assert head.accused == (others > edge).sum()


def test_coarser_rate_is_used_and_said(lake: Lake) -> None:
    said = report_words.verdict(gather(lake, "e"))
    caution = next(item for item in said.trust if "non-member" in item.name)
    assert caution.caution
    assert "0.1% cannot be resolved" in caution.text
    assert "TPR at FPR 10%" in [figure.name for figure in said.figures]


def test_asked_rates_are_used(lake: Lake) -> None:
    report = gather(lake, "e", fprs=(0.2, 0.05))
    assert report.headline is not None
    assert report.headline.fpr == 0.05
    for bad in ((), (0.0,), (1.5,)):
        with pytest.raises(InvalidOption):
            gather(lake, "e", fprs=bad)


def test_verdict_names_a_number_only_when_it_is_clear(tmp_path: Path) -> None:
    clear = report_words.verdict(gather(make(tmp_path / "clear", samples=2_000, leak=12), "e", fprs=(0.01,)))
    assert re.match(
        r"Clear leak: \d[\d,]* of \d[\d,]* training records named, about \d+ of them", clear.title
    )
    none = report_words.verdict(gather(make(tmp_path / "none", samples=1_200, leak=0), "e", fprs=(0.01,)))
    assert none.title.startswith("No leak found by LiRA with 6 shadow models")
    few = report_words.verdict(gather(make(tmp_path / "few", samples=60, leak=12), "e", fprs=(0.001,)))
    assert few.title.startswith("Signs")  # too few to resolve the rate, but the AUC is clear
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


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of which a report draws few charts."""
    return make(tmp_path_factory.mktemp("small") / "lake", samples=60, target=False)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<svg"), (".PNG", b"\x89PNG")])
def test_pictures_of_the_charts(lake: Lake, small: Lake, suffix: str, start: bytes, tmp_path: Path) -> None:
    out = tmp_path / f"report{suffix}"
    write_report(lake if suffix == ".png" else small, "e", out)
    assert out.read_bytes().startswith(start)
    assert [one.name for one in tmp_path.iterdir()] == [out.name]


def test_json_has_the_numbers(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    report = write_report(lake, "e", out)
    told = json.loads(out.read_text("utf-8"))
    assert report.headline is not None
    assert told["headline"]["named"] == len(report.headline.found)
    assert told["headline"]["fpr"] == 0.1
    unresolved = [m for m in told["attacks"][0]["metrics"] if m.get("fpr") == 0.001]
    assert unresolved[0]["value"] is None
    assert [one["sample_id"] for one in told["most_exposed"]] == [
        record.sample_id for record in report.exposed
    ]
    assert told["shadow_runs"] == 6
    assert {one["evaluation"] for one in told["findings"]} == {"evolution", "agreement", "by-group"}
    assert "kde" in told["can_be_asked"]


def test_unknown_formats_are_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    for name in ("report.docx", "report"):
        with pytest.raises(InvalidOption) as refused:
            write_report(lake, "e", tmp_path / name)
        assert all(suffix in str(refused.value) for suffix in FORMATS)


def test_a_missing_folder_is_made(lake: Lake, tmp_path: Path) -> None:
    write_report(lake, "e", tmp_path / "nowhere" / "report.json")
    assert (tmp_path / "nowhere" / "report.json").exists()


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


FRAME = """<!doctype html><iframe src="{page}" style="width:{width}px;height:12000px;border:0"></iframe><script>
const frame = document.querySelector("iframe");
const wait = setInterval(async () => {{
  const page = frame.contentDocument, inside = page.documentElement, view = frame.contentWindow;
  if (!inside?.dataset.drawn) return;
  clearInterval(wait);
  {act}
  inside.dataset.across = inside.scrollWidth;
  inside.dataset.fetched = view.performance.getEntriesByType("resource").map((one) => one.name).join(" ");
  const kept = document.createElement("template");  // where nothing is drawn again, under another address
  kept.content.append(inside);
  document.body.append(kept);
}}, 50);
</script>"""
"""A page that shows another in a frame, since no window gets as narrow as a phone, and takes over what was drawn."""

BRUSH = """
  const chart = page.querySelector("#chart-lt-iqr-attack svg"), place = chart.getBoundingClientRect();
  const fire = (type, across, down) => {
    const x = place.x + place.width * across, y = place.y + place.height * down;
    const told = { bubbles: true, cancelable: true, view, clientX: x, clientY: y, buttons: 1, isPrimary: true };
    page.elementFromPoint(x, y).dispatchEvent(new view.PointerEvent("pointer" + type, told));
    page.elementFromPoint(x, y).dispatchEvent(new view.MouseEvent("mouse" + type, told));
  };
  fire("down", 0.5, 0.04); fire("move", 0.7, 0.2); fire("move", 0.95, 0.45); fire("up", 0.95, 0.45);
  await new Promise((done) => setTimeout(done, 1500));
"""
"""Draws a rectangle in the upper right of a chart, as a mouse would."""

Opened = Callable[..., tuple[Elements, list[str]]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Open a page in a browser of some width: its elements once drawn, and what it wrote to the console."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")

    def run(path: Path, width: int, act: str = "") -> tuple[Elements, list[str]]:
        folder = tmp_path_factory.mktemp("browser")
        (folder / "frame.html").write_text(FRAME.format(page=path.as_uri(), width=width, act=act))
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
            timeout=HANGS,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr[-2000:]
        return Elements(answer.stdout), [line for line in answer.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.mark.parametrize("width", [1280, 390])
def test_page_in_a_browser(asked_page: Path, opened: Opened, width: int) -> None:
    drawn, console = opened(asked_page, width)
    assert console == []
    assert drawn.ids() >= ALL
    boxes = [attributes for _, attributes in drawn.found if attributes.get("class", "").startswith("chart ")]
    charts = [
        attributes for tag, attributes in drawn.found if tag == "svg" and attributes.get("class") == "marks"
    ]
    assert len(charts) == len(boxes) > 25
    assert all(len(box["aria-label"]) > 10 for box in boxes)  # what it shows, in words
    assert all(100 < float(chart["width"]) <= width for chart in charts)
    told = next(attributes for _, attributes in drawn.found if "data-across" in attributes)
    assert int(told["data-across"]) <= width  # nothing sticks out sideways
    assert told["data-fetched"] == ""
    assert sum(tag in ("path", "line", "rect") for tag, _ in drawn.found) > 500
    assert not any(name.startswith("on") for tag, attributes in drawn.found for name in attributes)
    assert sum(tag == "img" for tag, _ in drawn.found) == 24


def test_a_selection_in_a_chart_narrows_the_records(page: Path, opened: Opened) -> None:
    drawn, console = opened(page, 1280, BRUSH)
    assert console == []
    cards = [attributes for _, attributes in drawn.found if attributes.get("class", "").startswith("card")]
    shown = [card for card in cards if "hidden" not in card]
    assert 0 < len(shown) < len(cards) == 24
    panels = [attributes for _, attributes in drawn.found if attributes.get("class") == "picked"]
    assert sum("hidden" not in panel for panel in panels) == 1
    words = " ".join("".join(drawn.words).split())
    assert re.search(r"\d+ of \d+ records drawn singly lie in the rectangle", words)
    assert (
        f"{len(shown)} of these 24 records lie in the rectangle drawn in the chart of LiRA and LT-IQR"
        in words
    )
    assert sum(tag == "img" for tag, _ in drawn.found) == 24  # hostile groups were listed, and stayed text
    assert not any(name.startswith("on") for _, attributes in drawn.found for name in attributes)


@pytest.mark.parametrize(
    "options", [{"shadows": 0}, {"target": False, "pictures": False}], ids=["traces", "shadows"]
)
def test_smaller_pages_in_a_browser(options: dict[str, Any], opened: Opened, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(make(tmp_path / "lake", **options), "e", out)
    drawn, console = opened(out, 1280)
    assert console == []
    assert any(attributes.get("class") == "marks" for tag, attributes in drawn.found if tag == "svg")
