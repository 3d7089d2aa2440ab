"""LiRA's Gaussians while shadow runs are added one by one: what a small fleet would have said, at every size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from .lira_each import VARIANCE_FLOOR, log_density

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass
class Side:
    """Runs counted, mean and sum of squared residuals of one side, (samples, queries) each, after some runs."""

    n: npt.NDArray[np.int32]
    mean: Floats
    squares: Floats

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Side:
        return cls(np.zeros(shape, np.int32), np.zeros(shape), np.zeros(shape))

    def add(self, values: Floats, used: Flags) -> None:
        """Take in one run's values where ``used`` (Welford's update)."""
        self.n += used
        away = np.where(used, values - self.mean, 0.0)
        self.mean += away / np.maximum(self.n, 1)
        self.squares += away * (np.where(used, values, self.mean) - self.mean)

    def variance(self, kind: str) -> Floats:
        own = self.squares / np.maximum(self.n, 1)
        pooled = self.squares.sum() / max(int(self.n.sum()), 1)
        return np.maximum(np.full_like(own, pooled) if kind == "pooled" else own, VARIANCE_FLOOR)


def growing(
    phi: npt.NDArray[np.float32], member: Flags, order: npt.NDArray[np.int64], numbers: list[int]
) -> Iterator[tuple[int, tuple[Side, Side]]]:
    """The fits (in, out) to the first runs of an order, at each of the ``numbers``; they go on growing after that."""
    inside, outside = Side.empty(phi.shape[1:]), Side.empty(phi.shape[1:])
    for taken, run in enumerate(order[: max(numbers, default=0)], start=1):
        values = phi[run].astype(np.float64)
        seen = ~np.isnan(values)
        values = np.where(seen, values, 0.0)
        inside.add(values, seen & member[run][:, None])
        outside.add(values, seen & ~member[run][:, None])
        if taken in numbers:
            yield taken, (inside, outside)


def scores_of(point: Floats, fits: tuple[Side, Side], mode: str, kind: str) -> Floats:
    """LiRA's score of each sample, NaN where a query lacks a fit."""
    inside, outside = fits
    asked = ~np.isnan(point)
    at = np.where(asked, point, 0.0)
    if mode == "offline":
        evidence = -log_ndtr(-(at - outside.mean) / np.sqrt(outside.variance(kind)))
        fitted = outside.n > 0
    else:
        evidence = log_density(at, inside.mean, inside.variance(kind)) - log_density(
            at, outside.mean, outside.variance(kind)
        )
        fitted = (inside.n > 0) & (outside.n > 0)
    whole = (fitted | ~asked).all(axis=1) & asked.any(axis=1)
    total = np.where(asked, evidence, 0.0).sum(axis=1)
    return np.where(whole, total / np.maximum(asked.sum(axis=1), 1), np.nan)
