"""LiRA with one density over several queries, against SciPy's multivariate normal and multivariate t."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.attacks.lira import lira
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import multivariate_normal, multivariate_t

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
MakeLake = Callable[..., Lake]


def correlated_runs(seed: int, runs: int, samples: int, queries: int) -> tuple[Floats, Mask]:
    """Queries of a run share a part of their noise, as views of one picture do."""
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    keep[1:7], keep[7:13] = True, False
    noise = rng.normal(0, 1, (runs, samples, 1)) + rng.normal(0, 0.6, (runs, samples, queries))
    phi = rng.normal(3, 4, (1, samples, queries)) + 1.5 * keep[:, :, None] + noise
    return phi.astype(np.float32), keep


def oracle(point: Floats, phi: Floats, keep: Mask, held: Mask, variance: str, center: str) -> list[float]:
    middle = {"mean": np.mean, "median": np.median}[center]
    point, phi = point.astype(float), phi.astype(float)
    samples, queries = point.shape
    scores = np.zeros(samples)
    for side, sign in ((True, 1), (False, -1)):
        rows = [held[:, n] & (keep[:, n] == side) for n in range(samples)]
        groups = [phi[rows[n], n] for n in range(samples)]
        centers = [middle(values, axis=0) for values in groups]
        residuals = np.concatenate([groups[n] - centers[n] for n in range(samples)])
        scatter = [(values - values.mean(axis=0)).T @ (values - values.mean(axis=0)) for values in groups]
        pooled = residuals.T @ residuals / len(residuals)
        if variance == "bayes":
            common = sum(scatter) / len(residuals)
            dof, scale = wishart_of(groups, common)
        for n, values in enumerate(groups):
            if variance == "bayes":
                free = dof + len(values) - 1
                spread = (dof * scale * common + scatter[n]) / free * (1 + 1 / len(values))
                scores[n] += sign * multivariate_t(centers[n], spread, df=free).logpdf(point[n])
                continue
            own = np.cov(values, rowvar=False, bias=True).reshape(queries, queries)
            covariance = pooled if variance == "pooled" else own
            scores[n] += sign * multivariate_normal(centers[n], covariance).logpdf(point[n])
    return scores.tolist()


def wishart_of(groups: list[Floats], common: Floats) -> tuple[float, float]:
    """Degrees of freedom of one direction's variance and scale, in units of ``common``, over samples and directions."""
    whitened = [values @ np.linalg.eigh(common)[1] / np.sqrt(np.linalg.eigvalsh(common)) for values in groups]
    free = np.array([len(values) - 1.0 for values in whitened])[:, None]
    level = np.log([values.var(axis=0, ddof=1) for values in whitened]) - digamma(free / 2) + np.log(free / 2)
    weights = np.broadcast_to(free, level.shape)
    middle = np.average(level, weights=weights)
    spread = np.average((level - middle) ** 2 - polygamma(1, free / 2), weights=weights)
    half = float(brentq(lambda x: polygamma(1, x) - max(spread, 1e-4), 1e-3, 1e6, xtol=1e-14, rtol=1e-14))
    return 2 * half, float(np.exp(middle + digamma(half) - np.log(half)))


@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize("gaps", [False, True])
def test_scores_match_scipy(lake_of: MakeLake, queries: int, gaps: bool) -> None:
    phi, keep = correlated_runs(queries, 24, 25, queries)
    held = np.ones(keep.shape, bool)
    if gaps:  # a shadow run without some of the samples
        held[14, 5:] = False
        held[20, ::2] = False
    lake = lake_of(keep, phi, held=held)
    for variance, center in product(("bayes", "sample", "pooled"), ("mean", "median")):
        with open_source(lake, "tests") as source:
            frame = lira(source, queries="gaussian", variance=variance, center=center).frame
        expected = oracle(phi[0], phi[1:], keep[1:], held[1:], variance, center)
        np.testing.assert_allclose(frame["score"].to_numpy(), expected, rtol=1e-6, atol=1e-6)
        assert frame["n_in"].to_list() == (held & keep)[1:].sum(axis=0).tolist()
        assert frame["n_out"].to_list() == (held & ~keep)[1:].sum(axis=0).tolist()


def test_one_query_is_the_same_as_the_mean_over_queries(lake_of: MakeLake) -> None:
    phi, keep = correlated_runs(5, 20, 30, 1)
    lake = lake_of(keep, phi)
    with open_source(lake, "tests") as source:
        for variance, center in product(("bayes", "sample", "pooled"), ("mean", "median")):
            one = lira(source, queries="gaussian", variance=variance, center=center).frame["score"]
            other = lira(source, queries="mean", variance=variance, center=center).frame["score"]
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_fewer_runs_than_queries_stay_finite(lake_of: MakeLake) -> None:
    phi, keep = correlated_runs(6, 5, 10, 4)
    keep[1:3], keep[3:5] = True, False
    phi[:, 0] = 2.0  # and a sample that never varies
    with open_source(lake_of(keep, phi), "tests") as source:
        for variance in ("bayes", "sample", "pooled"):
            score = lira(source, queries="gaussian", variance=variance).frame["score"].to_numpy()
            assert np.isfinite(score).all()
            if variance == "sample":
                assert score[0] == pytest.approx(0, abs=1e-6)


def test_a_sample_never_in_or_never_out_has_no_score(lake_of: MakeLake) -> None:
    phi, keep = correlated_runs(7, 16, 12, 2)
    keep[:, 0], keep[:, 1] = True, False
    with open_source(lake_of(keep, phi), "tests") as source:
        scores = lira(source, queries="gaussian")
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == [0, 1]
    assert scores.notes[0].startswith("2 of 12 samples")


def test_samples_the_target_does_not_know_are_left_out(lake_of: MakeLake) -> None:
    phi, keep = correlated_runs(8, 16, 12, 2)
    held = np.ones(keep.shape, bool)
    held[0, 4] = False
    lake = lake_of(keep, phi, held=held)
    with open_source(lake, "tests") as source:
        frames = [lira(source, queries=queries).frame for queries in ("mean", "gaussian")]
    for frame in frames:
        assert frame["sample_id"].to_list() == [n for n in range(12) if n != 4]
        assert frame["member"].to_list() == np.delete(keep[0], 4).tolist()


def test_offline_is_refused(lake_of: MakeLake) -> None:
    phi, keep = correlated_runs(9, 16, 12, 2)
    with (
        open_source(lake_of(keep, phi), "tests") as source,
        pytest.raises(InvalidOption, match="offline LiRA takes --queries mean"),
    ):
        lira(source, queries="gaussian", mode="offline")
