"""MSP and energy scores of the target's logits, against SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.evaluations.agreement import spearman
from losslake.analysis.measures.ood import foreignness, ood
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.special import log_softmax, logsumexp, softmax

MakeLake = Callable[..., Lake]


def logits(seed: int, runs: int = 1, samples: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    return keep, rng.normal(0, 4, (runs, samples, 6)).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 7.0])
def test_scores_match_scipy(lake_of: MakeLake, temperature: float) -> None:
    keep, z = logits(1)
    population = np.arange(40) >= 33
    keep &= ~population
    with open_source(lake_of(keep, logits=z, population=population), "tests") as source:
        msp = ood(source, temperature=temperature)
        energy = ood(source, detector="energy", temperature=temperature)
    own = z[0, :33].astype(np.float64) / temperature
    np.testing.assert_allclose(msp.frame["score"], 1 - softmax(own, axis=1).max(axis=1), atol=1e-12)
    np.testing.assert_allclose(energy.frame["score"], -temperature * logsumexp(own, axis=1), rtol=1e-12)
    for scores in (msp, energy):
        assert scores.frame["sample_id"].to_list() == list(range(33))
        assert scores.frame["member"].to_list() == keep[0, :33].tolist()
        assert scores.notes == ()


def test_near_certain_predictions_keep_their_order() -> None:
    z = np.array([[60, 0, 0], [50, 0, 0], [300, 0, 0], [0, 0, 0], [5, 5, -40]], dtype=np.float32)
    score = foreignness(z, "msp", 1.0)
    exact = -np.expm1(log_softmax(z.astype(np.float64), axis=1).max(axis=1))
    np.testing.assert_allclose(score, exact, atol=1e-15)
    np.testing.assert_allclose(score[:2], 2 * np.exp([-60.0, -50.0]), rtol=1e-12)
    assert 0 < score[2] < score[0] < score[1] < score[4] < score[3]


def test_foreign_records_rank_highest(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(2)
    keep, z = logits(2, samples=60)
    z = rng.normal(0, 0.3, z.shape).astype(np.float32)  # logits of a model that does not know what it sees
    z[0, :50, 3] += 9  # and of one that does
    with open_source(lake_of(keep, logits=z), "tests") as source:
        for detector in ("msp", "energy"):
            ranked = ood(source, detector=detector).frame.sort("score", descending=True)  # type: ignore[arg-type]
            assert set(ranked["sample_id"][:10]) == set(range(50, 60))


def test_logits_that_are_not_finite_have_no_score() -> None:
    z = np.array([[np.inf, 0, 1], [-np.inf, 0, 1], [-np.inf] * 3, [0, 1, 2]], dtype=np.float32)
    msp, energy = foreignness(z, "msp", 1.0), foreignness(z, "energy", 1.0)
    np.testing.assert_allclose(msp[[1, 3]], [1 / (1 + np.e), 1 - softmax([0, 1, 2]).max()], rtol=1e-12)
    assert not np.isfinite([msp[0], msp[2], energy[0], energy[2]]).any()


def test_views_of_other_queries_do_not_count(lake_of: MakeLake) -> None:
    keep, z = logits(3)
    views = np.stack([z, z + 5 * np.arange(6, dtype=np.float32)], axis=2)
    with open_source(lake_of(keep, logits=views), "tests") as source:
        np.testing.assert_allclose(
            ood(source).frame["score"], 1 - softmax(z[0].astype(float), axis=1).max(axis=1), atol=1e-12
        )


def test_it_correlates_with_the_privacy_score_by_name(lake_of: MakeLake) -> None:
    keep, z = logits(4, runs=9)
    keep[1:3], keep[3:5] = True, False
    with open_source(lake_of(keep, logits=z), "tests") as source:
        finding = spearman(source, ("ood", "ood[detector=energy]", "privacy-score"))
    assert [metric.n for metric in finding.metrics] == [40, 40, 40]
    assert all(abs(metric.value or 0) < 0.6 for metric in finding.metrics[1:])


def test_what_is_missing_is_said(lake_of: MakeLake) -> None:
    keep, z = logits(5)
    with open_source(lake_of(keep, z[..., 0]), "tests") as source:
        with pytest.raises(NotEnoughData, match="has no logits; collect it with --logits float16"):
            ood(source)
        with pytest.raises(InvalidOption, match="temperature of ood must be above 0, not 0"):
            ood(source, temperature=0)
    lake = lake_of(np.zeros((1, 40), bool), logits=z, population=np.ones(40, bool))
    with (
        open_source(lake, "tests") as source,
        pytest.raises(NotEnoughData, match="logits of no audit sample"),
    ):
        ood(source)
