"""How much a rate or an area moved between two models: against a bootstrap, and how often the interval holds what it should."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.statistics.change import (
    added_to_auc,
    added_to_tpr,
    change,
    correlation_of_errors,
    difference_interval,
)
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import auc, split, tpr_at_fpr
from scipy.special import ndtr, ndtri

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
FPR = 0.1


def drawn(
    rng: np.random.Generator, n: int, membership: str, apart: tuple[float, float], alike: float
) -> tuple[list[Floats], list[Flags]]:
    """Scores of n records under two models: partly the record's own, and so far apart for members."""
    inside = rng.random(n) < 0.5
    members = [inside, {"same": inside, "other": rng.random(n) < 0.5, "opposite": ~inside}[membership]]
    common = rng.normal(size=n)
    noise = [np.sqrt(alike) * common + np.sqrt(1 - alike) * rng.normal(size=n) for _ in apart]
    return [one + d * member for one, d, member in zip(noise, apart, members, strict=True)], members


def moved(scores: list[Floats], members: list[Flags], of: str, *, paired: bool = True) -> Metric:
    arrays = list(zip(scores, members, strict=True))
    metrics = [auc(*split(*one)) if of == "auc" else tpr_at_fpr(*split(*one), FPR) for one in arrays]
    added = [added_to_auc(*one) if of == "auc" else added_to_tpr(*one, FPR) for one in arrays]
    everybody = np.arange(len(scores[0]))
    found = change(*metrics, correlation_of_errors(*added, (everybody, everybody)) if paired else None)
    assert found is not None
    return found


@pytest.mark.parametrize("membership", ["same", "opposite"])
@pytest.mark.parametrize("of", ["auc", "tpr"])
def test_errors_go_together_as_in_a_bootstrap(of: str, membership: str) -> None:
    rng = np.random.default_rng(1)
    scores, members = drawn(rng, 1_000, membership, (1.0, 1.5), 0.8)
    arrays = list(zip(scores, members, strict=True))
    everybody = np.arange(1_000)
    added = [added_to_auc(*one) if of == "auc" else added_to_tpr(*one, FPR) for one in arrays]
    found = correlation_of_errors(*added, (everybody, everybody))
    again = []
    for _ in range(300):
        chosen = rng.integers(0, 1_000, 1_000)
        pair = [split(score[chosen], member[chosen]) for score, member in arrays]
        again.append([(auc(*one) if of == "auc" else tpr_at_fpr(*one, FPR)).value for one in pair])
    table = np.array(again, np.float64)
    assert found == pytest.approx(np.corrcoef(table.T)[0, 1], abs=0.13)
    if of == "auc":
        assert abs(found) > 0.25
        for column, one in enumerate(added):
            assert np.sqrt(one @ one) == pytest.approx(table[:, column].std(), rel=0.1)


def test_records_that_only_one_was_asked_about_do_not_pair() -> None:
    rng = np.random.default_rng(2)
    scores, members = drawn(rng, 400, "same", (1.0, 1.0), 0.9)
    added = [added_to_auc(score, member) for score, member in zip(scores, members, strict=True)]
    everybody, nobody, half = np.arange(400), np.arange(0), np.arange(200)
    assert correlation_of_errors(added[0], added[1], (nobody, nobody)) == 0
    shared = correlation_of_errors(added[0], added[1], (everybody, everybody))
    assert 0.3 * shared < correlation_of_errors(added[0], added[1], (half, half)) < 0.7 * shared
    # In another order it is the same, and a record without a score adds nothing.
    order = rng.permutation(400)
    assert correlation_of_errors(added[0], added[1][order], (order, everybody)) == pytest.approx(shared)
    hidden = scores[0].copy()
    hidden[:40] = np.nan
    assert not added_to_auc(hidden, members[0])[:40].any()
    assert not added_to_tpr(hidden, members[0], FPR)[:40].any()


@pytest.mark.parametrize("of", ["auc", "tpr"])
@pytest.mark.parametrize(
    ("membership", "apart"),
    [("same", (0.0, 0.0)), ("same", (2.0, 1.0)), ("other", (2.0, 2.0)), ("opposite", (1.0, 2.0))],
)
def test_an_interval_holds_how_much_it_moved(of: str, membership: str, apart: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    truth = [ndtr(d / np.sqrt(2)) if of == "auc" else 1 - ndtr(ndtri(1 - FPR) - d) for d in apart]
    held = []
    for _ in range(300):
        found = moved(*drawn(rng, 240, membership, apart, 0.6), of)
        held.append(found.ci_low <= truth[1] - truth[0] <= found.ci_high)  # type: ignore[operator]
    assert np.mean(held) > 0.92


def test_pairing_is_narrower_where_errors_go_together_and_wider_where_they_go_against_each_other() -> None:
    """Members of one model that the other was not trained on are hard for both: left out, intervals are too narrow."""
    widths = {}
    for membership in ("same", "opposite"):
        given = drawn(np.random.default_rng(4), 800, membership, (1.0, 1.0), 0.8)
        pair = [moved(*given, "auc", paired=paired) for paired in (True, False)]
        widths[membership] = [one.ci_high - one.ci_low for one in pair]  # type: ignore[operator]
    assert widths["same"][0] < 0.75 * widths["same"][1]
    assert widths["opposite"][0] > 1.15 * widths["opposite"][1]


def test_independent_rates_are_set_apart_as_by_newcombe() -> None:
    rng = np.random.default_rng(5)
    held = []
    for _ in range(1_000):
        n = int(rng.integers(40, 400))
        shares = rng.uniform(0.02, 0.9, 2)
        was, now = (Metric.share("tpr", int((rng.random(n) < share).sum()), n) for share in shares)
        found = change(was, now)
        assert found is not None
        assert found.parameters["paired"] is False
        held.append(found.ci_low <= shares[1] - shares[0] <= found.ci_high)  # type: ignore[operator]
    assert np.mean(held) > 0.94
    # Newcombe (1998), table II, method 10: 56/70 less 48/80.
    low, high = difference_interval((48 / 80, 0.4904, 0.7003), (56 / 70, 0.6919, 0.8769))
    assert (low, high) == (pytest.approx(0.0524, abs=5e-4), pytest.approx(0.3339, abs=5e-4))
    assert change(Metric("auc", None), Metric("auc", 0.5, 0.4, 0.6)) is None
