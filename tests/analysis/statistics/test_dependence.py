"""Training sets held against each other: bits against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from losslake.analysis.statistics.dependence import (
    PRIME,
    SPREAD,
    TrainingSets,
    alike,
    correlation,
    difference,
    drawn,
    members_apart,
    opposite,
    places,
    run_keys,
    shares_passed_over,
)
from losslake.collect.experiment.membership import Design, design_members

RUNS = tuple(f"run-{number}" for number in range(6))


def made(samples: int, seed: int) -> tuple[TrainingSets, np.ndarray, np.ndarray]:
    """Training sets of runs that do not know all samples, with the flags that they were packed from."""
    rng = np.random.default_rng(seed)
    known = rng.random((len(RUNS), samples)) < 0.8
    member = known & (rng.random(known.shape) < 0.5)
    sample_id = np.sort(rng.choice(3_000_000, samples, replace=False))
    return (
        TrainingSets(RUNS, sample_id, np.packbits(known, axis=1), np.packbits(member, axis=1)),
        known,
        member,
    )


@pytest.mark.parametrize("samples", [1, 63, 64, 1_001])
@pytest.mark.parametrize("row", [0, 3])
def test_bits_say_what_counting_does(samples: int, row: int) -> None:
    sets, known, member = made(samples, samples + row)
    for other, found in enumerate(alike(sets, row)):
        both = known[row] & known[other]
        expected = correlation(
            both.sum(),
            (member[row] & both).sum(),
            (member[other] & both).sum(),
            (member[row] & member[other]).sum(),
        )
        np.testing.assert_allclose(found, expected)
    fleet = [other for other in range(len(RUNS)) if other != row]
    n_in, told = member[fleet].sum(axis=0), known[row] & known[fleet].any(axis=0)
    sides = []
    for side in (told & member[row], told & ~member[row]):
        counts = n_in[side]
        sides.append((len(counts), counts.mean(), counts.var()) if len(counts) else (0.0, 0.0, 0.0))
    assert members_apart(sets, row, fleet) == pytest.approx(difference(*sides))


def test_of_each_sample_the_run_with_the_least_number_on_the_other_side() -> None:
    sets, known, member = made(301, 5)
    member[5] = known[5] & ~member[0]  # so that non-members are in more of the others
    sets.member[5] = np.packbits(member[5])
    fleet = [1, 2, 4, 5]
    keys = run_keys(RUNS)
    chosen = opposite(sets, 0, fleet)
    told = known[0] & known[fleet].any(axis=0)
    told &= drawn(sets.sample_id, shares_passed_over(member[fleet].sum(axis=0), member[0], told))
    assert 0 < told.sum() < 301
    for sample, found in enumerate(chosen):
        other_side = [run for run in fleet if known[run, sample] and member[run, sample] != member[0, sample]]
        number = (int(sets.sample_id[sample]) + 1) * SPREAD % PRIME
        expected = min(other_side, key=lambda run: number * int(keys[run]) % PRIME, default=-1)
        assert found == (expected if told[sample] else -1)


@pytest.mark.parametrize(
    ("design", "runs", "probability"),
    [
        ("balanced", 4, 0.5),
        ("balanced", 5, 0.5),
        ("balanced", 9, 0.5),
        ("balanced", 8, 0.3),
        ("balanced", 6, 0.7),
        ("paired", 8, 0.5),
    ],
)
def test_counts_are_spread_alike_in_members_and_non_members(
    design: Design, runs: int, probability: float
) -> None:
    keep = design_members(40_000, runs, design=design, seed=1, probability=probability)
    everything = np.packbits(np.ones_like(keep), axis=1)
    names = tuple(f"run-{number}" for number in range(runs))
    sets = TrainingSets(names, np.arange(40_000), everything, np.packbits(keep, axis=1))
    chosen = opposite(sets, 0, range(1, runs))
    kept = np.arange(1, runs)[:, None] != chosen
    n_in, n_out = ((side & kept).sum(axis=0) for side in (keep[1:], ~keep[1:]))
    together = n_in * runs + n_out
    shares = [np.bincount(together[side], minlength=runs * runs) / side.sum() for side in (keep[0], ~keep[0])]
    # Of so many records shares differ by chance by three of these.
    assert np.abs(shares[0] - shares[1]).max() < 3 * np.sqrt(
        0.25 * (1 / keep[0].sum() + 1 / (~keep[0]).sum())
    )


def test_numbers_are_remainders() -> None:
    ids = np.array([0, 1, 2, 44_488, PRIME - 2, PRIME - 1], dtype=np.int64)
    keys = np.array([1, 2, PRIME - 1], dtype=np.int64)
    expected = [[(int(i) + 1) * SPREAD % PRIME * int(key) % PRIME for i in ids] for key in keys]
    np.testing.assert_array_equal(places(ids, keys), expected)
