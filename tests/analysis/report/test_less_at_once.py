"""What a report leaves out or folds: rates that nobody can measure, tables of gaps, cards of ties, attacks that do not matter."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.analysis.charts.experiments import risk_of_models
from losslake.analysis.charts.pairs import Pairs, pairs_chart
from losslake.analysis.charts.roc import roc_chart
from losslake.analysis.charts.style import FAINT, OF_ATTACKS, colours
from losslake.analysis.report.data import LABELS
from losslake.analysis.report.gather import gather
from losslake.analysis.report.page import build, page, unbroken
from losslake.analysis.report.parts import Figures, Section, Table, without_gaps
from losslake.analysis.report.sections.attacks import IN_COLOUR, matter_most
from losslake.analysis.report.words import verdict
from losslake.analysis.report.write import write_report
from losslake.analysis.scores import Scores
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import RESOLVED_FROM
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from markupsafe import escape

from .test_report import HOSTILE, Elements, Opened, make, opened

__all__ = ["opened"]  # the fixture


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make(tmp_path_factory.mktemp("less") / "lake", samples=300)


def section(sections: tuple[Section, ...], name: str) -> Section:
    return next(one for one in sections if one.name == name)


def test_nothing_is_shown_at_a_rate_that_is_not_resolved(lake: Lake) -> None:
    report = gather(lake, "e")
    others = report.attacks[0].curve.non_members
    assert 0.01 * others < RESOLVED_FROM < 0.1 * others
    attacks = section(build(report), "attacks")
    table = next(part for part in attacks.parts if isinstance(part, Table))
    assert [column for column in table.columns if "FPR" in column] == ["TPR at FPR 10%"]
    assert "TPR at FPR 0.1% and 1%: not resolved" in table.caption
    assert not any("not resolved" in cell for row in table.rows for cell in row)
    charts = {
        one.name: one.chart for part in attacks.parts if isinstance(part, Figures) for one in part.items
    }
    assert "FPR 10%" in charts["tpr"].to_dict()["description"]
    assert "FPR 1%" not in charts["tpr"].to_dict()["description"]
    # The log axis begins where five non-members are.
    drawn = [row["fpr"] for row in _rows(charts["roc"]) if row.get("attack") == "LiRA"]
    assert min(drawn) == pytest.approx(RESOLVED_FROM / others)


def _rows(chart: object) -> list[dict[str, float]]:
    spec = chart.to_dict()  # type: ignore[attr-defined]
    found: list[dict[str, float]] = []
    for data in spec.get("datasets", {}).values():
        found += json.loads(data) if isinstance(data, str) else data
    return found or [row for layer in spec["layer"] for row in json.loads(layer["data"]["values"])]


def test_where_no_rate_is_resolved_nothing_rests_on_one(tmp_path: Path) -> None:
    report = gather(make(tmp_path / "lake", samples=60), "e")
    assert report.judgement.fpr is None
    sections = build(report)
    figures = [
        one.name
        for part in section(sections, "attacks").parts
        if isinstance(part, Figures)
        for one in part.items
    ]
    assert figures == ["roc", "roc-linear"]
    groups = section(sections, "groups")
    for part in groups.parts:
        if isinstance(part, Table):
            assert part.columns[1:] == ("members", "non-members", "AUC")
        if isinstance(part, Figures):
            assert not any(one.name.startswith("groups-tpr") for one in part.items)
    assert "agreement" not in [one.name for one in sections]


def test_attacks_that_matter_are_few_and_the_verdicts_first(lake: Lake) -> None:
    report = gather(lake, "e")
    labels = matter_most(report)
    assert labels[0] == "LiRA"
    assert 1 < len(labels) <= IN_COLOUR
    by_label = {attack.label: attack for attack in report.attacks}
    assert all((by_label[label].auc.ci_low or 0) > 0.5 for label in labels[1:])
    left = [one.auc.ci_low or 0 for one in report.attacks if one.label not in labels]
    if len(labels) == IN_COLOUR:
        assert all(low <= min(by_label[label].auc.ci_low or 0 for label in labels[1:]) for low in left)
    # With no leak the verdict's attack is there alone.
    weak = replace(
        report,
        attacks=tuple(
            replace(
                one,
                metrics=tuple(replace(m, ci_low=0.4) if m.metric == "auc" else m for m in one.metrics),
            )
            for one in report.attacks
        ),
    )
    assert matter_most(replace(weak, judgement=replace(report.judgement, attack=weak.attacks[0]))) == (
        "LiRA",
    )


def test_other_attacks_are_grey_until_asked_for(lake: Lake) -> None:
    report = gather(lake, "e")
    labels = matter_most(report)
    curves = [attack.curve for attack in report.attacks]
    spec = roc_chart(curves, leading=labels).to_dict()
    shades = next(
        layer["encoding"]["color"]["scale"]
        for layer in spec["layer"]
        if layer.get("encoding", {}).get("color", {}).get("field") == "attack"
    )
    shown = dict(zip(shades["domain"], shades["range"], strict=True))
    assert set(shown) == {attack.label for attack in report.attacks}
    assert {label for label, colour in shown.items() if colour != FAINT} == set(labels)
    own = dict(zip(*(colours(list(shown)).to_dict()[name] for name in ("domain", "range")), strict=True))
    assert all(shown[label] == own[label] for label in labels)
    asked = next(layer for layer in spec["layer"] if layer.get("encoding", {}).get("stroke"))
    assert set(asked["transform"][0]["filter"]["oneOf"]) == set(shown) - set(labels)
    assert asked["encoding"]["opacity"]["value"] == 0
    assert "Grey: the other attacks" in spec["title"]["subtitle"][0]


def test_an_attack_has_one_colour_whatever_stands_beside_it() -> None:
    names = ["LiRA", "RMIA", "loss attack", "calibrated loss", "LiRA offline", "attack R"]
    alone = {name: colours([name]).to_dict()["range"][0] for name in names}
    for order in (names, names[::-1], ["attack S", *names, "attack P"]):
        given = colours(order).to_dict()
        assert dict(zip(given["domain"], given["range"], strict=True)).items() >= alone.items()
    assert len(set(alone.values())) == len(names)
    # By the name that a command takes, the same.
    for name, label in LABELS.items():
        assert OF_ATTACKS.get(name) == OF_ATTACKS.get(label)


def test_tables_without_gaps() -> None:
    table = Table(("a", "b", "c"), (("x", "–", "1"), ("y", "–", "–")), (False, True, True))
    kept = without_gaps(Section("s", "s", "s", "", (table,))).parts
    assert kept == (Table(("a", "c"), (("x", "1"), ("y", "–")), (False, True)),)
    for gone in (
        Table(("a", "b"), (), (False, True)),
        Table(("a", "b"), (("x", "–"),), (False, True)),
    ):
        assert without_gaps(Section("s", "s", "s", "", (gone,))).parts == ()


def test_no_cards_of_records_that_all_have_one_score(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", _samples(80))
    with lake.write_run("e", "target", members=np.arange(80) < 40) as writer:
        for epoch in range(4):
            writer.append_epoch("eval", epoch, np.arange(80), loss=np.full(80, 4.0 - epoch, np.float32))
        writer.commit(RunInfo(role="target"))
    report = gather(lake, "e")
    assert report.lt_iqr is not None
    assert report.lt_iqr.scores.frame["score"].n_unique() == 1
    assert report.exposed == ()
    assert "exposed" not in [one.name for one in build(report)]
    page(report, verdict(report), build(report))


def _samples(count: int) -> pa.Table:
    return pa.table({"label": np.zeros(count, np.int64)})


def test_records_are_ranked_by_a_score_that_differs(lake: Lake) -> None:
    report = gather(lake, "e")
    assert report.ranked_by == "LiRA"
    assert isinstance(report.attacks[0].scored.scores, Scores)
    assert report.attacks[0].scored.scores.frame.filter(pl.col("member"))["score"].n_unique() > 1


# --- folding ----------------------------------------------------------------------------------------------


def test_every_section_folds_under_its_heading(lake: Lake, tmp_path: Path) -> None:
    write_report(lake, "e", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    elements = Elements(text)
    folds = [
        attributes
        for tag, attributes in elements.found
        if attributes.get("class") == "fold" and tag == "details"
    ]
    sections = build(gather(lake, "e"))
    assert len(folds) == len(sections)
    assert [("open" in fold) for fold in folds] == [not one.folded for one in sections]
    for one in sections:
        assert f'<summary><h2 id="{one.name}-title">' in text
    # Everything that scrolls can be reached by the keyboard.
    for tag, attributes in elements.found:
        if tag == "pre" or attributes.get("class") == "wide":
            assert attributes["tabindex"] == "0"


FOLD = """
  const state = () => [...page.querySelectorAll("details.fold")].map((one) => Number(one.open)).join("");
  inside.dataset.before = state();
  const wide = page.querySelector("#attacks .wide");
  inside.dataset.hides = wide.scrollWidth > wide.clientWidth + 1;
  inside.dataset.says = getComputedStyle(wide.previousElementSibling).display !== "none";
  page.querySelector(".fold-all").click();
  await new Promise((done) => setTimeout(done, 200));
  inside.dataset.folded = state();
  page.querySelector('nav a[href="#sql"]').click();
  await new Promise((done) => setTimeout(done, 200));
  inside.dataset.linked = state();
"""


@pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    reason="chromium is not installed",
)
@pytest.mark.parametrize(("width", "narrow"), [(1280, False), (390, True)])
def test_folding_and_hidden_columns_in_a_browser(
    lake: Lake, tmp_path: Path, opened: Opened, width: int, narrow: bool
) -> None:
    write_report(lake, "e", tmp_path / "report.html")
    drawn, console = opened(tmp_path / "report.html", width, FOLD)
    assert console == []
    told = next(attributes for _, attributes in drawn.found if "data-before" in attributes)
    count = len(told["data-before"])
    assert set(told["data-before"]) == {"0", "1"}
    assert told["data-folded"] == "0" * count
    assert told["data-linked"] == "0" * (count - 1) + "1"
    hides = "true" if narrow else "false"
    assert (told["data-hides"], told["data-says"]) == (hides, hides)


def test_options_and_intervals_stay_on_one_line(lake: Lake) -> None:
    report = gather(lake, "e")
    text = page(report, verdict(report), build(report))
    assert '<span class="whole">--experiment</span> e' in text
    row = re.search(r'<td class="number">[\d.]+% <span class="whole">(\([^<]*%\))</span></td>', text)
    assert row is not None
    # What it wraps is text all the same.
    wrapped = unbroken(f"{HOSTILE} --opt (1 to 2) --<b>")
    assert wrapped == (
        f'{escape(HOSTILE)} <span class="whole">--opt</span> <span class="whole">(1 to 2)</span> --&lt;b&gt;'
    )


def test_the_tail_is_drawn_where_the_members_resolve_it(tmp_path: Path) -> None:
    report = gather(make(tmp_path / "lake", samples=200, shadows=0, traces=None), "e")
    tail = report.finding("tail")
    assert tail is not None
    assert {metric.parameters["fnr"] for metric in tail.metrics} == {0.001, 0.01, 0.1}
    parts = section(build(report), "attacks").parts
    drawn = next(
        one for part in parts if isinstance(part, Figures) for one in part.items if one.name == "tail"
    )
    assert {row["of"] for row in _rows(drawn.chart) if "of" in row} == {"10%"}


def test_groups_are_looked_at_where_the_verdict_is(tmp_path: Path) -> None:
    """Though no attack with shadow models is there to lead the page."""
    report = gather(make(tmp_path / "lake", samples=1_200, shadows=0, signals=False), "e")
    assert report.headline is None
    assert report.judgement.fpr == 0.01
    said = report.said("by-group")[0]
    assert {m.parameters["fpr"] for m in said.finding.metrics if "fpr" in m.parameters} == {0.01}
    table = next(part for part in section(build(report), "groups").parts if isinstance(part, Table))
    assert table.rows[0][0] == "all"
    assert table.caption.startswith("Named by the residual attack at FPR 1%")
    runs = next(part for part in section(build(report), "runs").parts if isinstance(part, Table))
    assert "several runs" not in runs.caption  # there is one
    assert table.rows[0][4].endswith("%")
    assert "names are not marked" in section(build(report), "exposed").lead


def test_records_without_any_label_are_records(lake: Lake, tmp_path: Path) -> None:
    texts = Lake.open(tmp_path / "texts", create=True)
    texts.create_experiment("e", pa.table({"key": [f"text-{i}" for i in range(200)]}))
    rng = np.random.default_rng(0)
    members = rng.random(200) < 0.5
    with texts.write_run("e", "target", members=members) as writer:
        writer.append_signals(
            np.arange(200), np.zeros(200, np.int16), None, loss=rng.random(200).astype(np.float32), phi=None
        )
        writer.commit(RunInfo(role="target"))
    assert {record.called for record in gather(texts, "e").exposed} == {"record"}
    assert "record" not in {record.called for record in gather(lake, "e").exposed}


def test_chance_is_told_as_records(lake: Lake) -> None:
    """And not as a share of which there is not one record."""
    report = gather(lake, "e")
    assert report.memorization is not None
    scores = report.memorization.scores
    for share, told in (
        (0.004, "about 1 record would lie above 0.8"),
        (0.02, "about 6 records would"),
        (1e-5, None),
    ):
        metrics = tuple(
            replace(m, n=300, parameters={**m.parameters, "by_chance": share})
            if "by_chance" in m.parameters
            else m
            for m in scores.metrics
        )
        changed = replace(
            report, memorization=replace(report.memorization, scores=replace(scores, metrics=metrics))
        )
        lead = section(build(changed), "memorization").lead
        assert ("all the same" in lead) == (told is not None)
        assert told is None or told in lead


def test_what_lies_beyond_an_axis_is_drawn_at_its_end() -> None:
    values = np.append(10.0 ** np.linspace(-1, 2, 2_999), 1e-9)
    given = Pairs(np.arange(3_000), np.linspace(0, 1, 3_000), values, np.zeros(3_000, bool), "x", "y")
    spec = pairs_chart(given, "one against the other").to_dict()
    scale = spec["layer"][0]["encoding"]["y"]["scale"]
    beyond = int((values < scale["domain"][0]).sum())
    assert 0 < beyond < 10
    assert f"{beyond} so near to 0 that the axis leaves them out" in spec["description"]
    assert scale["domain"][0] > 1e-3
    assert scale["clamp"] is True


def test_names_of_a_few_models_are_all_there() -> None:
    rate = Metric.share("tpr_at_fpr", 5, 50, {"fpr": 0.1})
    for count, overlap in ((4, False), (30, None)):
        spec = risk_of_models([(f"march/target-{i}", rate) for i in range(count)], 0.1).to_dict()
        axes = [layer["encoding"]["x"]["axis"] for layer in spec["layer"] if "x" in layer["encoding"]]
        assert {axis.get("labelOverlap") for axis in axes} == {overlap}


@pytest.mark.parametrize(
    ("loss", "unit"),
    [
        (None, "(cross-entropy, nats)"),
        ("MSELoss", "(MSELoss)"),
        ("mean cross-entropy of a record's positions", "(mean cross-entropy of a record's positions, nats)"),
    ],
)
def test_a_loss_is_called_what_it_is(lake: Lake, loss: str | None, unit: str) -> None:
    report = gather(lake, "e")
    assert report.target is not None
    info = replace(report.target.info, extra={} if loss is None else {"loss": loss})
    sections = build(replace(report, target=replace(report.target, info=info)))
    drawn = {
        one.name: one.spec
        for named in sections
        for part in named.parts
        if isinstance(part, Figures)
        for one in part.items
    }
    titles = re.findall(r"'title': [\"'](loss of the record[^}]*?|LT-IQR[^}]*?)[\"'][,}]", str(drawn))
    assert f"loss of the record {unit}" in titles
    assert ("LT-IQR, nats" in titles) == ("nats" in unit)
