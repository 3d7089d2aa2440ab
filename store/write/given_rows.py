"""Rows of a run as a collector gives them: are they of its samples, each once, finite, and all there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput, InvalidOption
from ..format import manifest
from ..format.records import ROLES, RunInfo
from .given_arrays import Ids

_CHECKED_ROWS = 32_768
"""Wide logits are looked at by so many rows at a time."""


def checked_ids(sample_id: Ids, samples: int, what: str, experiment: str) -> npt.NDArray[np.int64]:
    """Sample ids as int64. Raises InvalidInput, naming ``what``, for others than 0 to ``samples`` - 1."""
    given = np.asarray(sample_id)
    if given.ndim != 1 or (len(given) and not np.issubdtype(given.dtype, np.integer)):
        raise InvalidInput(
            f"sample ids of {what} must be a one-dimensional integer array, not {given.dtype}{given.shape}"
        )
    ids: npt.NDArray[np.int64] = given.astype(np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= samples):
        bad = ids[(ids < 0) | (ids >= samples)][0]
        raise InvalidInput(
            f"sample id {bad} of {what} is not in experiment {experiment!r} (0 to {samples - 1})"
        )
    return ids


def distinct(ids: npt.NDArray[np.int64], samples: int, what: str) -> npt.NDArray[np.bool_]:
    """Which samples the ids are of, (samples,). Raises InvalidInput where one comes twice."""
    seen = np.zeros(samples, dtype=bool)
    seen[ids] = True
    if np.count_nonzero(seen) != len(ids):
        twice = np.flatnonzero(np.bincount(ids) > 1)[0]
        raise InvalidInput(f"sample id {twice} comes twice in {what}")
    return seen


def added_rows(
    run: str,
    ids: npt.NDArray[np.int64],
    queries: npt.NDArray,
    samples: int,
    before: Mapping[int, npt.NDArray[np.bool_]],
) -> dict[int, npt.NDArray[np.bool_]]:
    """The samples that come in, by query. Raises InvalidInput where one is there ``before``, or comes twice."""
    added = {}
    for number in np.unique(queries):
        rows = ids[queries == number]
        seen = np.zeros(samples, dtype=bool)
        seen[rows] = True
        known = before.get(int(number))
        if np.count_nonzero(seen) != len(rows) or (known is not None and (known & seen).any()):
            counts = np.bincount(rows, minlength=len(seen)) + (0 if known is None else known)
            twice = np.flatnonzero(counts > 1)[0]
            raise InvalidInput(f"run {run!r} has two rows for sample {twice} and query {int(number)}")
        added[int(number)] = seen
    return added


def check_finite(
    run: str,
    ids: npt.NDArray[np.int64],
    loss: npt.NDArray,
    phi: npt.NDArray | None,
    logits: npt.NDArray | None,
) -> None:
    """Raises InvalidInput where a loss, phi or logit is NaN, or a phi infinite."""
    advice = "the model has probably diverged: lower the learning rate"
    bad = np.isnan(loss) if phi is None else np.isnan(loss) | ~np.isfinite(phi)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InvalidInput(
            f"run {run!r}: {int(bad.sum())} signals are not finite, first sample {ids[first]} "
            f"(loss {loss[first]}, phi {'NULL' if phi is None else phi[first]}); {advice}"
        )
    if logits is not None:
        for start in range(0, len(ids), _CHECKED_ROWS):
            rows = np.flatnonzero(np.isnan(logits[start : start + _CHECKED_ROWS]).any(axis=1))
            if len(rows):
                raise InvalidInput(f"run {run!r}: logits of sample {ids[start + rows[0]]} are NaN; {advice}")


def check_complete(
    run: str, seen: Mapping[int, npt.NDArray[np.bool_]], epochs: Iterable[tuple[str, Iterable[int]]]
) -> None:
    """Raises InvalidInput where queries have unequal numbers of samples, or a source's ``epochs`` have a gap."""
    sizes = {number: int(of_query.sum()) for number, of_query in seen.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidInput(f"run {run!r} has unequal numbers of samples by query: {sizes}")
    for source, given in epochs:
        there = set(given)
        # Only the train trace has no value before training: it is recorded inside the steps.
        start = 1 if source == "train" and 0 not in there else 0
        if len(there) <= max(there) - start:
            missing = next(epoch for epoch in range(start, max(there)) if epoch not in there)
            raise InvalidInput(f"the {source} trace of run {run!r} lacks epoch {missing} of {max(there)}")


def check_info(info: RunInfo, run: str) -> None:
    """Raises InvalidOption for an unknown role, InvalidInput for what cannot be stored."""
    if info.role not in ROLES:
        raise InvalidOption(f"run {run!r}: there is no role {info.role!r} (roles: {', '.join(ROLES)})")
    for name, most in (("seed", 2**63), ("epochs", 2**31)):
        value = getattr(info, name)
        if value is not None and not -most <= value < most:
            raise InvalidInput(
                f"{name} {value} of run {run!r} is too large to be stored; it fits below {most}"
            )
    try:
        manifest.dump(asdict(info))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"what is said of run {run!r} cannot be written as JSON: {error}") from error
