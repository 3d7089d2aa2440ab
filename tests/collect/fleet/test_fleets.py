"""Reference, distilled and leave-one-out models: who trains on what, repeatable, and one that fails stops no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from losslake.analysis.attacks.attack_r_d_l import attack_d, attack_l
from losslake.analysis.scoring.catalogue import open_source
from losslake.cli import _run
from losslake.collect.data.training import DeviceData, TrainingData
from losslake.collect.experiment.membership import random_subset
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.experiment.selection import read_sample_ids
from losslake.collect.fleet import runs as fleet_runs
from losslake.collect.fleet.distilled import collect_distilled, soft_labels
from losslake.collect.fleet.leave_one_out import collect_leave_one_out
from losslake.collect.fleet.references import collect_references, crowded
from losslake.collect.fleet.setup import members_of
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.recipe import Recipe
from losslake.collect.train import trainer
from losslake.collect.train.step import TrainStep
from losslake.store.errors import (
    AlreadyExists,
    InvalidInput,
    InvalidOption,
    NotEnoughData,
    NotFound,
    TrainingFailed,
)
from losslake.store.format.records import Run, unpack_samples
from losslake.store.lake import Lake
from scipy.special import log_softmax, softmax
from trainer_data import lake_with_target

RECIPE = Recipe(
    model="mlp",
    model_options={"widths": (8,)},
    epochs=2,
    batch_size=32,
    lr=0.05,
    flip=True,
    label_smoothing=0.1,
)
HERE: dict[str, Any] = {"device": "cpu", "jobs": 1}


pytestmark = pytest.mark.usefixtures("one_thread", "warm_workers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a target: 100 digits, 20 of them population; 24 members and 56 others."""
    path = tmp_path_factory.mktemp("made") / "lake"
    lake_with_target(path, 100, RECIPE, logits="float32")
    return path


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    return Lake.open(shutil.copytree(made, tmp_path / "lake"))


@pytest.fixture(scope="module")
def prepared(made: Path) -> Any:
    return prepare_experiment(Lake.open(made), "e")


def of_lake(lake: Lake, prepared: Any) -> dict[str, Any]:
    return {**HERE, "prepared": replace(prepared, lake=lake)}


@pytest.fixture
def references(lake: Lake, prepared: Any) -> Callable[..., list[Run]]:
    return lambda count, **options: collect_references(
        lake, "e", count=count, **{**of_lake(lake, prepared), **options}
    )


@pytest.fixture
def distilled(lake: Lake, prepared: Any) -> Callable[..., list[Run]]:
    return lambda count, **options: collect_distilled(
        lake, "e", count=count, **{**of_lake(lake, prepared), **options}
    )


@pytest.fixture
def leave_out(lake: Lake, prepared: Any) -> Callable[..., list[Run]]:
    return lambda samples, repeats=1, **options: collect_leave_one_out(
        lake, "e", samples=samples, repeats=repeats, **{**of_lake(lake, prepared), **options}
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, np.ndarray]]:
    """Names and records of the runs that were trained in this process."""
    seen: list[tuple[str, np.ndarray]] = []
    real = fleet_runs.train_run

    def train_run(
        lake: Lake, experiment: str, data: Any, recipe: Any, plan: Any, records: np.ndarray, **options: Any
    ) -> Run:
        seen.append((plan.run, records.copy()))
        return real(lake, experiment, data, recipe, plan, records, **options)

    monkeypatch.setattr(fleet_runs, "train_run", train_run)
    return seen


def names(runs: list[Run]) -> list[str]:
    return [run.run for run in runs]


def signals(lake: Lake, like: str) -> pl.DataFrame:
    return lake.sql(
        "select * from signals where run like $like order by run, sample_id, query", {"like": like}
    )


# --- random subsets -----------------------------------------------------------------------------------------


def test_random_subsets_are_balanced_repeatable_and_each_its_own() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    eligible = np.arange(100) % 2 == 0
    chosen = [random_subset(labels, eligible, 20, seed=3, number=number) for number in range(40)]
    for row in chosen:
        assert np.bincount(labels[row]).tolist() == [12, 6, 2]
        assert not row[~eligible].any()
    assert len({row.tobytes() for row in chosen}) == 40
    np.testing.assert_array_equal(chosen[7], random_subset(labels, eligible, 20, seed=3, number=7))
    assert not np.array_equal(chosen[7], random_subset(labels, eligible, 20, seed=4, number=7))
    # Each in about 16 of 40: none is preferred.
    counts = np.sum(chosen, axis=0)[eligible]
    assert counts.min() > 4
    assert counts.max() < 30
    np.testing.assert_array_equal(random_subset(labels, eligible, 50, seed=0, number=0), eligible)
    for size in (0, 51):
        with pytest.raises(InvalidOption, match="it must be 1 to 50"):
            random_subset(labels, eligible, size, seed=0, number=0)


# --- references ---------------------------------------------------------------------------------------------


def test_references_train_on_what_the_target_did_not(
    lake: Lake, references: Any, trained: list[tuple[str, np.ndarray]], prepared: Any
) -> None:
    runs = references(2)
    assert names(runs) == ["reference-0000", "reference-0001"]
    assert {run.info.role for run in runs} == {"reference"}
    assert {run.members for run in runs} == {24}
    target = members_of(lake, lake.run("e", "target"))
    labels, population = prepared.data.y, prepared.data.population
    others = ~target & ~population
    for run in runs:
        members = members_of(lake, run)
        assert not members[~others].any()
        shares = np.bincount(labels[others], minlength=10) * 24 / 56
        assert (np.abs(np.bincount(labels[members], minlength=10) - shares) < 1).all()
    assert not np.array_equal(members_of(lake, runs[0]), members_of(lake, runs[1]))
    assert runs[0].info.seed != runs[1].info.seed
    assert crowded(runs) is None
    # A larger count trains what is missing, a smaller one nothing.
    assert names(references(3)) == [f"reference-{number:04d}" for number in range(3)]
    assert names(references(1)) == ["reference-0000"]
    assert [name for name, _ in trained] == [f"reference-{number:04d}" for number in range(3)]
    with pytest.raises(
        InvalidOption, match=r"for 'target' were laid out with size 24, not size 10; give these"
    ):
        references(1, size=10)
    with pytest.raises(AlreadyExists, match=r"lr = 0\.05, not 0\.1"):
        references(1, recipe=replace(RECIPE, lr=0.1))


def test_fleets_repeat_in_another_lake(lake: Lake, made: Path, tmp_path: Path, prepared: Any) -> None:
    other = Lake.open(shutil.copytree(made, tmp_path / "other"))
    for where, counts in ((lake, (1, 2)), (other, (2,))):
        for count in counts:
            collect_references(where, "e", count=count, size=20, **of_lake(where, prepared))
            collect_distilled(where, "e", count=count, **of_lake(where, prepared))
    first = [signals(where, "%-0000") for where in (lake, other)]
    assert first[0].equals(first[1])


def test_references_take_all_there_is(references: Any) -> None:
    runs = references(1, size=56)
    said = crowded(runs)
    assert said is not None
    assert "trains on 56 of the 56 records that 'target' did not train on" in said
    assert "--size 28" in said


@pytest.mark.parametrize("size", [0, 57])
def test_references_of_an_impossible_size(references: Any, lake: Lake, size: int) -> None:
    with pytest.raises(InvalidOption, match=f"size is {size}; 56 audit samples .* give 1 to 56"):
        references(1, size=size)
    with pytest.raises(InvalidOption, match="count is 0"):
        references(0)
    assert lake.designs("e", "reference") == []


def test_fleets_of_two_targets_share_no_name(
    lake: Lake, prepared: Any, references: Any, leave_out: Any
) -> None:
    assert names(references(2, size=20)) == ["reference-0000", "reference-0001"]
    assert names(leave_out([4])) == ["leave-out-4-0"]
    common = of_lake(lake, prepared)
    collect_target(lake, "e", run="other", recipe=RECIPE, seed=5, traces=False, duals=1, **common)
    for collect in (lambda: references(1), lambda: leave_out([4])):
        with pytest.raises(InvalidOption, match=r"several targets \(other, target\); name one with --target"):
            collect()
    assert names(references(1, target="other")) == ["reference-0002"]
    assert names(references(3, target="target", size=20)) == [
        "reference-0000",
        "reference-0001",
        "reference-0003",
    ]
    assert names(leave_out([4], target="other")) == ["leave-out-other-4-0"]
    assert names(leave_out([4], target="target")) == ["leave-out-4-0"]
    with pytest.raises(NotFound, match="no run 'nobody'"):
        references(1, target="nobody")


def test_an_experiment_without_a_target(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    prepare_experiment(lake, "e", dataset="digits", samples=20, pictures=False)
    with pytest.raises(NotFound, match="has no target yet"):
        collect_references(lake, "e", count=1)


# --- distilled ----------------------------------------------------------------------------------------------


def test_distilled_models_have_no_members_and_say_what_they_learnt_from(
    lake: Lake, distilled: Any, trained: list[tuple[str, np.ndarray]], prepared: Any
) -> None:
    runs = distilled(2, traces=True)
    assert names(runs) == ["distilled-0000", "distilled-0001"]
    assert [(run.info.role, run.info.parent, run.members) for run in runs] == [("distilled", "target", 0)] * 2
    assert not signals(lake, "distilled%")["member"].any()
    assert {run.info.train_accuracy for run in runs} == {None}
    assert runs[0].trace_sources() == {"eval"}, "nothing that it trained on is a member"
    assert runs[0].info.recipe["label_smoothing"] == 0
    for run, (_, records) in zip(runs, trained, strict=True):
        told = run.info.extra["distilled_on"]
        assert (told["pool"], told["records"]) == ("population", 10)
        np.testing.assert_array_equal(unpack_samples(told["samples"], 100), records)
        assert np.bincount(prepared.data.y[records]).tolist() == [1] * 10
        assert not records[~prepared.data.population].any()
    assert not np.array_equal(trained[0][1], trained[1][1])
    assert names(distilled(2, traces=True)) == names(runs)
    assert len(trained) == 2
    with pytest.raises(
        InvalidOption, match=r"laid out with on population, size 10, temperature 1\.0, not on audit"
    ):
        distilled(2, on="audit")
    with pytest.raises(InvalidOption, match=r"temperature 1.0, not .* temperature 2.0"):
        distilled(2, temperature=2)


def test_candidates_of_canaries_are_not_taught(
    lake: Lake, prepared: Any, trained: list[tuple[str, np.ndarray]]
) -> None:
    candidates = prepared.data.population & (np.cumsum(prepared.data.population) <= 12)
    made = replace(prepared, lake=lake, data=replace(prepared.data, candidates=candidates))
    runs = collect_distilled(lake, "e", count=2, prepared=made, **HERE)
    assert [run.info.extra["distilled_on"]["records"] for run in runs] == [4, 4]
    for _, records in trained:
        assert not records[candidates | ~prepared.data.population].any()
    with pytest.raises(
        InvalidOption, match="the population pool of experiment 'e' has 8 records: give 1 to 8"
    ):
        collect_distilled(lake, "e", count=1, size=9, prepared=made, **HERE)


def test_distilling_on_audit_records(lake: Lake, distilled: Any, prepared: Any) -> None:
    runs = distilled(3, on="audit", size=30)
    told = [unpack_samples(run.info.extra["distilled_on"]["samples"], 100) for run in runs]
    assert all(row.sum() == 30 and not row[prepared.data.population].any() for row in told)
    with open_source(lake, "e") as source:
        frame = attack_d(source).frame
    left = 3 - np.sum(told, axis=0)[frame["sample_id"].to_numpy()]
    assert frame["n_reference"].to_list() == left.tolist()
    assert frame["score"].is_null().to_list() == (left == 0).tolist()


def test_soft_labels_are_the_softmax_of_the_stored_logits(lake: Lake) -> None:
    target = lake.run("e", "target")
    everybody = np.ones(100, dtype=bool)
    soft = soft_labels(lake, target, everybody, 10, views=("original", "flip"), temperature=2.0)
    for query in (0, 1):
        rows = signals(lake, "target").filter(pl.col("query") == query)
        expected = softmax(np.array(rows["logits"].to_list(), dtype=float) / 2, axis=1)
        np.testing.assert_allclose(soft[query], expected, rtol=1e-6, atol=1e-12)
    assert soft_labels(lake, target, everybody, 10).shape == (1, 100, 10)
    with pytest.raises(InvalidInput, match="not of 9 classes"):
        soft_labels(lake, target, everybody, 9)


def test_the_loss_against_soft_labels() -> None:
    rng = np.random.default_rng(0)
    soft = softmax(rng.normal(0, 2, (2, 6, 4)), axis=2).astype(np.float32)
    logits = rng.normal(0, 3, (5, 4)).astype(np.float32)
    ids, mirrored = np.array([4, 0, 5, 1, 2]), np.array([True, False, False, True, True])
    nothing = np.zeros(1, np.float32)
    data = TrainingData(
        "made",
        4,
        np.zeros((6, 1, 2, 2), np.uint8),
        np.zeros(6, np.int64),
        np.zeros(6, bool),
        nothing,
        nothing + 1,
        soft=soft,
        temperature=3.0,
    )
    recipe = replace(RECIPE, label_smoothing=0.0)

    def loss(data: TrainingData, mirrored: np.ndarray | None) -> float:
        held = DeviceData(data, torch.device("cpu"), normalize=True)
        coin = None if mirrored is None else torch.from_numpy(mirrored)
        y = held.y[torch.from_numpy(ids)]
        step = TrainStep(held, recipe)
        return float(step.loss(torch.from_numpy(logits), torch.from_numpy(ids), y, coin))

    log_p = log_softmax(logits.astype(float) / 3, axis=1)
    flipped = soft[mirrored.astype(int), ids]
    assert loss(data, mirrored) == pytest.approx(-9 * (flipped * log_p).sum(axis=1).mean(), rel=1e-5)
    plain = -9 * (soft[0, ids] * log_p).sum(axis=1).mean()
    assert loss(data, None) == pytest.approx(plain, rel=1e-5)
    assert loss(replace(data, soft=soft[:1]), mirrored) == pytest.approx(plain, rel=1e-5)


def test_a_distilled_model_learns_what_the_target_says_and_not_the_labels(
    lake: Lake, prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (prepared.data.y + 3) % 10  # a target that is sure of another class

    def says_so(*_: Any, **__: Any) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[wrong][None]

    monkeypatch.setattr("losslake.collect.fleet.distilled.soft_labels", says_so)
    recipe = replace(RECIPE, epochs=25, flip=False, model_options={"widths": (32,)})
    collect_distilled(lake, "e", count=1, on="audit", size=80, recipe=recipe, **of_lake(lake, prepared))
    logits = np.array(signals(lake, "distilled%").filter(pl.col("query") == 0)["logits"].to_list())
    audit = ~prepared.data.population
    assert (logits.argmax(axis=1) == wrong)[audit].mean() > 0.9


def test_workers_get_the_soft_labels(lake: Lake, made: Path, tmp_path: Path, prepared: Any) -> None:
    other = Lake.open(shutil.copytree(made, tmp_path / "other"))
    for where, jobs in ((lake, 2), (other, 1)):
        common = {**of_lake(where, prepared), "jobs": jobs}
        collect_distilled(where, "e", count=2, temperature=2, **common)
    found = [signals(where, "distilled%") for where in (lake, other)]
    assert found[0].equals(found[1]), "bit for bit, as this process has one thread too"


def test_a_target_that_keeps_no_logits(lake: Lake, prepared: Any, distilled: Any) -> None:
    collect_target(lake, "e", run="mute", recipe=RECIPE, logits="none", **of_lake(lake, prepared))
    with pytest.raises(NotEnoughData, match=r"'mute' .* keeps no logits of 20 of the 20 records .* --logits"):
        distilled(1, target="mute")
    assert lake.designs("e", "distilled") == []


def test_no_population_to_distil_on(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=40, pictures=False)
    collect_target(lake, "e", recipe=RECIPE, prepared=prepared, **HERE)
    with pytest.raises(NotEnoughData, match="has no population to distil on"):
        collect_distilled(lake, "e", count=1, on="population", prepared=prepared, **HERE)
    run = collect_distilled(lake, "e", count=1, prepared=prepared, **HERE)[0]
    assert run.info.extra["distilled_on"]["pool"] == "audit"
    assert run.info.extra["distilled_on"]["records"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 21}, "size is 21; the population pool of experiment 'e' has 20 records: give 1 to 20"),
        ({"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"on": "everything"}, "unknown pool to distil on 'everything'"),
    ],
)
def test_distilling_options_that_make_no_sense(distilled: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        distilled(1, **options)


# --- leave one out ------------------------------------------------------------------------------------------


def test_leave_one_out_trains_the_targets_members_without_the_sample(
    lake: Lake, leave_out: Any, prepared: Any, trained: list[tuple[str, np.ndarray]]
) -> None:
    target = lake.run("e", "target")
    members = members_of(lake, target)
    inside = int(np.flatnonzero(members)[3])
    outside = int(np.flatnonzero(~members & ~prepared.data.population)[5])
    runs = leave_out([outside, inside, outside], 2)
    assert names(runs) == [f"leave-out-{sample}-{k}" for sample in (outside, inside) for k in range(2)]
    assert [run.info.extra["sample_id"] for run in runs] == [outside, outside, inside, inside]
    assert {(run.info.role, run.info.parent) for run in runs} == {("leave_one_out", "target")}
    assert len({run.info.seed for run in runs} | {target.info.seed}) == 5
    for run in runs:
        expected = members.copy()
        expected[run.info.extra["sample_id"]] = False
        np.testing.assert_array_equal(members_of(lake, run), expected)
    # More repeats, or another sample, train what is missing.
    assert len(leave_out([inside], 3)) == 3
    assert [name for name, _ in trained[4:]] == [f"leave-out-{inside}-2"]
    with open_source(lake, "e") as source:
        scores = attack_l(source)
    scored = scores.frame.filter(pl.col("score").is_not_null())
    assert dict(scored.select("sample_id", "n_reference").iter_rows()) == {inside: 3, outside: 2}
    own = signals(lake, "%").filter((pl.col("sample_id") == inside) & (pl.col("query") == 0))
    losses = dict(own.select("run", "loss").iter_rows())
    below = [losses[f"leave-out-{inside}-{k}"] <= losses["target"] for k in range(3)]
    assert scored.filter(pl.col("sample_id") == inside)["share"].item() == pytest.approx(np.mean(below))


@pytest.mark.parametrize(
    ("samples", "repeats", "message"),
    [
        ([], 1, "no sample given; name some with --sample or --samples-from"),
        ([100], 1, r"there is no sample 100 in experiment 'e' \(0 to 99\)"),
        ([-1], 1, "there is no sample -1"),
        ([4], 0, "repeats is 0"),
    ],
)
def test_leaving_out_what_makes_no_sense(
    leave_out: Any, samples: list[int], repeats: int, message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        leave_out(samples, repeats)


def test_population_samples_cannot_be_left_out(leave_out: Any, prepared: Any) -> None:
    sample = int(np.flatnonzero(prepared.data.population)[0])
    with pytest.raises(InvalidOption, match=f"sample {sample} of experiment 'e' belongs to the population"):
        leave_out([sample])


def test_members_that_the_lake_does_not_hold(lake: Lake, leave_out: Any, prepared: Any) -> None:
    with lake.write_run("e", "partly", members=~prepared.data.population) as writer:
        writer.append_signals(np.arange(5), np.zeros(5, int), None, loss=np.ones(5), phi=np.zeros(5))
        writer.commit(replace(lake.run("e", "target").info, extra={}))
    with pytest.raises(InvalidInput, match=r"'partly' .* has 80 members, but rows of only 4 of them"):
        leave_out([4], target="partly")


def test_lists_of_samples(tmp_path: Path) -> None:
    frame = pl.DataFrame({"score": [0.5, 0.4], "sample_id": [7, 3]})
    frame.write_csv(tmp_path / "s.csv")
    frame.write_parquet(tmp_path / "s.parquet")
    (tmp_path / "s.txt").write_text("sample_id\n7\n\n 3 \n")
    (tmp_path / "bare.txt").write_text("7\n3")
    for name in ("s.csv", "s.parquet", "s.txt", "bare.txt"):
        assert read_sample_ids(tmp_path / name) == [7, 3]
    pl.DataFrame({"sample_id": [1.5]}).write_csv(tmp_path / "broken.csv")
    pl.DataFrame({"sample_id": [1, None]}).write_parquet(tmp_path / "gap.parquet")
    pl.DataFrame({"id": [1]}).write_csv(tmp_path / "other.csv")
    (tmp_path / "words.txt").write_text("seven")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name in ("broken.csv", "gap.parquet", "other.csv", "words.txt", "torn.parquet", "bytes.txt"):
        with pytest.raises(InvalidInput, match=name):
            read_sample_ids(tmp_path / name)
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(InvalidOption, match=r"read from \.csv, \.parquet and \.txt"):
        read_sample_ids(tmp_path / "s.json")
    with pytest.raises(NotFound, match="no file"):
        read_sample_ids(tmp_path / "none.csv")


# --- a run that fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fleet", ["references", "distilled", "leave_out"])
@pytest.mark.parametrize("error", [TrainingFailed("it diverged"), ZeroDivisionError("of a user's model")])
def test_one_run_fails_and_the_others_go_on(
    lake: Lake,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    fleet: str,
    error: Exception,
) -> None:
    collect = request.getfixturevalue(fleet)
    arguments = ([4, 5, 6],) if fleet == "leave_out" else (3,)
    real: Callable[..., Any] = trainer._train

    def fail_one(setup: Any, *rest: Any) -> Any:
        if setup.plan.run in ("reference-0001", "distilled-0001", "leave-out-5-0"):
            raise error
        return real(setup, *rest)

    monkeypatch.setattr(trainer, "_train", fail_one)
    with pytest.raises(
        TrainingFailed, match=r"1 of 3 runs failed; the others are in the lake: .*(diverged|of a user)"
    ):
        collect(*arguments)
    assert len(lake.runs("e")) == 3
    monkeypatch.undo()
    assert len(collect(*arguments)) == 3


# --- the command line ---------------------------------------------------------------------------------------


def test_the_commands(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(command: str, *more: str) -> tuple[int, str, str]:
        given = ["collect", command, "--lake", lake.path, "--experiment", "e", "--jobs", "1", *more]
        code = _run([*given, "--device", "cpu"], debug=False)
        return code, *capsys.readouterr()

    code, out, err = run("references", "--count", "1", "--size", "55")
    assert code == 0, err
    assert out == f"1 reference runs in {lake.path}, experiment e\n"
    assert "note: each of them trains on 55 of the 56 records" in err
    assert run("distilled", "--count", "1", "--on", "audit", "--temperature", "2")[0] == 0
    (tmp_path / "ids.txt").write_text("5\n6\n")
    code, out, err = run(
        "leave-one-out", "--sample", "4", "--samples-from", str(tmp_path / "ids.txt"), "--repeats", "1"
    )
    assert code == 0, err
    assert out.startswith("3 leave-one-out runs")
    made = {run.run for run in lake.runs("e")}
    assert made == {"target", "reference-0000", "distilled-0000", *(f"leave-out-{n}-0" for n in (4, 5, 6))}
    code, _, err = run("leave-one-out")
    assert code == 2
    assert err.splitlines()[-1] == "losslake: no sample given; name some with --sample or --samples-from"
    # Wrong work is 1.
    code, _, err = run("leave-one-out", "--sample", "8", "--repeats", "1", "--model", "mlp", "--lr", "1e30")
    assert code == 1
    assert "1 of 1 runs failed: run 'leave-out-8-0' diverged" in err.splitlines()[-1]


def test_flags_of_a_recipe_go_on_top_of_the_targets(lake: Lake, tmp_path: Path) -> None:
    def recipe(run: str, *flags: str) -> dict[str, Any]:
        where = ["--lake", lake.path, "--experiment", "e", "--jobs", "1", "--device", "cpu"]
        assert _run(["collect", "leave-one-out", *where, "--repeats", "1", *flags], debug=False) == 0
        return dict(lake.run("e", run).info.recipe)

    of_target = dict(lake.run("e", "target").info.recipe)
    assert recipe("leave-out-6-0", "--sample", "6", "--lr", "0.3") == {**of_target, "lr": 0.3}
    wider = recipe("leave-out-4-0", "--sample", "4", "--dropout", "0.5")
    assert wider == {**of_target, "model_options": {**of_target["model_options"], "dropout": 0.5}}
    # A recipe from a file is a whole one.
    (tmp_path / "recipe.toml").write_text('model = "mlp"\nepochs = 1\n')
    assert recipe("leave-out-5-0", "--sample", "5", "--recipe", str(tmp_path / "recipe.toml"))["lr"] == 0.1


def test_shadows_beside_the_other_fleets(lake: Lake, prepared: Any, references: Any) -> None:
    references(1)
    runs = collect_shadows(lake, "e", count=2, recipe=RECIPE, **of_lake(lake, prepared))
    assert names(runs) == ["shadow-0000", "shadow-0001"]


FLEETS: dict[str, tuple[str, ...]] = {
    "shadows": ("--count", "1"),
    "references": ("--count", "1"),
    "distilled": ("--count", "1"),
    "leave-one-out": ("--sample", "4", "--repeats", "1"),
}


@pytest.mark.parametrize("given", [None, "original"])
@pytest.mark.parametrize("command", FLEETS)
def test_queries_are_the_targets_unless_given(tmp_path: Path, command: str, given: str | None) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    prepared = prepare_experiment(
        lake, "e", dataset="digits", samples=40, population=0.3, fraction=0.3, pictures=False
    )
    recipe = replace(RECIPE, epochs=1)
    collect_target(
        lake, "e", recipe=recipe, prepared=prepared, traces=False, queries="original,crop:2", **HERE
    )
    where = ["--lake", lake.path, "--experiment", "e", "--jobs", "1", "--device", "cpu"]
    flags = [] if given is None else ["--queries", given]
    assert _run(["collect", command, *where, *FLEETS[command], *flags], debug=False) == 0
    (made,) = [run for run in lake.runs("e") if run.run != "target"]
    want = ["original"] if given else ["original", "crop:2:4"]
    assert made.info.extra["recording"]["queries"] == want
    asked = lake.sql("select distinct query from signals where run = $run", {"run": made.run})
    assert len(asked) == (1 if given else 3)


def test_targets_of_different_queries(lake: Lake, prepared: Any, references: Any) -> None:
    here = of_lake(lake, prepared)
    collect_target(lake, "e", recipe=RECIPE, run="other", traces=False, queries="original", **here)
    with pytest.raises(InvalidOption, match="targets other, target have different queries"):
        collect_shadows(lake, "e", count=1, **here)
    (shadow,) = collect_shadows(lake, "e", count=1, queries="original", **here)
    assert shadow.info.extra["recording"]["queries"] == ["original"]
    (reference,) = references(1, target="other")
    assert reference.info.extra["recording"]["queries"] == ["original"]
