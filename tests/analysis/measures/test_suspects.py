"""Suspects against loops that follow the papers, on planted wrong labels, outliers, duplicates and what may be missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from losslake.analysis.charts.scores import suspects_by_kind
from losslake.analysis.measures.suspects import KINDS, suspects
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.statistics.labels import judge_labels, nearest_records
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
RUNS, SAMPLES, CLASSES = 7, 200, 4
WRONG = np.arange(0, SAMPLES, 40)


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """keep (runs, N), logits (runs, N, classes) of models that know the true class of most, and labels, some of them wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, SAMPLES)
    label = true.copy()
    label[WRONG] = (true[WRONG] + 1) % CLASSES
    shadows = (
        np.argsort(rng.random((RUNS - 1, SAMPLES)), axis=0) < (RUNS - 1) // 2
    )  # each record in half of them
    keep = np.vstack([rng.permutation(np.arange(SAMPLES) % 2 == 0), shadows])
    logits = rng.normal(0, 0.5, (RUNS, SAMPLES, CLASSES))
    logits += 3 * (np.arange(CLASSES) == true[:, None])
    logits += 6 * keep[:, :, None] * (np.arange(CLASSES) == label[:, None])  # members are learnt by heart
    return keep, logits.astype(np.float32), label


def slowly(
    keep: np.ndarray, logits: np.ndarray, label: np.ndarray
) -> list[tuple[float, int, bool, bool, int]]:
    """Score, nearest class, whether wrong and unsure, and number of models of each record, number by number."""
    mean = []
    count = []
    for sample in range(SAMPLES):
        outside = [run for run in range(1, RUNS) if not keep[run, sample]]
        rows = [np.exp(logits[run, sample].astype(np.float64)) for run in outside]
        mean.append(sum(row / row.sum() for row in rows) / len(rows))
        count.append(len(rows))
    threshold = []
    for c in range(CLASSES):
        own = [mean[i][c] for i in range(SAMPLES) if label[i] == c]
        threshold.append(sum(own) / len(own))
    told = []
    for i in range(SAMPLES):
        p, y = mean[i], label[i]
        others = [c for c in range(CLASSES) if c != y]
        nearest = max(others, key=p.__getitem__)
        wrong = p[nearest] > 0.5 and p[y] < 1 / CLASSES
        told.append((1 - p[y], nearest, wrong, p[y] < threshold[y], count[i]))
    return told


def lake_with(
    lake_of: MakeLake,
    keep: np.ndarray,
    logits: np.ndarray,
    label: np.ndarray,
    *,
    kept: bool = True,
    **more: object,
) -> Lake:
    """A lake of these logits, or of the losses that follow from them alone."""
    probability = _softmax(logits)[:, np.arange(SAMPLES), label]
    phi = np.log(probability) - np.log1p(-probability)
    return lake_of(
        keep, phi, labels=label, loss=-np.log(probability), logits=logits if kept else None, **more
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    parts = np.exp(logits.astype(np.float64))
    return parts / parts.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", [1, 2])
def test_out_of_sample_judgement_matches_a_loop(lake_of: MakeLake, seed: int) -> None:
    keep, logits, label = planted(seed)
    with open_source(lake_with(lake_of, keep, logits, label), "tests") as source:
        scores = suspects(source)
        shadows = source.need_shadows()
        assert len(shadows) == RUNS - 1
        assert not len(source.passed_over(shadows, np.arange(SAMPLES))[0])
    frame = scores.frame
    told = slowly(keep, logits, label)
    np.testing.assert_allclose(frame["score"], [one[0] for one in told], atol=1e-6)
    assert frame["nearest_class"].to_list() == [one[1] for one in told]
    kinds = [KINDS[0] if wrong else KINDS[2] if unsure else KINDS[3] for _, _, wrong, unsure, _ in told]
    assert frame["kind"].to_list() == kinds
    assert frame["n_out"].to_list() == [one[4] for one in told]
    # The planted ones come first, and are called what they are.
    first = frame.sort("score", descending=True).head(len(WRONG))
    assert set(first["sample_id"]) == set(WRONG.tolist())
    assert set(first["kind"]) == {KINDS[0]}
    shares = {metric.parameters["kind"]: metric.value for metric in scores.metrics}
    told = {kind: kinds.count(kind) / SAMPLES for kind in KINDS if kind != "rare"}
    assert shares == pytest.approx({**told, "rare": None})  # nothing tells of rare ones without features
    assert any("rare records cannot be told" in note for note in scores.notes)


def test_what_trained_on_a_record_does_not_speak_of_it(lake_of: MakeLake) -> None:
    keep, logits, label = planted(3)
    with open_source(lake_with(lake_of, keep, logits, label), "tests") as source:
        before = suspects(source).frame
    shouting = logits.copy()
    shouting[keep] = np.where(np.arange(CLASSES) == 2, 9, -9)
    shouting[0] = logits[0]
    with open_source(lake_with(lake_of, keep, shouting, label), "tests") as source:
        after = suspects(source).frame
    assert after["score"].to_list() == before["score"].to_list()
    assert after["kind"].to_list() == before["kind"].to_list()


def test_labels_judged_by_hand() -> None:
    label = np.array([0, 0, 1, 1, 2])
    probability = np.array(
        [[0.9, 0.1, 0], [0.35, 0.6, 0.05], [0.3, 0.6, 0.1], [0.51, 0.3, 0.19], [0.4, 0.5, 0.1]]
    )
    judged = judge_labels(probability, label)
    assert judged.nearest.tolist() == [1, 1, 0, 0, 1]
    np.testing.assert_allclose(judged.own, [0.9, 0.35, 0.6, 0.3, 0.1])
    np.testing.assert_allclose(judged.other, [0.1, 0.6, 0.3, 0.51, 0.5])
    # The second's label has more than a third, and no class has more than half of the last.
    assert judged.wrong.tolist() == [False, False, False, True, False]
    assert judged.unsure.tolist() == [False, True, False, True, False]  # class means .625, .45, .1


def test_losses_alone_rank_and_call_none_mislabelled(lake_of: MakeLake) -> None:
    keep, logits, label = planted(4)
    with open_source(lake_with(lake_of, keep, logits, label, kept=False), "tests") as source:
        scores = suspects(source)
    probability = _softmax(logits)[:, np.arange(SAMPLES), label]
    own = np.array(
        [np.mean([probability[run, i] for run in range(1, RUNS) if not keep[run, i]]) for i in range(SAMPLES)]
    )
    np.testing.assert_allclose(scores.frame["score"], 1 - own, atol=1e-5)
    assert set(scores.frame.sort("score", descending=True).head(len(WRONG))["sample_id"]) == set(
        WRONG.tolist()
    )
    assert set(scores.frame["kind"]) == {"hard", "typical"}
    assert scores.frame["nearest_class"].null_count() == SAMPLES
    assert any("none is called mislabelled" in note for note in scores.notes)


def test_without_shadow_models_epochs_judge(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(5)
    label = rng.integers(0, CLASSES, SAMPLES)
    margin = rng.normal(2, 0.3, (SAMPLES, 6))
    margin[WRONG] = -np.linspace(3, -1, 6)  # learnt in the end
    loss = np.log1p(np.exp(-margin))
    keep = np.ones((1, SAMPLES), bool)
    traces = {"loss": loss, "margin": margin}
    lake = lake_of(keep, None, labels=label, roles=["target"], traces=traces)
    with open_source(lake, "tests") as source:
        scores = suspects(source)
    frame = scores.frame
    later = slice(1, None)  # what a model says before it is trained says nothing of the record
    np.testing.assert_allclose(frame["aum"], margin[:, later].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(frame["score"], -margin[:, later].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(frame["confidence"], np.exp(-loss[:, later]).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(frame["variability"], np.exp(-loss[:, later]).std(axis=1), rtol=1e-4)
    assert np.flatnonzero(frame["kind"] == KINDS[0]).tolist() == WRONG.tolist()
    assert any("learnt by heart early looks right" in note for note in scores.notes)
    lake = lake_of(keep, None, labels=label, roles=["target"], traces={"loss": loss})
    with open_source(lake, "tests") as source:
        scores = suspects(source)
    np.testing.assert_allclose(
        scores.frame["score"], 1 - np.exp(-loss[:, later]).mean(axis=1), rtol=1e-5, atol=1e-6
    )
    assert KINDS[0] not in set(scores.frame["kind"])


def test_features_tell_rare_ones_and_duplicates(lake_of: MakeLake) -> None:
    keep, logits, label = planted(6)
    rng = np.random.default_rng(6)
    features = np.zeros((RUNS, SAMPLES, 16), np.float32)
    centre = rng.normal(0, 1, (CLASSES, 8))
    features[0, :, :8] = centre[label] + rng.normal(0, 0.05, (SAMPLES, 8))
    lonely = [3, 5]
    features[0, lonely] = 9 * np.eye(16)[[9, 14]]
    features[0, 11] = 2 * features[0, 10]  # the same direction
    other = int(np.flatnonzero((label != label[20]) & (np.arange(SAMPLES) > 30))[0])
    features[0, other] = features[0, 20]
    with open_source(lake_with(lake_of, keep, logits, label, features=features), "tests") as source:
        frame = suspects(source, neighbours=3).frame
    assert not any(i in WRONG for i in lonely)
    assert [frame["kind"][i] for i in lonely] == ["rare", "rare"]
    assert (frame["kind"] == "rare").sum() <= 0.05 * SAMPLES
    for one in (10, 11, 20, other):
        assert frame["duplicates"][one] == 1
    assert frame["other_label"][20] == frame["other_label"][other] == 1
    assert frame["other_label"][10] == int(label[10] != label[11])
    assert frame["duplicates"].sum() == 4


def test_nearest_records_match_a_loop() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(0, 1, (40, 5)).astype(np.float32)
    values[3] = 0  # no direction at all
    distance, near = nearest_records(values, 4)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    for i in range(40):
        away = [float(np.linalg.norm(unit[i] - unit[j])) if j != i else np.inf for j in range(40)]
        np.testing.assert_allclose(np.sort(distance[i]), np.sort(away)[:4], atol=1e-5)
        assert i not in near[i]


def test_records_without_a_label_have_no_score(lake_of: MakeLake, tmp_path: Path) -> None:
    keep, logits, label = planted(8)
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment(
        "tests", pa.table({"label": pa.array([None] * 5 + label[5:].tolist(), pa.int32())})
    )
    with open_source(lake_with(lake_of, keep, logits, label, lake=lake), "tests") as source:
        scores = suspects(source)
    assert scores.frame["score"].null_count() == scores.frame["kind"].null_count() == 5
    assert any(note.startswith("5 of 200 samples have no score") for note in scores.notes)


def test_what_cannot_be_judged_is_refused(lake_of: MakeLake) -> None:
    keep, logits, label = planted(9)
    lake = lake_with(lake_of, keep, logits, label)
    with open_source(lake, "tests") as source, pytest.raises(InvalidOption, match="neighbours"):
        suspects(source, neighbours=0)
    lake = lake_of(np.ones((1, 9), bool), np.zeros((1, 9)), roles=["target"])
    with open_source(lake, "tests") as source, pytest.raises(NotEnoughData, match="shadow models with and"):
        suspects(source)


def test_chart_says_every_kind(lake_of: MakeLake) -> None:
    keep, logits, label = planted(10)
    with open_source(lake_with(lake_of, keep, logits, label), "tests") as source:
        told = suspects_by_kind(suspects(source)).to_dict()["description"]
    assert "may be mislabelled: 5" in told
    assert "typical: " in told
