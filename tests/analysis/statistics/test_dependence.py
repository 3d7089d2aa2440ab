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
)

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


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_of_each_sample_the_run_with_the_least_number_on_the_other_side(share: float) -> None:
    sets, known, member = made(301, 5)
    fleet = [1, 2, 4, 5]
    keys = run_keys(RUNS)
    chosen = opposite(sets, 0, fleet, share)
    told = drawn(sets.sample_id, share) & known[0]
    for sample, found in enumerate(chosen):
        other_side = [run for run in fleet if known[run, sample] and member[run, sample] != member[0, sample]]
        number = (int(sets.sample_id[sample]) + 1) * SPREAD % PRIME
        expected = min(other_side, key=lambda run: number * int(keys[run]) % PRIME, default=-1)
        assert found == (expected if told[sample] else -1)


def test_numbers_are_remainders() -> None:
    ids = np.array([0, 1, 2, 44_488, PRIME - 2, PRIME - 1], dtype=np.int64)
    keys = np.array([1, 2, PRIME - 1], dtype=np.int64)
    expected = [[(int(i) + 1) * SPREAD % PRIME * int(key) % PRIME for i in ids] for key in keys]
    np.testing.assert_array_equal(places(ids, keys), expected)
