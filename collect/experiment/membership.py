"""Who is in which run: the target's members, the designs of shadow fleets, random subsets."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ...store.errors import InvalidOption
from ..callables import unknown_choice
from .selection import check_seed, proportional_shares, take_by_class

Design = Literal["balanced", "bernoulli", "paired"]

# Random numbers of one block of samples; 4 Mi of 8 bytes each. The result does not depend on it.
_BLOCK_VALUES = 1 << 22

# One independent random stream a purpose: the same seed for two designs gives unrelated choices.
_STREAMS = {
    "target": 101,
    "balanced": 102,
    "bernoulli": 103,
    "paired": 104,
    "ceilings": 105,
    "canaries": 106,
    "subset": 107,
}


def target_members(labels: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """A class-balanced random choice of `fraction` of the samples: bool (N,), True = member.

    labels: int (N,), classes 0..C-1. Every class gives its fraction, rounded so that the total is right.
    Deterministic in seed. Raises InvalidOption for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InvalidOption(f"fraction is {fraction}; it must be above 0 and at most 1")
    check_seed(seed)
    shares = proportional_shares(np.bincount(labels), fraction)
    members = np.zeros(len(labels), dtype=np.bool_)
    members[take_by_class(labels, shares, [_STREAMS["target"], seed])] = True
    return members


def coin_members(count: int, *, seed: int) -> np.ndarray:
    """A fair coin for each of `count` samples, none dependent on another: bool (count,). Deterministic in seed."""
    check_seed(seed)
    return np.random.default_rng([_STREAMS["canaries"], seed, count]).random(count) < 0.5


def random_subset(
    labels: np.ndarray, eligible: np.ndarray, size: int, *, seed: int, number: int
) -> np.ndarray:
    """A class-balanced random choice of ``size`` of the ``eligible`` samples, bool (N,): bool (N,).

    labels: int (N,). Every class gives in proportion to how many of it are eligible. Deterministic in (seed, number);
    the number stands for one of many such choices. Raises InvalidOption where size is below 1 or above what is there.
    """
    rows = np.flatnonzero(eligible)
    if not 1 <= size <= len(rows):
        raise InvalidOption(
            f"size is {size}; it must be 1 to {len(rows)}, the samples there are to choose from"
        )
    check_seed(seed)
    shares = proportional_shares(np.bincount(labels[rows]), size / len(rows))
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[rows[take_by_class(labels[rows], shares, [_STREAMS["subset"], seed, number])]] = True
    return chosen


def design_members(n: int, count: int, *, design: Design, seed: int, probability: float = 0.5) -> np.ndarray:
    """Which of `n` samples each of `count` runs trains on: bool (count, n).

    balanced   each sample is in exactly count * probability runs, chosen at random and independently of the
               other samples; where that is no whole number, in the number below or above, at random, so that
               the expectation is right
    bernoulli  a coin of `probability` for each (run, sample)
    paired     run 2k trains on a random half of the samples, run 2k+1 on the other half; needs an even count
               and probability 0.5

    Deterministic in (seed, design, count, n). Raises InvalidOption for values outside these.
    """
    if design not in get_args(Design):
        raise unknown_choice("membership design", design, get_args(Design))
    if n < 1 or count < 1:
        raise InvalidOption(f"n is {n} and count is {count}; both must be 1 or more")
    if not 0 < probability < 1:
        raise InvalidOption(f"probability is {probability}; it must lie between 0 and 1")
    check_seed(seed)
    if design == "paired":
        if count % 2:
            raise InvalidOption(f"count is {count}; the paired design needs an even number of runs")
        if probability != 0.5:
            raise InvalidOption(f"probability is {probability}; the paired design has halves: 0.5")
        return _paired(n, count, seed)
    size = max(1, _BLOCK_VALUES // count)
    rng = np.random.default_rng([_STREAMS[design], seed, count, n])
    ceilings = np.random.default_rng([_STREAMS["ceilings"], seed, count, n])
    members = np.empty((count, n), dtype=np.bool_)
    for start in range(0, n, size):
        stop = min(start + size, n)
        # Sample by sample, one 64-bit draw a value: the stream is the same however it is cut into blocks.
        if design == "bernoulli":
            members[:, start:stop] = (rng.random((stop - start, count)) < probability).T
        else:
            members[:, start:stop] = _balanced_block(rng, ceilings, stop - start, count, probability).T
    return members


def _balanced_block(
    rng: np.random.Generator, ceilings: np.random.Generator, samples: int, count: int, probability: float
) -> np.ndarray:
    """Bool (samples, count): in each row the smallest of `count` random numbers are members."""
    exact = count * probability
    if abs(exact - round(exact)) < 1e-9:
        exact = float(round(exact))  # 0.29 * 100 is 28.999999999999996
    low = int(exact)
    wanted = low + (ceilings.random(samples) < exact - low)
    # Distinct by construction (the lowest bits are the run's number), so that a threshold cuts exactly.
    bits = np.uint64(max(count - 1, 1).bit_length())
    draws = rng.bit_generator.random_raw(samples * count).reshape(samples, count)
    draws = ((draws >> bits) << bits) | np.arange(count, dtype=np.uint64)
    ranks = sorted({max(low - 1, 0), min(low, count - 1)})
    ordered = np.partition(draws, ranks, axis=1)
    last = ordered[np.arange(samples), np.maximum(wanted - 1, 0)]
    return (draws <= last[:, None]) & (wanted > 0)[:, None]


def _paired(n: int, count: int, seed: int) -> np.ndarray:
    members = np.zeros((count, n), dtype=np.bool_)
    for pair in range(count // 2):
        rng = np.random.default_rng([_STREAMS["paired"], seed, count, n, pair])
        half = n // 2 + int(rng.integers(2)) * (n % 2)  # an odd sample falls to either side
        members[2 * pair, rng.permutation(n)[:half]] = True
        members[2 * pair + 1] = ~members[2 * pair]
    return members
