"""`losslake.audit`: one call says what the long way says, of any model, and claims nothing of a model that gives nothing away."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import losslake
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from losslake.analysis.report.write import write_report
from losslake.auditing import Audit
from losslake.collect.importers.arrays import import_arrays
from losslake.collect.progress import Silent
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption, NotEnoughData
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import nn

SCORES = (
    "lira",
    "lira[mode=offline]",
    "rmia",
    "loss",
    "calibrated",
    "attack-s",
    "kde",
    "memorization",
    "privacy-score",
)


def halves(x: np.ndarray, y: np.ndarray, seed: int = 0) -> tuple[Any, Any]:
    order = np.random.default_rng(seed).permutation(len(y))
    first, second = np.array_split(order, 2)
    return (x[first], y[first]), (x[second], y[second])


@pytest.fixture(scope="module")
def cancer() -> tuple[Any, Any]:
    return halves(*load_breast_cancer(return_X_y=True))


@pytest.fixture(scope="module")
def forest(cancer: tuple[Any, Any]) -> RandomForestClassifier:
    return RandomForestClassifier(random_state=3).fit(*cancer[0])


@pytest.fixture(scope="module")
def audited(cancer: tuple[Any, Any], forest: RandomForestClassifier, tmp_path_factory: Any) -> Audit:
    return losslake.audit(forest, *cancer, shadows=16, lake=tmp_path_factory.mktemp("audited") / "lake")


# --- the same as the long way --------------------------------------------------------------------------------


def test_results_are_those_of_the_long_way(tmp_path: Path, cancer: tuple[Any, Any], forest: Any) -> None:
    made: list[tuple[np.ndarray, Any]] = []

    def train(members: Any, seed: int) -> Any:
        model = RandomForestClassifier(40, random_state=seed).fit(*members)
        made.append((members[0], model))
        return model

    audit = losslake.audit(forest, *cancer, shadows=8, train=train)

    x, y = np.concatenate([cancer[0][0], cancer[1][0]]), np.concatenate([cancer[0][1], cancer[1][1]])
    place = {row.tobytes(): number for number, row in enumerate(x)}
    assert len(place) == len(x)
    keep = np.zeros((9, len(x)), dtype=bool)
    keep[0, : len(cancer[0][0])] = True
    for number, (members, _) in enumerate(made, start=1):
        keep[number, [place[row.tobytes()] for row in members]] = True
    said = np.stack([model.predict_proba(x) for model in (forest, *(model for _, model in made))])
    assert (said == 0).any()
    least = said[0][said[0] > 0].min() / 2
    np.savez(
        tmp_path / "arrays.npz",
        labels=y,
        keep=keep,
        logits=np.log(np.where(said > 0, said, least)).astype(np.float32),
    )
    lake = losslake.open(tmp_path / "lake")
    import_arrays(lake, "long", tmp_path / "arrays.npz", target="run-0000")

    rows = "select sample_id, member, label, loss, phi, correct, logits from signals where run = $run order by sample_id"
    runs = [("target", "run-0000"), *((f"shadow-{i:04d}", f"run-{i + 1:04d}") for i in range(8))]
    for mine, theirs in runs:
        assert audit.lake.sql(rows, {"run": mine}).equals(lake.sql(rows, {"run": theirs}))
    for score in SCORES:
        ours, other = audit.lake.scores(score, experiment="audit"), lake.scores(score, experiment="long")
        assert ours.select("sample_id", "member").equals(other.select("sample_id", "member"))
        assert ours["score"].equals(other["score"]), score
    told = "select metric, value, ci_low, ci_high, n from metrics where analysis = 'rmia' order by all"
    assert audit.lake.sql(told).equals(lake.sql(told))
    (balance,) = set(keep[1:].sum(axis=0).tolist())
    assert balance == 4  # each record in half of the shadow models


def test_a_module_is_asked_as_evaluate_asks_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(120, 6), torch.randint(0, 3, (120,))
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
    audit = losslake.audit(model, (x[:60], y[:60]), (x[60:], y[60:]))
    lake = losslake.open(tmp_path / "lake")
    with lake.start_run("long", samples=y.numpy(), members=np.arange(60)) as run:
        run.evaluate(model, torch.utils.data.TensorDataset(x, y))
    query = "select sample_id, member, label, loss, phi, correct, logits from signals order by sample_id"
    assert audit.lake.sql(query).equals(lake.sql(query))
    assert model.training
    for score in ("loss", "kde"):
        assert audit.scores(score)["score"].equals(lake.scores(score, experiment="long")["score"]), score


# --- what is found ------------------------------------------------------------------------------------------


def test_a_forest_is_found_to_expose_its_records(audited: Audit) -> None:
    assert audited.level in ("signs", "clear leak")
    metrics = audited.metrics()
    assert metrics.columns == ["attack", "metric", "fpr", "value", "ci_low", "ci_high", "n"]
    (low,) = metrics.filter(attack="rmia", metric="auc")["ci_low"]
    assert low > 0.6
    scores = audited.scores()
    assert scores.columns[:5] == ["sample_id", "key", "label", "member", "score"]
    assert scores["member"].sum() == 285
    assert scores["key"][0] == "members/0"
    assert scores["key"][285] == "nonmembers/0"
    exposed = audited.exposed(5)
    best = scores.filter("member").sort("score", descending=True).head(5)
    assert exposed["sample_id"].to_list() == best["sample_id"].to_list()
    assert exposed.columns == ["sample_id", "key", "label", "score"]
    with pytest.raises(InvalidOption, match="1 or more"):
        audited.exposed(0)


def test_it_is_printed_as_the_verdict_with_its_limits(audited: Audit, tmp_path: Path) -> None:
    lines = str(audited).splitlines()
    report = audited.report(tmp_path / "audit.json")
    told = json.loads(report.read_text())
    assert lines[:2] == [told["verdict"]["title"], told["verdict"]["text"]]
    assert lines[2].startswith("how far to trust it: ")
    assert "16 shadow models" in lines[2]
    assert lines[3] == f"what to do: {told['verdict']['what_to_do'][0]['what']}"
    assert not any("losslake collect" in step["what"] for step in told["verdict"]["what_to_do"])
    assert len(lines) <= 7
    assert repr(audited) == str(audited)
    html = audited._repr_html_()
    assert told["verdict"]["title"] in html
    assert "<script" not in html
    assert told["shadow_runs"] == 16


def test_the_report_is_a_page(audited: Audit, tmp_path: Path) -> None:
    page = audited.report(tmp_path / "audit.html").read_text()
    assert page.startswith("<!doctype html>") or page.lower().startswith("<!doctype html>")
    assert "collect shadows" not in page


def test_the_report_says_what_is_true_of_an_audit(audited: Audit, cancer: Any, tmp_path: Path) -> None:
    page = audited.report(tmp_path / "audit.html").read_text()
    assert "given to the audit, 569 samples" in page
    assert "population= of losslake.audit" in page
    assert "Its epochs and seed are not known." in page
    assert "A caution: each estimate rests on 16 shadow models in all" in page
    assert "seed, sample weights and early stopping" in page
    for untrue in ("not named", "when collecting", "python version", "recipe, epochs and seed."):
        assert untrue not in page, untrue
    other = losslake.audit(LogisticRegression(max_iter=5_000).fit(*cancer[0]).predict_proba, *cancer)
    assert "how it was trained, as it was given finished" in other.report(tmp_path / "other.html").read_text()


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("attack-p", "population= of losslake.audit"),
        ("rmia[rank=share]", "population= of losslake.audit"),
        ("attack-d", "losslake.audit fits none"),
        ("attack-l", "losslake.audit fits none"),
        ("subpopulation", "losslake.audit keeps logits and nothing else"),
    ],
)
def test_what_an_audit_lacks_is_not_asked_of_collect(audited: Audit, score: str, said: str) -> None:
    with pytest.raises(NotEnoughData, match=said) as told:
        audited.scores(score)
    assert "collect" not in str(told.value)


def test_what_an_audit_noted_stands_in_its_report(tmp_path: Path) -> None:
    """In that of the call, and in any later one of the lake."""
    x, y = np.random.default_rng(0).normal(size=(80, 4)), np.arange(80) % 2
    others = (x[40:], y[40:])
    twice = (np.r_[x[:40], x[:5]], np.r_[y[:40], y[:5]])
    audit = losslake.audit(
        lambda x: np.where(x[:, :1] > 0, [[1.0, 0.0]], [[0.0, 1.0]]), twice, others, lake=tmp_path / "lake"
    )
    said = " ".join(audit.notes)
    assert "probability of exactly 0" in said
    assert "are copies of others" in said
    reports = [audit.report(tmp_path / "call.json"), tmp_path / "lake.json"]
    write_report(audit.lake, "audit", reports[1])
    for report in reports:
        text = report.read_text()
        assert all(note in text for note in audit.notes)
    assert all(note in audit.report(tmp_path / "call.html").read_text() for note in audit.notes[:1])


def test_it_says_how_far_it_is_where_that_is_asked(
    cancer: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    few = [(x[:60], y[:60]) for x, y in cancer]
    model = LogisticRegression(max_iter=500).fit(*few[0])
    for progress in (None, False):
        losslake.audit(model, *few, shadows=2, progress=progress)
        assert capsys.readouterr() == ("", "")
    losslake.audit(model, *few, shadows=2, progress=True)
    out, told = capsys.readouterr()
    assert out == ""
    assert "asking LogisticRegression about 120 records" in told
    assert "audit: 2/2 shadow models" in told


def test_limits_are_held_against_it(audited: Audit) -> None:
    kept, broken = audited.gate(max_auc=1.0), audited.gate("rmia", max_auc=0.55)
    assert kept
    assert not broken
    assert str(broken).startswith("FAIL")
    assert repr(broken) == str(broken)  # which a shell and a notebook show
    assert not audited.gate(max_tpr=0.5, at_fpr=0.001)  # which so few non-members do not resolve
    with pytest.raises(InvalidOption, match="max_auc"):
        audited.gate()
    with pytest.raises(InvalidOption, match="at-fpr"):
        audited.gate(max_auc=0.5, at_fpr=0.1)


def test_a_made_table_of_5000_rows() -> None:
    x, y = make_classification(5_000, 20, n_informative=8, n_classes=3, flip_y=0.1, random_state=1)
    members, others = halves(x, y)
    model = RandomForestClassifier(30, max_depth=10, random_state=0).fit(*members)
    audit = losslake.audit(model, members, others, shadows=16)
    assert audit.level == "clear leak"
    (tpr,) = audit.metrics().filter(attack="lira", fpr=0.01)["ci_low"]
    assert tpr > 0.1


def test_without_shadow_models_it_says_that_it_cannot_tell_or_that_members_may_be_easier(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(1_200, 4)), rng.integers(0, 2, 1_200)
    members, others = halves(x, y)
    audit = losslake.audit(LogisticRegression().fit(*members), members, others)
    assert audit.level == "cannot tell"
    assert "no attack with shadow models" in str(audit).splitlines()[0]
    assert "losslake.audit(..., shadows=" in str(audit)
    told = json.loads(audit.report(tmp_path / "audit.json").read_text())
    assert (told["verdict"]["rule"], told["headline"]) == ("no shadow models", None)
    assert "Cannot tell: no attack with shadow models" in audit.report(tmp_path / "audit.html").read_text()
    tree = RandomForestClassifier(20, random_state=0).fit(*members)
    assert "or of members that are unlike" in str(losslake.audit(tree, members, others)).splitlines()[0]


def test_nothing_is_claimed_of_shuffled_membership() -> None:
    """A model that memorizes noise, and members that are not those it was trained on: no leak, over ten draws."""
    levels = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(400, 5)), rng.integers(0, 2, 400)
        model = RandomForestClassifier(20, random_state=seed).fit(*halves(x, y, 100 + seed)[0])
        levels.append(losslake.audit(model, *halves(x, y, seed), shadows=8, seed=seed).level)
    assert "clear leak" not in levels
    assert levels.count("signs") <= 2  # docs/words.md: 7.5 in 100 at most; 3 of 10 would be 1 in 30


def test_ten_records_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)), np.arange(10) % 2
    members, others = (x[:5], y[:5]), (x[5:], y[5:])
    audit = losslake.audit(LogisticRegression().fit(*members), members, others)
    assert audit.level == "cannot tell"
    assert "too few" in str(audit)


# --- the lake -----------------------------------------------------------------------------------------------


def test_a_temporary_lake_is_there_as_long_as_somebody_holds_it(
    cancer: tuple[Any, Any], tmp_path: Path
) -> None:
    audit = losslake.audit(LogisticRegression(max_iter=5_000).fit(*cancer[0]), *cancer)
    assert str(audit).splitlines()[-1].endswith('it goes with this Audit, and lake="audits" keeps it')
    told = json.loads(audit.report(tmp_path / "audit.json").read_text())
    assert (told["audit"]["kept"], told["audit"]["command"]) == (False, "")
    assert {step["command"] for step in told["verdict"]["what_to_do"]} == {None}
    assert "losslake.audit(..., lake='audits')" in told["verdict"]["what_to_do"][-1]["what"]
    place, lake = Path(audit.lake.path), audit.lake
    del audit
    gc.collect()
    assert lake.sql("select count(*) as n from signals")["n"][0] == 569
    assert place.parent.stat().st_mode & 0o077 == 0
    del lake
    gc.collect()
    assert not place.parent.exists()


def test_called_again_it_fits_only_what_is_missing(
    tmp_path: Path, cancer: tuple[Any, Any], forest: Any
) -> None:
    fitted: list[int] = []

    def train(members: Any, seed: int) -> Any:
        fitted.append(seed)
        return RandomForestClassifier(5, random_state=seed).fit(*members)

    def ask(shadows: int, model: Any = forest, **more: Any) -> Audit:
        return losslake.audit(model, *cancer, shadows=shadows, train=train, lake=tmp_path / "lake", **more)

    ask(4)
    rows = "select * from signals order by run, sample_id"
    first = ask(4).lake.sql(rows)
    assert len(fitted) == len(set(fitted)) == 4
    assert len(ask(6).lake.runs("audit", "shadow")) == 6
    assert len(fitted) == 6
    again = losslake.audit(forest, *cancer, shadows=4, train=train, lake=losslake.open(tmp_path / "other"))
    assert again.lake.sql(rows).equals(first)
    other = RandomForestClassifier(5, random_state=9).fit(*cancer[0])
    with pytest.raises(AlreadyExists, match="other values"):
        losslake.audit(other, *cancer, lake=tmp_path / "lake")
    both = ask(6, other, run="second")
    assert both.target == "second"
    assert [run.run for run in both.lake.runs("audit", "target")] == ["second", "target"]


def one_split(members: Any, seed: int) -> Any:
    return DecisionTreeClassifier(max_depth=1, random_state=seed).fit(*members)


def of_trees(trees: int) -> Callable[[Any, int], Any]:
    def train(members: Any, seed: int) -> Any:
        return noisy_forest(members, seed, trees)

    return train


def test_shadow_models_of_another_making_are_not_taken(tmp_path: Path) -> None:
    """By class, parameters, parts, function, its code, what it holds, and seed; what makes the same ones goes on from there."""
    by_hand = [
        lambda members, seed: noisy_forest(members, seed, 10),
        lambda members, seed: noisy_forest(members, seed, 30),
        of_trees(10),
        of_trees(30),
        partial(noisy_forest, trees=10),
        partial(noisy_forest, trees=30),
        one_split,
    ]
    models = [
        RandomForestClassifier(10),
        RandomForestClassifier(30),
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(MinMaxScaler(), LogisticRegression()),
    ]
    target = noisy_forest(NOISY[0], 0)
    ways = [(model.fit(*NOISY[0]), None) for model in models] + [(target, train) for train in by_hand]
    lake = losslake.open(tmp_path / "lake")
    for number, (model, train) in enumerate(ways):
        own = f"e{number}"
        losslake.audit(model, *NOISY, shadows=2, train=train, lake=lake, experiment=own)
        for other, (another, training) in enumerate(ways):
            if other == number:
                continue
            with pytest.raises(InvalidOption, match="choose another experiment name"):
                losslake.audit(
                    another, *NOISY, shadows=3, train=training, lake=lake, experiment=own, run="second"
                )
        with pytest.raises(InvalidOption, match="seed 0, not 1"):
            losslake.audit(model, *NOISY, shadows=3, train=train, lake=lake, experiment=own, seed=1)
    again = (*NOISY, lake)
    for number, train in ((7, of_trees(10)), (9, partial(noisy_forest, trees=10))):
        losslake.audit(target, *again[:2], shadows=3, train=train, lake=lake, experiment=f"e{number}")
        assert len(lake.runs(f"e{number}", "shadow")) == 3
    with pytest.raises(InvalidOption, match="choose another"):
        losslake.audit(ways[1][0], *NOISY, lake=lake, experiment="e0", run="second")


def test_it_says_that_more_shadow_models_are_used_than_were_asked_for(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []

    class Watching(Silent):
        def start(self, total: int, unit: str) -> None:
            told.append((total, unit))

    model = noisy_forest(NOISY[0], 0)
    for shadows, said in ((4, False), (4, False), (2, True), (0, True), (6, False)):
        audit = losslake.audit(model, *NOISY, shadows=shadows, lake=tmp_path / "lake", progress=Watching())
        notes = [note for note in audit.notes if "all 4 shadow models that experiment 'audit' holds" in note]
        assert bool(notes) is said
        assert all("clones of sklearn.ensemble._forest.RandomForestClassifier(" in note for note in notes)
    assert [total for total, unit in told if unit == "shadow models"] == [4, 0, 0, 0, 2]


def test_a_failed_audit_leaves_no_experiment(tmp_path: Path, cancer: tuple[Any, Any], forest: Any) -> None:
    def train(members: Any, seed: int) -> Any:
        raise RuntimeError("out of paper")

    with pytest.raises(InvalidInput, match="out of paper"):
        losslake.audit(forest, *cancer, shadows=2, train=train, lake=tmp_path / "lake", experiment="new")
    # The target's answers were kept before, and are used by the next try.
    assert losslake.open(tmp_path / "lake").runs("new", "shadow") == []
    losslake.audit(forest, *cancer, shadows=2, lake=tmp_path / "lake", experiment="new")


def test_references_are_models_that_know_nobody(cancer: tuple[Any, Any], forest: Any) -> None:
    x, y = make_classification(300, 30, random_state=0)
    others = [RandomForestClassifier(10, random_state=i).fit(x, y) for i in range(3)]
    audit = losslake.audit(forest, *cancer, references=others)
    runs = audit.lake.runs("audit", "reference")
    assert [(run.run, run.members) for run in runs] == [(f"reference-{i:04d}", 0) for i in range(3)]
    assert audit.scores("attack-r")["score"].null_count() == 0


def test_the_population_is_what_attack_p_compares_with(cancer: tuple[Any, Any], forest: Any) -> None:
    members, (x, y) = cancer
    audit = losslake.audit(forest, members, (x[:200], y[:200]), population=(x[200:], y[200:]), shadows=4)
    pools = audit.lake.samples("audit")["pool"].to_pylist()
    assert pools.count("population") == len(y) - 200
    assert all(run.members <= 485 for run in audit.lake.runs("audit"))
    assert audit.scores("attack-p")["score"].null_count() == 0


# --- shadow models ------------------------------------------------------------------------------------------


def test_shadow_models_are_clones_with_seeds_of_their_own(audited: Audit, cancer: tuple[Any, Any]) -> None:
    runs = audited.lake.runs("audit", "shadow")
    assert {run.info.model for run in runs} == {"RandomForestClassifier"}
    assert (
        len({json.dumps(dict(run.info.recipe)) for run in (*runs, audited.lake.run("audit", "target"))}) == 1
    )
    # Fitted on the same halves, two of one seed would agree where both know a record; these have drawn their own trees.
    assert len({run.info.test_accuracy for run in runs}) > 1


def test_shadow_models_of_a_pipeline(cancer: tuple[Any, Any]) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(*cancer[0])
    audit = losslake.audit(model, *cancer, shadows=4)
    accuracy = [run.info.test_accuracy for run in audit.lake.runs("audit", "shadow")]
    assert min(filter(None, accuracy)) > 0.9


def test_copies_of_a_record_count_once_and_are_trained_on_together(cancer: tuple[Any, Any]) -> None:
    (x, y), others = cancer
    x, y = np.concatenate([x[:100], x, x[:40]]), np.concatenate([y[:100], y, y[:40]])
    fitted: list[list[bytes]] = []

    def train(members: Any, seed: int) -> Any:
        fitted.append([row.tobytes() for row in members[0]])
        return RandomForestClassifier(10, random_state=seed).fit(*members)

    audit = losslake.audit(train((x, y), 0), (x, y), others, shadows=6, train=train)
    assert audit.lake.run("audit", "target").members == 285
    assert any("140 of 425 members are copies" in note for note in audit.notes)
    samples = pl.DataFrame(audit.lake.samples("audit"))
    assert samples["copies"].to_list() == [3] * 40 + [2] * 60 + [1] * (569 - 100)
    assert samples["key"][100] == "members/200"
    given = {row.tobytes(): number for number, row in enumerate(x[:100])}
    whole = [row.tobytes() for row in x] + [row.tobytes() for row in others[0]]
    for run, rows in zip(audit.lake.runs("audit", "shadow"), fitted[1:], strict=True):
        member = audit.lake.sql(
            "select sample_id, member from signals where run = $run order by all", {"run": run.run}
        )
        inside = member["member"].to_numpy()
        assert 0 < inside[:100].sum() < 100
        for content, number in given.items():
            assert rows.count(content) == whole.count(content) * inside[number]


def test_copies_narrow_no_interval() -> None:
    """Fifty copies of one record are one record, of which nothing can be told."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(101, 3)), rng.integers(0, 2, 101)
    members, others = (np.tile(x[:1], (50, 1)), np.tile(y[:1], 50)), (x[1:], y[1:])
    audit = losslake.audit(RandomForestClassifier(10, random_state=0).fit(x, y), members, others, shadows=4)
    assert audit.level == "cannot tell"


def test_classes_that_a_shadow_model_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), np.array(["common", "rare"])[(np.arange(200) % 100 == 0).astype(int)]
    members, others = (x[:100], y[:100]), (x[100:], y[100:])
    model = RandomForestClassifier(5, random_state=0).fit(*members)
    audit = losslake.audit(model, members, others, shadows=6)
    widths = audit.lake.sql("select distinct len(logits) as n from signals")["n"].to_list()
    assert widths == [2]


def test_modules_take_a_function_that_trains() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(300, 8), torch.randint(0, 2, (300,))
    seen = []

    def train(members: Any, seed: int) -> nn.Module:
        seen.append(len(members))
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(40):
            for a, b in torch.utils.data.DataLoader(members, batch_size=50, shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(a), b).backward()
                optimizer.step()
        return model

    data = torch.utils.data.TensorDataset(x, y)
    members, others = (torch.utils.data.Subset(data, range(*ends)) for ends in ((0, 150), (150, 300)))
    audit = losslake.audit(train(members, 7), members, others, shadows=8, train=train)
    assert all(50 < size < 250 for size in seen)
    (low,) = audit.metrics().filter(attack="lira", metric="auc")["ci_low"]
    assert low > 0.7
    with pytest.raises(InvalidOption, match="train="):
        losslake.audit(train(members, 7), members, others, shadows=2)


def test_what_stays_fitted_when_cloned_is_refused(cancer: tuple[Any, Any], forest: Any) -> None:
    from sklearn.frozen import FrozenEstimator

    frozen = FrozenEstimator(forest)
    for model in (frozen, make_pipeline(StandardScaler(), frozen).fit(*cancer[0])):
        with pytest.raises(InvalidOption, match="stays fitted"):
            losslake.audit(model, *cancer, shadows=2)


def test_shadow_models_of_another_size_are_told() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    members, others = (x[:250], y[:250]), (x[250:], y[250:])
    audit = losslake.audit(LogisticRegression().fit(*members), members, others, shadows=4)
    assert any("half of all, and the target on 250" in note for note in audit.notes)


# --- shadow models that are none -----------------------------------------------------------------------------

NOISE = np.random.default_rng(3).normal(size=(400, 5)), np.random.default_rng(4).integers(0, 2, 400)
NOISY = halves(*NOISE)


def noisy_forest(members: Any, seed: int, trees: int = 20) -> Any:
    return RandomForestClassifier(trees, random_state=seed).fit(*members)


LEAKY = noisy_forest(NOISY[0], 0)


def its_method(members: Any, seed: int) -> Any:
    return LEAKY.predict_proba


def one_for_all() -> Any:
    made: list[Any] = []

    def train(members: Any, seed: int) -> Any:
        made.append(made[0] if made else noisy_forest(members, seed))
        return made[-1]

    return train


INDEPENDENT: dict[str, tuple[Callable[[Any, int], Any], str]] = {
    "the target": (lambda members, seed: LEAKY, "the audited model itself"),
    "its method": (its_method, "the audited model itself"),
    "a copy of the target": (lambda members, seed: deepcopy(LEAKY), "exactly as the audited model does"),
    "the target's members, as it was": (lambda members, seed: noisy_forest(NOISY[0], 0), "exactly as the audited"),
    "one model of the target's members": (lambda members, seed: noisy_forest(NOISY[0], 5), "exactly as shadow-0000"),
    "no seed either": (lambda members, seed: LogisticRegression().fit(*NOISY[0]), "exactly as shadow-0000"),
    "one of all records": (lambda members, seed: noisy_forest(NOISE, 5), "exactly as shadow-0000"),
    "the same object": (one_for_all(), "the model before it once more"),
    "the target's members, a seed each": (lambda members, seed: noisy_forest(NOISY[0], seed), "does not depend on its members"),
}  # fmt: skip


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_training_that_does_not_use_its_members_is_refused(kind: str, tmp_path: Path) -> None:
    train, said = INDEPENDENT[kind]
    model = LEAKY.predict_proba if kind == "its method" else LEAKY
    with pytest.raises(InvalidInput, match=said):
        losslake.audit(model, *NOISY, shadows=3, train=train, lake=tmp_path / "lake")
    # None of them is there to be taken for one by the next call.
    assert losslake.open(tmp_path / "lake").runs("audit", "shadow") == []
    audit = losslake.audit(LEAKY, *NOISY, shadows=4, train=noisy_forest, lake=tmp_path / "lake")
    assert len(audit.lake.runs("audit", "shadow")) == 4
    assert audit.level in ("signs", "clear leak")


def test_training_in_place_is_refused() -> None:
    mine = noisy_forest(NOISY[0], 0)
    with pytest.raises(InvalidInput, match="the audited model itself"):
        losslake.audit(mine, *NOISY, shadows=2, train=lambda members, seed: mine.fit(*members))


def test_the_target_is_no_reference() -> None:
    other = noisy_forest(NOISY[1], 1)
    for references in ([LEAKY], [other, LEAKY], [deepcopy(LEAKY)], [other, other], [other, deepcopy(other)]):
        with pytest.raises(InvalidInput, match="reference-000"):
            losslake.audit(LEAKY, *NOISY, references=references)


@pytest.mark.parametrize("strategy", ["prior", "uniform"])
def test_of_a_constant_answer_nothing_can_be_told(strategy: str) -> None:
    y = np.arange(400) % 2
    sides = (NOISE[0][:200], y[:200]), (NOISE[0][200:], y[200:])

    def train(members: Any, seed: int) -> Any:
        return DummyClassifier(strategy=strategy).fit(*members)

    for more in ({}, {"train": train}):
        audit = losslake.audit(train(sides[0], 0), *sides, shadows=4, **more)
        assert audit.level == "cannot tell"
        assert str(audit).startswith("Cannot tell: loss attack gives all records the same score\n")
        assert "By the tail" not in str(audit)  # the interval would be from 0 to 1
        assert "says the same of all 400 records" in str(audit)
        assert "what to do: See that this is the model that was meant" in str(audit)


def test_models_that_agree_because_there_is_nothing_to_learn_from_a_record_are_told_of() -> None:
    """Trees on what one feature decides: alike from any of the records, and no sign of a training that does not use them."""
    x = np.c_[np.sign(NOISE[0][:, 0]), NOISE[0][:, 1:]]
    sides = halves(x, (x[:, 0] > 0).astype(int))

    def train(members: Any, seed: int) -> Any:
        return DecisionTreeClassifier(random_state=seed).fit(*members)

    audit = losslake.audit(train(sides[0], 0), *sides, shadows=3, train=train)
    assert any("is the same from any of them" in note for note in audit.notes)
    assert str(audit).startswith(
        "Cannot tell: LiRA with 3 shadow models gives too many records the same score"
    )


def test_trainings_that_use_their_members_are_not_doubted() -> None:
    """No model is trained once more, and none refused, where the sides are alike; over twenty draws of models that leak little."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(200, 4))
        sides = halves(x, (x[:, 0] + rng.normal(size=200) > 0).astype(int), seed)
        fitted = []

        def train(members: Any, seed: int, fitted: list[int] = fitted) -> Any:
            fitted.append(seed)
            return LogisticRegression().fit(*members)

        audit = losslake.audit(train(sides[0], 0), *sides, shadows=2, train=train)
        assert len(fitted) == 3
        assert not audit.notes


def test_sides_that_differ_by_themselves_are_told_of_and_not_refused() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4))
    y = (x[:, 0] + np.where(np.arange(400) < 200, 0.1, 2.0) * rng.normal(size=400) > 0).astype(int)
    sides = (x[:200], y[:200]), (x[200:], y[200:])

    def train(members: Any, seed: int) -> Any:
        return LogisticRegression().fit(*members)

    audit = losslake.audit(train(sides[0], 0), *sides, shadows=4, train=train)
    assert any("the two sides differ by themselves" in note for note in audit.notes)


# --- boosted trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_trees(library: str) -> None:
    try:
        module = pytest.importorskip(library)
    except OSError as error:  # LightGBM's wheel takes OpenMP from the system
        pytest.skip(f"{library} does not load here: {error}")
    sides = halves(*make_classification(1_200, 10, flip_y=0.3, random_state=2))
    options = {"n_estimators": 60, "n_jobs": 1, "random_state": 0}
    kind = module.XGBClassifier if library == "xgboost" else module.LGBMClassifier
    options |= {} if library == "xgboost" else {"verbose": -1}
    audit = losslake.audit(kind(**options).fit(*sides[0]), *sides, shadows=8)
    assert audit.level == "clear leak"
    assert {run.info.model for run in audit.lake.runs("audit")} == {kind.__name__}

    names = [f"f{i}" for i in range(10)]
    frames = [pd.DataFrame(x, columns=names).assign(label=y) for x, y in sides]
    named = kind(**options).fit(frames[0][names], frames[0]["label"])
    again = losslake.audit(named, *frames)
    assert np.allclose(again.scores("loss")["score"], audit.scores("loss")["score"], atol=1e-5)


def test_an_estimator_takes_no_torch(cancer: tuple[Any, Any]) -> None:
    code = (
        "import sys, losslake; from sklearn.datasets import load_iris; from sklearn.ensemble import RandomForestClassifier as F\n"
        "x, y = load_iris(return_X_y=True)\n"
        "print(losslake.audit(F(5).fit(x[::2], y[::2]), (x[::2], y[::2]), (x[1::2], y[1::2]), shadows=2, overlap='leave out').level)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_polars_frames_and_queries_go_on_from_there(audited: Audit) -> None:
    found = audited.lake.sql("select count(distinct run) as n from signals")
    assert isinstance(found, pl.DataFrame)
    assert found["n"][0] == 17
