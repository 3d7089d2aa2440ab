"""RMIA against the sample x population matrix, one comparison at a time, and on inputs made to break it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from findings import assert_scores
from losslake.analysis.attacks.rmia import GRID, rmia
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import evaluate
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def expected_p(p: Floats, keep: Mask, n: int, a: float | None, population: bool) -> float | None:
    """p(x) from reference probabilities (M, N)."""
    inside = [float(p[m, n]) for m in range(len(p)) if keep[m, n]]
    outside = [float(p[m, n]) for m in range(len(p)) if not keep[m, n]]
    if not outside:
        return None
    mean_out = math.fsum(outside) / len(outside)
    if a is not None:
        return ((1 + a) * mean_out + (1 - a)) / 2
    if population:
        return mean_out
    return (math.fsum(inside) / len(inside) + mean_out) / 2 if inside else None


def oracle(
    point: Floats, loss: Floats, keep: Mask, population: Mask, a: float | None, gamma: float = 1
) -> list[float | None]:
    """Scores of the audit samples from the target's loss (N,) and the reference runs' (M, N) and membership."""
    p = np.exp(-loss.astype(np.float32).astype(float))
    own = np.exp(-point.astype(np.float32).astype(float))
    samples = range(len(point))
    expected = [expected_p(p, keep, n, a, bool(population[n])) for n in samples]
    ratios = [
        None if e is None else float(own[n]) / e if e else math.inf
        for n, e in zip(samples, expected, strict=True)
    ]
    pool = [r for n, r in zip(samples, ratios, strict=True) if population[n] and r is not None]
    scores: list[float | None] = []
    for n in samples:
        if not population[n]:
            r = ratios[n]
            known = r is not None and np.isfinite(point[n])
            scores.append(sum(r / z > gamma * (1 + 1e-10) for z in pool) / len(pool) if known else None)  # type: ignore[operator]
    return scores


class Case:
    """Losses (runs, samples[, queries]); run 0 is the target; the last third of the samples is population."""

    def __init__(self, seed: int, runs: int = 9, samples: int = 60, queries: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shape = (runs, samples, queries) if queries else (runs, samples)
        self.population = np.arange(samples) >= 2 * samples // 3
        self.keep = (rng.random((runs, samples)) < 0.5) & ~self.population
        self.keep[1:3, ~self.population], self.keep[3:5] = True, False
        level = rng.exponential(1, (samples, queries) if queries else samples)
        scale = np.where(self.keep, 0.5, 1)
        self.loss = (level * rng.exponential(scale[..., None] if queries else scale, shape)).astype(
            np.float32
        )

    def lake(self, lake_of: MakeLake, **more: object) -> Lake:
        return lake_of(
            self.keep, np.zeros_like(self.loss), loss=self.loss, population=self.population, **more
        )

    def expected(self, a: float | None, gamma: float = 1) -> list[float | None]:
        return oracle(self.loss[0], self.loss[1:], self.keep[1:], self.population, a, gamma)


def scores_of(lake: Lake, target: str | None = None, rank: str = "share", **options: object) -> Scores:
    with open_source(lake, "tests", target) as source:
        return rmia(source, rank=rank, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def opened(lake_of: MakeLake) -> Iterator[tuple[Source, Case]]:
    case = Case(0)
    case.loss[0, 0] = 0
    case.loss[1:, 1] = 0  # surely right on every other run
    case.loss[:, 2] = 0.5
    case.loss[:, 41] = 0.5  # ties with sample 2
    case.loss[:, 3], case.loss[:, 42] = 0.3, 0.3
    # Samples 4 and 43: the same losses in another order of the runs, and so the same means but for rounding.
    case.keep[:, [4, 5]] = case.keep[:, [6]]
    case.loss[1:, 43], case.loss[1:, 44] = case.loss[1:, 45], case.loss[:0:-1, 45]
    case.loss[0, 43] = case.loss[0, 44]
    with open_source(case.lake(lake_of), "tests") as source:
        yield source, case


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("a", [None, 0.0, 0.3, 1.0])
def test_it_matches_the_matrix(opened: tuple[Source, Case], a: float | None, gamma: float) -> None:
    source, case = opened
    mode = "online" if a is None else "offline"
    scores = rmia(source, mode=mode, a=a, rank="share", gamma=gamma)  # type: ignore[arg-type]
    assert_scores(scores.frame, case.expected(a, gamma))
    audit = ~case.population
    assert scores.frame["sample_id"].to_list() == np.flatnonzero(audit).tolist()
    assert scores.frame["member"].to_list() == case.keep[0, audit].tolist()
    assert scores.frame["n_in"].to_list() == case.keep[1:, audit].sum(axis=0).tolist()
    assert scores.frame["n_out"].to_list() == (~case.keep[1:, audit]).sum(axis=0).tolist()
    assert scores.metrics == ()


def test_a_tie_is_not_beaten(lake_of: MakeLake) -> None:
    """All records alike: none exceeds another, and each exceeds all by half."""
    case = Case(1)
    case.loss[:] = 0.7
    lake = case.lake(lake_of)
    for options in ({}, {"mode": "offline", "a": 0.5}):
        assert scores_of(lake, **options).frame["score"].unique().to_list() == [0]
        assert scores_of(lake, gamma=0.5, **options).frame["score"].unique().to_list() == [1]


def test_the_order_of_the_runs_does_not_part_ties(lake_of: MakeLake) -> None:
    case = Case(2, runs=41)
    case.keep[1:] = False
    for n in range(60):  # every sample has the same 40 losses, each in an order of its own
        case.loss[1:, n] = np.random.default_rng(n).permutation(case.loss[1:, 0])
    case.loss[0] = 0.25
    for a in (0.5, 1.0):
        assert scores_of(case.lake(lake_of), mode="offline", a=a).frame["score"].unique().to_list() == [0]


@pytest.mark.parametrize("a", [None, 1.0])
@pytest.mark.parametrize("shift", [600.0, 740.0, 1500.0])
def test_probabilities_too_small_for_a_double(lake_of: MakeLake, a: float | None, shift: float) -> None:
    """With every loss of a sample larger by the same amount its ratio stays, and so does its score."""
    case = Case(3)
    case.loss = np.round(case.loss * 64) / 64  # so that the shift is exact in float32
    mode = "online" if a is None else "offline"
    before = scores_of(case.lake(lake_of), mode=mode, a=a).frame
    case.loss[:, ::2] += shift
    after = scores_of(case.lake(lake_of), mode=mode, a=a).frame
    np.testing.assert_allclose(after["log_ratio"], before["log_ratio"], atol=1e-9)
    assert after["score"].to_list() == before["score"].to_list()


def test_infinite_losses(lake_of: MakeLake) -> None:
    """The target's leave a sample unscored; other runs' are a probability of 0, the population's are beaten."""
    case = Case(4)
    case.loss[0, [1, 5]] = np.inf
    case.loss[2:5, 10:14] = np.inf
    case.loss[3, 50:] = np.inf
    lake = case.lake(lake_of)
    for a in (None, 0.4, 1.0):
        scores = scores_of(lake, mode="online" if a is None else "offline", a=a)
        assert_scores(scores.frame, case.expected(a))
        assert scores.frame.filter(scores.frame["score"].is_null())["sample_id"].to_list() == [1, 5]
        assert scores.notes[0].startswith("2 of 40 samples have no score")
    case.loss[0, 55] = np.inf  # a population record that the target is sure not to know
    case.loss[1:, 7] = np.inf  # a record that only the target knows
    frame = scores_of(case.lake(lake_of)).frame
    others = np.delete(np.arange(60), 55)
    without = oracle(
        case.loss[0, others], case.loss[1:, others], case.keep[1:, others], case.population[others], None
    )
    for n in set(range(40)) - {1, 5, 7}:
        assert frame["score"][n] == pytest.approx((without[n] * 19 + 1) / 20)  # type: ignore[operator]
    assert frame["score"][7] == 1


# --- a is tuned without the target's membership -------------------------------------------------------------


def tuned_by_hand(case: Case, stand_in: int) -> float:
    """The first a of the grid with the greatest AUC of the stand-in, whose own and the target's runs are left out."""
    rest = [m for m in range(1, len(case.loss)) if m != stand_in]
    best, chosen = -1.0, -1.0
    for a in GRID:
        scores = oracle(case.loss[stand_in], case.loss[rest], case.keep[rest], case.population, float(a))
        member = case.keep[stand_in, ~case.population]
        area = 0.0
        pairs = [
            (one, other)
            for (one, m), (other, o) in product(zip(scores, member, strict=True), repeat=2)
            if m and not o and one is not None and other is not None
        ]
        area = sum((one > other) + (one == other) / 2 for one, other in pairs) / len(pairs)
        if area > best + 1e-12:
            best, chosen = area, float(a)
    return chosen


def nearest_half(case: Case) -> int:
    audit = int((~case.population).sum())
    return 1 + int(np.argmin(np.abs(2 * case.keep[1:].sum(axis=1) - audit)))


@pytest.mark.parametrize("seed", range(5, 9))
def test_a_is_tuned_on_a_stand_in(lake_of: MakeLake, seed: int) -> None:
    case = Case(seed)
    scores = scores_of(case.lake(lake_of), mode="offline")
    a = tuned_by_hand(case, nearest_half(case))
    metric = scores.metrics[0]
    assert (metric.metric, metric.value) == ("a", a)
    assert metric.parameters == {"tuned_on": f"run-{nearest_half(case):04d}"}
    assert_scores(scores.frame, case.expected(a))  # and the stand-in counts among the references again
    assert scores.frame["n_out"].to_list() == (~case.keep[1:, :40]).sum(axis=0).tolist()
    assert scores.frame["n_in"].to_list() == case.keep[1:, :40].sum(axis=0).tolist()


def test_many_samples_are_tuned_on_a_part(lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(18)
    lake = case.lake(lake_of)
    monkeypatch.setattr("losslake.analysis.attacks.rmia.TUNED_ON", 20)
    stand_in, rest = nearest_half(case), np.arange(60) >= 40
    a = scores_of(lake, mode="offline").metrics[0].value
    part = np.flatnonzero(rest | (np.arange(60) % 2 == 0))
    case.loss, case.keep, case.population = case.loss[:, part], case.keep[:, part], case.population[part]
    assert a == tuned_by_hand(case, stand_in)


def test_the_targets_membership_has_no_part_in_it(lake_of: MakeLake) -> None:
    case = Case(9)
    one = scores_of(case.lake(lake_of), mode="offline")
    case.keep[0, :40] = ~case.keep[0, :40]
    other = scores_of(case.lake(lake_of), mode="offline")
    assert one.metrics == other.metrics
    assert one.frame.drop("member").equals(other.frame.drop("member"))


def test_tuning_needs_other_runs(lake_of: MakeLake) -> None:
    case = Case(10, runs=5)
    case.loss, case.keep = case.loss[:2], case.keep[[0, 3]]
    case.keep[1, :20] = True
    with pytest.raises(NotEnoughData, match=r"a cannot be tuned on shadow run 'run-0001'.*--a"):
        scores_of(case.lake(lake_of), mode="offline")
    assert_scores(scores_of(case.lake(lake_of), mode="offline", a=0.3).frame, case.expected(0.3))
    with pytest.raises(NotEnoughData, match="both in and out of"):
        scores_of(case.lake(lake_of))


# --- who is compared with whom ------------------------------------------------------------------------------


def test_the_mean_over_views(lake_of: MakeLake) -> None:
    case = Case(11, queries=2)
    case.keep[1:, 3] = True
    lake = case.lake(lake_of)
    for a in (None, 0.6):
        mode = "online" if a is None else "offline"
        by_view = [
            oracle(case.loss[0, :, q], case.loss[1:, :, q], case.keep[1:], case.population, a) for q in (0, 1)
        ]
        mean = [None if x is None or y is None else (x + y) / 2 for x, y in zip(*by_view, strict=True)]
        assert_scores(scores_of(lake, mode=mode, a=a).frame, mean)
        assert_scores(scores_of(lake, mode=mode, a=a, queries="original").frame, by_view[0])


def test_sides_without_runs(lake_of: MakeLake) -> None:
    case = Case(12)
    case.keep[1:, 0], case.keep[1:, 1] = True, False
    lake = case.lake(lake_of)
    for a, missing in ((None, [0, 1]), (0.5, [0])):
        scores = scores_of(lake, mode="online" if a is None else "offline", a=a)
        assert_scores(scores.frame, case.expected(a))
        assert scores.frame.filter(scores.frame["score"].is_null())["sample_id"].to_list() == missing
        assert scores.notes[0].startswith(f"{len(missing)} of 40 samples have no score")


def test_roles(lake_of: MakeLake) -> None:
    """Shadow and reference runs count, others do not; the target is never its own reference."""
    case = Case(13)
    roles = ["target", *["shadow"] * 5, "reference", "distilled", "leave_one_out"]
    frame = scores_of(case.lake(lake_of, roles=roles)).frame
    assert_scores(frame, oracle(case.loss[0], case.loss[1:7], case.keep[1:7], case.population, None))
    lake = case.lake(lake_of, roles=["shadow"] * 9)
    rest = np.arange(9) != 5
    frame = scores_of(lake, "run-0005").frame
    assert_scores(frame, oracle(case.loss[5], case.loss[rest], case.keep[rest], case.population, None))


def test_signals_that_are_missing(lake_of: MakeLake) -> None:
    case = Case(14)
    held = np.ones(case.keep.shape, bool)
    held[0, [3, 45]] = False  # neither a record to score nor one to compare with
    held[1:, 50] = False
    frame = scores_of(case.lake(lake_of, held=held)).frame
    known = ~np.isin(np.arange(60), [3, 45, 50])
    expected = oracle(
        case.loss[0, known], case.loss[1:, known], case.keep[1:, known], case.population[known], None
    )
    assert frame["sample_id"].to_list() == [n for n in range(40) if n != 3]
    assert_scores(frame, expected)


def test_no_population_and_no_shadow_runs(lake_of: MakeLake) -> None:
    case = Case(15)
    lake = case.lake(lake_of, roles=["target", *["distilled"] * 8])
    with pytest.raises(NotEnoughData, match="has no shadow runs"):
        scores_of(lake)
    case.population[:] = False
    for mode in ("online", "offline"):
        with pytest.raises(NotEnoughData, match="set some aside with --population"):
            scores_of(case.lake(lake_of), mode=mode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0, "rank": "share"}, "gamma of rmia must be above 0"),
        ({"gamma": math.nan, "rank": "share"}, "gamma of rmia must be above 0"),
        ({"gamma": 2.0}, "add --rank share"),
        ({"a": 0.5}, "add --mode offline"),
        ({"a": 1.5, "mode": "offline"}, "a of rmia must lie between 0 and 1"),
        ({"a": math.nan, "mode": "offline"}, "a of rmia must lie between 0 and 1"),
    ],
)
def test_options_that_do_not_fit(
    opened: tuple[Source, Case], options: dict[str, float], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        rmia(opened[0], **options)  # type: ignore[arg-type]


# --- what the scores say ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_planted_members_rank_first(lake_of: MakeLake, mode: str) -> None:
    case = Case(16, runs=16, samples=300)
    case.loss = (3 + case.loss / 10).astype(np.float32)
    planted = np.flatnonzero(case.keep[0])[::7]
    case.loss[0, planted] = 0.1
    scores = scores_of(case.lake(lake_of), mode=mode)
    assert scores.frame.filter(pl.col("sample_id").is_in(planted))["score"].unique().to_list() == [1]
    top = scores.frame.sort("log_ratio", descending=True)["sample_id"].head(len(planted))
    assert set(top) == set(planted.tolist())


@pytest.mark.parametrize("rank", ["log-ratio", "share"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake, mode: str, rank: str) -> None:
    rng = np.random.default_rng(17)
    case = Case(17, runs=12, samples=1800)
    case.loss = rng.exponential(rng.exponential(1, 1800), case.keep.shape).astype(np.float32)
    with open_source(case.lake(lake_of), "tests") as source:
        outcome = run_analysis(source, find("rmia"), {"mode": mode, "rank": rank})
    auc = evaluate(*outcome.scores.arrays(), ())[0]
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]


# --- by the log ratio itself --------------------------------------------------------------------------------


def log_ratios(
    point: Floats, loss: Floats, keep: Mask, population: Mask, a: float | None
) -> list[float | None]:
    p = np.exp(-loss.astype(np.float32).astype(float))
    found: list[float | None] = []
    for n in np.flatnonzero(~population):
        expected = expected_p(p, keep, n, a, population=False)
        found.append(None if expected is None else -float(np.float32(point[n])) - math.log(expected))
    return found


@pytest.mark.parametrize("a", [None, 0.0, 0.3])
def test_the_default_is_the_log_ratio(opened: tuple[Source, Case], a: float | None) -> None:
    source, case = opened
    mode = "online" if a is None else "offline"
    by_ratio = rmia(source, mode=mode, a=a).frame  # type: ignore[arg-type]
    expected = log_ratios(case.loss[0], case.loss[1:], case.keep[1:], case.population, a)
    np.testing.assert_allclose(by_ratio["score"].to_numpy(), np.array(expected, float), rtol=1e-9, atol=1e-11)
    assert by_ratio["score"].to_list() == by_ratio["log_ratio"].to_list()
    # The share of the population has the same order, with ties.
    share = rmia(source, mode=mode, a=a, rank="share").frame["score"].to_numpy()  # type: ignore[arg-type]
    assert (np.diff(share[np.argsort(by_ratio["score"].to_numpy(), kind="stable")]) >= 0).all()
    assert len(np.unique(share)) < by_ratio["score"].n_unique()


def test_the_log_ratio_needs_no_population(lake_of: MakeLake) -> None:
    case = Case(19, samples=90)
    whole = scores_of(case.lake(lake_of), rank="log-ratio", mode="offline", a=0.5).frame
    kept = ~case.population
    case.loss, case.keep, case.population = case.loss[:, kept], case.keep[:, kept], case.population[kept]
    lake = case.lake(lake_of)
    alone = scores_of(lake, rank="log-ratio", mode="offline", a=0.5).frame
    assert alone["score"].to_list() == whole["score"].to_list()
    tuned = scores_of(lake, rank="log-ratio", mode="offline")
    assert tuned.metrics[0].value == tuned_by_log_ratio(case, nearest_half(case))
    with pytest.raises(NotEnoughData, match="set some aside with --population"):
        scores_of(lake, rank="share")


def tuned_by_log_ratio(case: Case, stand_in: int) -> float:
    rest = [m for m in range(1, len(case.loss)) if m != stand_in]
    member = case.keep[stand_in, ~case.population]
    areas = []
    for a in GRID:
        ratio = np.array(
            log_ratios(case.loss[stand_in], case.loss[rest], case.keep[rest], case.population, float(a)),
            float,
        )
        known = ~np.isnan(ratio)
        inside, outside = ratio[member & known], ratio[~member & known]
        areas.append(np.mean(np.sign(inside[:, None] - outside) / 2 + 0.5))
    return float(GRID[int(np.argmax(np.round(areas, 12)))])


def test_a_record_that_only_the_target_knows_ranks_first(lake_of: MakeLake) -> None:
    case = Case(20)
    case.loss[1:, 7] = np.inf
    case.loss[0, 9] = np.inf
    for mode, a in (("online", None), ("offline", 1.0)):
        frame = scores_of(case.lake(lake_of), rank="log-ratio", mode=mode, a=a).frame
        assert frame["score"][7] == math.inf
        assert frame["score"][9] is None
        assert frame["score"].arg_max() == 7


def test_the_mean_over_views_of_log_ratios(lake_of: MakeLake) -> None:
    case = Case(21, queries=2)
    frame = scores_of(case.lake(lake_of), rank="log-ratio").frame
    each = [
        log_ratios(case.loss[0, :, q], case.loss[1:, :, q], case.keep[1:], case.population, None)
        for q in (0, 1)
    ]
    np.testing.assert_allclose(frame["score"].to_numpy(), np.mean(np.array(each, float), axis=0), rtol=1e-9)
