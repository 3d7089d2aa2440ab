"""RaMIA against a plain loop over neighbours, and which neighbours may be compared; range queries beside other analyses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from findings import assert_scores
from losslake.analysis.attacks.ramia import ramia, trimmed_means
from losslake.analysis.attacks.rmia import GRID, rmia
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import ANALYSES, find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import evaluate
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.format.ranges import Range, parse_range, ranges_of
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from polars.testing import assert_frame_equal

MakeLake = Callable[..., Lake]
Floats = npt.NDArray[np.floating]

SPECS = ("original", "flip", "crop:5:4", "noise:3:0.1")
CROPS, NOISE = range(2, 7), range(7, 10)
"""Where the views of these specs stand on the last axis of the losses."""


class Case:
    """Losses (runs, samples, 10 views) of neighbours that are like their records; run 0 is the target."""

    def __init__(self, seed: int, runs: int = 9, samples: int = 60) -> None:
        rng = np.random.default_rng(seed)
        self.population = np.arange(samples) >= 2 * samples // 3
        self.keep = (rng.random((runs, samples)) < 0.5) & ~self.population
        self.keep[1:3, ~self.population], self.keep[3:5] = True, False
        level = rng.exponential(1, (samples, 10))
        scale = np.where(self.keep, 0.5, 1)[..., None]
        self.loss = (level * rng.exponential(scale, (runs, samples, 10))).astype(np.float32)

    def lake(
        self, lake_of: MakeLake, recorded: Sequence[Sequence[str]] | None = None, **more: object
    ) -> Lake:
        given = recorded or [SPECS] * len(self.keep)
        return lake_of(
            self.keep,
            np.zeros_like(self.loss),
            loss=self.loss,
            population=self.population,
            recorded=given,
            **more,
        )


def rmia_of(
    case: Case, view: int, a: float | None, gamma: float, runs: list[int], of: int = 0
) -> list[float]:
    """RMIA's scores of the audit samples for one view, NaN for none, record against record."""
    p = np.exp(-case.loss[:, :, view].astype(float))
    ratios: list[float] = []
    for n in range(len(case.population)):
        inside = [p[m, n] for m in runs if case.keep[m, n]]
        outside = [p[m, n] for m in runs if not case.keep[m, n]]
        if not outside or (a is None and not inside and not case.population[n]):
            ratios.append(math.nan)
            continue
        mean = sum(outside) / len(outside)
        if a is not None:
            mean = ((1 + a) * mean + 1 - a) / 2
        elif not case.population[n]:
            mean = (mean + sum(inside) / len(inside)) / 2
        ratios.append(p[of, n] / mean)
    pool = [ratios[n] for n in np.flatnonzero(case.population) if not math.isnan(ratios[n])]
    return [
        math.nan
        if math.isnan(ratios[n]) or not np.isfinite(case.loss[of, n, view])
        else sum(ratios[n] / z > gamma * (1 + 1e-10) for z in pool) / len(pool)
        for n in np.flatnonzero(~case.population)
    ]


def oracle(
    case: Case,
    views: Sequence[int],
    *,
    a: float | None = None,
    gamma: float = 1,
    low: float = 0.2,
    high: float = 0.2,
    runs: list[int] | None = None,
) -> list[float | None]:
    """Sort a sample's scores, drop some at either end, average the rest."""
    others = runs if runs is not None else list(range(1, len(case.keep)))
    by_view = [rmia_of(case, view, a, gamma, others) for view in views]
    scores: list[float | None] = []
    for sample in zip(*by_view, strict=True):
        ranked = sorted(sample)
        kept = ranked[int(low * len(ranked) + 1e-9) : len(ranked) - int(high * len(ranked) + 1e-9)]
        scores.append(None if any(map(math.isnan, sample)) else sum(kept) / len(kept))
    return scores


def scores_of(lake: Lake, **options: object) -> Scores:
    with open_source(lake, "tests") as source:
        return ramia(source, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def opened(lake_of: MakeLake) -> Iterator[tuple[Source, Case]]:
    case = Case(0)
    case.loss[:, 41] = case.loss[:, 2]  # ties
    case.loss[0, 3, 4] = np.inf
    with open_source(case.lake(lake_of), "tests") as source:
        yield source, case


@pytest.mark.parametrize(("ranges", "views"), [("crop", CROPS), ("noise", NOISE), ("all", [*CROPS, *NOISE])])
@pytest.mark.parametrize(("a", "gamma"), [(None, 1.0), (None, 2.0), (0.3, 1.0)])
def test_it_matches_the_loop(
    opened: tuple[Source, Case], ranges: str, views: Sequence[int], a: float | None, gamma: float
) -> None:
    source, case = opened
    mode = "online" if a is None else "offline"
    scores = ramia(source, mode=mode, a=a, gamma=gamma, ranges=ranges)  # type: ignore[arg-type]
    assert_scores(scores.frame, oracle(case, views, a=a, gamma=gamma))
    audit = ~case.population
    assert scores.frame["sample_id"].to_list() == np.flatnonzero(audit).tolist()
    assert scores.frame["member"].to_list() == case.keep[0, audit].tolist()
    assert scores.frame["views"].unique().to_list() == [len(views)]
    assert scores.frame["n_in"].to_list() == case.keep[1:, audit].sum(axis=0).tolist()
    assert scores.frame["n_out"].to_list() == (~case.keep[1:, audit]).sum(axis=0).tolist()
    assert len(scores.notes) == (ranges != "noise")  # sample 3 has an infinite loss in a crop


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0.8, 0), (0, 0.99), (0.5, 0.25), (0.2, 0.6)])
def test_trimming(opened: tuple[Source, Case], low: float, high: float) -> None:
    source, case = opened
    frame = ramia(source, ranges="crop", trim_low=low, trim_high=high).frame
    assert_scores(frame, oracle(case, CROPS, low=low, high=high))


def test_trimmed_means() -> None:
    values = np.array([[4.0, 0.0], [1.0, np.nan], [3.0, 0.0], [2.0, 0.0], [100.0, 0.0]])
    np.testing.assert_equal(trimmed_means(values, 0, 0.2), [2.5, np.nan])
    np.testing.assert_equal(trimmed_means(values, 0.2, 0.2), [3, np.nan])
    hundred = np.arange(100.0)[::-1, None]
    assert trimmed_means(hundred, 0.29, 0.7)[0] == 29, "29 and 70 left out, not 28"
    for low, high in itertools.product(np.arange(0, 1, 0.07), repeat=2):
        if low + high < 1:
            assert np.isfinite(trimmed_means(hundred[:3], low, high)).all()


def test_blocks_of_views_change_nothing(opened: tuple[Source, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = opened
    before = {mode: ramia(source, mode=mode) for mode in ("online", "offline")}  # type: ignore[arg-type]
    for most in (1, 120, 250):
        monkeypatch.setattr("losslake.analysis.attacks.ramia._SAMPLES_AT_ONCE", most)
        for mode, scores in before.items():
            again = ramia(source, mode=mode)  # type: ignore[arg-type]
            assert again.frame.equals(scores.frame)
            assert again.metrics == scores.metrics


def test_a_is_tuned_without_the_targets_membership(lake_of: MakeLake) -> None:
    """On the first neighbour of a shadow run: the AUC of plain RMIA of that view, over the grid."""
    case = Case(5)
    one = scores_of(case.lake(lake_of), mode="offline")
    audit = ~case.population
    stand_in = 1 + int(np.argmin(np.abs(2 * case.keep[1:].sum(axis=1) - audit.sum())))
    rest = [m for m in range(1, 9) if m != stand_in]
    member = case.keep[stand_in, audit]
    areas = []
    for a in GRID:
        scores = np.array(rmia_of(case, 2, float(a), 1, rest, of=stand_in))
        inside, outside = (scores[side & ~np.isnan(scores)] for side in (member, ~member))
        wins = (inside[:, None] > outside) + (inside[:, None] == outside) / 2
        areas.append(round(float(wins.mean()), 12))
    chosen = float(GRID[int(np.argmax(areas))])
    assert one.metrics[0].value == chosen
    assert one.metrics[0].parameters == {"tuned_on": f"run-{stand_in:04d}"}
    assert_scores(one.frame, oracle(case, [*CROPS, *NOISE], a=chosen))
    case.keep[0, audit] = ~case.keep[0, audit]
    other = scores_of(case.lake(lake_of), mode="offline")
    assert one.metrics == other.metrics
    assert one.frame.drop("member").equals(other.frame.drop("member"))


# --- which neighbours may be compared -----------------------------------------------------------------------


def test_neighbours_drawn_otherwise_are_refused(lake_of: MakeLake) -> None:
    case = Case(6)
    lake = case.lake(lake_of, [SPECS, *[SPECS] * 7, ("original", "flip", "crop:5:4", "noise:3:0.2")])
    with pytest.raises(
        NotEnoughData, match=r"'run-0008' .* has queries noise:3:0.2, target 'run-0000' has noise:3:0.1"
    ):
        scores_of(lake)
    assert_scores(scores_of(lake, ranges="crop").frame, oracle(case, CROPS))


def test_only_what_all_hold_counts(lake_of: MakeLake) -> None:
    """Runs without neighbours are left out, and views that a run with some lacks."""
    case = Case(7)
    recorded = [SPECS, *[SPECS] * 5, ("original", "flip", "crop:2:4"), *[("original", "flip")] * 2]
    scores = scores_of(case.lake(lake_of, recorded))
    assert_scores(scores.frame, oracle(case, [2, 3], runs=list(range(1, 7))))
    assert scores.notes[:2] == (
        "2 of 8 shadow and reference runs have no such neighbours and are left out",
        "6 of the target's 8 views are left out: other runs lack them",
    )
    scores = scores_of(case.lake(lake_of, recorded), ranges="noise")
    assert_scores(scores.frame, oracle(case, NOISE, runs=list(range(1, 6))))
    assert scores.notes[0].startswith("3 of 8 shadow")


def test_no_neighbours(lake_of: MakeLake) -> None:
    case = Case(8, runs=4)
    plain = case.lake(lake_of, [("original", "flip")] * 4)
    with pytest.raises(
        NotEnoughData, match=r"'run-0000' .* no range queries; .*--queries original,crop:8 for"
    ):
        scores_of(plain)
    with pytest.raises(NotEnoughData, match=r"no impute queries; .* with --queries original,impute:8"):
        scores_of(case.lake(lake_of), ranges="impute")
    alone = case.lake(lake_of, [SPECS, *[("original", "flip")] * 3])
    with pytest.raises(
        NotEnoughData, match=r"do not all have the range queries .*--queries original,crop:5:4,noise"
    ):
        scores_of(alone)
    case.population[:] = False
    with pytest.raises(NotEnoughData, match="set some aside with --population"):
        scores_of(case.lake(lake_of))
    nobody = case.lake(lake_of, roles=["target", *["distilled"] * 3])
    with pytest.raises(NotEnoughData, match="has no shadow runs"):
        scores_of(nobody)
    references = case.lake(lake_of, roles=["target", *["reference"] * 3])
    with pytest.raises(NotEnoughData, match="no shadow run to tune a on"):
        scores_of(references, mode="offline")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma of ramia must be above 0"),
        ({"a": 0.5}, "add --mode offline"),
        ({"trim_low": -0.1}, "trim-low and trim-high of ramia"),
        ({"trim_low": 0.5, "trim_high": 0.5}, "trim-low and trim-high of ramia"),
        ({"trim_high": math.nan}, "trim-low and trim-high of ramia"),
    ],
)
def test_options_that_do_not_fit(
    opened: tuple[Source, Case], options: dict[str, float], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        ramia(opened[0], **options)  # type: ignore[arg-type]


def test_what_a_run_says_of_its_ranges(lake_of: MakeLake) -> None:
    run = Case(9).lake(lake_of).run("tests", "run-0003")
    assert ranges_of(run) == {"crop": Range("crop", 5, 4), "noise": Range("noise", 3, 0.1)}
    assert parse_range(str(Range("noise", 3, 0.1))) == Range("noise", 3, 0.1)
    assert Range("crop", 2, 4).queries == range(1024, 1026)
    for extra in (
        {},
        {"recording": 3},
        {"recording": {"queries": "crop:2"}},
        {"recording": {"queries": [1, "blur:3"]}},
    ):
        assert ranges_of(replace(run, info=RunInfo("shadow", extra=extra))) == {}


# --- what the scores say, and other analyses beside ---------------------------------------------------------


def test_neighbours_of_members_rank_first(lake_of: MakeLake) -> None:
    """The target knows the surroundings of some members, though not these records as they are."""
    case = Case(10, runs=12, samples=300)
    case.loss = (3 + case.loss / 10).astype(np.float32)
    planted = np.flatnonzero(case.keep[0])[::7]
    case.loss[0, planted, 2:] = 0.1
    case.loss[0, planted, 2] = 9  # one neighbour that looks like nothing
    scores = scores_of(case.lake(lake_of))
    top = scores.frame.sort("score", descending=True).head(len(planted))
    assert set(top["sample_id"]) == set(planted.tolist())
    assert top["score"].unique().to_list() == [1]
    with open_source(case.lake(lake_of), "tests") as source:
        plain = rmia(source).frame.filter(pl.col("sample_id").is_in(planted))["score"]
    assert plain.mean() < 0.9  # type: ignore[operator]


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(11)
    case = Case(11, runs=8, samples=1200)
    case.loss = rng.exponential(rng.exponential(1, (1200, 1)), case.loss.shape).astype(np.float32)
    with open_source(case.lake(lake_of), "tests") as source:
        outcome = run_analysis(source, find("ramia"))
    auc = evaluate(*outcome.scores.arrays(), ())[0]
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(analysis.name, {}) for analysis in ANALYSES if analysis.name != "ramia"],
        ("lira", {"mode": "offline"}),
        ("lira", {"center": "median"}),
        ("lira", {"queries": "gaussian"}),
        ("rmia", {"mode": "offline"}),
        ("rmia", {"queries": "original"}),
    ],
)
def test_analyses_of_the_sample_itself_do_not_see_its_neighbours(
    both: tuple[Source, Source], name: str, options: dict[str, str]
) -> None:
    with_ranges, without = both
    try:
        expected = find(name).compute(without, **options).frame
    except NotEnoughData:  # of traces or logits
        with pytest.raises(NotEnoughData):
            find(name).compute(with_ranges, **options)
        return
    assert_frame_equal(
        find(name).compute(with_ranges, **options).frame, expected, rel_tol=1e-9, abs_tol=1e-12
    )


@pytest.fixture(scope="module")
def both(lake_of: MakeLake) -> Iterator[tuple[Source, Source]]:
    """The same runs with range queries beside the plain ones, and with the plain ones alone."""
    case = Case(12)
    phi = -np.log(np.expm1(np.maximum(case.loss, 1e-6)))
    given = {"population": case.population, "labels": np.arange(60) % 2}
    everything = lake_of(case.keep, phi, loss=case.loss, recorded=[SPECS] * 9, **given)
    plain = lake_of(case.keep, phi[:, :, :2], loss=case.loss[:, :, :2], **given)
    with open_source(everything, "tests") as one, open_source(plain, "tests") as other:
        yield one, other
