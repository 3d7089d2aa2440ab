"""The shadow-model attack: what the network sees, how its rows are drawn, its log odds, and whom it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from losslake.analysis.attacks.logits import Piece
from losslake.analysis.attacks.shadow_nn import LOWEST, draw_evenly, inputs, shadow_nn, train
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.special import log_softmax
from sklearn.neural_network import MLPClassifier

MakeLake = Callable[..., Lake]


def piece(logits: np.ndarray, label: np.ndarray, member: np.ndarray | None = None) -> Piece:
    rows = len(logits)
    return Piece(
        np.arange(rows),
        np.zeros(rows, np.int16),
        np.zeros(rows, bool) if member is None else member,
        label.astype(np.int32),
        logits.astype(np.float32),
    )


def fleet(seed: int, runs: int, samples: int, gain: float = 3.0, classes: int = 3) -> dict[str, np.ndarray]:
    """Runs that are surer of members than of others, whatever they predict."""
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    z = rng.normal(0, 1, (runs, samples, classes)) * np.where(keep, gain, 1.0)[:, :, None]
    labels = rng.integers(0, classes, samples).astype(np.int32)
    return {"keep": keep, "logits": z.astype(np.float32), "labels": labels}


def scores_of(lake: Lake, target: str | None = None, **options: Any) -> Scores:
    with open_source(lake, "tests", target) as source:
        return shadow_nn(source, **options)


# --- the network ---------------------------------------------------------------------------------------------


def test_inputs_are_sorted_log_probabilities_and_the_label() -> None:
    rng = np.random.default_rng(0)
    z, label = rng.normal(0, 3, (20, 4)).astype(np.float32), rng.integers(0, 4, 20)
    found = inputs(piece(z, label))
    assert found.dtype == np.float32
    expected = -np.sort(-log_softmax(z.astype(float), axis=1), axis=1)
    np.testing.assert_allclose(found[:, :4], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[:, 4:], np.eye(4)[label])


def test_inputs_are_finite_whatever_the_logits() -> None:
    z = np.array([[1e4, -1e4], [3e38, -3e38], [np.inf, 0], [np.nan, 0], [0, 0]])
    found = inputs(piece(z, np.array([0, 1, 0, 0, -1])))
    np.testing.assert_allclose(found[:2, :2], [[0, LOWEST], [0, LOWEST]])
    assert np.isfinite(found).all()
    assert found[2:, 2:].sum() == 0


def test_log_odds_are_those_of_the_classifier() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(600, 6)).astype(np.float32)
    network = train(rows, rng.random(600) < 1 / (1 + np.exp(-3 * rows[:, 0])), 0)
    assert network.hidden[0].shape == (6, 64)
    assert network.output[0].shape == (64, 1)
    found = network.log_odds(rows)
    seen = (rows - network.shift) / network.scale
    hidden = np.maximum(seen @ network.hidden[0] + network.hidden[1], 0)
    np.testing.assert_allclose(found, (hidden @ network.output[0] + network.output[1]).ravel(), atol=1e-6)
    assert np.corrcoef(found, rows[:, 0])[0, 1] > 0.9
    far = network.log_odds(rows[:2] * 1e4)
    assert np.isfinite(far).all()
    assert far[0] != far[1]


def test_log_odds_estimate_the_probability() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(8_000, 2)).astype(np.float32)
    truth = 1.5 * rows[:, 0]
    network = train(rows, rng.random(8_000) < 1 / (1 + np.exp(-truth)), 0)
    core = np.abs(rows).max(axis=1) < 2
    assert np.abs(network.log_odds(rows) - truth)[core].mean() < 0.25


@pytest.mark.parametrize(("rows", "width"), [(45, 4), (700, 6), (3_000, 40)])
def test_the_network_is_that_of_scikit_learn(rows: int, width: int) -> None:
    rng = np.random.default_rng(rows)
    seen = rng.normal(size=(rows, width)).astype(np.float32)
    seen[:, width // 2 :] = rng.random((rows, width - width // 2)) < 0.3
    told = rng.random(rows) < 1 / (1 + np.exp(-2 * seen[:, 0]))
    found, expected = train(seen, told, rows), _by_scikit_learn(seen, told, rows)
    for one, other in zip((*found.hidden, *found.output), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def _by_scikit_learn(rows: np.ndarray, member: np.ndarray, seed: int) -> list[np.ndarray]:
    """Weights and biases of the best of MLPClassifier's epochs, by its loss on the rows held out."""
    classes = rows.shape[1] // 2
    probabilities = rows[:, :classes].astype(np.float64)
    seen = rows.copy()
    seen[:, :classes] -= probabilities.mean(axis=0).astype(np.float32)
    seen[:, :classes] /= probabilities.std(axis=0).astype(np.float32)
    random = np.random.RandomState(seed)
    order = random.permutation(len(rows))
    held, fitted = order[: len(rows) // 10], order[len(rows) // 10 :]
    learner = MLPClassifier((64,), batch_size=min(256, len(fitted)), random_state=random)
    epochs: list[tuple[float, list[np.ndarray]]] = []
    while len(epochs) < 30 and len(epochs) - int(np.argmin([loss for loss, _ in epochs] or [0])) <= 5:
        learner.partial_fit(seen[fitted], member[fitted], classes=(False, True))
        (first, second), (first_bias, second_bias) = learner.coefs_, learner.intercepts_
        odds = np.maximum(seen[held] @ first + first_bias, 0) @ second + second_bias
        loss = float(np.logaddexp(0, np.where(member[held], -1, 1) * odds[:, 0].astype(np.float64)).mean())
        epochs.append((loss, [part.copy() for part in (first, first_bias, second, second_bias)]))
    return min(epochs, key=lambda told: told[0])[1]


# --- drawing rows --------------------------------------------------------------------------------------------


def test_rows_are_drawn_evenly_and_alike_whatever_the_pieces() -> None:
    rng = np.random.default_rng(3)
    member, allowed = rng.random(5_000) < 0.3, rng.random(5_000) < 0.9
    whole = piece(np.arange(10_000).reshape(5_000, 2), np.zeros(5_000), member)

    def cut(size: int) -> list[tuple[Piece, np.ndarray]]:
        parts = [slice(start, start + size) for start in range(0, 5_000, size)]
        names = ("sample_id", "query", "member", "label", "values")
        return [(Piece(*(getattr(whole, name)[part] for name in names)), allowed[part]) for part in parts]

    drawn = draw_evenly(cut(5_000), 200, 0)
    again = draw_evenly(cut(37), 200, 0)
    assert drawn is not None
    assert again is not None
    ids = drawn.sample_id
    assert sorted(ids) == sorted(again.sample_id)
    assert len(set(ids)) == 400
    assert allowed[ids].all()
    np.testing.assert_array_equal(drawn.member, member[ids])
    assert drawn.member.sum() == 200
    np.testing.assert_array_equal(drawn.values[:, 0], 2 * ids)
    assert 2_000 < ids.mean() < 3_000
    everything = draw_evenly(cut(1_000), 10_000, 0)
    assert everything is not None
    assert len(everything) == 2 * (member & allowed).sum()


def test_no_row_of_a_kind_draws_nothing() -> None:
    only = piece(np.zeros((5, 2)), np.zeros(5), np.ones(5, bool))
    assert draw_evenly([(only, np.ones(5, bool))], 3, 0) is None
    assert draw_evenly([], 3, 0) is None


# --- the attack ----------------------------------------------------------------------------------------------


def test_planted_members_are_found_and_the_same_seed_repeats(lake_of: MakeLake) -> None:
    lake = lake_of(**fleet(4, 5, 300))
    with open_source(lake, "tests") as source:
        outcome = run_analysis(source, find("shadow-nn"))
    assert outcome.metrics[0].ci_low > 0.75  # type: ignore[operator]
    score, member = outcome.scores.arrays()
    tpr, fpr, advantage = outcome.metrics[-3:]
    assert (tpr.metric, tpr.value) == ("tpr_at_log_odds_0", pytest.approx((score[member] > 0).mean()))
    assert fpr.value == pytest.approx((score[~member] > 0).mean())
    assert advantage.ci_low > 0  # type: ignore[operator]
    assert outcome.scores.notes == (
        f"trained on {_even(fleet(4, 5, 300)['keep'][1:])} of 1200 predictions of 4 shadow runs, drawn at random",
    )
    again = scores_of(lake)
    assert again.frame.equals(outcome.scores.frame)
    assert not scores_of(lake, seed=1).frame.equals(outcome.scores.frame)


def _even(keep: np.ndarray) -> int:
    return 2 * int(min(keep.sum(), (~keep).sum()))


def test_the_label_plays_a_part(lake_of: MakeLake) -> None:
    given = fleet(5, 5, 400, gain=1)
    # Of label 0 members are surer than others, of label 1 less sure: only who sees the label can tell.
    surer = np.where(given["keep"] == (given["labels"] % 2 == 0), 4.0, 1.0)
    given["logits"] *= surer[:, :, None].astype(np.float32)
    given["labels"] %= 2
    with open_source(lake_of(**given), "tests") as source:
        assert run_analysis(source, find("shadow-nn")).metrics[0].value > 0.7  # type: ignore[operator]


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    with open_source(lake_of(**fleet(6, 3, 500, gain=1)), "tests") as source:
        auc, *_ = run_analysis(source, find("shadow-nn")).metrics
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]


def test_the_targets_membership_plays_no_part(lake_of: MakeLake) -> None:
    given = fleet(7, 3, 80)
    scores = scores_of(lake_of(**given))
    given["keep"] = given["keep"].copy()
    given["keep"][0] = ~given["keep"][0]
    assert scores_of(lake_of(**given)).frame["score"].equals(scores.frame["score"])
    assert scores_of(lake_of(**given), "run-0001").frame["score"].is_finite().all()


def test_rows_are_capped_and_it_says_so(lake_of: MakeLake) -> None:
    given = fleet(8, 3, 200)
    scores = scores_of(lake_of(**given), rows=100)
    assert scores.notes == ("trained on 100 of 400 predictions of 2 shadow runs, drawn at random",)
    assert scores.frame["score"].is_finite().all()


def test_records_without_finite_logits_have_no_score(lake_of: MakeLake) -> None:
    given: dict[str, Any] = fleet(9, 3, 80)
    given["phi"] = np.zeros((3, 80))
    given["labels"][5] = 7
    given["logits"][0, 9, 1] = np.inf
    given["logits"][1, 11, 1] = np.inf
    scores = scores_of(lake_of(**given))
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == [5, 9]
    assert scores.notes[0] == "2 of 80 samples have no score: they have no label or no finite logits"


def test_wrong_options_and_too_little_data(lake_of: MakeLake) -> None:
    given = fleet(10, 2, 60)
    lake = lake_of(**given)
    with pytest.raises(InvalidOption, match="rows of shadow-nn must be 40 or more, not 10"):
        scores_of(lake, rows=10)
    with pytest.raises(InvalidOption, match="seed of shadow-nn must be 0 or more"):
        scores_of(lake, seed=-1)
    given["keep"][1] = np.arange(60) < 10
    with pytest.raises(NotEnoughData, match="20 predictions for members and 20 for non-members at least"):
        scores_of(lake_of(**given))
    given["keep"][1] = True
    with pytest.raises(NotEnoughData, match="collect more"):
        scores_of(lake_of(**given))
    with pytest.raises(NotEnoughData, match="has no logits; collect it with --logits float16"):
        scores_of(lake_of(given["keep"], np.zeros((2, 60))))
