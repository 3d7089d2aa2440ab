"""How alike two attacks answer: intervals that hold the truth, and brute force over the thresholds that there may be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.statistics import alike
from losslake.analysis.statistics.alike import Fronts, alike_and_shared, shared_tops
from losslake.analysis.statistics.intervals import clopper_pearson, uncertain_share
from losslake.analysis.statistics.roc import tpr_at_fpr, uncertain_thresholds
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]


def two_attacks(rng: np.random.Generator, n: int, effect: float, likeness: float) -> tuple[Floats, Floats]:
    """Normal scores; non-members have no effect, and the more likeness the more noise the two share."""
    noise = rng.normal(size=(3, n))
    shared, own = np.sqrt(likeness), np.sqrt(1 - likeness)
    return shared * noise[0] + own * noise[1] + effect, shared * noise[0] + own * noise[2] + effect


def places(score: Floats) -> npt.NDArray[np.int64]:
    return np.argsort(np.argsort(-score))


@pytest.mark.parametrize(
    ("members", "others", "fpr", "effect", "likeness"),
    [(300, 300, 0.01, 1, 0.0), (300, 300, 0.1, 1, 0.0), (300, 100, 0.1, 2, 0.9), (100, 300, 0.3, 0, 0.5)],
)
def test_the_truth_is_held(members: int, others: int, fpr: float, effect: float, likeness: float) -> None:
    a, b = two_attacks(np.random.default_rng(0), 1_000_000, effect, likeness)
    threshold = -float(ndtri(fpr))
    first, second = a > threshold, b > threshold
    as_many = b > np.quantile(b, 1 - first.mean())
    truths = (
        float((first == second).mean()),
        (first & second).sum() / (first | second).sum(),
        (first & as_many).sum() / (first | as_many).sum(),
    )
    held = np.zeros(3)
    trials = 120
    for seed in range(trials):
        rng = np.random.default_rng([seed, 1])
        inside, outside = (
            two_attacks(rng, n, size, likeness) for n, size in ((members, effect), (others, 0))
        )
        found = (
            *alike_and_shared(inside, outside, fpr),
            shared_tops(places(inside[0]), places(inside[1]), Fronts.of(inside[0], np.sort(outside[0]), fpr)),
        )
        held += [low <= truth <= high for (low, high), truth in zip(found, truths, strict=True)]
    assert (held / trials >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / trials)).all(), held / trials


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("fpr", [0.02, 0.2, 0.9])
def test_counts_are_those_of_every_pair_of_thresholds(fpr: float, rounded: bool) -> None:
    rng = np.random.default_rng(3)
    members, others = two_attacks(rng, 40, 1, 0.3), two_attacks(rng, 30, 0, 0.3)
    if rounded:
        members, others = (tuple(np.round(score) for score in side) for side in (members, others))
    at, pair, weight = alike._hidden_pairs(others, fpr)
    alike_laws, shared_laws = [], []
    for one, other in zip(*pair, strict=True):
        named, perhaps = [], []
        for score, outside, count in zip(members, others, (at[0][one], at[1][other]), strict=True):
            strict, lax = uncertain_thresholds(np.sort(outside), np.array([count]))
            named.append(score > strict[0])
            perhaps.append(score >= lax[0])
        yes, no = named, [~flags for flags in perhaps]
        apart = int((yes[0] & no[1]).sum() + (no[0] & yes[1]).sum())
        same = int((yes[0] & yes[1]).sum() + (no[0] & no[1]).sum())
        both, nobody = int((yes[0] & yes[1]).sum()), int((no[0] & no[1]).sum())
        alike_laws.append((same, 40 - same, 40 - apart, apart))
        shared_laws.append((both, 40 - nobody - both, int((perhaps[0] & perhaps[1]).sum()), apart))
    expected = []
    for laws in (alike_laws, shared_laws):
        low_hits, low_misses, high_hits, high_misses = np.array(laws, dtype=np.float64).T
        expected.append(uncertain_share(weight, (low_hits, low_misses), (high_hits, high_misses)))
    assert np.allclose(alike_and_shared(members, others, fpr), expected, atol=1e-9)


def test_known_thresholds_leave_the_members_alone_uncertain() -> None:
    rng = np.random.default_rng(1)
    members, others = two_attacks(rng, 200, 1, 0.5), two_attacks(rng, 1_000_000, 0, 0.5)
    named = [score > -float(ndtri(0.1)) for score in members]
    same, both = int((named[0] == named[1]).sum()), int((named[0] & named[1]).sum())
    exact = clopper_pearson(same, 200), clopper_pearson(both, int((named[0] | named[1]).sum()))
    assert np.allclose(alike_and_shared(members, others, 0.1), exact, atol=0.01)


def test_an_attack_beside_one_that_knows_no_difference() -> None:
    """Beside one that names nobody, answering alike is not being named: the interval of the TPR, turned round."""
    rng = np.random.default_rng(2)
    members, others = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    constant = np.zeros(300)
    rate = tpr_at_fpr(np.sort(members), np.sort(others), 0.1)
    assert rate.ci_low is not None
    assert rate.ci_high is not None
    (low, high), _ = alike_and_shared((members, constant - 1), (others, np.arange(300.0)), 0.1)
    assert (1 - high, 1 - low) == pytest.approx((rate.ci_low, rate.ci_high), abs=0.01)
