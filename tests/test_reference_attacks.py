"""Attacks P, R and S against loops over samples and reference losses, and on inputs made to break them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.attack_p import attack_p
from losslake.analysis.attack_r import attack_r
from losslake.analysis.attack_s import attack_s
from losslake.analysis.catalogue import find
from losslake.analysis.metric import Metric
from losslake.analysis.reference_share import share_at_or_below
from losslake.analysis.roc import evaluate
from losslake.analysis.run import run_analysis
from losslake.analysis.scores import Scores
from losslake.analysis.source import Source
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binomtest

MakeLake = Callable[..., Lake]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
ATTACKS: dict[str, Callable[..., Scores]] = {"attack-p": attack_p, "attack-r": attack_r, "attack-s": attack_s}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[
        ("attack-p", {"reference": of, "interpolate": line})
        for of in ("all", "class")
        for line in (False, True)
    ],
    *[(name, {"interpolate": line}) for name in ("attack-r", "attack-s") for line in (False, True)],
]


def share(reference: list[float], loss: float, interpolate: bool) -> float | None:
    """F(loss), one comparison at a time."""
    if not reference or not np.isfinite(loss):
        return None
    below = sum(value <= loss for value in reference)
    if not interpolate:
        return below / len(reference)
    low = max((value for value in reference if value <= loss), default=0.0)
    high = min((value for value in reference if value > loss), default=np.inf)
    part = (loss - low) / (high - low) if np.isfinite(high) else 0.0
    return (below + part) / len(reference)


def references(
    name: str,
    n: int,
    loss: Floats,
    keep: Mask,
    labels: npt.NDArray[np.integer],
    population: Mask,
    options: dict[str, Any],
) -> list[float]:
    """The losses that sample n's is compared with; run 0 is the target."""
    runs, samples = loss.shape
    if name == "attack-r":
        return [loss[m, n] for m in range(1, runs) if not keep[m, n]]
    if name == "attack-s":
        pairs = product(range(1, runs), range(samples))
        return [loss[m, i] for m, i in pairs if not keep[m, i] and labels[i] == labels[n]]
    alike = options.get("reference") == "class"
    return [loss[0, i] for i in range(samples) if population[i] and (not alike or labels[i] == labels[n])]


class Case:
    """Losses (runs, samples) with many ties and some zeros, in three classes; a third of the samples is population."""

    def __init__(self, seed: int, runs: int = 9, samples: int = 60) -> None:
        rng = np.random.default_rng(seed)
        self.population = np.arange(samples) % 3 == 0
        self.keep = (rng.random((runs, samples)) < 0.5) & ~self.population
        self.labels = rng.integers(0, 3, samples).astype(np.int32)
        loss = rng.exponential(np.where(self.keep, 1, 2), (runs, samples))
        self.loss = np.where(rng.random(loss.shape) < 0.5, np.round(loss), loss).astype(np.float32)

    def lake(self, lake_of: MakeLake, **more: object) -> Lake:
        return lake_of(
            self.keep,
            np.zeros_like(self.loss),
            loss=self.loss,
            labels=self.labels,
            population=self.population,
            **more,
        )

    def expected(self, name: str, options: dict[str, Any]) -> list[float | None]:
        loss = self.loss.astype(float)
        return [
            share(
                references(name, n, loss, self.keep, self.labels, self.population, options),
                loss[0, n],
                options.get("interpolate", False),
            )
            for n in np.flatnonzero(~self.population)
        ]


def scores_of(lake: Lake, name: str, target: str | None = None, **options: object) -> Scores:
    with Source.open(lake, "tests", target) as source:
        return ATTACKS[name](source, **options)


def assert_shares(scores: Scores, expected: list[float | None]) -> None:
    found = scores.frame["share"].to_list()
    assert [value is None for value in found] == [value is None for value in expected]
    assert found == pytest.approx(expected, abs=1e-12)
    score = [None if value is None else 1 - value for value in found]
    assert scores.frame["score"].to_list() == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_variant_matches_the_loop(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    case = Case(0)
    case.loss[0, 1] = 0  # under every reference loss that is not 0 itself
    case.loss[0, 2] = 1e6  # over all of them
    case.loss[1:, 4] = case.loss[0, 4]  # equal to all
    scores = scores_of(case.lake(lake_of), name, **options)
    assert_shares(scores, case.expected(name, options))
    assert scores.frame["sample_id"].to_list() == np.flatnonzero(~case.population).tolist()
    assert scores.frame["member"].to_list() == case.keep[0, ~case.population].tolist()
    counts = [
        len(references(name, n, case.loss, case.keep, case.labels, case.population, options))
        for n in np.flatnonzero(~case.population)
    ]
    assert scores.frame["n_reference"].to_list() == counts


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_infinite_losses(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    """The target's leave their samples unscored; those of reference runs lie above every other."""
    case = Case(1)
    case.keep[1:5] = False  # no sample without a run that did not train on it
    case.loss[0, [1, 5]] = np.inf
    case.loss[2:5, 10:20] = np.inf
    case.loss[0, [0, 3, 6]] = np.inf  # population samples
    scores = scores_of(case.lake(lake_of), name, **options)
    assert_shares(scores, case.expected(name, options))
    assert scores.frame.filter(scores.frame["score"].is_null())["sample_id"].to_list() == [1, 5]
    assert scores.notes[0].startswith(
        "2 of 40 samples have no score: the target's loss on them is not finite"
    )


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_rates_at_each_alpha(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    case = Case(2, runs=11)
    scores = scores_of(case.lake(lake_of), name, alpha=(0.5, 0.2, 0.2), **options)
    assert [(metric.metric, metric.parameters["alpha"]) for metric in scores.metrics] == [
        (f"{what}_at_alpha", alpha) for alpha in (0.2, 0.5) for what in ("tpr", "fpr", "advantage")
    ]
    shares = np.array(case.expected(name, options), float)
    member = case.keep[0, ~case.population]
    for alpha in (0.2, 0.5):
        for what, side in (("tpr", member), ("fpr", ~member)):
            metric = metric_of(scores, f"{what}_at_alpha", alpha)
            hits, of = int((shares[side] <= alpha + 1e-12).sum()), int(side.sum())
            bounds = binomtest(hits, of).proportion_ci(0.95, "exact")
            assert (metric.value, metric.n) == (pytest.approx(hits / of), of)
            assert (metric.ci_low, metric.ci_high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))


def metric_of(scores: Scores, name: str, alpha: float) -> Metric:
    return next(one for one in scores.metrics if one.metric == name and one.parameters["alpha"] == alpha)


def test_a_share_that_is_exactly_alpha_rejects(lake_of: MakeLake) -> None:
    loss = np.tile(np.arange(1.0, 31.0), (2, 1)).T  # 30 runs x 2 samples: losses 1 to 30
    loss = np.vstack([[[3.5, 4.5]], loss])
    keep = np.zeros(loss.shape, bool)
    keep[0, 0] = True
    scores = scores_of(lake_of(keep, np.zeros_like(loss), loss=loss), "attack-r", alpha=(0.1,))
    assert scores.frame["share"].to_list() == [3 / 30, 4 / 30]
    assert metric_of(scores, "tpr_at_alpha", 0.1).value == 1
    assert metric_of(scores, "fpr_at_alpha", 0.1).value == 0


def test_interpolated_shares_by_hand() -> None:
    ranked = np.array([1.0, 2.0, 2.0, 4.0], np.float32)
    loss = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 9])
    assert share_at_or_below(ranked, loss, False).tolist() == [0, 0, 0.25, 0.25, 0.75, 0.75, 1, 1]
    assert share_at_or_below(ranked, loss, True).tolist() == [0, 0.125, 0.25, 0.375, 0.75, 0.875, 1, 1]
    assert share_at_or_below(np.zeros(3), np.array([0.0, 1.0]), True).tolist() == [1, 1]
    assert np.isnan(share_at_or_below(np.empty(0), loss, True)).all()


# --- who is compared with whom ----------------------------------------------------------------------------


def test_attack_r_takes_shadow_and_reference_runs_but_not_others(lake_of: MakeLake) -> None:
    case = Case(3, runs=9)
    roles = ["target", *["shadow"] * 3, *["reference"] * 2, "distilled", "leave_one_out", "target"]
    lake = case.lake(lake_of, roles=roles, parents=[*[None] * 8, "run-0000"])
    scores = scores_of(lake, "attack-r")
    case.loss, case.keep = case.loss[:6], case.keep[:6]
    assert_shares(scores, case.expected("attack-r", {}))


def test_attack_r_with_reference_runs_only(lake_of: MakeLake) -> None:
    case = Case(3)
    lake = case.lake(lake_of, roles=["target", *["reference"] * 8])
    assert_shares(scores_of(lake, "attack-r"), case.expected("attack-r", {}))
    with pytest.raises(NotEnoughData, match="has no shadow runs beside 'run-0000'"):
        scores_of(lake, "attack-s")


@pytest.mark.parametrize("name", ["attack-r", "attack-s"])
def test_a_target_among_the_shadows_is_left_out_of_its_own_reference(lake_of: MakeLake, name: str) -> None:
    case = Case(4)
    lake = case.lake(lake_of, roles=["shadow"] * 9)
    case.loss, case.keep = (np.roll(one, 4, axis=0) for one in (case.loss, case.keep))
    assert_shares(scores_of(lake, name, target="run-0005"), case.expected(name, {}))


@pytest.mark.parametrize("name", ATTACKS)
def test_only_the_sample_as_it_is_counts(lake_of: MakeLake, name: str) -> None:
    case = Case(5)
    views = np.stack([case.loss, np.zeros_like(case.loss)], axis=2)
    lake = lake_of(
        case.keep, np.zeros_like(views), loss=views, labels=case.labels, population=case.population
    )
    assert_shares(scores_of(lake, name), case.expected(name, {}))


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options in VARIANTS if options.get("reference") != "class"])  # fmt: skip
def test_one_class(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    case = Case(6)
    case.labels[:] = 0
    assert_shares(scores_of(case.lake(lake_of), name, **options), case.expected(name, options))


def test_a_class_without_references_leaves_its_samples_unscored(lake_of: MakeLake) -> None:
    case = Case(7)
    case.labels[1] = 7  # the only sample of its class; all shadows trained on it
    case.keep[:, 1] = True
    lake = case.lake(lake_of)
    for name, options in (("attack-s", {}), ("attack-p", {"reference": "class"}), ("attack-r", {})):
        scores = scores_of(lake, name, **options)
        assert_shares(scores, case.expected(name, options))
        assert scores.frame["score"].is_null().to_list() == [True, *[False] * 39]
        assert scores.notes[0].startswith("1 of 40 samples have no score")


def test_no_population(lake_of: MakeLake) -> None:
    case = Case(8)
    case.population[:] = False
    with pytest.raises(NotEnoughData, match=r"attack-p compares .* set some aside with --population"):
        scores_of(case.lake(lake_of), "attack-p")


def test_no_out_runs_and_no_shadow_runs(lake_of: MakeLake) -> None:
    case = Case(9, runs=3)
    case.population[:] = False
    case.keep[1:] = True
    lake = case.lake(lake_of)
    with pytest.raises(
        NotEnoughData, match="left out of the training sets of its 2 shadow and reference runs"
    ):
        scores_of(lake, "attack-r")
    with pytest.raises(NotEnoughData, match=r"the 2 shadow runs .* trained on every sample"):
        scores_of(lake, "attack-s")
    lake = case.lake(lake_of, roles=["target", "distilled", "leave_one_out"])
    for name in ("attack-r", "attack-s"):
        with pytest.raises(NotEnoughData, match="has no shadow runs beside 'run-0000'"):
            scores_of(lake, name)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("alpha", [0, 1, -0.5, float("nan")])
def test_levels_outside_0_to_1_are_refused(lake_of: MakeLake, name: str, alpha: float) -> None:
    with pytest.raises(InvalidOption, match="a significance level lies between 0 and 1"):
        scores_of(Case(0).lake(lake_of), name, alpha=(0.1, alpha))


# --- what the scores say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_planted_members_rank_first(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    case = Case(10, runs=12, samples=240)
    planted = np.flatnonzero(case.keep[0])[::9]
    case.loss += 1
    case.loss[0, planted] = 0.5
    scores = scores_of(case.lake(lake_of), name, **options)
    above = scores.frame.filter(scores.frame["score"] >= scores.frame["score"].max() - 1e-12 - 0.5 / 6)
    assert set(planted) <= set(above["sample_id"])
    with_lowest = scores.frame.filter(scores.frame["sample_id"].is_in(planted))["score"]
    assert with_lowest.min() == pytest.approx(scores.frame["score"].max(), abs=0.5 / 3)  # type: ignore[arg-type]
    auc = evaluate(*scores.arrays(), ())[0]
    assert auc.ci_low > 0.5  # type: ignore[operator]


@pytest.fixture(scope="module")
def null(lake_of: MakeLake) -> Iterator[Source]:
    """No loss says anything of membership, yet samples and classes differ; 39 runs without each sample."""
    rng = np.random.default_rng(11)
    samples, runs = 3000, 40
    population = np.arange(samples) >= 2000
    keep = np.zeros((runs, samples), bool)
    keep[0] = (rng.random(samples) < 0.5) & ~population
    labels = rng.integers(0, 2, samples).astype(np.int32)
    loss = ((1 + labels) * rng.exponential(1, samples) * rng.exponential(1, (runs, samples))).astype(
        np.float32
    )
    lake = lake_of(keep, np.zeros_like(loss), loss=loss, labels=labels, population=population)
    with Source.open(lake, "tests") as source:
        yield source


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_under_the_null_rejecting_at_alpha_has_that_rate(
    null: Source, name: str, options: dict[str, Any]
) -> None:
    outcome = run_analysis(null, find(name), {"alpha": (0.05, 0.1, 0.3), **options})
    auc = outcome.metrics[0]
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]
    for alpha in (0.05, 0.1, 0.3):
        for what in ("fpr_at_alpha", "tpr_at_alpha"):
            rate = metric_of(outcome.scores, what, alpha).value
            noise = 4 * np.sqrt(
                alpha * (1 - alpha) * (1 / 480 + 1 / 960)
            )  # of the threshold, and of the rate
            coarse = 0 if name != "attack-r" or options["interpolate"] else 1 / 40
            assert rate == pytest.approx(alpha, abs=noise + coarse)


def test_levels_finer_than_the_references_are_said_to_be_so(lake_of: MakeLake) -> None:
    case = Case(12)
    lake = case.lake(lake_of)
    scores = scores_of(lake, "attack-r", alpha=(0.01, 0.5))
    assert "cannot resolve alpha 0.01:" in scores.notes[-1]
    interpolated = scores_of(lake, "attack-r", alpha=(0.01,), interpolate=True)
    assert "resolve" not in "".join(interpolated.notes)
    assert scores_of(lake, "attack-p", alpha=(0.5,)).notes == ()
