"""Risk from model to model, and the schema of what a report writes as JSON."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.analysis.report.as_json import SCHEMA
from losslake.analysis.report.check import check_report
from losslake.analysis.report.command import report as command
from losslake.analysis.report.compared import changes, models_named
from losslake.analysis.report.data import Report
from losslake.analysis.report.gather import gather
from losslake.analysis.report.page import build, page, printed_page
from losslake.analysis.report.parts import Facts, Section, Table
from losslake.analysis.report.words import verdict
from losslake.analysis.report.write import write_report
from losslake.analysis.statistics.change import change
from losslake.analysis.statistics.metric import Metric
from losslake.store.errors import InvalidOption, NotEnoughData, NotFound
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.forget import forget

from .test_report import make

SAMPLES = 300
DESCRIBED = json.loads((files("losslake.analysis.report") / "report.schema.json").read_text("utf-8"))


def add_target(lake: Lake, name: str, leak: float, recipe: dict[str, Any]) -> None:
    """Another target of experiment e, that gives away so much."""
    rng = np.random.default_rng(len(name))
    ids, members = np.arange(SAMPLES), rng.random(SAMPLES) < 0.5
    phi = (1 + leak * ids / SAMPLES * members + rng.normal(0, 0.7, SAMPLES)).astype(np.float32)
    with lake.write_run("e", name, members=members) as writer:
        loss = np.logaddexp(0, -phi.astype(np.float64)).astype(np.float32)
        writer.append_signals(ids, np.zeros(SAMPLES, np.int16), None, loss=loss, phi=phi)
        writer.commit(RunInfo(role="target", recipe=recipe, epochs=4))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three targets of one experiment, another experiment of the same records, and one of others."""
    path = tmp_path_factory.mktemp("compared") / "lake"
    lake = make(path, samples=SAMPLES)
    add_target(lake, "leaky", 9.0, {"lr": 0.2, "flip": True})
    add_target(lake, "tight", 0.0, {"lr": 0.2, "flip": False})
    make(path, samples=SAMPLES, leak=0.0, experiment="again")
    make(path, samples=SAMPLES - 20, experiment="others")
    make(path, samples=SAMPLES, shadows=0, experiment="alone")
    return lake


@pytest.fixture(scope="module")
def report(lake: Lake) -> Report:
    return gather(lake, "e", target="target", compare=("leaky", "e/tight", "again", "others"))


def section(report: Report) -> Section:
    return next(one for one in build(report) if one.name == "over-time")


def test_each_model_has_the_numbers_of_its_own_report(lake: Lake, report: Report) -> None:
    assert report.compared is not None
    assert report.compared.attack == "lira"
    assert report.compared.fpr == 0.1
    names = [model.name for model in report.compared.models]
    assert names == ["e/target", "e/leaky", "e/tight", "again/target", "others/target"]
    for model in report.compared.models:
        alone = gather(lake, model.experiment, target=model.target)
        attack = alone.attack("lira")
        assert attack is not None
        assert model.attack.metrics == attack.metrics
        assert model.data == alone.audit.data
        assert alone.headline is not None
        if alone.headline.fpr == report.compared.fpr:
            assert model.named == alone.headline.found
            assert model.tpr == alone.headline.tpr


def test_who_is_newly_named_by_hand(report: Report) -> None:
    assert report.compared is not None
    first, second, third, again, others = report.compared.models
    assert (first.newly, first.also_members) == (None, None)
    for before, model in ((first, second), (second, third), (third, again)):
        assert model.newly is not None
        assert set(model.newly) == {f"sample {i}" for i in model.named - before.named}
        frame = before.attack.scored.scores.frame
        trained = set(frame.filter(pl.col("member"))["sample_id"].to_list())
        assert model.also_members == len((model.named - before.named) & trained)
        scores = [model.attack.scored.by_sample()[int(name.split()[1])] for name in model.newly]
        assert scores == sorted(scores, reverse=True)
    assert (others.newly, others.also_members) == (None, None)  # nothing tells which of them are the same
    table = next(part for part in section(report).parts if isinstance(part, Table))
    assert table.rows[4][5] == "records cannot be matched"


def test_how_much_a_rate_moved(report: Report) -> None:
    assert report.compared is not None
    models = report.compared.models
    assert models[0].moved is None
    for before, model in pairwise(models):
        assert model.moved is not None
        assert before.tpr is not None
        assert model.tpr is not None
        assert model.moved.value == pytest.approx(model.tpr.value - before.tpr.value)  # type: ignore[operator]
        assert model.moved.ci_low < model.moved.value < model.moved.ci_high  # type: ignore[operator]
        widest = model.tpr.ci_high - before.tpr.ci_low  # type: ignore[operator]
        assert model.moved.ci_high < widest
    told = section(report)
    beyond = [
        model.name
        for model in models[1:]
        if model.moved is not None and not (model.moved.ci_low or 0) <= 0 <= (model.moved.ci_high or 0)
    ]
    assert "e/tight" in beyond  # nothing was added there for members
    named = told.lead.partition("differ from the model before them: ")[2].removesuffix(".").split(", ")
    assert [name.split(" (")[0] for name in named] == beyond
    assert "e/tight (lower)" in named


def test_records_that_both_were_asked_about_are_paired(report: Report) -> None:
    """As long as records can be matched; the intervals of the two rates alone are wider, or narrower where errors go against each other."""
    assert report.compared is not None
    models = report.compared.models
    assert [model.moved.parameters["paired"] for model in models[1:] if model.moved] == [
        True,
        True,
        True,
        False,
    ]
    for before, model in pairwise(models):
        assert model.moved is not None
        assert before.tpr is not None
        assert model.tpr is not None
        alone = change(before.tpr, model.tpr)
        assert alone is not None
        ends = (model.moved.ci_low, model.moved.ci_high)
        assert (ends == (alone.ci_low, alone.ci_high)) == (model.name == "others/target")
        assert model.moved.parameters["fpr"] == report.compared.fpr
    caption = next(part for part in section(report).parts if isinstance(part, Table)).caption
    assert "paired where it can be told which are the same" in caption


def test_a_copy_of_a_model_has_not_moved(tmp_path: Path) -> None:
    """Its errors are those of the first, whatever order the records have there."""
    lake = make(tmp_path / "lake", samples=SAMPLES)
    make(tmp_path / "lake", samples=SAMPLES, experiment="again")
    found = gather(lake, "e", compare=("again",)).compared
    assert found is not None
    moved, tpr = found.models[1].moved, found.models[1].tpr
    assert moved is not None
    assert tpr is not None
    assert moved.value == 0
    assert moved.parameters["paired"]
    alone = change(tpr, tpr)
    assert alone is not None
    assert moved.ci_low <= 0 <= moved.ci_high  # type: ignore[operator]
    assert moved.ci_high - moved.ci_low < 0.7 * (alone.ci_high - alone.ci_low)  # type: ignore[operator]


def test_a_forgotten_record_is_none_and_the_others_are_matched(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    rng = np.random.default_rng(0)
    for name, order in (("march", np.arange(SAMPLES)), ("april", rng.permutation(SAMPLES))):
        keys = pa.table({"label": order % 3, "key": [f"customer {i}" for i in order]})
        lake.create_experiment(name, keys, dataset={"spec": "customers.parquet"})
        members = order % 2 == 0
        with lake.write_run(name, "target", members=members) as writer:
            phi = np.where(members, 1.0, 0.0) + np.sin(order)
            loss = np.logaddexp(0, -phi).astype(np.float32)
            writer.append_signals(
                np.arange(SAMPLES),
                np.zeros(SAMPLES, np.int16),
                order % 3,
                loss=loss,
                phi=phi.astype(np.float32),
            )
            writer.commit(RunInfo(role="target"))
    for forgotten in ("none", "march", "april"):
        if forgotten != "none":
            forget(lake, forgotten, [4])
        found = gather(lake, "march", compare=("april",)).compared
        assert found is not None
        model = found.models[1]
        assert model.moved is not None
        assert model.moved.parameters["paired"]
        # The same model of the same records: nobody is newly named but where the threshold moved with who is left out.
        assert abs(model.moved.value or 0) < 0.03
        assert model.newly is not None
        assert all(name.startswith("customer ") for name in model.newly)
        assert len(model.newly) <= (0 if forgotten == "none" else 4)
    assert change_is_narrow(model.moved, model.tpr)


def change_is_narrow(moved: Metric, tpr: Metric | None) -> bool:
    assert tpr is not None
    alone = change(tpr, tpr)
    assert alone is not None
    return (moved.ci_high - moved.ci_low) < 0.7 * (alone.ci_high - alone.ci_low)  # type: ignore[operator]


def test_what_changed_in_the_recipe(lake: Lake, report: Report) -> None:
    assert report.compared is not None
    third = report.compared.models[2]
    assert ("flip", "yes", "no") in third.changed
    assert not any(name == "lr" for name, _, _ in third.changed)
    second = {name: (was, now) for name, was, now in report.compared.models[1].changed}
    assert second["lr"] == ("0.1", "0.2")
    assert second["epochs"] == ("8", "4")
    run = lake.run("e", "tight")
    assert changes(run, run) == ()


def test_section_on_screen_and_on_paper(report: Report) -> None:
    said, sections = verdict(report), build(report)
    for text in (page(report, said, sections), printed_page(report, said, sections)):
        assert 'id="over-time"' in text
        assert "Who is newly named since the model before" in text
    table = next(part for part in section(report).parts if isinstance(part, Table))
    assert table.columns[2] == "TPR at FPR 10%"
    assert [row[0] for row in table.rows] == [model.name for model in report.compared.models]  # type: ignore[union-attr]
    changed, newly = (part for part in section(report).parts if isinstance(part, Facts))
    assert [name for name, _ in changed.items] == [model.name for model in report.compared.models[1:]]  # type: ignore[union-attr]
    assert "flip: yes → no" in dict(changed.items)["e/tight"]
    assert "e/leaky" in dict(newly.items)


def test_without_a_rate_that_all_resolve_areas_are_compared(lake: Lake, tmp_path: Path) -> None:
    small = make(tmp_path / "lake", samples=60)
    make(tmp_path / "lake", samples=60, experiment="again")
    found = gather(small, "e", compare=("again",))
    assert found.compared is not None
    assert found.compared.fpr is None
    assert all(model.tpr is None and model.newly is None for model in found.compared.models)
    one = section(found)
    assert "AUC of each model" in str(one.parts[0].items[0].spec["title"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("names", "error", "told"),
    [
        (("gone",), NotFound, "no run of experiment 'e' called 'gone'"),
        (("e/gone",), NotFound, "no run 'gone'"),
        (("gone/target",), NotFound, "no experiment 'gone'"),
        (("e",), NotFound, "several targets; name the one to compare with, as in --compare e/"),
        (("leaky", "leaky"), InvalidOption, "compared with itself"),
        (("target",), InvalidOption, "compared with itself"),
        (("alone",), NotEnoughData, "alone/target cannot be compared by lira"),
    ],
)
def test_models_that_cannot_be_compared(
    lake: Lake, names: tuple[str, ...], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        gather(lake, "e", target="target", compare=names)


def test_names_of_models(lake: Lake) -> None:
    assert models_named(lake, "e", ["again", "leaky", "others/target"]) == [
        ("again", None),
        ("e", "leaky"),
        ("others", "target"),
    ]


def test_command_check_and_json(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "risk.json"
    asked = [
        "--lake",
        lake.path,
        "--experiment",
        "e",
        "--target",
        "target",
        "--compare",
        "tight",
        "--compare",
        "again",
    ]
    answer = CliRunner().invoke(command, [*asked, "--out", str(out)])
    assert answer.exit_code == 0, answer.stderr
    told = json.loads(out.read_text("utf-8"))
    assert [model["experiment"] for model in told["over_time"]["models"]] == ["e", "e", "again"]
    assert told["audit"]["command"].endswith("--target target --compare tight --compare again")
    found = check_report(lake, out)
    assert (found.told, found.differs) == ((), ())
    assert "over time: e/tight: TPR at FPR 10% by LiRA" in answer.stderr
    assert "change, points −" in answer.stderr
    assert re.search(r", newly named [\d,]+ \([\d,]+ of them trained on before as well\)\n", answer.stderr)
    told["over_time"]["models"][1]["newly_named"] = []
    out.write_text(json.dumps(told))
    assert [one.partition(":")[0] for one in check_report(lake, out).differs] == ["over time"]
    told["over_time"]["models"][2]["change"]["ci_low"] = -0.001
    out.write_text(json.dumps(told))
    differs = check_report(lake, out).differs
    assert [one.partition(":")[0] for one in differs] == ["over time"] * 2
    assert "tpr_at_fpr_change" in differs[0] + differs[1]


# --- the schema -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shadows": 0, "signals": False, "traces": "train"},
        {"target": False},
        {"samples": 60, "lists": True},
    ],
    ids=["full", "traces", "shadows", "small"],
)
def test_json_is_as_the_schema_says(tmp_path: Path, options: dict[str, Any]) -> None:
    lake = make(tmp_path / "lake", **{"samples": 120, **options})
    write_report(lake, "e", tmp_path / "report.json", pictures=False)
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(DESCRIBED)
    validator.check_schema(DESCRIBED)
    assert [error.message for error in validator.iter_errors(told)] == []
    assert told["schema"] == SCHEMA == DESCRIBED["properties"]["schema"]["const"]
    # Nothing is written that the schema does not describe.
    assert set(told) == set(DESCRIBED["properties"]) == set(DESCRIBED["required"])
    assert set(told["audit"]) == set(DESCRIBED["$defs"]["audit"]["properties"])
    assert set(told["verdict"]) == set(DESCRIBED["properties"]["verdict"]["properties"])


def test_a_comparison_is_as_the_schema_says(report: Report, lake: Lake, tmp_path: Path) -> None:
    write_report(lake, "e", tmp_path / "report.json", target="target", compare=("leaky", "again"))
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(DESCRIBED)
    assert [error.message for error in validator.iter_errors(told)] == []
    model = DESCRIBED["properties"]["over_time"]["properties"]["models"]["items"]
    assert set(told["over_time"]["models"][0]) == set(model["properties"]) == set(model["required"])
    # And it refuses what is none.
    for name in DESCRIBED["required"]:
        without = {key: value for key, value in told.items() if key != name}
        assert not validator.is_valid(without)
