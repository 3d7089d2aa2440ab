"""Whether labels look right to models that never saw them, and the nearest records by features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAJORITY = 0.5
"""A record looks mislabelled where another class has more than this share, and its label less than guessing would give it."""


@dataclass(frozen=True)
class Judged:
    """What out-of-sample probabilities say of labels, arrays (N,).

    ``own`` is the probability of the label, ``nearest`` the likeliest other class and ``other`` its probability. ``wrong`` marks
    records where another class has the majority and the label less than 1 / classes, ``unsure`` those whose label has less than the
    mean over the records of its class.
    """

    own: Floats
    nearest: Ints
    other: Floats
    wrong: npt.NDArray[np.bool_]
    unsure: npt.NDArray[np.bool_]


def judge_labels(probability: Floats, label: Ints) -> Judged:
    """Judge labels (N,) by probabilities (N, classes) of models that never saw the record.

    The mean probability of a class over the records labelled so is the threshold of confident learning (Northcutt et al. 2021,
    equation 2). Which record may be mislabelled is not decided by it: of models that are often wrong it is so low that a third of all records would be.
    """
    records, classes = probability.shape
    at = np.arange(records)
    own = probability[at, label]
    others = probability.copy()
    others[at, label] = -1
    nearest = others.argmax(axis=1)
    other = np.maximum(others[at, nearest], 0.0)
    wrong = (other > MAJORITY) & (own < 1 / classes)
    return Judged(own, nearest, other, wrong, own < mean_of_class(own, label))


def mean_of_class(values: Floats, label: Ints) -> Floats:
    """Of each record the mean over the records of its class."""
    _, place = np.unique(label, return_inverse=True)
    mean: Floats = (np.bincount(place, values) / np.bincount(place))[place]
    return mean


def softmax(logits: Floats) -> Floats:
    parts = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability: Floats = parts / parts.sum(axis=1, keepdims=True)
    return probability


def nearest_records(features: npt.NDArray[np.float32], neighbours: int) -> tuple[Floats, Ints]:
    """Distances (N, k) between directions of features (N, width), the nearest first, and whose they are; no record is its own neighbour."""
    from sklearn.neighbors import NearestNeighbors

    values = features.astype(np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    values = (values / np.where(length > 0, length, 1)).astype(np.float32)
    searched = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(values)
    _, near = searched.kneighbors()  # without a query none is its own neighbour
    # Of values that are nearly the same the search's own distances have lost their digits.
    exact: Floats = np.stack(
        [
            np.linalg.norm((values - values[near[:, place]]).astype(np.float64), axis=1)
            for place in range(neighbours)
        ],
        axis=1,
    )
    return exact, near.astype(np.int64)
