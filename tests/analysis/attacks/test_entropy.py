"""The entropy attack: modified entropy against 120 digits, its densities against SciPy's, and who is left out."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
from losslake.analysis.attacks.entropy import (
    HIGHEST,
    LOWEST,
    WIDTH,
    EntropyCells,
    entropy,
    log_modified_entropy,
    modified_entropy,
)
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import InvalidInput, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import gaussian_kde

MakeLake = Callable[..., Lake]

getcontext().prec = 120


def exact(logits: np.ndarray, label: int) -> float:
    """Modified entropy by its definition, to 120 digits."""
    weights = [Decimal(float(z)).exp() for z in logits]
    p = [weight / sum(weights) for weight in weights]
    others = [q * (1 - q).ln() for c, q in enumerate(p) if c != label]
    return float(-(1 - p[label]) * p[label].ln() - sum(others))


def fleet(seed: int, runs: int, samples: int, gap: float = 2.0, classes: int = 3) -> dict[str, np.ndarray]:
    """Runs whose logits at the label are higher for members."""
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    labels = rng.integers(0, classes, samples).astype(np.int32)
    z = rng.normal(0, 1.5, (runs, samples, classes))
    z += gap * keep[:, :, None] * (np.arange(classes) == labels[:, None])
    return {"keep": keep, "logits": z.astype(np.float32), "labels": labels}


def scores_of(lake: Lake, target: str | None = None) -> Scores:
    with open_source(lake, "tests", target) as source:
        return entropy(source)


# --- modified entropy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1, 10, 30])
@pytest.mark.parametrize("classes", [2, 5])
def test_modified_entropy_is_exact_to_the_last_digits(scale: float, classes: int) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, scale, (24, classes)).astype(np.float32)
    label = np.concatenate([z[:12].argmax(axis=1), rng.integers(0, classes, 12)])
    expected = [exact(row, y) for row, y in zip(z, label, strict=True)]
    np.testing.assert_allclose(modified_entropy(z, label), expected, rtol=1e-12)


def test_modified_entropy_where_probabilities_round() -> None:
    z = np.array([[40.0, 0, 0], [40, 0, 0], [100, 0, -100], [100, 0, -100], [0, 0, 0], [7, 7, -50]])
    label = np.array([0, 1, 0, 2, 1, 0])
    expected = [exact(row, y) for row, y in zip(z, label, strict=True)]
    np.testing.assert_allclose(modified_entropy(z, label), expected, rtol=1e-12)
    found = modified_entropy(np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32), np.array([0, 0]))
    assert np.isfinite(found).all()
    assert found[0] == 0 < found[1]


def test_modified_entropy_orders_surely_right_to_surely_wrong() -> None:
    margin = np.linspace(-60, 60, 400)
    z = np.stack([margin, np.zeros(400), np.zeros(400)], axis=1)
    assert (np.diff(modified_entropy(z, np.zeros(400, int))) < 0).all()


def test_modified_entropy_needs_finite_logits_and_a_label() -> None:
    z = np.array([[1.0, 2], [np.inf, 0], [np.nan, 0], [-np.inf, 0], [1, 2], [1, 2]])
    found = modified_entropy(z, np.array([0, 0, 0, 0, -1, 2]))
    assert np.isnan(found).tolist() == [False, True, True, True, True, True]
    held = log_modified_entropy(np.array([[3e38, -3e38], [-3e38, 3e38]]), np.array([0, 0]))
    np.testing.assert_allclose(held, [LOWEST, HIGHEST])


# --- cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "widths", "error"), [(1.0, 4, 5e-5), (0.5, 2, 5e-4)])
def test_cells_keep_mean_and_variance_and_are_close_to_a_kernel_a_value(
    spread: float, widths: float, error: float
) -> None:
    rng = np.random.default_rng(1)
    value = np.concatenate([rng.normal(-6, spread, 10_000), rng.exponential(spread, 10_000) - 2])
    member = np.arange(20_000) < 10_000
    cells = EntropyCells.empty(2)
    for rows in np.array_split(rng.permutation(20_000), 7):
        cells.add(value[rows], np.ones(len(rows), int), member[rows])
    fits = cells.densities(1)
    assert fits is not None
    assert cells.densities(0) is None
    for fit, side in zip(fits, (value[:10_000], value[10_000:]), strict=True):
        assert fit.count.sum() == 10_000
        assert fit.count @ fit.centre / 10_000 == pytest.approx(side.mean(), abs=1e-9)
        expected = gaussian_kde(side)
        width = expected.factor * side.std(ddof=1)
        inner = fit.count @ (fit.variance - width**2 + (fit.centre - side.mean()) ** 2) / 10_000
        assert inner == pytest.approx(side.var(), rel=1e-9)
        assert width > widths * WIDTH
        places = np.linspace(side.min() - width, side.max() + width, 50)
        np.testing.assert_allclose(fit.log_at(places), expected.logpdf(places), atol=error)


def test_cells_take_the_ends_and_leave_out_what_is_missing() -> None:
    cells = EntropyCells.empty(1)
    value = np.array([LOWEST, HIGHEST, np.nan, 0.0])
    cells.add(value, np.zeros(4, int), np.array([True, True, True, False]))
    assert cells.count.sum(axis=2).tolist() == [[1, 2]]
    assert cells.count[0, 1, [0, -1]].tolist() == [1, 1]


# --- the attack ----------------------------------------------------------------------------------------------


def test_the_score_is_the_log_ratio_of_the_class_densities_of_the_shadow_runs(lake_of: MakeLake) -> None:
    given = fleet(2, 5, 120)
    frame = scores_of(lake_of(**given)).frame
    keep, z, labels = given["keep"], given["logits"], given["labels"]
    p = np.exp(z.astype(float))
    p /= p.sum(axis=2, keepdims=True)
    true = np.arange(3) == labels[:, None]
    m = np.log(-np.where(true, (1 - p) * np.log(p), p * np.log(1 - p)).sum(axis=2))
    np.testing.assert_allclose(frame["modified_entropy"], np.exp(m[0]), rtol=1e-9)
    expected = np.zeros(120)
    for label in range(3):
        rows = labels == label
        inside, outside = m[1:, rows][keep[1:, rows]], m[1:, rows][~keep[1:, rows]]
        expected[rows] = gaussian_kde(inside).logpdf(m[0, rows]) - gaussian_kde(outside).logpdf(m[0, rows])
        assert set(frame["n_in"].to_numpy()[rows]) == {len(inside)}
        assert set(frame["n_out"].to_numpy()[rows]) == {len(outside)}
    # The cells' width is a twentieth of these bandwidths: more than of those they are made for.
    np.testing.assert_allclose(frame["score"], expected, atol=2e-3)
    assert frame["member"].to_list() == keep[0].tolist()


def test_the_target_and_its_membership_play_no_part_in_the_fit(lake_of: MakeLake) -> None:
    given = fleet(3, 4, 60)
    scores = scores_of(lake_of(**given))
    given["keep"] = given["keep"].copy()
    given["keep"][0] = ~given["keep"][0]
    assert scores_of(lake_of(**given)).frame["score"].equals(scores.frame["score"])
    attacked = scores_of(lake_of(**given), "run-0002")
    assert attacked.frame["n_in"].max() <= 2 * 60


def test_only_records_as_they_are_count_and_the_population_is_not_attacked(lake_of: MakeLake) -> None:
    given = fleet(4, 3, 60)
    population = np.arange(60) % 4 == 0
    given["keep"] &= ~population
    one = scores_of(lake_of(**given, population=population)).frame
    views = np.stack([given["logits"], given["logits"] * 3], axis=2)
    both = scores_of(lake_of(given["keep"], logits=views, labels=given["labels"], population=population))
    assert both.frame.equals(one)
    assert one["sample_id"].to_list() == np.flatnonzero(~population).tolist()
    # Shadow runs did not train on the population either, and what they say of it counts.
    label, rows = given["labels"][1], given["labels"] == given["labels"][1]
    assert (
        one["n_out"].to_numpy()[given["labels"][~population] == label][0] == (~given["keep"][1:, rows]).sum()
    )


def test_planted_members_are_found_and_the_metrics_are_those_of_a_positive_score(lake_of: MakeLake) -> None:
    with open_source(lake_of(**fleet(5, 6, 300)), "tests") as source:
        outcome = run_analysis(source, find("entropy"))
    assert outcome.metrics[0].ci_low > 0.6  # type: ignore[operator]
    score, member = outcome.scores.arrays()
    tpr, fpr, advantage = outcome.metrics[-3:]
    assert (tpr.metric, tpr.value) == ("tpr_at_log_ratio_0", pytest.approx((score[member] > 0).mean()))
    assert (fpr.metric, fpr.value) == ("fpr_at_log_ratio_0", pytest.approx((score[~member] > 0).mean()))
    assert advantage.ci_low > 0  # type: ignore[operator]


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    with open_source(lake_of(**fleet(6, 4, 600, gap=0)), "tests") as source:
        auc, *_ = run_analysis(source, find("entropy")).metrics
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_sure_predictions_have_finite_scores(lake_of: MakeLake, kind: type) -> None:
    given = fleet(7, 3, 90, gap=80)
    given["logits"] = (given["logits"] * 10).astype(kind)
    frame = scores_of(lake_of(**given)).frame
    assert frame["score"].is_finite().all()


# --- odd input -----------------------------------------------------------------------------------------------


def test_one_shadow_run_and_a_class_that_it_always_trained_on(lake_of: MakeLake) -> None:
    given = fleet(8, 2, 40)
    never = given["labels"] == 2
    given["keep"][1, never] = True
    scores = scores_of(lake_of(**given))
    assert scores.frame["score"].is_null().to_list() == never.tolist()
    assert scores.notes[0].startswith(f"{never.sum()} of 40 samples have no score: they have no label")
    given["keep"][1] = True
    with pytest.raises(
        NotEnoughData, match="no class of experiment 'tests' has both members and non-members"
    ):
        scores_of(lake_of(**given))


def test_equal_predictions_say_nothing(lake_of: MakeLake) -> None:
    given = fleet(9, 3, 40)
    given["logits"][:] = [1.0, 0.3, -2.0]
    frame = scores_of(lake_of(**given)).frame
    assert frame["score"].to_numpy() == pytest.approx(0, abs=1e-9)


def test_records_with_infinite_logits_or_a_label_beyond_the_classes(lake_of: MakeLake) -> None:
    given: dict[str, Any] = fleet(10, 3, 40)
    given["phi"] = np.zeros((3, 40))
    given["labels"][5] = 7
    given["logits"][0, 9, 1] = np.inf
    given["logits"][1, 11, 1] = np.inf
    frame = scores_of(lake_of(**given)).frame
    assert np.flatnonzero(frame["score"].is_null()).tolist() == [5, 9]


def test_too_little_data_says_what_to_collect(lake_of: MakeLake) -> None:
    given = fleet(11, 3, 20)
    without = np.zeros((3, 20))
    with pytest.raises(NotEnoughData, match=r"'run-0000' .* has no logits; collect it with --logits float16"):
        scores_of(lake_of(given["keep"], without))
    lake = lake_of(**fleet(11, 1, 20))
    with pytest.raises(NotEnoughData, match="no shadow runs"):
        scores_of(lake)
    some = {"names": ["other"], "roles": ["shadow"], "labels": given["labels"]}
    lake_of(given["keep"][1:2], without[1:2], lake=lake, **some)
    with pytest.raises(NotEnoughData, match="none of the 1 shadow runs of experiment 'tests' has logits"):
        scores_of(lake)
    lake_of(given["keep"][1:2], logits=given["logits"][1:2], lake=lake, **{**some, "names": ["kept"]})
    assert scores_of(lake).notes[-1] == "1 of 2 shadow runs have no logits and are left out"
    wider = np.zeros((1, 20, 5), np.float32)
    lake_of(given["keep"][1:2], logits=wider, lake=lake, **{**some, "names": ["wider"]})
    with pytest.raises(InvalidInput, match=r"'wider' .* logits of 5 classes, the target 'run-0000' of 3"):
        scores_of(lake)
