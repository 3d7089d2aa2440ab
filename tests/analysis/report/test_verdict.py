"""The verdict of made lakes, whose truth is known, read aloud: every sentence against numbers counted anew; and its rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.analysis.commands import analyze_group
from losslake.analysis.evaluations.likeness import SHIFTED, UNLIKE
from losslake.analysis.evaluations.shifted_members import LEANING, VOID
from losslake.analysis.report.command import report as report_command
from losslake.analysis.report.data import Report
from losslake.analysis.report.gather import gather
from losslake.analysis.report.parts import Table
from losslake.analysis.report.sections.attacks import IN_COLOUR, attacks, matter_most
from losslake.analysis.report.sections.records import exposed
from losslake.analysis.report.verdict import Judgement, as_attack, explanation, judge
from losslake.analysis.report.words import Verdict, luck, title_of, verdict
from losslake.analysis.report.write import write_report
from losslake.analysis.scores import Scores
from losslake.analysis.statistics.roc import evaluate
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

LAKES: dict[str, dict[str, Any]] = {
    "noise": {"signal": 0.0},
    "few non-members": {"signal": 0.0, "samples": 40, "left_out": 20},
    "few shadows": {"signal": 0.0, "shadows": 4, "seed": 1},
    "shifted members": {"signal": 0.0, "shift": 2.0},
    "strong leak": {"signal": 5.0},
}


def make(
    path: Path,
    *,
    signal: float,
    samples: int = 700,
    shadows: int = 12,
    shift: float = 0.0,
    left_out: int | None = None,
    seed: int = 0,
    unscored: int = 0,
) -> Lake:
    """A lake of fleet and target; ``signal`` is what membership adds to phi. Members are as easy as the others but for ``shift``.

    ``left_out`` non-members there are of the target, half of all by default. No shadow model trains on the first ``unscored``
    samples, nor is seen without them.
    """
    rng = np.random.default_rng(seed)
    lake = Lake.open(path, create=True)
    lake.create_experiment("e", pa.table({"label": np.arange(samples) % 3}))
    ids = np.arange(samples)
    others = samples // 2 if left_out is None else left_out
    mine = np.ones(samples, bool)
    mine[rng.choice(samples, others, replace=False)] = False
    easy = rng.normal(0, 1, samples) + shift * mine
    for run in ["target", *(f"shadow-{i:02d}" for i in range(shadows))]:
        members = mine if run == "target" else rng.random(samples) < 0.5
        with lake.write_run("e", run, members=members) as writer:
            phi = 1 + easy + signal * members + rng.normal(0, 1, samples)
            there = ids if run == "target" else ids[unscored:]
            writer.append_signals(
                there,
                np.zeros(len(there), np.int16),
                (ids % 3)[there],
                loss=np.logaddexp(0, -phi)[there].astype(np.float32),
                phi=phi[there].astype(np.float32),
                correct=(phi > 0)[there],
            )
            writer.commit(RunInfo(role="target" if run == "target" else "shadow"))
    return lake


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Lake, Report]]:
    found = {}
    for name, options in LAKES.items():
        lake = make(tmp_path_factory.mktemp("made") / "lake", **options)
        found[name] = (lake, gather(lake, "e"))
    return found


def share(text: str) -> float:
    return float(text.rstrip("%")) / 100


def count(text: str) -> int:
    return int(text.replace(",", ""))


def read_aloud(report: Report, said: Verdict) -> set[str]:
    """Check every sentence of a verdict against its scores; the kinds of sentences that it has."""
    judged = report.judgement
    assert judged.attack is not None
    frame = judged.attack.scored.scores.frame
    everybody = frame.filter(pl.col("member").is_not_null())
    known = everybody.filter(pl.col("score").is_not_null())
    inside = known.filter("member")["score"].to_numpy()
    outside = np.sort(known.filter(~pl.col("member"))["score"].to_numpy())[::-1]
    kinds = set()
    text = said.text
    # Full stops inside of numbers end no sentence.
    for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", text):
        if found := re.match(
            r"An attacker \(LiRA with (\d+) shadow models\) names ([\d,]+) of the ([\d,]+) training records while wrongly accusing "
            r"([\d,]+) of ([\d,]+) others: ([\d.]+%) \(([\d.]+)–([\d.]+)%\), at a false-positive rate of ([\d.]+%), where guessing",
            sentence,
        ):
            kinds.add("named")
            at = share(found[9])
            assert len(outside) * at >= 5 * (1 - 1e-9)  # resolved
            edge = outside[int(len(outside) * at + 1e-9)]
            assert int(found[1]) == sum(run.info.role == "shadow" for run in report.runs)
            assert count(found[2]) == (inside > edge).sum()
            assert count(found[3]) == everybody["member"].sum()
            assert count(found[4]) == (outside > edge).sum()
            assert count(found[5]) == len(outside)
            assert share(found[6]) == pytest.approx((inside > edge).mean(), abs=6e-3)
            assert share(found[7]) <= share(found[6]) + 5e-3
            assert share(found[6]) <= share(found[8]) + 5e-3
        elif found := re.match(r"Shown one member .* in (?:over )?([\d.]+%) of cases", sentence):
            kinds.add("area")
            below = (inside[:, None] > outside[None]).mean() + (inside[:, None] == outside[None]).mean() / 2
            assert share(found[1]) == pytest.approx(below, abs=6e-3)
            assert (share(found[1]) == 1) == (below == 1)
        elif found := re.match(r"With ([\d,]+) non-members none of the asked .* is ([\d.]+%)", sentence):
            kinds.add("not resolved")
            assert count(found[1]) == len(outside)
            assert share(found[2]) == pytest.approx(5 / len(outside), abs=6e-3)
            assert all(len(outside) * at < 5 for at in report.fprs)
        elif sentence.startswith("So nobody can say which"):
            assert "not resolved" in kinds
        elif sentence.startswith("So few records can show the absence of nothing"):
            kinds.add("too few")
            assert len(inside) < 50 or all(len(outside) * at < 5 for at in report.fprs)
        elif sentence.startswith("That is no better than guessing."):
            kinds.add("none")
            assert judged.attack.auc.ci_low < 0.5 < judged.attack.auc.ci_high  # type: ignore[operator]
        elif found := re.match(
            r"LiRA with (\d+) shadow models names at most ([\d.]+%) of the members", sentence
        ):
            kinds.add("at most")
            assert judged.tpr is not None
            assert int(found[1]) == len(report.shadows)
            assert share(found[2]) == pytest.approx(judged.tpr.ci_high, abs=6e-3)
            assert share(found[2]) >= (inside > edge).mean()
        elif found := re.match(
            r"That alone is no better than guessing, but (?:the AUC of (.+?) is|(.+?) names) ", sentence
        ):
            kinds.add("another")
            assert judged.attack.auc.ci_low < 0.5  # type: ignore[operator]
            assert (found[1] or found[2]) in {attack.label for attack in report.attacks}
        elif sentence.startswith("No attack that is better compares with shadow models"):
            kinds.add("may be a shift")
            assert not {one.label for one in judged.better} & {"LiRA", "LiRA offline", "RMIA"}
            assert said.title == "Signs of a leak, or of members that are unlike the others"
        elif sentence.startswith("Members and non-members differ by themselves"):
            kinds.add("a shift")
            assert SHIFTED in {name for name, _ in report.notes}
            assert any(one.auc.ci_low > 0.55 for one in report.attacks)  # type: ignore[operator]
        elif sentence.endswith("among so many numbers, chance explains that."):
            kinds.add("by chance")
        elif found := re.match(r"Of the training records ([\d,]+) ha", sentence):
            kinds.add("without a score")
            assert count(found[1]) == everybody.filter("member")["score"].null_count() > 0
        else:
            raise AssertionError(f"nobody checks: {sentence}")
    return kinds


@pytest.mark.parametrize(
    ("name", "level", "kinds"),
    [
        ("noise", "none found", {"named", "without a score", "none", "at most", "area"}),
        ("few non-members", "cannot tell", {"not resolved", "too few", "area"}),
        ("few shadows", "none found", {"named", "without a score", "none", "at most", "area"}),
        ("shifted members", "none found", {"without a score", "named", "none", "at most", "a shift", "area"}),
        ("strong leak", "clear leak", {"named", "without a score", "area"}),
    ],
)
def test_made_lakes_read_aloud(
    told: dict[str, tuple[Lake, Report]], name: str, level: str, kinds: set[str]
) -> None:
    _, report = told[name]
    said = verdict(report)
    assert report.judgement.level == level
    assert read_aloud(report, said) - {"by chance"} == kinds
    if level == "clear leak":
        found = re.fullmatch(
            r"Clear leak: (\d+) of (\d+) training records named, about (\d+) of them by luck", said.title
        )
        assert found
        fpr = report.judgement.fpr
        assert fpr is not None
        assert int(found[3]) == round(fpr * int(found[2]))
        assert len(report.judgement.named) == int(found[1]) > 2 * int(found[3])
    else:
        assert "named" not in said.title
    if level in ("none found", "cannot tell"):
        # Nothing in the table below does better than guessing once the number of looks is allowed for.
        assert report.judgement.better == ()
    assert said.next_steps


def test_what_a_shift_shows_is_not_drawn_as_a_leak(told: dict[str, tuple[Lake, Report]]) -> None:
    _, report = told["shifted members"]
    aside = {one.label for one in report.attacks if one.scored.name in (*VOID, *LEANING)}
    found = {one.label for one in report.attacks if (one.auc.ci_low or 0) > 0.5}
    assert aside & found  # they would be in colour
    assert not aside & set(matter_most(report))
    section = attacks(report)
    assert section is not None
    table = next(part for part in section.parts if isinstance(part, Table))
    told_aside = table.caption.partition(
        "differ by themselves, and what these show is that difference, or partly: "
    )[2]
    assert set(told_aside.removesuffix(".").split(", ")) == aside
    _, leaking = told["strong leak"]
    assert len(matter_most(leaking)) == IN_COLOUR
    section = attacks(leaking)
    assert section is not None
    assert (
        "differ by themselves" not in next(part for part in section.parts if isinstance(part, Table)).caption
    )


def test_levels_are_the_same_in_page_json_and_terminal(
    told: dict[str, tuple[Lake, Report]], tmp_path: Path
) -> None:
    for name, (lake, report) in told.items():
        said, judged = verdict(report), report.judgement
        write_report(lake, "e", tmp_path / "report.json")
        written = json.loads((tmp_path / "report.json").read_text())["verdict"]
        assert written["title"] == said.title
        assert (written["level"], written["rule"]) == (judged.level, judged.rule), name
        assert written["resolved_fpr"] == judged.fpr
        if judged.fpr is not None:
            assert written["named"] == len(judged.named)
            assert written["expected_by_luck"] == pytest.approx(
                judged.fpr * (written["members"] - written["without_score"]["members"])
            )
        assert [step["command"] for step in written["what_to_do"]] == [
            step.command or None for step in said.next_steps
        ]
        out = str(tmp_path / "again.html")
        ran = CliRunner().invoke(
            report_command, ["--lake", str(lake.path), "--experiment", "e", "--out", out]
        )
        assert ran.exit_code == 0
        assert f"verdict: {said.title}. {said.text}" in ran.stderr
        assert ran.stdout == f"{out}\n"  # what pipes is the file alone
        page = Path(out).read_text()
        assert all(step.command.split(" --")[0] in page for step in said.next_steps)


def test_commands_of_what_to_do_are_commands(told: dict[str, tuple[Lake, Report]]) -> None:
    from losslake.cli import cli

    for _, report in told.values():
        for step in verdict(report).next_steps:
            if not step.command:
                continue
            words = step.command.split()
            assert words[0] == "losslake"
            command = words[1 : next(i for i, word in enumerate(words) if word.startswith("--"))]
            command = [word for word in command if word not in ("lira", "loss", "rmia")]
            help_text = CliRunner().invoke(cli, [*command, "--help"])
            assert help_text.exit_code == 0, step.command
            for option in (word for word in words if word.startswith("--")):
                assert option in help_text.output, step.command


def test_terminal_calls_nobody_exposed_by_chance(told: dict[str, tuple[Lake, Report]]) -> None:
    for name, heading, level in (
        ("noise", "highest scores; explained by chance", "No leak found by LiRA with 12 shadow models"),
        ("strong leak", "most exposed", "Clear leak: "),
    ):
        ran = CliRunner().invoke(
            analyze_group, ["lira", "--lake", str(told[name][0].path), "--experiment", "e"]
        )
        assert ran.exit_code == 0
        assert f"\n{heading}\n" in ran.stdout
        assert f"verdict: {level}" in ran.stderr


def test_records_without_a_score_are_told(tmp_path: Path) -> None:
    report = gather(make(tmp_path / "lake", signal=5.0, unscored=40), "e")
    assert "without a score" in read_aloud(report, verdict(report))
    assert report.judgement.members == 350
    assert report.judgement.members_without_score == 350 - report.judgement.attack.curve.members > 0  # type: ignore[union-attr]


def scored(name: str, members: np.ndarray, others: np.ndarray) -> Any:
    score = np.concatenate([members, others])
    member = np.arange(len(score)) < len(members)
    frame = pl.DataFrame({"sample_id": np.arange(len(score)), "member": member, "score": score})
    return as_attack(name, Scores(frame), evaluate(score, member, (0.001, 0.01, 0.1)))


def test_more_data_never_weaken_the_verdict() -> None:
    rng = np.random.default_rng(3)
    members, others = rng.normal(3, 1, 4_000), rng.normal(0, 1, 4_000)
    order = ["cannot tell", "none found", "signs", "clear leak"]
    levels = []
    for n in (20, 49, 50, 51, 100, 499, 500, 501, 998, 1_000, 1_001, 3_000, 4_000):
        judged = judge([scored("lira", members[:n], others[:n])])
        assert judged.fpr is None or n * judged.fpr >= 5 * (1 - 1e-9)
        levels.append(order.index(judged.level))
    assert levels == sorted(levels)
    assert levels[-1] == 3


def test_the_leading_attack_is_chosen_by_its_name() -> None:
    rng = np.random.default_rng(4)
    weak = scored("lira", rng.normal(0, 1, 500), rng.normal(0, 1, 500))
    strong = scored("loss", rng.normal(4, 1, 500), rng.normal(0, 1, 500))
    judged = judge([strong, weak])
    assert judged.attack is weak
    assert (judged.level, judged.rule) == ("signs", "another attack")
    assert {one.label for one in judged.better} == {"loss attack"}
    alone = judge([strong])
    assert alone.level == "signs"  # never a clear leak: easier members would look the same


def test_luck_is_counted_at_the_rate_that_is_reached() -> None:
    """With ties the threshold leaves fewer non-members above it than were allowed, and no more members than them by luck."""
    rng = np.random.default_rng(9)
    for accused, tied in ((0, 60), (12, 60), (60, 0), (99, 2)):
        others = np.concatenate(
            [rng.normal(9, 1, accused), np.full(tied, 1.0), rng.normal(-9, 1, 1_000 - accused - tied)]
        )
        members = np.concatenate([rng.normal(12, 0.1, 300), rng.normal(-9, 1, 500)])
        attack = scored("lira", members, others)
        judged = judge([attack])
        assert judged.fpr is not None
        allowed = int(judged.fpr * 1_000 + 1e-9)
        above = min(accused, allowed)
        assert (judged.accused, judged.reached) == (above, above / 1_000)
        expected = above / 1_000 * 800
        said = f"about {round(expected)} of them by luck" if expected else "hardly any of them by luck"
        assert luck(judged) == said
        assert said in title_of(judged, 16)
        # Members like the others, tied with them, are above the threshold as often as these.
        alike = judge([scored("lira", others[rng.integers(0, 1_000, 100_000)], others)])
        rate = alike.reached
        assert rate is not None
        assert abs(len(alike.named) - rate * 100_000) <= 5 * np.sqrt(rate * 100_000)


def test_an_attack_that_does_without_shadow_models_does_not_say_there_are_none() -> None:
    rng = np.random.default_rng(2)
    judged = judge([scored("loss", rng.normal(0, 1, 500), rng.normal(0, 1, 500))])
    assert judged.rule == "no shadow models"
    assert title_of(judged, 0) == "Cannot tell: no attack with shadow models was made"
    assert title_of(judged, 16) == "Cannot tell: loss attack makes no use of the 16 shadow models"


@pytest.mark.parametrize("name", ["loss", "lira"])
def test_scores_that_tie_show_no_absence(name: str) -> None:
    """Nor a leak; and a rate that the ties leave is judged as any other."""
    rng = np.random.default_rng(2)
    same = judge([scored(name, np.zeros(500), np.zeros(500))])
    assert (same.level, same.rule) == ("cannot tell", "one score")
    by = "loss attack" if name == "loss" else "LiRA with 16 shadow models"
    assert title_of(same, 16) == f"Cannot tell: {by} gives all records the same score"
    assert explanation(same) == "the order of the records, as all have the same score"

    def some(shares: tuple[float, float]) -> Judgement:
        """Of members and others these shares have a score above the one that most of them have."""
        above = [np.where(rng.permutation(500) < 500 * share, rng.random(500), 0) for share in shares]
        return judge([scored(name, *above)])

    few = some((0.004, 0.004))
    expected = "no shadow models" if name == "loss" else "ties"
    assert (few.level, few.rule, few.accused) == ("cannot tell", expected, 2)
    if name == "lira":
        assert title_of(few, 4).endswith(
            "gives too many records the same score for a false-positive rate of 1%"
        )
        assert (some((0.06, 0.06)).level, some((0.06, 0.06)).accused) == ("none found", 5)
        # Ties among the others are no obstacle where members lie above them.
        clear = some((1.0, 0.0))
        assert (clear.level, len(clear.named), clear.accused) == ("clear leak", 500, 0)


def test_one_record_is_too_few() -> None:
    rng = np.random.default_rng(2)
    few = judge([scored("lira", rng.normal(0, 1, 1), rng.normal(0, 1, 1))])
    assert title_of(few, 16) == "Cannot tell: 1 non-member is too few for a false-positive rate of 10%"
    few = judge([scored("lira", np.zeros(1), rng.normal(0, 1, 500))])
    assert title_of(few, 16) == "Cannot tell: 1 member with a score is too few"


def test_a_shift_between_members_and_others_is_no_sign() -> None:
    rng = np.random.default_rng(6)
    strong = scored("loss", rng.normal(4, 1, 500), rng.normal(0, 1, 500))
    offline = scored("lira[mode=offline]", rng.normal(4, 1, 500), rng.normal(0, 1, 500))
    for attack in (strong, offline):
        assert judge([attack]).level != "cannot tell"
        judged = judge([attack], warned=[SHIFTED])
        assert (judged.level, judged.rule, judged.better) == ("cannot tell", "members differ", ())
    online = scored("lira", rng.normal(4, 1, 500), rng.normal(0, 1, 500))
    judged = judge([online, strong], warned=[SHIFTED])
    assert (judged.level, judged.rule) == ("signs", "more than guessing")
    assert title_of(judged, 8) == "Signs of a leak, or of members that are unlike the others"


def test_models_unlike_the_target_show_no_absence() -> None:
    rng = np.random.default_rng(7)
    nothing = scored("lira", rng.normal(0, 1, 500), rng.normal(0, 1, 500))
    assert judge([nothing]).level == "none found"
    judged = judge([nothing], warned=[UNLIKE])
    assert (judged.level, judged.rule) == ("cannot tell", "models unlike")
    found = scored("lira", rng.normal(4, 1, 500), rng.normal(0, 1, 500))
    assert judge([found], warned=[UNLIKE]).level == "clear leak"


def test_noise_is_seldom_called_a_sign() -> None:
    rng = np.random.default_rng(5)
    names = ("lira", "lira[mode=offline]", "rmia", "loss", "attack-p", "attack-r", "attack-s", "calibrated")
    wrong, clear = 0, 0
    for _ in range(150):
        made = [scored(name, rng.normal(0, 1, 300), rng.normal(0, 1, 300)) for name in names]
        judged = judge(made)
        wrong += judged.level in ("signs", "clear leak")
        clear += judged.level == "clear leak"
    # At most 2.5% each for AUC and rate of the leading attack, and 2.5% for all others together: 7.5%.
    assert wrong <= 20  # above that with probability 0.003 at 7.5%
    assert clear <= 3


def test_cautions_call_attacks_as_the_page_does(told: dict[str, tuple[Lake, Report]]) -> None:
    caution = next(one for one in verdict(told["shifted members"][1]).trust if one.name == SHIFTED)
    assert (
        "void: loss attack, attack P, KDE attack, entropy attack, shadow network, trajectory attack;"
        in caution.text
    )
    assert (
        "in RMIA, residual attack, attack R, attack S, calibrated loss, LiRA offline. LiRA with"
        in caution.text
    )
    few = next(one for one in verdict(told["few non-members"][1]).trust if "non-members" in one.name)
    assert few.text.endswith("None of the asked rates can be resolved.")


def test_the_tail_is_told_of_losses_where_no_attack_compares_with_shadow_models(tmp_path: Path) -> None:
    lake = make(tmp_path / "alone", signal=2.0, shadows=0)
    report = gather(lake, "e")
    text = verdict(report).text
    found = re.search(
        r"By the tail of its losses, .* name about ([\d.]+%) .* at a false-positive rate of ([\d.]+%)", text
    )
    assert found
    # "it" of the sentence on the area is the attack of those before.
    assert text.index("Shown one member and one non-member, it tells") < found.start()
    score, member = next(one.scored.scores.arrays() for one in report.attacks if one.scored.name == "loss")
    inside, outside = np.sort(score[member]), score[~member]
    edge = inside[int(len(inside) * share(found[2]) + 1e-9)]
    assert share(found[1]) == pytest.approx((outside < edge).mean(), abs=6e-3)

    both = make(tmp_path / "both", signal=2.0)
    kept = CliRunner().invoke(analyze_group, ["tail", "loss", "--lake", str(both.path), "--experiment", "e"])
    assert kept.exit_code == 0
    report = gather(both, "e")
    assert report.finding("tail") is not None
    assert "By the tail" not in verdict(report).text  # LiRA was made, and does not find what was estimated


def test_easy_records_are_not_called_the_most_exposed(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", signal=2.0, shadows=0)
    report = gather(lake, "e")
    assert (report.ranked_by, report.judgement.level) == ("loss attack", "signs")
    section = exposed(report)
    assert section is not None
    assert section.title == "The records with the highest scores"
    assert "those of easy records" in section.lead
    run = CliRunner().invoke(analyze_group, ["loss", "--lake", str(lake.path), "--experiment", "e"])
    assert "most exposed" not in run.output
    assert "highest scores; easy records" in run.output
    section = exposed(gather(make(tmp_path / "leak", signal=5.0), "e"))
    assert section is not None
    assert section.title == "The most exposed records"
