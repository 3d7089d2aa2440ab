"""Attacks P, R, S, D and L against loops over samples and reference losses, and on inputs made to break them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from losslake.analysis.attacks.attack_p_s import attack_p, attack_s, share_at_or_below
from losslake.analysis.attacks.attack_r_d_l import attack_d, attack_l, attack_r
from losslake.analysis.attacks.reference_share import most_below, thresholds_at
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import evaluate, split, tpr_at_fpr
from losslake.store.errors import CorruptLake, InvalidOption, NotEnoughData
from losslake.store.format.records import pack_samples, unpack_samples
from losslake.store.lake import Lake
from scipy.stats import binomtest

MakeLake = Callable[..., Lake]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
ATTACKS: dict[str, Callable[..., Scores]] = {
    "attack-p": attack_p,
    "attack-r": attack_r,
    "attack-s": attack_s,
    "attack-d": attack_d,
    "attack-l": attack_l,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[
        ("attack-p", {"reference": of, "interpolate": line})
        for of in ("all", "class")
        for line in (False, True)
    ],
    *[
        (name, {"interpolate": line})
        for name in ("attack-r", "attack-s", "attack-d")
        for line in (False, True)
    ],
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
    if name in ("attack-r", "attack-d"):
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

    def lake(self, lake_of: MakeLake, name: str = "", **more: object) -> Lake:
        if name == "attack-d":
            others = len(self.keep) - 1
            more = {
                "roles": ["target", *["distilled"] * others],
                "parents": [None, *["run-0000"] * others],
                **more,
            }
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
    with open_source(lake, "tests", target) as source:
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
    scores = scores_of(case.lake(lake_of, name), name, **options)
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
    scores = scores_of(case.lake(lake_of, name), name, **options)
    assert_shares(scores, case.expected(name, options))
    assert scores.frame.filter(scores.frame["score"].is_null())["sample_id"].to_list() == [1, 5]
    assert scores.notes[0].startswith(
        "2 of 40 samples have no score: the target's loss on them is not finite"
    )


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_rates_at_each_alpha(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    case = Case(2, runs=11)
    scores = scores_of(case.lake(lake_of, name), name, alpha=(0.5, 0.2, 0.2), **options)
    common = ["threshold"] if name == "attack-p" and options["reference"] == "all" else []
    assert [(metric.metric, metric.parameters["alpha"]) for metric in scores.metrics] == [
        *[(f"{what}_at_alpha", alpha) for alpha in (0.2, 0.5) for what in ("tpr", "fpr", "advantage")],
        *[(f"{what}_at_alpha", alpha) for what in common for alpha in (0.2, 0.5)],
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


@pytest.mark.parametrize("name", ["attack-p", "attack-r", "attack-s", "attack-d"])
def test_only_the_sample_as_it_is_counts(lake_of: MakeLake, name: str) -> None:
    case = Case(5)
    views = np.stack([case.loss, np.zeros_like(case.loss)], axis=2)
    case.loss = views
    lake = case.lake(lake_of, name)
    case.loss = views[:, :, 0]
    assert_shares(scores_of(lake, name), case.expected(name, {}))


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options in VARIANTS if options.get("reference") != "class"])  # fmt: skip
def test_one_class(lake_of: MakeLake, name: str, options: dict[str, Any]) -> None:
    case = Case(6)
    case.labels[:] = 0
    assert_shares(scores_of(case.lake(lake_of, name), name, **options), case.expected(name, options))


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
    for name, command in (("attack-d", "distilled --count 32"), ("attack-l", "leave-one-out --sample ID")):
        with pytest.raises(NotEnoughData, match=f"'losslake collect {command} --target run-0000'"):
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
    scores = scores_of(case.lake(lake_of, name), name, **options)
    above = scores.frame.filter(scores.frame["score"] >= scores.frame["score"].max() - 1e-12 - 0.5 / 6)
    assert set(planted) <= set(above["sample_id"])
    with_lowest = scores.frame.filter(scores.frame["sample_id"].is_in(planted))["score"]
    assert with_lowest.min() == pytest.approx(scores.frame["score"].max(), abs=0.5 / 3)  # type: ignore[arg-type]
    auc = evaluate(*scores.arrays(), ())[0]
    assert auc.ci_low > 0.5  # type: ignore[operator]


@pytest.fixture(scope="module")
def null(lake_of: MakeLake) -> Iterator[Source]:
    """No loss says anything of membership, yet samples and classes differ; 39 runs without each sample, 19 distilled."""
    rng = np.random.default_rng(11)
    samples, shadows, distilled = 3000, 39, 19
    runs = 1 + shadows + distilled
    population = np.arange(samples) >= 2000
    keep = np.zeros((runs, samples), bool)
    keep[0] = (rng.random(samples) < 0.5) & ~population
    labels = rng.integers(0, 2, samples).astype(np.int32)
    loss = ((1 + labels) * rng.exponential(1, samples) * rng.exponential(1, (runs, samples))).astype(
        np.float32
    )
    roles = ["target", *["shadow"] * shadows, *["distilled"] * distilled]
    parents = [*[None] * (1 + shadows), *["run-0000"] * distilled]
    lake = lake_of(
        keep,
        np.zeros_like(loss),
        loss=loss,
        labels=labels,
        population=population,
        roles=roles,
        parents=parents,
    )
    with open_source(lake, "tests") as source:
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
            coarse = 0 if options["interpolate"] else {"attack-r": 1 / 40, "attack-d": 1 / 20}.get(name, 0)
            assert rate == pytest.approx(alpha, abs=noise + coarse)


def test_levels_finer_than_the_references_are_said_to_be_so(lake_of: MakeLake) -> None:
    case = Case(12)
    lake = case.lake(lake_of)
    scores = scores_of(lake, "attack-r", alpha=(0.01, 0.5))
    assert "cannot resolve alpha 0.01:" in scores.notes[-1]
    interpolated = scores_of(lake, "attack-r", alpha=(0.01,), interpolate=True)
    assert "resolve" not in "".join(interpolated.notes)
    assert scores_of(lake, "attack-p", alpha=(0.5,)).notes == ()


def test_a_rate_beyond_its_level_is_told(lake_of: MakeLake) -> None:
    case = Case(20, runs=25, samples=240)
    case.loss[1:] += 5  # reference models that are worse than the target at everything
    scores = scores_of(case.lake(lake_of), "attack-r", alpha=(0.2, 0.3))
    assert scores.notes[:1] == (
        "rejecting at alpha 0.2 (0.97), 0.3 (0.97) has the false-positive rate in brackets: the reference losses are higher "
        "than the target's on records it did not train on; the score ranks records, but 1 - score is no p-value",
    )
    # The target's losses lie under nearly all of these: that they tie is told as well.
    assert [note.partition(" non-members and ")[0] for note in scores.notes[1:]] == ["66 of 72"]
    case.loss[1:] -= 5
    assert scores_of(case.lake(lake_of), "attack-r", alpha=(0.2, 0.3)).notes == ()


def test_a_tie_at_the_top_is_told_and_interpolation_orders_it(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(0)
    keep = rng.random((9, 1_000)) < 0.5
    phi = rng.normal(1, 2, 1_000) + 2.0 * keep + rng.normal(0, 1, (9, 1_000))
    lake = lake_of(keep, phi)
    steps = scores_of(lake, "attack-r")
    known = steps.frame.filter(pl.col("score").is_not_null())
    score, member = known["score"].to_numpy(), known["member"].to_numpy()
    tied = int((score == score.max())[~member].sum())
    assert tied > 0.05 * (~member).sum()
    assert (
        f"{tied} of {(~member).sum()} non-members and {(score == score.max())[member].sum()} members"
        in steps.notes[-1]
    )
    straight = scores_of(lake, "attack-r", interpolate=True)
    assert not any("one and the same score" in note for note in straight.notes)
    found = [tpr_at_fpr(*split(*one.arrays()), 0.01) for one in (steps, straight)]
    assert found[0].value == 0
    assert found[1].ci_low is not None
    assert found[1].ci_low > 0.02
    # Nor where few enough tie for every level that was asked for.
    assert not any(
        "one and the same score" in note for note in scores_of(lake, "attack-r", alpha=(0.9,)).notes
    )


# --- attack D: who was distilled from whom, and on what -----------------------------------------------------


def test_attack_d_takes_models_distilled_from_the_target_alone(lake_of: MakeLake) -> None:
    case = Case(13, runs=9)
    roles = ["target", *["distilled"] * 4, "shadow", "reference", "distilled", "target"]
    parents = [None, *["run-0000"] * 4, None, None, "run-0008", None]
    lake = case.lake(lake_of, roles=roles, parents=parents)
    scores = scores_of(lake, "attack-d", target="run-0000")
    other = scores_of(lake, "attack-d", target="run-0008")
    assert other.frame["n_reference"].max() == 1
    case.loss, case.keep = case.loss[:5], case.keep[:5]
    assert_shares(scores, case.expected("attack-d", {}))


def test_a_distilled_model_is_left_out_for_what_it_learnt_from(lake_of: MakeLake) -> None:
    case = Case(14)
    case.keep[1:] = False
    taught = np.random.default_rng(14).random(case.keep.shape) < 0.5
    taught[1:, 2] = True  # by all of them
    extras: list[dict[str, Any]] = [
        {"distilled_on": {"pool": "audit", "samples": pack_samples(row)}} for row in taught
    ]
    extras[8] = {"distilled_on": {"pool": "population", "samples": pack_samples(case.population)}}
    taught[8] = False
    extras[7], taught[7] = {}, False  # made by hand: nothing is known of it
    taught[7:, 2] = True
    case.keep[7:, 2] = True
    scores = scores_of(case.lake(lake_of, "attack-d", extras=extras), "attack-d")
    case.keep[1:] |= taught[1:]
    assert_shares(scores, case.expected("attack-d", {}))
    assert scores.notes[0] == (
        "1 of 40 samples have no score: the target's loss on them is not finite, or every distilled model learnt from them"
    )


def test_all_distilled_models_learnt_from_all(lake_of: MakeLake) -> None:
    case = Case(15)
    case.keep[1:] = False
    everything = [{"distilled_on": {"pool": "audit", "samples": pack_samples(~case.population)}}] * 9
    with pytest.raises(NotEnoughData, match="or distil on the population"):
        scores_of(case.lake(lake_of, "attack-d", extras=everything), "attack-d")
    broken = [{"distilled_on": {"pool": "audit", "samples": "AAAA"}}] * 9
    with pytest.raises(CorruptLake, match="is of 3 bytes; 60 samples need 8"):
        scores_of(case.lake(lake_of, "attack-d", extras=broken), "attack-d")


def test_sets_of_samples_as_text() -> None:
    rng = np.random.default_rng(0)
    for samples in (1, 7, 8, 9, 1000):
        chosen = rng.random(samples) < 0.5
        np.testing.assert_array_equal(unpack_samples(pack_samples(chosen), samples), chosen)
    for text in ("?", 7, None, "AA=A"):
        with pytest.raises(CorruptLake):
            unpack_samples(text, 8)  # type: ignore[arg-type]


# --- attack L: one sample a run -----------------------------------------------------------------------------


def leave_one_out(
    lake_of: MakeLake, loss: Floats, members: Mask, left_out: list[int | None], **more: Any
) -> Lake:
    """A lake with the target (row 0 of loss) and a leave-one-out run for each of ``left_out``."""
    runs = len(loss)
    keep = np.tile(members, (runs, 1))
    for run, sample in enumerate(left_out, 1):
        if sample is not None:
            keep[run, sample] = False
    options: dict[str, Any] = {
        "roles": ["target", *["leave_one_out"] * (runs - 1)],
        "parents": [None, *["run-0000"] * (runs - 1)],
        "extras": [{}, *({} if sample is None else {"sample_id": sample} for sample in left_out)],
    }
    return lake_of(keep, np.zeros_like(loss), loss=loss, **{**options, **more})


@pytest.mark.parametrize("interpolate", [False, True])
def test_attack_l_matches_the_loop(lake_of: MakeLake, interpolate: bool) -> None:
    rng = np.random.default_rng(16)
    members = np.arange(12) % 2 == 0
    left_out: list[int | None] = [0, 1, 4, 7, None] * 4
    loss = np.round(rng.exponential(2, (21, 12)), 1).astype(np.float32)
    loss[6:8, 1] = np.inf
    lake = leave_one_out(lake_of, loss, members, left_out)
    scores = scores_of(lake, "attack-l", interpolate=interpolate, alpha=(0.3,))
    expected = [
        share(
            [float(loss[m, n]) for m, of in enumerate(left_out, 1) if of == n], float(loss[0, n]), interpolate
        )
        for n in range(12)
    ]
    assert_shares(scores, expected)
    assert scores.frame["n_reference"].to_list() == [4 if n in (0, 1, 4, 7) else 0 for n in range(12)]
    assert scores.notes[0] == (
        "8 of 12 samples have no score: the target's loss on them is not finite, or no leave-one-out run was made for "
        "them; 'losslake collect leave-one-out --sample ID' makes some"
    )
    assert scores.frame["thresholds"].is_null().to_list() == [value is None for value in expected]


def test_leave_one_out_runs_of_another_target_do_not_count(lake_of: MakeLake) -> None:
    loss = np.full((4, 3), 2.0, np.float32)
    loss[0], loss[1] = 1, 0
    lake = leave_one_out(
        lake_of,
        loss,
        np.array([True, False, True]),
        [0, 0, 1],
        parents=[None, "other", "run-0000", "run-0000"],
    )
    scores = scores_of(lake, "attack-l", target="run-0000")
    assert scores.frame["score"].to_list() == [1, 1, None]
    assert scores.frame["n_reference"].to_list() == [1, 1, 0]


def test_attack_l_with_runs_for_no_sample(lake_of: MakeLake) -> None:
    lake = leave_one_out(lake_of, np.ones((2, 3), np.float32), np.array([True, False, True]), [None])
    with pytest.raises(NotEnoughData, match=r"the 1 leave-one-out runs .* were made for no audit sample"):
        scores_of(lake, "attack-l")


def test_attack_l_finds_planted_members_and_nothing_in_noise(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(17)
    samples, repeats = 12, 4
    members = np.arange(samples) % 2 == 0
    left_out: list[int | None] = [n for n in range(samples) for _ in range(repeats)]
    level = rng.exponential(2, samples)
    for effect in (0.0, 5.0):
        loss = level * np.exp(rng.normal(0, 0.3, (1 + len(left_out), samples)))
        loss[0] *= np.exp(-effect * members)
        scores = scores_of(leave_one_out(lake_of, loss.astype(np.float32), members, left_out), "attack-l")
        auc = evaluate(*scores.arrays(), ())[0]
        assert auc.ci_low is not None
        assert auc.ci_high is not None
        if effect:
            assert scores.frame.filter(scores.frame["member"])["score"].to_list() == [1.0] * 6
            assert auc.ci_low > 0.5
        else:
            assert auc.ci_low < 0.5 < auc.ci_high


# --- thresholds ---------------------------------------------------------------------------------------------

LEVELS = (0.001, 0.05, 0.1, 0.25, 0.5, 0.9)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_thresholds_part_what_is_rejected_from_what_is_not(
    lake_of: MakeLake, name: str, options: dict[str, Any]
) -> None:
    case = Case(18, runs=14)
    case.loss[3:6, 10:20] = np.inf
    scores = scores_of(case.lake(lake_of, name), name, alpha=LEVELS[::-1], **options)
    line = options["interpolate"]
    for row in scores.frame.iter_rows(named=True):
        n = row["sample_id"]
        reference = references(
            name, n, case.loss.astype(float), case.keep, case.labels, case.population, options
        )
        if not reference:
            assert row["thresholds"] is None
            continue
        assert [pair["alpha"] for pair in row["thresholds"]] == list(LEVELS)
        for alpha, threshold in ((pair["alpha"], pair["loss"]) for pair in row["thresholds"]):
            under, over = threshold * (1 - 1e-9), threshold * (1 + 1e-9) + 1e-300
            if under < threshold:
                found = share(reference, min(under, 1e30), line)
                assert found is not None
                assert found <= alpha + 1e-9
            if np.isfinite(threshold):
                found = share(reference, over, line)
                assert found is not None
                assert found > alpha - 1e-9


def test_the_threshold_of_attack_p_is_one_for_all(lake_of: MakeLake) -> None:
    case = Case(19)
    case.loss[0] = np.random.default_rng(19).permutation(60) + 1  # no ties
    lake = case.lake(lake_of)
    scores = scores_of(lake, "attack-p", alpha=(0.1, 0.3))
    own = np.sort(case.loss[0, case.population].astype(float))
    for alpha, at in ((0.1, 2), (0.3, 6)):  # of 20 losses 2 and 6 may lie under it
        metric = metric_of(scores, "threshold_at_alpha", alpha)
        assert (metric.value, metric.n) == (own[at], 20)
        assert {pairs[0 if alpha == 0.1 else 1]["loss"] for pairs in scores.frame["thresholds"]} == {own[at]}
    by_class = scores_of(lake, "attack-p", alpha=(0.1,), reference="class")
    assert not [metric for metric in by_class.metrics if metric.metric == "threshold_at_alpha"]
    assert len({pairs[0]["loss"] for pairs in by_class.frame["thresholds"]}) == 3


def test_thresholds_by_hand() -> None:
    ranked = np.array([1.0, 2.0, 2.0, 4.0, np.inf])
    levels = (0.1, 0.2, 0.3, 0.5, 0.75, 0.8, 0.9)

    def of(count: int, interpolate: bool) -> list[float]:
        one = thresholds_at(ranked, np.zeros(1, np.int64), np.array([count]), levels, interpolate)
        return one[0].tolist()  # type: ignore[no-any-return]

    assert of(5, False) == [1, 2, 2, 2, 4, np.inf, np.inf]
    assert of(5, True) == pytest.approx([0.5, 1, 1.5, 2, 3.5, np.inf, np.inf])
    assert np.isnan(of(0, True)).all()


def test_as_many_below_as_a_level_allows() -> None:
    """k / n <= level in the arithmetic in which shares are compared with levels."""
    n = np.arange(1, 400)
    for level in (0.001, 0.01, 0.07, 0.29, 0.57, 0.58, 0.999):
        k = most_below(n, level)
        assert (k / n <= level).all()
        assert ((k + 1) / n > level).all()
