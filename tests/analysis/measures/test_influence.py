"""Influence against a loop over pairs, planted influence, and what chance alone would show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from losslake.analysis.charts.scores import influence_histogram
from losslake.analysis.measures import influence as module
from losslake.analysis.measures.influence import influence
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Mask = npt.NDArray[np.bool_]
TESTED = 12


def runs(seed: int, count: int = 14, samples: int = 40) -> tuple[Mask, Mask, Mask]:
    """Membership, correctness and population (the last 12); sample 0 is never out, sample 1 never in."""
    rng = np.random.default_rng(seed)
    population = np.arange(samples) >= samples - TESTED
    keep = (rng.random((count, samples)) < 0.5) & ~population
    keep[1:3, :-TESTED], keep[3:5] = True, False
    keep[:, 0], keep[:, 1] = True, False
    return keep, rng.random((count, samples)) < rng.uniform(0, 1, samples), population


def by_pairs(
    keep: Mask, outcome: npt.NDArray[np.float64], known: Mask, tested: list[int]
) -> npt.NDArray[np.float64]:
    """Influence and standard error (2, N, Z) one pair after another: obviously right, but slow."""
    found = np.full((2, keep.shape[1], len(tested)), np.nan)
    for i in range(keep.shape[1]):
        for column, j in enumerate(tested):
            counted = known[:, i] & known[:, j] & ~keep[:, j]
            inside, outside = outcome[counted & keep[:, i], j], outcome[counted & ~keep[:, i], j]
            if i != j and len(inside) and len(outside):
                spread = inside.var() / len(inside) + outside.var() / len(outside)
                found[:, i, column] = inside.mean() - outside.mean(), np.sqrt(spread)
    return found


def check(frame: pl.DataFrame, pairs: npt.NDArray[np.float64], tested: list[int], top: int) -> None:
    for row in frame.iter_rows(named=True):
        values, errors = pairs[:, row["sample_id"]]
        there = np.flatnonzero(~np.isnan(values))
        best = there[np.argsort(-values[there].round(9), kind="stable")][:top]
        if len(best) == 0:
            assert row["score"] is row["se"] is row["p_value"] is row["affected"] is row["influences"] is None
            continue
        assert row["score"] == pytest.approx(values[best[0]], abs=1e-9)
        assert row["influences"] == pytest.approx(values[best].tolist(), abs=1e-9)
        assert [values[tested.index(j)] for j in row["affected"]] == pytest.approx(
            values[best].tolist(), abs=1e-9
        )
        assert len(set(row["affected"])) == len(best)
        assert row["se"] == pytest.approx(errors[tested.index(row["affected"][0])], abs=1e-7)
        assert 0 < row["p_value"] <= 1


@pytest.mark.parametrize("on", ["population", "audit"])
@pytest.mark.parametrize("cells", [1, 1 << 21])
def test_pairs_match_a_loop(lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch, on: str, cells: int) -> None:
    monkeypatch.setattr(module, "CELLS", cells)
    monkeypatch.setattr(module, "AT_ONCE", 5)
    keep, correct, population = runs(1)
    with open_source(
        lake_of(keep, np.zeros(keep.shape), correct=correct, population=population), "tests"
    ) as source:
        scores = influence(source, on=on)  # type: ignore[arg-type]
    frame = scores.frame
    assert frame["sample_id"].to_list() == list(range(28))
    assert frame["member"].to_list() == keep[0, :28].tolist()
    assert frame["n_in"].to_list() == keep[1:, :28].sum(axis=0).tolist()  # the target is no shadow
    assert scores.notes[0] == (
        "2 of 28 samples have no score: no shadow run trained on them, or none did without them"
    )
    tested = np.flatnonzero(population == (on == "population")).tolist()
    pairs = by_pairs(keep[1:], correct[1:].astype(float), np.ones_like(keep[1:]), tested)
    check(frame, pairs, tested, top=5)


@pytest.mark.parametrize("top", [1, 3, 100])
def test_runs_that_know_only_some_samples(lake_of: MakeLake, top: int) -> None:
    keep, correct, population = runs(2, count=20)
    held = np.random.default_rng(2).random(keep.shape) < 0.6
    held[:, 30] = False  # a test record that no run knows
    held[1:, 31] = False
    held[7, 31] = True  # and one that a single run knows: it has no influence on it
    lake = lake_of(keep, np.zeros(keep.shape), correct=correct, population=population, held=held)
    with open_source(lake, "tests") as source:
        frame = influence(source, top=top).frame
    tested = list(range(28, 40))
    check(frame, by_pairs(keep[1:], correct[1:].astype(float), held[1:], tested), tested, top)
    assert not set(frame["affected"].explode().drop_nulls()) & {30, 31}


def test_probability_in_place_of_correctness(lake_of: MakeLake) -> None:
    keep, _, population = runs(3)
    loss = np.random.default_rng(3).exponential(1.5, keep.shape).astype(np.float32)
    loss[3:7, 32] = np.inf  # a probability of 0
    lake = lake_of(keep, np.zeros(keep.shape), loss=loss, correct=None, population=population)
    with open_source(lake, "tests") as source:
        frame = influence(source, of="probability").frame
        with pytest.raises(NotEnoughData, match="try --of probability"):
            influence(source)
    tested = list(range(28, 40))
    probability = np.exp(-loss).astype(np.float64)
    check(frame, by_pairs(keep[1:], probability[1:], np.ones_like(keep[1:]), tested), tested, top=5)


def test_planted_influence_is_found_and_the_rest_looks_like_chance(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(4)
    population = np.arange(260) >= 200
    keep = (rng.random((81, 260)) < 0.5) & ~population
    correct = rng.random(keep.shape) < rng.uniform(0.2, 0.9, 260)
    for n in range(10):  # test record 200 + n is right where sample n was seen, and there alone
        correct[:, 200 + n] = keep[:, n]
    with open_source(
        lake_of(keep, np.zeros(keep.shape), correct=correct, population=population), "tests"
    ) as source:
        scores = influence(source)
    frame = scores.frame
    assert frame["score"][:10].to_list() == [1.0] * 10
    assert [ids[0] for ids in frame["affected"][:10]] == list(range(200, 210))
    assert frame["se"][:10].to_list() == [0] * 10
    assert (frame["p_value"][:10] < 0.01).all()
    rest = frame[10:]
    assert (rest["score"] > 0).all()  # the largest of 60: far above 0 though there is nothing
    assert 0.01 <= (rest["p_value"] <= 0.05).mean() <= 0.11
    mean, level, beyond = scores.metrics
    assert mean.value == pytest.approx(rest["score"].mean(), abs=0.03)
    assert (mean.value or 0) < (level.value or 0) < 0.6
    assert beyond.value == (frame["p_value"] <= 0.05).mean()
    assert (beyond.ci_low or 0) < (beyond.value or 0) < (beyond.ci_high or 0)
    assert scores.notes == (
        f"by chance alone the largest of 60 influences is {mean.value:.2f} on average and above {level.value:.2f} for 5% "
        f"of the samples (the same with the 80 runs shuffled); {round(200 * (beyond.value or 0))} of 200 samples have "
        "a p-value of 0.05 or less, 10 would by chance",
    )


def test_chance_is_calibrated_where_runs_differ_and_records_go_together() -> None:
    # Good runs are right on most records at once: pairs are far from independent, and yet there is no influence.
    rng = np.random.default_rng(5)
    quality = rng.uniform(-1, 1, 64)
    outcome = (rng.normal(size=(64, 300)) + quality[:, None] * 2 > 0).astype(np.float32)
    trained = (rng.random((64, 2000)) < 0.5).astype(np.int8)
    found = module.top_pairs(trained, outcome, 1).largest
    by_chance = module.largest_by_chance(trained, outcome)
    assert len(by_chance) == 2000
    assert (found > np.quantile(by_chance, 0.95)).mean() == pytest.approx(0.05, abs=0.02)


def test_equal_influences_come_in_the_order_of_the_records(lake_of: MakeLake) -> None:
    keep, correct, population = runs(6)
    correct[:, 28:] = True
    with open_source(
        lake_of(keep, np.zeros(keep.shape), correct=correct, population=population), "tests"
    ) as source:
        scores = influence(source, top=4)
    assert scores.frame["score"].drop_nulls().to_list() == [0.0] * 26
    assert scores.frame["affected"].drop_nulls().to_list() == [[28, 29, 30, 31]] * 26
    assert scores.frame["p_value"].drop_nulls().to_list() == [1.0] * 26


def test_it_is_kept_and_read_again(lake_of: MakeLake) -> None:
    keep, correct, population = runs(7)
    lake = lake_of(keep, np.zeros(keep.shape), correct=correct, population=population)
    with open_source(lake, "tests") as source:
        outcome = run_analysis(source, find("influence"), {"top": "2"})
    kept = lake.sql("select * from scores where variant = 'top=2' order by sample_id", experiment="tests")
    assert kept["affected"].to_list() == outcome.scores.frame["affected"].to_list()
    assert kept["score"].to_list() == outcome.scores.frame["score"].to_list()


def test_what_is_missing_is_said(lake_of: MakeLake) -> None:
    keep, correct, population = runs(8)
    lake = lake_of(keep & ~population, np.zeros(keep.shape), correct=correct)
    with open_source(lake, "tests") as source:
        with pytest.raises(
            NotEnoughData, match=r"no population samples; measure it on the audit pool with --on"
        ):
            influence(source)
        with pytest.raises(InvalidOption, match="1 or more, not 0"):
            influence(source, on="audit", top=0)
    with (
        open_source(lake_of(keep[:2], np.zeros((2, 40)), population=population), "tests") as source,
        pytest.raises(NotEnoughData, match="has 1 shadow runs"),
    ):
        influence(source)


@pytest.mark.parametrize("size", [0, 1, 200])
def test_chart_marks_where_chance_ends(size: int) -> None:
    rng = np.random.default_rng(9)
    frame = pl.DataFrame({"sample_id": np.arange(size), "score": rng.random(size)}).with_columns(
        pl.lit(None, pl.Boolean).alias("member"), (1.001 - pl.col("score")).alias("p_value")
    )
    spec = influence_histogram(Scores(frame)).to_dict()
    beyond = int((frame["p_value"] <= 0.05).sum())
    assert spec["title"]["subtitle"][0].startswith(f"{beyond} of {size} samples have p ≤ 0.05")
    assert ("at:Q" in str(spec) or '"at"' in str(spec) or "'at'" in str(spec)) == (beyond > 0)
