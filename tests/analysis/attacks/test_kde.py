"""The KDE attack: kernel densities against SciPy's, who is known, the confusion matrix, odd losses, the charts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import vl_convert
from losslake.analysis.attacks.kde import kde
from losslake.analysis.charts.kde import confusion_matrix, kde_chart, loss_densities
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.statistics.density import Moments, bandwidths, densities, density
from losslake.analysis.statistics.roc import confusion
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binomtest, gaussian_kde

MakeLake = Callable[..., Lake]


def scores_of(lake: Lake, **options: Any) -> Scores:
    with open_source(lake, "tests", "run-0000") as source:
        return kde(source, **options)


def planted(seed: int, samples: int = 300, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Losses (1, N) that are lower for members, and who is one."""
    rng = np.random.default_rng(seed)
    keep = rng.random((1, samples)) < 0.5
    return rng.exponential(np.where(keep, 1.0, 1.0 + gap)).astype(np.float32), keep


def lake_with(make: MakeLake, loss: np.ndarray, keep: np.ndarray, **more: Any) -> Lake:
    return make(keep, np.zeros_like(loss), loss=loss, **more)


# --- densities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).exponential(1, 2_000),
        np.random.default_rng(1).lognormal(-3, 3, 2_000),
        np.random.default_rng(2).standard_t(1.5, 500),
        np.random.default_rng(3).normal(1e6, 1e-3, 400),
        np.repeat([0.0, 0.5, 4.0], [50, 30, 1]),
        np.array([1.0, 2.0]),
    ],
    ids=["exponential", "lognormal", "heavy tails", "far from 0", "ties", "two"],
)
def test_densities_are_those_of_scipy(values: np.ndarray) -> None:
    expected = gaussian_kde(values)
    width = expected.factor * values.std(ddof=1)
    assert bandwidths(Moments.of(values), Moments.of(values))[0] == pytest.approx(width, rel=1e-6)
    places = np.concatenate([values, np.linspace(values.min() - 6 * width, values.max() + 6 * width, 300)])
    np.testing.assert_allclose(density(values, width).log_at(places), expected.logpdf(places), atol=1e-6)


def test_a_density_adds_up_to_one_and_is_finite_everywhere() -> None:
    fit = density(np.random.default_rng(0).exponential(1, 300), 0.2)
    places = np.linspace(-3, 20, 20_001)
    assert np.trapezoid(np.exp(fit.log_at(places)), places) == pytest.approx(1, abs=1e-9)
    assert np.isfinite(fit.log_at(np.array([-1e30, 1e30, 0.0]))).all()
    assert len(fit.log_at(np.zeros(0))) == 0


def test_values_without_a_spread_take_that_of_both_sets() -> None:
    spread, point = np.array([0.0, 1.0, 2.0, 5.0]), np.full(3, 0.1)
    both = np.concatenate([spread, point])
    shared = both.std(ddof=1) * len(both) ** -0.2
    own = spread.std(ddof=1) * len(spread) ** -0.2
    assert bandwidths(Moments.of(spread), Moments.of(point)) == pytest.approx((own, shared))
    first, second = densities(point, point[:1])
    places = np.array([-4.0, 0.1, 7.0])
    np.testing.assert_allclose(first.log_at(places), second.log_at(places), atol=1e-9)


# --- the attack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross-entropy", "probability", "normalised"])
@pytest.mark.parametrize("fraction", [0.15, 0.3])
def test_the_score_is_the_log_ratio_of_the_known_records_densities(
    lake_of: MakeLake, loss: str, fraction: float
) -> None:
    rng = np.random.default_rng(4)
    keep = rng.random((1, 240)) < 0.5
    labels = rng.integers(0, 3, 240).astype(np.int32)
    z = rng.normal(0, 1, (1, 240, 3)) + keep[:, :, None] * (np.arange(3) == labels[:, None])
    z = z.astype(np.float32)
    frame = scores_of(lake_of(keep, logits=z, labels=labels), loss=loss, fraction=fraction).frame
    p = np.exp(z[0].astype(float))
    p /= p.sum(axis=1, keepdims=True)
    own = p[np.arange(240), labels]
    expected = {"cross-entropy": -np.log(own), "probability": 1 - own, "normalised": 1 - own / p.max(axis=1)}
    value, known = frame["loss"].to_numpy(), frame["known"].to_numpy()
    np.testing.assert_allclose(value, expected[loss], rtol=1e-5, atol=1e-7)
    fits = [gaussian_kde(value[known & side]).logpdf(value) for side in (keep[0], ~keep[0])]
    asked = frame.filter(~frame["known"])
    np.testing.assert_allclose(asked["score"], (fits[0] - fits[1])[~known], atol=1e-5)
    np.testing.assert_allclose(frame["log_density_in"], fits[0], atol=1e-5)
    np.testing.assert_allclose(frame["log_density_out"], fits[1], atol=1e-5)


def test_the_known_records_are_a_share_of_either_kind_and_have_no_score(lake_of: MakeLake) -> None:
    loss, keep = planted(5, 400)
    population = np.arange(400) % 10 == 0
    keep &= ~population
    lake = lake_with(lake_of, loss, keep, population=population)
    scores = scores_of(lake, fraction=0.16)
    frame, member = scores.frame, keep[0, ~population]
    assert frame["sample_id"].to_list() == np.flatnonzero(~population).tolist()
    assert frame["member"].to_list() == member.tolist()
    known = frame["known"].to_numpy()
    assert (known & member).sum() == round(0.16 * member.sum())
    assert (known & ~member).sum() == round(0.16 * (~member).sum())
    assert frame["score"].is_null().to_list() == known.tolist()
    assert scores.notes == (
        f"{known.sum()} of 360 samples have no score: the attacker knows of {(known & member).sum()} members and "
        f"{(known & ~member).sum()} non-members what they are",
    )
    fewer = scores_of(lake, fraction=0.04).frame["known"].to_numpy()
    assert 0 < fewer.sum() < known.sum()
    assert (known | ~fewer).all()
    assert scores_of(lake, fraction=0.16).frame.equals(frame)
    assert not scores_of(lake, fraction=0.16, seed=1).frame["known"].equals(frame["known"])


def test_the_confusion_matrix_and_its_intervals(lake_of: MakeLake) -> None:
    loss, keep = planted(6)
    scores = scores_of(lake_with(lake_of, loss, keep))
    asked = scores.frame.filter(~scores.frame["known"])
    said, member = asked["score"].to_numpy() > 0, asked["member"].to_numpy()
    cells = {(m.parameters.get("is"), m.parameters.get("said")): m for m in scores.metrics[:4]}
    for truth, of in (("member", member), ("non-member", ~member)):
        for word, named in (("member", said), ("non-member", ~said)):
            metric = cells[truth, word]
            count = int((of & named).sum())
            bounds = binomtest(count, int(of.sum())).proportion_ci(0.95, "exact")
            assert (metric.metric, metric.parameters["records"], metric.n) == ("confusion", count, of.sum())
            assert metric.value == pytest.approx(count / of.sum())
            assert (metric.ci_low, metric.ci_high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))
    accuracy, precision = scores.metrics[4:]
    assert accuracy.value == pytest.approx((said == member).mean())
    assert (accuracy.metric, accuracy.n) == ("accuracy", len(member))
    assert precision.value == pytest.approx(member[said].mean())
    assert (precision.metric, precision.n) == ("precision", said.sum())


def test_a_matrix_without_records_says_nothing() -> None:
    none = np.zeros(0, bool)
    assert [metric.value for metric in confusion(none, none).metrics()] == [None] * 6
    *_, precision = confusion(np.zeros(3, bool), np.ones(3, bool)).metrics()
    assert (precision.value, precision.ci_low, precision.ci_high, precision.n) == (None, 0, 1, 0)


def test_planted_members_are_told_apart(lake_of: MakeLake) -> None:
    loss, keep = planted(7, 600, gap=4)
    with open_source(lake_with(lake_of, loss, keep), "tests") as source:
        auc, *_, accuracy, precision = run_analysis(source, find("kde"), {"fraction": 0.2}).metrics
    for metric in (auc, accuracy, precision):
        assert metric.ci_low > 0.5  # type: ignore[operator]


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    loss, keep = planted(8, 900, gap=0)
    with open_source(lake_with(lake_of, loss, keep), "tests") as source:
        auc, *_ = run_analysis(source, find("kde")).metrics
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]


def test_members_around_whose_losses_others_lie_are_found_too(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(9)
    keep = np.arange(400)[None] < 200
    loss = np.where(keep, rng.normal(3, 0.1, keep.shape), rng.choice([2.0, 4.0], keep.shape))
    loss += rng.normal(0, 0.1, keep.shape)
    with open_source(lake_with(lake_of, loss.astype(np.float32), keep), "tests") as source:
        assert run_analysis(source, find("kde")).metrics[0].value > 0.99  # type: ignore[operator]


# --- odd input -----------------------------------------------------------------------------------------------


def test_equal_losses_say_nothing(lake_of: MakeLake) -> None:
    loss, keep = planted(10, 60)
    loss[:] = 0.1
    scores = scores_of(lake_with(lake_of, loss, keep))
    assert scores.frame.filter(~scores.frame["known"])["score"].to_numpy() == pytest.approx(0, abs=1e-9)
    kde_chart(scores).to_dict()


def test_members_that_all_lose_the_same(lake_of: MakeLake) -> None:
    loss, keep = planted(11, 200)
    loss[keep] = 0.0
    loss[~keep] += 0.5
    frame = scores_of(lake_with(lake_of, loss, keep), fraction=0.1).frame
    asked = frame.filter(~frame["known"])
    assert asked["score"].is_finite().all()
    assert (asked.filter(asked["member"])["score"] > 0).all()


@pytest.mark.parametrize("members", [1, 2, 29])
def test_one_known_record_of_a_kind(lake_of: MakeLake, members: int) -> None:
    loss, _ = planted(12, 30)
    scores = scores_of(lake_with(lake_of, loss, np.arange(30)[None] < members), fraction=0.01)
    known = scores.frame.filter(scores.frame["known"])
    assert known["member"].sort().to_list() == [False, True]
    assert scores.frame.filter(~scores.frame["known"])["score"].is_finite().all()
    kde_chart(scores).to_dict()


@pytest.mark.parametrize("loss", ["cross-entropy", "probability"])
def test_infinite_losses(lake_of: MakeLake, loss: str) -> None:
    value, keep = planted(13, 80)
    infinite = [3, 17, 40]
    value[0, infinite] = np.inf
    scores = scores_of(lake_with(lake_of, value, keep), loss=loss, fraction=0.2)
    frame = scores.frame
    if loss == "cross-entropy":
        assert np.flatnonzero(frame["loss"].is_null()).tolist() == infinite
        assert not frame["known"].to_numpy()[infinite].any()
        assert scores.notes[1] == "3 more of 80 have none: the target's loss on them is not finite"
    else:  # a probability of 0 loses 1
        assert frame["loss"].to_numpy()[infinite].tolist() == [1, 1, 1]
        assert len(scores.notes) == 1
    assert frame.filter(~frame["known"] & frame["loss"].is_not_null())["score"].is_finite().all()


def test_a_loss_far_from_all_others_has_a_finite_score(lake_of: MakeLake) -> None:
    loss, keep = planted(14, 100)
    loss[0, 5] = 3e38
    frame = scores_of(lake_with(lake_of, loss, keep), seed=1).frame
    assert frame.filter(~frame["known"])["score"].is_finite().all()


def test_records_without_finite_logits_have_no_normalised_loss(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(15)
    keep, z = rng.random((1, 40)) < 0.5, rng.normal(0, 1, (1, 40, 3)).astype(np.float32)
    z[0, 7, 1] = np.inf
    lake = lake_of(keep, rng.normal(size=(1, 40)), logits=z)
    frame = scores_of(lake, loss="normalised").frame
    assert np.flatnonzero(frame["loss"].is_null()).tolist() == [7]
    assert frame["score"][7] is None


def test_wrong_options_and_too_little_data(lake_of: MakeLake) -> None:
    loss, keep = planted(16, 20)
    lake = lake_with(lake_of, loss, keep)
    for fraction in (0, 1, -0.5, np.nan):
        with pytest.raises(InvalidOption, match="between 0 and 1"):
            scores_of(lake, fraction=fraction)
    with pytest.raises(InvalidOption, match="seed of kde"):
        scores_of(lake, seed=-1)
    with pytest.raises(NotEnoughData, match="has no logits; collect it with --logits"):
        scores_of(lake, loss="normalised")
    for member, kind in ((True, "non-members"), (False, "members")):
        with pytest.raises(NotEnoughData, match=f"has no {kind} with a finite loss"):
            scores_of(lake_with(lake_of, loss, np.full_like(keep, member)))


def test_all_records_known_leaves_none_to_judge(lake_of: MakeLake) -> None:
    scores = scores_of(lake_with(lake_of, np.array([[0.1, 2.0]]), np.array([[True, False]])))
    assert scores.frame["score"].null_count() == 2
    assert [metric.value for metric in scores.metrics] == [None] * 6
    kde_chart(scores).to_dict()


# --- charts --------------------------------------------------------------------------------------------------


def rows(chart: Any) -> list[dict[str, Any]]:
    return [row for text in chart.to_dict()["datasets"].values() for row in json.loads(text)]


def test_the_chart_shows_the_densities_that_were_fitted(lake_of: MakeLake) -> None:
    loss, keep = planted(17, 400, gap=3)
    scores = scores_of(lake_with(lake_of, loss, keep))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chart in (kde_chart(scores), loss_densities(scores), confusion_matrix(scores)):
            spec: dict[str, Any] = chart.to_dict()
            assert spec["title"]["text"]
            assert len(spec["description"]) > 10
            vl_convert.vegalite_to_vega(spec)
    frame, found = scores.frame, rows(loss_densities(scores))
    for name, member in (("known members", True), ("known non-members", False)):
        known = frame.filter(frame["known"] & (frame["member"] == member))["loss"].to_numpy()
        line = [row for row in found if row.get("group") == name]
        assert len(line) < 300
        expected = gaussian_kde(known)([row["loss"] for row in line])
        np.testing.assert_allclose([row["density"] for row in line], expected, rtol=1e-4, atol=1e-9)
    turns = [row["loss"] for row in found if "group" not in row]
    assert turns
    asked = frame.filter(~frame["known"]).sort("loss")
    change = np.flatnonzero(np.diff(asked["score"].to_numpy() > 0))
    assert all(abs(asked["loss"].to_numpy()[change] - turn).min() < 0.5 for turn in turns if turn > 0)


def test_the_matrix_shows_what_the_metrics_say(lake_of: MakeLake) -> None:
    loss, keep = planted(18)
    scores = scores_of(lake_with(lake_of, loss, keep))
    counts = [row["count"] for row in rows(confusion_matrix(scores))]
    assert counts == [metric.parameters["records"] for metric in scores.metrics[:4]]


def test_scores_without_rows_are_drawn(lake_of: MakeLake) -> None:
    loss, keep = planted(19, 30)
    frame = scores_of(lake_with(lake_of, loss, keep)).frame
    vl_convert.vegalite_to_vega(kde_chart(Scores(frame.clear())).to_dict())
