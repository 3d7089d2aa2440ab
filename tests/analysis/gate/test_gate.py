"""The gate: limits held against the upper end of an interval, and everything that must not pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from losslake.analysis.gate.check import Verdict, check_rules
from losslake.analysis.gate.command import gate_json, gate_junit, gate_lines, passed
from losslake.analysis.gate.rules import Rule, load_rules
from losslake.analysis.measures.memorization import shares_above
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.cli import _run
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
N = 600


def made(lake_of: MakeLake, exposed: float, **more: object) -> Lake:
    """Eight runs on N samples; members' phi is higher by ``exposed``."""
    rng = np.random.default_rng(3)
    keep = rng.permuted(np.tile(np.arange(8) < 4, (N, 1)), axis=1).T
    return lake_of(keep, rng.normal(0, 1, keep.shape) + exposed * keep, **more)


@pytest.fixture(scope="module")
def null(lake_of: MakeLake) -> Lake:
    return made(lake_of, 0.0)


@pytest.fixture(scope="module")
def leaking(lake_of: MakeLake) -> Lake:
    return made(lake_of, 4.0)


def verdict(lake: Lake, rule: Rule, target: str | None = None) -> Verdict:
    with open_source(lake, "tests", target) as source:
        (found,) = check_rules(source, [rule])
    return found


def scored(lake_of: MakeLake, score: np.ndarray, member: np.ndarray) -> Lake:
    """A lake in which the score of `loss` is the one given: an infinite loss has no score."""
    return lake_of(member[None], np.zeros((1, len(member))), loss=-score[None])


def test_a_null_model_passes_and_a_leaking_one_fails(null: Lake, leaking: Lake) -> None:
    rules = [Rule("auc", "lira", 0.6), Rule("tpr", "lira", 0.25, fpr=0.1)]
    for lake, status in ((null, "pass"), (leaking, "FAIL")):
        with open_source(lake, "tests") as source:
            found = check_rules(source, rules)
        assert [one.status for one in found] == [status, status]
        assert passed(found) is (status == "pass")
        for one in found:
            assert one.metric is not None
            assert one.compared == one.metric.ci_high


def test_the_upper_end_decides_unless_the_value_is_asked_for(null: Lake) -> None:
    by_value = verdict(null, Rule("auc", "loss", 0.56, compare="value"))
    by_upper = verdict(null, Rule("auc", "loss", 0.56))
    assert (by_value.status, by_upper.status) == ("pass", "FAIL")
    assert "more records would tell" in by_upper.reason
    assert by_upper.metric is not None
    # A limit that is met exactly is kept.
    assert by_upper.metric.ci_high is not None
    assert verdict(null, Rule("auc", "loss", by_upper.metric.ci_high)).status == "pass"


@pytest.mark.parametrize("compare", ["upper", "value"])
def test_an_fpr_that_the_non_members_cannot_resolve_fails(null: Lake, compare: str) -> None:
    found = verdict(null, Rule("tpr", "lira", 1.0, fpr=0.001, compare=compare))  # type: ignore[arg-type]
    assert found.status == "UNRESOLVED"
    assert "cannot resolve an FPR of 0.001" in found.reason
    assert not passed([found])


@pytest.mark.parametrize("effect", [0.0, 9.0])
@pytest.mark.parametrize("others", [49, 50, 249, 250, 499, 500])
def test_no_limit_on_a_rate_that_too_few_non_members_carry(
    lake_of: MakeLake, others: int, effect: float
) -> None:
    """From five expected above the threshold on, as the verdict has it; before, whatever the limit and the scores."""
    member = np.arange(others + 60) < 60
    score = np.random.default_rng(others).normal(size=len(member)) + effect * member
    with open_source(lake_of(member[None], score[None]), "tests") as source:
        for fpr, limit, compare in product((0.01, 0.02, 0.1), (0.0, 1.0), ("upper", "value")):
            (found,) = check_rules(source, [Rule("tpr", "loss", limit, fpr=fpr, compare=compare)])  # type: ignore[arg-type]
            if others * fpr < 5 - 1e-9:
                assert found.status == "UNRESOLVED"
                assert f"{others} non-members cannot resolve an FPR of {fpr:g}" in found.reason
            else:
                assert found.status != "UNRESOLVED"


def test_what_the_lake_does_not_hold_fails(lake_of: MakeLake) -> None:
    alone = lake_of(np.arange(40)[None] % 2 == 0, np.zeros((1, 40)))
    for rule in (
        Rule("auc", "lira", 1.0),
        Rule("epsilon", "lira", 100.0, inclusion="coins"),
        Rule("share", "memorization", 1.0, above=0.5),
        Rule("auc", "lt-iqr", 1.0),
    ):
        found = verdict(alone, rule)
        assert found.status == "UNRESOLVED"
        assert found.metric is None
        assert found.reason
    everyone = lake_of(np.ones((1, 40), bool), np.zeros((1, 40)))
    assert verdict(everyone, Rule("auc", "loss", 1.0)).status == "UNRESOLVED"
    no_target = lake_of(np.arange(40)[None] % 2 == 0, np.zeros((1, 40)), roles=["shadow"])
    assert verdict(no_target, Rule("auc", "loss", 1.0)).status == "UNRESOLVED"
    assert not passed([])


def test_records_without_a_score_count_as_they_hurt_most(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(0)
    member = np.arange(1000) % 2 == 0
    score = rng.normal(size=1000)
    rule = Rule("auc", "loss", 0.56)
    whole = verdict(scored(lake_of, score, member), rule)
    assert whole.status == "pass"
    gaps = score.copy()
    gaps[:200] = -math.inf  # an infinite loss has no score
    found = verdict(scored(lake_of, gaps, member), rule)
    assert found.status == "FAIL"
    assert found.metric is not None
    # The area when the 100 members without a score rank above all and the 100 others below, pair by pair.
    kept = score[200:]
    inside, outside = kept[member[200:]], kept[~member[200:]]
    pairs = (inside[:, None] > outside[None]).sum()
    assert found.metric.value == pytest.approx((pairs + 500 * 500 - 400 * 400) / 500**2, abs=1e-6)
    assert any("200 records without a score" in note for note in found.notes)
    tpr = verdict(scored(lake_of, gaps, member), Rule("tpr", "loss", 1.0, fpr=0.1))
    assert tpr.metric is not None
    threshold = np.sort(np.append(outside, np.full(100, -9.0)))[-51]
    assert tpr.metric.value == pytest.approx((100 + (inside > threshold).sum()) / 500, abs=1e-6)


def test_only_one_side_scored_is_not_told(lake_of: MakeLake) -> None:
    member = np.arange(100) % 2 == 0
    score = np.where(member, np.linspace(-1, 0, 100), -math.inf)
    assert verdict(scored(lake_of, score, member), Rule("auc", "loss", 1.0)).status == "UNRESOLVED"


def test_a_score_that_never_varies_does_not_pass(lake_of: MakeLake) -> None:
    lake = scored(lake_of, -np.ones(1000), np.arange(1000) % 2 == 0)
    for rule in (Rule("auc", "loss", 0.6), Rule("tpr", "loss", 0.3, fpr=0.1)):
        assert verdict(lake, rule).status == "FAIL"


def test_a_score_upside_down_does_not_pass(lake_of: MakeLake) -> None:
    member = np.arange(400) % 2 == 0
    score = -np.random.default_rng(0).random(400) - member
    found = verdict(scored(lake_of, score, member), Rule("auc", "loss", 0.6))
    assert found.status == "UNRESOLVED"
    assert "below non-members" in found.reason


def test_the_share_of_memorized_records(null: Lake) -> None:
    # Estimates above the level are mostly chance where few runs are; the gate says what memorization itself does.
    frame = null_frame(null)
    rule = Rule("share", "memorization", 1.0, above=0.25)
    found = verdict(null, rule)
    known = frame.filter(pl.col("score").is_not_null())
    unknown = len(frame) - len(known)
    (expected,) = shares_above(known, "correct", [0.25])
    assert found.metric is not None
    assert expected.value is not None
    assert expected.ci_high is not None
    assert found.metric.n == N
    assert found.metric.value == pytest.approx((expected.value * len(known) + unknown) / N)
    assert found.metric.ci_high == pytest.approx((expected.ci_high * len(known) + unknown) / N)


@pytest.mark.parametrize("level", [0.4, 0.8])
def test_the_gate_has_the_share_and_interval_that_memorization_prints(null: Lake, level: float) -> None:
    with open_source(null, "tests") as source:
        metrics = run_analysis(source, find("memorization")).metrics
    (printed,) = (m for m in metrics if m.metric == "share_above" and m.parameters["threshold"] == level)
    found = verdict(null, Rule("share", "memorization", 1.0, above=level)).metric
    assert found is not None
    if found.n == printed.n:  # every record has a score
        assert (found.value, found.ci_low, found.ci_high) == (printed.value, printed.ci_low, printed.ci_high)
    else:
        assert found.ci_high is not None
        assert printed.ci_high is not None
        assert found.ci_high >= printed.ci_high


def null_frame(lake: Lake) -> pl.DataFrame:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find("memorization")).scores.frame


def test_of_epsilon_the_lower_bound_is_compared(null: Lake, leaking: Lake) -> None:
    assert verdict(null, Rule("epsilon", "lira", 1.0, inclusion="coins")).status == "pass"
    found = verdict(leaking, Rule("epsilon", "lira", 1.0, inclusion="coins"))
    assert found.status == "FAIL"
    assert found.metric is not None
    assert found.metric.metric == "epsilon_lower"
    assert found.compared == found.metric.value == found.metric.ci_low
    estimate = verdict(leaking, Rule("epsilon", "lira", 1.0, inclusion="coins", compare="value")).metric
    assert estimate is not None
    assert estimate.metric == "epsilon_estimate"
    assert any("passing says that this one found no more" in note for note in found.notes)
    # 600 guesses that are all right show ln(s / (1 - s)) with s = 0.05 ** (1 / 600) at most, and less after correction.
    share = 0.05 ** (1 / N)
    most = math.log(share / (1 - share))
    beyond = verdict(null, Rule("epsilon", "lira", most, inclusion="coins"))
    assert beyond.status == "UNRESOLVED"
    assert "no epsilon above" in beyond.reason


def test_an_epsilon_that_rests_on_an_unknown_draw_is_not_told(leaking: Lake) -> None:
    """A gate failed on pure noise where 70% were members, taken for fair coins."""
    found = verdict(leaking, Rule("epsilon", "lira", 1.0))
    assert (found.status, found.metric) == ("UNRESOLVED", None)
    assert "not claimed, because the lake does not know how" in found.reason
    assert verdict(leaking, Rule("epsilon", "lira", 1.0, inclusion="random")).status == "FAIL"


def test_a_score_that_is_no_attack_is_told(null: Lake) -> None:
    found = verdict(null, Rule("auc", "memorization", 1.0))
    assert any("claims no membership" in note for note in found.notes)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"metric": "f1", "score": "lira", "max": 0.5}, "no metric 'f1'"),
        ({"metric": "auc", "score": "lyra", "max": 0.5}, "lyra"),
        ({"metric": "auc", "score": "lira[mode=x]", "max": 0.5}, "mode"),
        ({"metric": "auc", "score": "lira", "max": math.nan}, "max"),
        ({"metric": "auc", "score": "lira", "max": "0.5"}, "max"),
        ({"metric": "auc", "score": "lira", "max": True}, "max"),
        ({"metric": "auc", "score": "lira", "max": 60}, "between 0 and 1"),
        ({"metric": "epsilon", "score": "lira", "max": -1}, "at 0 or above"),
        ({"metric": "tpr", "score": "lira", "max": 0.5}, "fpr"),
        ({"metric": "tpr", "score": "lira", "max": 0.5, "fpr": 1.0}, "fpr"),
        ({"metric": "auc", "score": "lira", "max": 0.5, "fpr": 0.1}, "belongs to a limit of tpr"),
        ({"metric": "share", "score": "lira", "max": 0.5}, "above"),
        ({"metric": "auc", "score": "lira", "max": 0.5, "compare": "lower"}, "upper or value"),
        ({"metric": "auc", "score": 3, "max": 0.5}, "score"),
    ],
)
def test_rules_that_make_no_sense(rule: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        Rule(**rule)  # type: ignore[arg-type]


def test_rules_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "privacy.toml"
    path.write_text(
        '[[rule]]\nmetric = "tpr"\nscore = "lira"\nfpr = 0.01\nmax = 0.02\n'
        '[[rule]]\nmetric = "share"\nscore = "memorization"\nabove = 0.5\nmax = 0\ncompare = "value"\n'
    )
    assert load_rules(path, "upper") == (
        Rule("tpr", "lira", 0.02, fpr=0.01),
        Rule("share", "memorization", 0, above=0.5, compare="value"),
    )
    for text, said in (
        ("", "tables"),
        ("rule = []", "tables"),
        ("rule = [1]", "rule 1 is no table"),
        ("max = 1\n[[rule]]", "nothing else"),
        ('[[rule]]\nmetric = "auc"\nscore = "lira"\nmaximum = 0.5', "no 'maximum'"),
        ('[[rule]]\nmetric = "auc"\nscore = "lira"', "lacks 'max'"),
        ('[[rule]]\nmetric = "auc"\nscore = "lira"\nmax = nan', "rule 1: max"),
        ("[[rule", "cannot read"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidOption, match=said):
            load_rules(path, "upper")
    with pytest.raises(InvalidOption, match="cannot read"):
        load_rules(tmp_path / "none.toml", "upper")


def test_lines_json_and_junit(null: Lake) -> None:
    rules = [Rule("auc", "loss", 0.7), Rule("auc", "loss", 0.2), Rule("tpr", "loss", 0.5, fpr=1e-4)]
    with open_source(null, "tests") as source:
        found = check_rules(source, rules)
    lines = gate_lines(found)
    assert [line.split()[0] for line in lines] == ["pass", "FAIL", "UNRESOLVED"]
    assert "auc of loss <= 0.7" in lines[0]
    told = json.loads(gate_json(found, "tests", "run-0000"), parse_constant=pytest.fail)
    assert (told["passed"], told["target"]) == (False, "run-0000")
    assert [rule["status"] for rule in told["rules"]] == ["pass", "FAIL", "UNRESOLVED"]
    assert told["rules"][2]["value"] is None
    assert told["rules"][1]["compared"] == told["rules"][1]["ci_high"]
    suite = ElementTree.fromstring(gate_junit(found, "tests", "run-0000")).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    assert [[child.tag for child in case] for case in suite] == [
        ["system-out"],
        ["failure", "system-out"],
        ["error", "system-out"],
    ]


def test_junit_is_well_formed_whatever_is_said() -> None:
    odd = 'a <b> & "c"\x1b[31m \ud800 \x00 ]]>\nnext'
    found = Verdict(Rule("auc", "lira", 0.5), "UNRESOLVED", None, None, odd, (odd,))
    text = gate_junit([found], odd, "")
    error = ElementTree.fromstring(text.encode()).find(".//error")
    assert error is not None
    assert '<b> & "c"\ufffd[31m \ufffd \ufffd ]]>' in (error.get("message") or "")
    assert len(gate_lines([found])) == 1


def test_the_command(null: Lake, leaking: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = [
        "--max-tpr",
        "0.3",
        "--at-fpr",
        "0.1",
        "--max-auc",
        "0.6",
        "--max-epsilon",
        "1",
        "--inclusion",
        "coins",
    ]
    files = ["--json", str(tmp_path / "new" / "gate.json"), "--junit", str(tmp_path / "gate.xml")]
    assert _gate(null, *limits, *files) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["pass"] * 3
    assert json.loads((tmp_path / "new" / "gate.json").read_text())["passed"] is True
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().tag == "testsuites"
    assert _gate(leaking, *limits, "--score", "lira", "--score", "loss", "--json", "-") == 1
    told = json.loads(capsys.readouterr().out)
    assert {rule["status"] for rule in told["rules"]} == {"FAIL"}
    assert len(told["rules"]) == 6
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nmetric = "auc"\nscore = "loss"\nmax = 0.56\n')
    assert _gate(null, "--rules", str(rules)) == 1
    assert _gate(null, "--rules", str(rules), "--compare", "value") == 0
    assert _gate(null, "--max-share-memorized", "1", "--above", "0.5", "--rules", str(rules)) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1 + 1 + 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no rule"),
        (["--max-tpr", "0.1"], "--at-fpr"),
        (["--at-fpr", "0.1", "--max-auc", "0.5"], "--max-tpr"),
        (["--max-share-memorized", "0.1"], "--above"),
        (["--above", "0.1", "--max-auc", "0.5"], "--max-share-memorized"),
        (["--delta", "0.1", "--max-auc", "0.5"], "--max-epsilon"),
        (["--max-auc", "nan"], "max"),
        (["--max-auc", "0.5", "--score", "lyra"], "lyra"),
        (["--max-auc", "0.5", "--compare", "lower"], "lower"),
        (["--rules", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    null: Lake, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gate(null, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


def _gate(lake: Lake, *arguments: str) -> int:
    try:
        return _run(["analyze", "gate", "--lake", lake.path, *arguments], debug=False)
    except SystemExit as end:
        return int(end.code or 0)


def test_the_tail_stands_in_where_there_are_no_shadow_models(
    lake_of: MakeLake, null: Lake, leaking: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = ["--max-tail", "0.2", "--at-fpr", "0.1"]
    assert _gate(null, *limit) == 0
    shown = capsys.readouterr()
    assert "tail of loss at fpr 0.1 <= 0.2" in shown.out
    assert "estimates what LiRA finds" in shown.err
    assert _gate(leaking, *limit) == 1
    fine = verdict(leaking, Rule("tail", "loss", 0.5, fpr=0.001))
    assert fine.status == "UNRESOLVED"
    assert "members cannot resolve an FNR of 0.001" in fine.reason
    # What has no score counts as it would hurt most: a non-member's loss beyond all others.
    rng = np.random.default_rng(0)
    member = np.arange(N) < N // 2
    score = rng.normal(0, 1, N)
    whole = verdict(scored(lake_of, score, member), Rule("tail", "loss", 0.5, fpr=0.1))
    score[-60:] = -np.inf
    gaps = verdict(scored(lake_of, score, member), Rule("tail", "loss", 0.5, fpr=0.1))
    assert whole.metric is not None
    assert gaps.metric is not None
    assert whole.metric.value is not None
    assert gaps.metric.value > max(0.2, whole.metric.value)
