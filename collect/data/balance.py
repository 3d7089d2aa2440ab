"""Sharing a number of samples out over classes."""

from __future__ import annotations

import numpy as np

from ...store.errors import InvalidOption


def equal_shares(available: np.ndarray, total: int) -> np.ndarray:
    """How many to take of each class, int64 (C,), so that the shares are as equal as `available` (C,) allows.

    A class with fewer than an equal share gives all it has and the others make up for it; of the classes
    with room, the first ones take the remainder. Raises InvalidOption where total > available.sum().
    """
    if total > int(available.sum()):
        raise InvalidOption(f"{total} samples asked for, but only {int(available.sum())} are there")
    shares = np.zeros(len(available), dtype=np.int64)
    left = total
    while left > 0:
        roomy = np.flatnonzero(available > shares)
        # At least one each, to the first `left` classes, once an equal step is less than one.
        step = max(left // len(roomy), 1)
        roomy = roomy[:left]
        given = np.minimum(step, available[roomy] - shares[roomy])
        shares[roomy] += given
        left -= int(given.sum())
    return shares


def proportional_shares(available: np.ndarray, fraction: float) -> np.ndarray:
    """round(fraction * available.sum()) shared out in proportion to `available` (C,), int64 (C,).

    Each share is fraction * available rounded down or up (largest remainders first; of equal ones the first).
    """
    exact = available * fraction
    shares = np.floor(exact + 1e-9).astype(np.int64)
    left = int(np.floor(float(available.sum()) * fraction + 0.5 + 1e-9)) - int(shares.sum())
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[:left]] += 1
    return np.minimum(shares, available)


def take_by_class(labels: np.ndarray, shares: np.ndarray, seed: list[int]) -> np.ndarray:
    """A random choice of `shares[c]` rows of each class c of `labels` (N,): row numbers, int64, ascending.

    Each class draws from a stream of its own, so that with one seed a smaller choice is part of a larger one.
    """
    chosen = []
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(shares)))
    for label in np.flatnonzero(shares):
        rows = by_class[ends[label - 1] if label else 0 : ends[label]]
        order = np.random.default_rng([*seed, int(label)]).permutation(len(rows))
        chosen.append(rows[order[: shares[label]]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def check_seed(seed: int) -> None:
    """Raises InvalidOption for a seed that NumPy's generators do not take."""
    if seed < 0:
        raise InvalidOption(f"seed is {seed}; it must be 0 or more")
