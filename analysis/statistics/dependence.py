"""Whether other runs' training sets tell the target's: the same set, its complement, or counts that go with it.

An attack compares what the other runs with a record say of it with what those without it say. That is fair as long as who
these runs are does not depend on whether the target is one of them. In a fleet where each record is in exactly half of
the runs it does: of the others, one fewer has a member of the target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST = 32
"""Records, and the fewest members and non-members, under which training sets may agree by chance."""
FEWEST_OF_A_SIDE = 5

ALIKE = 0.9
"""Correlation of two training sets from which on they count as the same; under its negative as complements."""

SURE = 4.0
"""Standard errors that the counts of members and non-members must be apart."""

PRIME = 2_147_483_647
SPREAD, DRAWN = 48_271, 69_621
"""Multipliers of a record's number modulo `PRIME`: its place in the order of runs, and whether it is drawn."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


Bits = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrainingSets:
    """What runs say of samples, a bit each: ``known`` (runs, samples / 8) and ``member`` alike, among those known.

    ``sample_id`` (samples,) are the audit pool's, ascending.
    """

    runs: tuple[str, ...]
    sample_id: Integers
    known: Bits
    member: Bits

    def row(self, run: str) -> int:
        """The place of a run."""
        return self.runs.index(run)

    def rows(self, runs: Iterable[str]) -> list[int]:
        """The places of runs."""
        place = {run: row for row, run in enumerate(self.runs)}
        return [place[run] for run in runs]


def alike(sets: TrainingSets, row: int) -> Floats:
    """Correlation of a run's training set with that of each run, among the samples that both know."""
    known, member = sets.known, sets.member
    pairs = (known & known[row], known & member[row], member & known[row], member & member[row])
    return correlation(*(np.bitwise_count(bits).sum(axis=1, dtype=np.int64) for bits in pairs))


def members_apart(sets: TrainingSets, row: int, fleet: Sequence[int]) -> tuple[float, float]:
    """`difference` of the number of ``fleet``'s runs that trained on a member of a run, and on a non-member."""
    return difference(*moments(*_counts(sets, row, fleet)))


def moments(n_in: Integers, own: Flags, told: Flags) -> list[tuple[float, float, float]]:
    """Number, mean and variance of the counts of members and of non-members, as in `shares_passed_over`."""
    sides = (n_in[told & own], n_in[told & ~own])
    return [(len(side), side.mean(), side.var()) if len(side) else (0.0, 0.0, 0.0) for side in sides]


def _counts(sets: TrainingSets, row: int, fleet: Sequence[int]) -> tuple[Integers, Flags, Flags]:
    samples = len(sets.sample_id)
    n_in = np.zeros(samples, dtype=np.int64)
    for other in fleet:
        n_in += np.unpackbits(sets.member[other], count=samples)
    told = sets.known[row] & np.bitwise_or.reduce(sets.known[list(fleet)], axis=0)
    return n_in, _flags(sets.member[row], samples), _flags(told, samples)


def opposite(sets: TrainingSets, row: int, fleet: Sequence[int]) -> Integers:
    """For each sample the run of ``fleet`` that is passed over, one that trained on it where ``row`` did not or the reverse.

    -1 for samples that are not drawn (see `shares_passed_over`), that ``row`` does not know, or that have no such run.
    """
    samples = len(sets.sample_id)
    keys = run_keys(sets.runs[other] for other in fleet)
    least, first = np.full(samples, PRIME), np.full(samples, -1)
    spread = _modulo((sets.sample_id + 1) * SPREAD)
    for other, key in zip(fleet, keys, strict=True):
        wanted = _flags(sets.known[other] & (sets.member[other] ^ sets.member[row]), samples)
        place = _modulo(spread * key)
        better = wanted & (place < least)
        np.copyto(least, place, where=better)
        np.copyto(first, other, where=better)
    share = shares_passed_over(*_counts(sets, row, fleet))
    return np.where(drawn(sets.sample_id, share), first, -1)


def _flags(bits: Bits, count: int) -> Flags:
    return np.unpackbits(bits, count=count).view(np.bool_)


def correlation(n: npt.ArrayLike, ours: npt.ArrayLike, theirs: npt.ArrayLike, both: npt.ArrayLike) -> Floats:
    """Correlation of two sets among ``n`` records, from how many are in ours, in theirs and in both; 0 for too few."""
    count, a, b, ab = (np.asarray(value, dtype=np.float64) for value in (n, ours, theirs, both))
    spread = a * (count - a) * b * (count - b)
    least = np.minimum(np.minimum(a, count - a), np.minimum(b, count - b))
    told = (count >= FEWEST) & (least >= FEWEST_OF_A_SIDE)
    return np.where(told, (count * ab - a * b) / np.sqrt(np.where(told, spread, 1.0)), 0.0)


def difference(members: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Mean count of members less that of non-members, and in standard errors, from (n, mean, variance) of each.

    0 and 0 for too few records; infinitely many standard errors where counts do not vary but differ.
    """
    (n, mean, variance), (m, mean_of_others, variance_of_others) = members, others
    if n + m < FEWEST or min(n, m) < FEWEST_OF_A_SIDE:
        return 0.0, 0.0
    apart = mean - mean_of_others
    error = float(np.sqrt(variance / n + variance_of_others / m))
    return apart, apart / error if error > 0 else float(np.sign(apart)) * float("inf") if apart else 0.0


def shares_passed_over(n_in: Integers, own: Flags, told: Flags) -> Floats:
    """For each record the chance that one run on the other side than the target is to be passed over, (samples,).

    ``n_in`` is how many of the others trained on it, ``own`` whether the target did, ``told`` whether it counts. Members and
    non-members are matched in the order of their counts; where the non-member has more, one run with it is passed over, and one without the
    member. Then counts with and without a record are spread alike in both where they are one apart at most by the target's
    own place: also where the fleet has each record in one of two numbers of runs, as with half of an odd number.
    """
    most = int(n_in.max(initial=0)) + 1
    members, others = (
        np.bincount(n_in[side], minlength=most) / max(1, side.sum()) for side in (told & own, told & ~own)
    )
    ends_of_members, ends_of_others = np.cumsum(members), np.cumsum(others)
    starts_of_members = np.append(0.0, ends_of_members[:-1])
    starts_of_others = np.append(0.0, ends_of_others[:-1])
    above = ends_of_members - np.maximum(starts_of_members, ends_of_others)
    under = np.minimum(ends_of_others, starts_of_members) - starts_of_others
    share = [
        np.clip(np.divide(part, whole, out=np.zeros(most), where=whole > 0), 0.0, 1.0)
        for part, whole in ((above, members), (under, others))
    ]
    return np.where(told, np.where(own, share[0][n_in], share[1][n_in]), 0.0)


def run_keys(names: Iterable[str]) -> Integers:
    """A number a run, 1 to `PRIME` - 1, from its name alone."""
    digests = (hashlib.blake2s(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(one, "big") % (PRIME - 1) + 1 for one in digests], dtype=np.int64)


def places(sample_id: npt.NDArray[np.integer], keys: Integers) -> Integers:
    """The order in which runs are passed over, another one a record: numbers (runs, samples), the least comes first."""
    spread = _modulo((sample_id.astype(np.int64) + 1) * SPREAD)
    return _modulo(spread * keys[:, None])


def drawn(sample_id: npt.NDArray[np.integer], share: Floats) -> Flags:
    """Which records are drawn, each with a chance of its own, by their numbers."""
    spread = _modulo((sample_id.astype(np.int64) + 1) * SPREAD)
    return _modulo(spread * DRAWN) < share * PRIME


def _modulo(number: Integers) -> Integers:
    """``number``, 0 to 2**62 - 1, modulo `PRIME`, which is 2**31 - 1: a sixth of the time that a division takes."""
    folded = (number & PRIME) + (number >> 31)
    folded = (folded & PRIME) + (folded >> 31)
    return np.where(folded == PRIME, 0, folded)
