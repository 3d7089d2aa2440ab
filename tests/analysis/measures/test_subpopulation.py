"""Subpopulations of planted clusters, and the components against scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.attacks import logits as reader
from losslake.analysis.charts.groups import cluster_sizes
from losslake.analysis.measures.subpopulation import _projected, cluster_points, subpopulation
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from sklearn.decomposition import PCA

MakeLake = Callable[..., Lake]
SIZES = (90, 50, 30, 20, 10)


def clustered(seed: int, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Features (1, N, width) of five clusters in random order, and which cluster each sample is of."""
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.repeat(np.arange(5), SIZES))
    centres = rng.normal(0, 6, (5, width)) + 40  # far from 0: sums of squares would lose digits
    return (centres[of] + rng.normal(0, 0.5, (len(of), width)))[None].astype(np.float32), of


def lake_with(lake_of: MakeLake, features: np.ndarray, **kwargs: object) -> Lake:
    shape = features.shape[:2]
    return lake_of(np.zeros(shape, bool), np.zeros(shape), features=features, **kwargs)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_planted_clusters_are_found(lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    monkeypatch.setattr(reader, "PIECE", 17)
    features, of = clustered(1)
    with open_source(lake_with(lake_of, features.astype(kind)), "tests") as source:
        scores = subpopulation(source)
    frame = scores.frame
    assert frame["sample_id"].to_list() == list(range(200))
    assert frame["cluster"].to_list() == of.tolist()  # numbered from the largest down
    assert frame["cluster_size"].to_list() == [SIZES[k] for k in of]
    np.testing.assert_allclose(frame["score"], -np.log(np.array(SIZES)[of] / 200), rtol=1e-12)
    assert scores.notes == ()
    variance, *shares = scores.metrics
    assert 0.9 < (variance.value or 0) < 1
    assert [share.value for share in shares] == [size / 200 for size in SIZES]


def test_components_match_scikit_learn(lake_of: MakeLake) -> None:
    features, of = clustered(2)
    with open_source(lake_with(lake_of, features), "tests") as source:
        points, there, explained = _projected(source, source.need_target(), np.arange(200) != 3, 4)
        scores = subpopulation(source, components=4)
    kept = np.arange(200) != 3
    fitted = PCA(4, svd_solver="full").fit(features[0][kept].astype(np.float64))
    assert there.tolist() == kept.tolist()
    np.testing.assert_allclose(
        np.abs(points[kept]), np.abs(fitted.transform(features[0][kept])), atol=1e-6
    )  # a component's sign is free
    assert explained == pytest.approx(fitted.explained_variance_ratio_.sum(), rel=1e-9)
    own = PCA(4, svd_solver="full").fit_transform(features[0].astype(np.float64))
    centres = np.array([own[of == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(scores.frame["distance"], np.linalg.norm(own - centres[of], axis=1), atol=1e-6)


def test_answers_do_not_change_from_call_to_call() -> None:
    points = np.random.default_rng(3).normal(size=(300, 3))
    first, second = cluster_points(points, 5), cluster_points(points, 5)
    np.testing.assert_array_equal(first[0], second[0])
    assert (np.diff(np.bincount(first[0])) <= 0).all()


def test_only_the_samples_of_a_group(lake_of: MakeLake) -> None:
    features, of = clustered(4)
    group = np.where(of < 2, "common", "rare").tolist()
    population = np.arange(200) % 7 == 0
    with open_source(
        lake_with(lake_of, features, columns={"group": group}, population=population), "tests"
    ) as source:
        frame = subpopulation(source, clusters=3, among="rare").frame
        with pytest.raises(InvalidOption, match=r"no audit sample of group 'odd' \(groups: common, rare\)"):
            subpopulation(source, among="odd")
    chosen = np.flatnonzero((of >= 2) & ~population)
    assert frame["sample_id"].to_list() == chosen.tolist()
    assert frame["cluster"].to_list() == (of[chosen] - 2).tolist()


def test_samples_without_features_have_no_score(lake_of: MakeLake) -> None:
    features, of = clustered(5)
    features[0, 4, 2], features[0, 9, 0] = np.nan, np.inf
    held = np.arange(200)[None] != 20
    with open_source(lake_with(lake_of, features, held=held), "tests") as source:
        scores = subpopulation(source)
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == [4, 9, 20]
    assert scores.frame["cluster"].drop_nulls().to_list() == np.delete(of, [4, 9, 20]).tolist()
    assert scores.notes == (
        "3 of 200 samples have no score: the target has no features of them, or some are not finite",
    )


def test_fewer_distinct_features_than_clusters(lake_of: MakeLake) -> None:
    features = np.ones((1, 30, 3), np.float32)
    features[0, 20:] = 2
    with open_source(lake_with(lake_of, features), "tests") as source:
        scores = subpopulation(source)
    assert scores.frame["cluster"].to_list() == [0] * 20 + [1] * 10
    assert "2 distinct values" in scores.notes[0]
    assert scores.frame["distance"].max() == pytest.approx(0, abs=1e-12)


def test_what_is_missing_is_said(lake_of: MakeLake) -> None:
    features, _ = clustered(6)
    with open_source(lake_with(lake_of, features[:, :3]), "tests") as source:
        with pytest.raises(NotEnoughData, match=r"5 clusters need as many samples with features; .* has 3"):
            subpopulation(source)
        with pytest.raises(InvalidOption, match="2 or more, not 1"):
            subpopulation(source, clusters=1)
        with pytest.raises(InvalidOption, match="1 or more, not 0"):
            subpopulation(source, components=0)
    with (
        open_source(lake_of(np.zeros((1, 9), bool), np.zeros((1, 9))), "tests") as source,
        pytest.raises(NotEnoughData, match="has no features; collect it with --features"),
    ):
        subpopulation(source)


def test_chart_counts_every_sample(lake_of: MakeLake) -> None:
    features, _ = clustered(7)
    with open_source(lake_with(lake_of, features), "tests") as source:
        spec = cluster_sizes(subpopulation(source)).to_dict()
    assert spec["title"]["subtitle"] == ["The smallest of 5 holds 10 of 200 samples."]
    assert "90, 50, 30, 20, 10" in spec["description"]
