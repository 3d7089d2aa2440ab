"""`losslake analyze`: what goes to standard output and to files, exit codes, and one clear line on errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.analysis.evaluations.catalogue import EVALUATIONS
from losslake.analysis.scoring.catalogue import ANALYSES
from losslake.cli import _run, main
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Run a command line: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = _run([str(argument) for argument in arguments], debug=False)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    rng = np.random.default_rng(0)
    keep = rng.random((9, 60)) < 0.5
    keep[1:3], keep[3:5] = True, False
    keep[:, 7] = True
    phi, traces = rng.normal(0, 2, keep.shape) + keep, np.ma.masked_all((72, 6))
    traces[:60] = rng.random((60, 6))
    others = rng.normal(0, 2, (9, 12))  # population samples behind the 60 audited ones
    return lake_of(
        np.hstack([keep, np.zeros((9, 12), bool)]),
        np.hstack([phi, others]),
        population=np.arange(72) >= 60,
        traces={"loss": traces},
        logits=rng.normal(0, 2, (9, 72, 3)).astype(np.float16),
        features=rng.normal(0, 1, (9, 72, 4)).astype(np.float16),
    )


def assert_one_line(code: int, out: str, err: str, expected: int, text: str) -> None:
    assert code == expected
    assert out == ""
    lines = err.strip().splitlines()
    if expected == 1:
        assert len(lines) == 1
        assert lines[0].startswith("losslake: ")
    assert text in err
    assert "Traceback" not in err
    assert "unexpected" not in err


def test_list_names_every_analysis(shell: Shell) -> None:
    code, out, err = shell("analyze", "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [
        entry.name for entry in (*ANALYSES, *EVALUATIONS)
    ]
    assert all(len(line.split()) > 5 for line in out.splitlines())


@pytest.mark.parametrize("name", [entry.name for entry in (*ANALYSES, *EVALUATIONS)])
def test_help_answers(shell: Shell, name: str) -> None:
    code, out, err = shell("analyze", name, "--help")
    assert (code, err) == (0, "")
    assert f"losslake analyze {name} " in out


@pytest.mark.parametrize("name", [analysis.name for analysis in ANALYSES])
def test_metrics_on_standard_output_are_json_and_nothing_else(
    shell: Shell, everything: Lake, name: str
) -> None:
    where = ("--lake", everything.path, "--experiment", "tests")
    code, out, _ = shell("analyze", name, *where, "--fpr", 0.1, "--fpr", 0.001, "--metrics", "-")
    assert code == 0
    metrics = json.loads(out)
    auc, tenth, thousandth = metrics[:3]
    assert set(auc) == {"metric", "value", "ci_low", "ci_high", "n"}
    assert (auc["metric"], tenth["metric"], tenth["fpr"]) == ("auc", "tpr_at_fpr", 0.1)
    assert auc["ci_low"] <= auc["value"] <= auc["ci_high"]
    assert tenth["resolved"] is (tenth["non_members"] >= 10)
    value = tenth["ci_low"] if tenth["value"] is None else tenth["value"]
    assert (tenth["value"] is None) is not tenth["resolved"]
    assert 0 <= tenth["ci_low"] <= value <= tenth["ci_high"] <= 1
    assert (thousandth["value"], thousandth["resolved"]) == (None, False)


@pytest.mark.parametrize("name", ["spearman", "compare"])
def test_metrics_of_evaluations(shell: Shell, lake: Lake, tmp_path: Path, name: str) -> None:
    arguments = ("analyze", name, "lt-iqr", "trace[aggregate=std,last=4]", "lira", "--lake", lake.path)
    code, out, _ = shell(*arguments, "--metrics", "-")
    assert code == 0
    metrics = json.loads(out)
    pairs = {(one["first"], one["second"]) for one in metrics if one["metric"] == "spearman"}
    assert pairs == {
        ("lt-iqr", "trace[aggregate=std,last=4]"),
        ("lt-iqr", "lira"),
        ("trace[aggregate=std,last=4]", "lira"),
    }
    assert all({"value", "ci_low", "ci_high", "n"} <= set(one) for one in metrics)
    code, out, _ = shell(*arguments, "--metrics", tmp_path / "new" / "metrics.json")
    assert code == 0
    written = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert [one["metric"] for one in written] == [one["metric"] for one in metrics]
    assert out.startswith(f"{name}\n")
    assert "lt-iqr" in out


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_scores_to_a_file(shell: Shell, lake: Lake, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"scores.{kind}"
    code, out, err = shell("analyze", "lira", "--mode", "offline", "--lake", lake.path, "--out", path)
    assert code == 0
    assert out.startswith("lira[mode=offline]\n")
    assert "note: 1 of 60 samples have no score" in err
    frame = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}[kind](path)
    kept = lake.sql("select * from scores where variant = 'mode=offline' order by sample_id")
    assert frame.columns[:3] == ["sample_id", "member", "score"]
    assert frame["sample_id"].to_list() == list(range(60))
    assert frame["score"].is_null().to_list() == [n == 7 for n in range(60)]
    np.testing.assert_allclose(frame["score"].drop_nulls(), kept["score"].drop_nulls(), rtol=1e-12)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_options_reach_the_analysis(shell: Shell, lake: Lake) -> None:
    options = ("--source", "auto", "--aggregate", "slope", "--first", 1, "--last", 4)
    code, out, _ = shell("analyze", "trace", *options, "--lake", lake.path, "--target", "run-0000")
    assert code == 0
    assert out.startswith("trace[aggregate=slope,first=1,last=4]\n")
    trace = lake.sql("from traces order by sample_id")["loss"].to_list()
    expected = [-np.polyfit(range(4), row[1:5], 1)[0] for row in trace]
    kept = lake.sql(
        "select score from scores where variant = 'aggregate=slope,first=1,last=4' order by sample_id"
    )
    np.testing.assert_allclose(kept["score"], expected, rtol=1e-6, atol=1e-9)


def test_all_runs_everything(shell: Shell, everything: Lake) -> None:
    code, out, err = shell("analyze", "all", "--lake", everything.path, "--experiment", "tests", "--fpr", 0.1)
    assert code == 0
    titles = [line.split()[0] for line in out.splitlines()]  # a line each, and no more
    with_defaults = [evaluation.name for evaluation in EVALUATIONS if evaluation.default_scores]
    assert ": left out, " not in err
    assert "note: compare: without trajectory, attack-l, exposure, which score too few of the records" in err
    assert titles == [*(analysis.name for analysis in ANALYSES), "compare", *with_defaults]
    lira = next(line for line in out.splitlines() if line.startswith("lira "))
    metrics = json.loads(
        shell(
            "analyze",
            "lira",
            "--lake",
            everything.path,
            "--experiment",
            "tests",
            "--metrics",
            "-",
            "--fpr",
            0.1,
        )[1]
    )
    auc = next(metric for metric in metrics if metric["metric"] == "auc")
    assert (
        f"auc {auc['value']:.4f} ({auc['ci_low']:.4f} to {auc['ci_high']:.4f}), tpr_at_fpr fpr=0.1 " in lira
    )


def test_the_lake_comes_from_the_environment(
    shell: Shell, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSSLAKE_LAKE", lake.path)
    assert shell("analyze", "lt-iqr")[0] == 0


# --- what is wrong, in one line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("lirra",), "No such command 'lirra'. Did you mean 'lira'"),
        (("lt_iqr",), "Did you mean 'lt-iqr' or 'lira'?"),
        (("zzz",), "No such command 'zzz'. 'losslake analyze list' names them all."),
        (("lira", "--mode", "both"), "'both' is not one of 'online', 'offline'"),
        (("lira", "--depth", "3"), "No such option"),
        (("lira", "--fpr", "2"), "a false-positive rate lies between 0 and 1, not 2.0"),
        (("trace", "--first", "5", "--last", "2"), "epochs 5 to 2 are no range"),
        (("trace", "--first", "two"), "'two' is not a valid integer"),
        (("lira", "--out", "scores.xlsx"), "scores.xlsx does not say its format"),
        (("compare", "lt-iqr", "--against", "lirra"), "did you mean 'lira'?"),
        (
            ("spearman", "lira[mode=both]", "lt-iqr"),
            "mode of lira must be one of online, offline, not 'both'",
        ),
        (("spearman", "lira"), "two scores or more"),
        (("spearman",), "Missing argument"),
        (("lira", "--queries", "gaussian", "--mode", "offline"), "offline LiRA takes --queries mean"),
    ],
)
def test_wrong_usage_exits_2(shell: Shell, lake: Lake, arguments: tuple[str, ...], text: str) -> None:
    assert_one_line(*shell("analyze", *arguments, "--lake", lake.path), 2, text)


def test_a_lake_must_be_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSLAKE_LAKE", raising=False)
    assert_one_line(*shell("analyze", "lira"), 2, "Missing option '--lake'")


def test_missing_things_exit_1(shell: Shell, lake: Lake, tmp_path: Path) -> None:
    on = ("--lake", lake.path)
    assert_one_line(*shell("analyze", "lira", "--lake", tmp_path / "none"), 1, "there is no lake at")
    assert_one_line(*shell("analyze", "lira", *on, "--experiment", "x"), 1, "there is no experiment 'x'")
    assert_one_line(
        *shell("analyze", "lira", *on, "--target", "x"), 1, "there is no run 'x' in experiment 'tests'"
    )
    assert_one_line(
        *shell("analyze", "trace", *on, "--signal", "margin"),
        1,
        "no usable eval trace of margin in epochs 0 to the last",
    )
    (tmp_path / "file").write_text("")
    code, _, err = shell("analyze", "lt-iqr", *on, "--out", tmp_path / "file" / "scores.csv")
    assert code == 1
    assert "losslake: cannot write" in err


@pytest.mark.parametrize("name", ["lira", "lt-iqr", "trace", "memorization", "privacy-score", "all"])
def test_an_empty_lake_and_an_empty_experiment(shell: Shell, tmp_path: Path, name: str) -> None:
    empty = Lake.open(tmp_path / "lake", create=True)
    assert_one_line(*shell("analyze", name, "--lake", empty.path), 1, "holds no experiment yet")
    empty.create_experiment("tests", pa.table({"label": [0, 1]}))
    code, out, err = shell("analyze", name, "--lake", empty.path)
    if name == "all":
        assert (code, out) == (1, "")
        assert err.splitlines()[-1].endswith("can be analysed yet")
    else:
        expected = "has no committed run" if name in ("lira", "lt-iqr", "trace") else "has no shadow runs"
        assert_one_line(code, out, err, 1, expected)


@pytest.mark.parametrize("name", ["lira", "memorization", "privacy-score"])
def test_no_shadow_runs(shell: Shell, lake_of: MakeLake, name: str) -> None:
    lake = lake_of(np.array([[True, False]]), np.zeros((1, 2)), traces={"loss": np.ones((2, 3))})
    answer = shell("analyze", name, "--lake", lake.path)
    assert_one_line(
        *answer, 1, "has no shadow runs beside 'run-0000'; collect some with 'losslake collect shadows'"
    )
    assert_one_line(*shell("analyze", "compare", "lt-iqr", "--lake", lake.path), 1, "has no shadow runs")


def test_all_goes_on_without_shadow_runs(shell: Shell, lake_of: MakeLake) -> None:
    lake = lake_of(np.array([[True, False]]), np.zeros((1, 2)), traces={"loss": np.ones((2, 3))})
    code, out, err = shell("analyze", "all", "--lake", lake.path)
    assert code == 0, err
    told = [line.split()[0] for line in out.splitlines()]
    assert told == ["lt-iqr", "free", "trace", "loss", "kde", "suspects", "evolution", "tail"]
    left_out = {line.split(":")[0] for line in err.splitlines() if ": left out, " in line}
    assert left_out == {
        *(analysis.name for analysis in ANALYSES),
        *(evaluation.name for evaluation in EVALUATIONS if evaluation.default_scores),
    } - set(told)


def test_several_targets_and_several_experiments(shell: Shell, lake_of: MakeLake) -> None:
    keep, traces = np.array([[True, False], [False, True]]), {"loss": np.ones((2, 3))}
    lake = lake_of(keep, np.zeros((2, 2)), traces=traces, roles=["target"] * 2)
    answer = shell("analyze", "lt-iqr", "--lake", lake.path)
    assert_one_line(*answer, 1, "has several targets (run-0000, run-0001); choose one with --target")
    assert shell("analyze", "lt-iqr", "--lake", lake.path, "--target", "run-0000")[0] == 0
    assert_one_line(
        *shell("analyze", "lt-iqr", "--lake", lake.path, "--target", "run-0001"),
        1,
        "run 'run-0001' of experiment 'tests' has no traces",
    )
    lake_of(keep, lake=lake, experiment="another")
    answer = shell("analyze", "lt-iqr", "--lake", lake.path)
    assert_one_line(*answer, 2, "holds several experiments (another, tests); add --experiment")


def test_a_target_with_duals_is_the_target(shell: Shell, lake_of: MakeLake) -> None:
    keep, traces = np.array([[True, False]] * 2), {"loss": np.arange(6.0).reshape(2, 3)}
    lake = lake_of(keep, traces=traces, roles=["target"] * 2, parents=[None, "run-0000"])
    assert shell("analyze", "lt-iqr", "--lake", lake.path)[0] == 0
    assert lake.sql("select distinct target from scores")["target"].to_list() == ["run-0000"]


def test_a_target_with_members_only_has_scores_and_no_curve(shell: Shell, lake_of: MakeLake) -> None:
    loss = np.ma.masked_array(np.random.default_rng(0).random((6, 4)))
    loss[3:] = loss[:, 0] = np.ma.masked
    lake = lake_of(np.array([[True] * 3 + [False] * 3]), train_traces={"loss": loss})
    code, out, _ = shell("analyze", "lt-iqr", "--source", "train", "--lake", lake.path, "--metrics", "-")
    assert (code, json.loads(out)) == (0, [])


def test_main_exits_with_the_code(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["analyze", "list"], 0), (["analyze", "nothing"], 2)):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == code
    with pytest.raises(SystemExit) as stopped:
        main(["--debug", "analyze", "lira", "--lake", lake.path, "--target", "nobody"])
    assert stopped.value.code == 1
    assert "Traceback" in capsys.readouterr().err


def test_records_that_all_have_one_score_are_not_called_exposed(shell: Shell, everything: Lake) -> None:
    # No loss falls to a millionth of its first value, so that every record's is the number of epochs.
    where = ("--lake", everything.path, "--experiment", "tests")
    code, out, _ = shell("analyze", "trace", *where, "--aggregate", "first-below")
    assert code == 0
    assert "the first of all records, which have the same score" in out
    assert "most exposed" not in out
    assert "most exposed" in shell("analyze", "lt-iqr", *where)[1]
