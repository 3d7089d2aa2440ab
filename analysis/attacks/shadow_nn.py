"""The shadow-model attack: a network learns from shadow models what their predictions for members look like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.roc import rates
from ..statistics.special import expit
from .logits import Piece, left_out, shadow_logits, target_logits
from .loss import attacked_losses

Floats = npt.NDArray[np.float64]
Inputs = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

HIDDEN = 64
BATCH = 256
EPOCHS = 30
PATIENCE = 5
LOWEST = -30.0
"""Log probabilities are held at or above this; what lies below says nothing that half-precision logits still tell."""

LEAST = 20
"""So many rows of shadow members, and as many of non-members, are the least to train on: a tenth is held out."""

MOST_INPUTS = 10_000_000
"""Numbers in all training rows at most, which bounds time and memory: with very many classes there are fewer rows."""


def shadow_nn(
    source: Source,
    *,
    rows: Annotated[
        int, "predictions of shadow runs to train on at most, half of them for members"
    ] = 100_000,
    seed: Annotated[int, "of the draw of rows, the first weights and the batches"] = 0,
) -> Scores:
    """Shadow-model attack: a network that learned from shadow runs what predictions for members look like.

    Inputs are the log probabilities of all classes from the highest down (held at or above -30, standardised) and the
    label (one input a class), which stands for the original's network a class; one hidden layer of 64 ReLU; Adam on
    batches of 256, 30 epochs at most, ended when a tenth of the rows, held out, was told no better for five. The rows
    are drawn from all shadow runs' records as they are (not from canaries' candidates, group canary of the population), as many of members as
    of non-members. score = log odds of
    member, Higher = member. The target is no shadow of its own and its membership plays no part. Needs logits. The
    same data and seed give the same scores.

    Metrics of its own, rates of saying "member" where the score is above 0: tpr_at_log_odds_0, fpr_at_log_odds_0 and their
    difference advantage_at_log_odds_0.

    Needs: logits of the target and of shadow runs.

    Source: Shokri et al. 2017, "Membership Inference Attacks Against Machine Learning Models"; the network is that of
    "Why Train More? Effective and Efficient Membership Inference via Memorization", appendix C.
    """
    from threadpoolctl import threadpool_limits

    if rows < 2 * LEAST:
        raise InvalidOption(f"rows of shadow-nn must be {2 * LEAST} or more, not {rows}")
    if not 0 <= seed < 2**32:
        raise InvalidOption(f"seed of shadow-nn must be 0 or more and below 2^32, not {seed}")
    frame = attacked_losses(source)
    target = target_logits(source, frame["sample_id"].to_numpy())
    drawn, notes = _draw(source, target.values.shape[1], rows, seed)
    network = train(inputs(drawn), drawn.member, seed)
    known = target.usable()
    score = np.full(len(target), np.nan)
    with threadpool_limits(1):
        odds = [network.log_odds(inputs(part)) for part in target.pieces()]
    score[known] = np.concatenate(odds)[known]
    scored = frame.select("sample_id", "member", pl.Series("score", score).fill_nan(None))
    metrics = rates(score[known] > 0, frame["member"].to_numpy()[known], "at_log_odds_0", {})
    return Scores(
        scored, (*count_unscored(scored, "they have no label or no finite logits"), *notes), metrics
    )


def inputs(piece: Piece) -> Inputs:
    """What the network sees of logits (R, C): (R, 2C), the sorted log probabilities and the label; 0 where not usable."""
    usable = piece.usable()
    z = np.where(usable[:, None], piece.values, 0).astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    ranked = np.maximum(-np.sort(-z, axis=1), LOWEST)
    of_class = np.arange(z.shape[1]) == np.where(usable, piece.label, -1)[:, None]
    return np.concatenate([ranked, of_class], axis=1, dtype=np.float32, casting="same_kind")


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network: inputs are shifted and scaled, then ``hidden`` and ``output`` (weights, biases) apply."""

    shift: Inputs
    scale: Inputs
    hidden: tuple[Inputs, Inputs]
    output: tuple[Inputs, Inputs]

    def log_odds(self, rows: Inputs) -> Floats:
        """log odds of member of inputs (R, 2C): not of rounded probabilities, so that sure ones keep their order."""
        seen = (rows - self.shift) / self.scale
        active = np.maximum(seen @ self.hidden[0] + self.hidden[1], 0)
        return (active @ self.output[0] + self.output[1])[:, 0].astype(np.float64)


def train(rows: Inputs, member: Flags, seed: int) -> Network:
    """The network that tells the members among inputs (R, 2C), of which at least `LEAST` are of either kind.

    A tenth of the rows is held out, and of the networks after each epoch it is the one with the least logistic loss on
    these. The share of them that is told right would not do: it settles long before the log odds are any good.
    """
    from threadpoolctl import threadpool_limits

    shift, scale = _standard(rows)
    random = np.random.RandomState(seed)
    held, fitted = np.split(random.permutation(len(rows)), [len(rows) // 10])
    wrong_way = np.where(member[held], -1.0, 1.0)
    learner = _Learner(rows.shape[1], random)
    seen, told = (rows[fitted] - shift) / scale, member[fitted]
    tried: list[Network] = []
    losses: list[float] = []
    best = 0
    # One thread: matrices this small are multiplied no faster by several, and sums keep their order.
    with threadpool_limits(1):
        while len(tried) < EPOCHS and len(tried) - best <= PATIENCE:
            learner.epoch(seen, told)
            tried.append(Network(shift, scale, *learner.layers()))
            losses.append(float(np.logaddexp(0, wrong_way * tried[-1].log_odds(rows[held])).mean()))
            best = int(np.argmin(losses))
    return tried[best]


class _Learner:
    """One hidden layer of ReLU and a logistic output, learnt with Adam (Kingma & Ba 2015) on batches.

    First weights, batches, weight decay and steps are those of scikit-learn's MLPClassifier, bit for bit; what that does beside
    them takes three times as long, its import not counted.
    """

    RATE, BETAS, EPSILON, DECAY = 1e-3, (0.9, 0.999), 1e-8, 1e-4

    def __init__(self, width: int, random: np.random.RandomState) -> None:
        self._random = random
        self._steps = 0
        # All parameters lie in one vector, and their slopes in another: a step is one of vectors.
        shapes = ((width, HIDDEN), (HIDDEN, 1), (HIDDEN,), (1,))
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        self._decayed = int(ends[1])
        self._all, self._slope, self._mean, self._square = np.zeros((4, ends[-1]), np.float32)
        self._weights, self._slopes = (
            [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]
            for vector in (self._all, self._slope)
        )
        for layer, (fan_in, fan_out) in enumerate(shapes[:2]):
            bound = math.sqrt(6 / (fan_in + fan_out))  # Glorot & Bengio 2010
            self._weights[layer][:] = random.uniform(-bound, bound, (fan_in, fan_out))
            self._weights[layer + 2][:] = random.uniform(-bound, bound, fan_out)

    def layers(self) -> tuple[tuple[Inputs, Inputs], tuple[Inputs, Inputs]]:
        """Weights and biases of the hidden layer and of the output, copied."""
        first, second, first_bias, second_bias = (part.copy() for part in self._weights)
        return (first, first_bias), (second, second_bias)

    def epoch(self, seen: Inputs, told: Flags) -> None:
        """Learn from every row (R, width) once, in batches drawn anew."""
        order = self._random.permutation(len(seen))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            self._step(seen[rows], told[rows, None])

    def _step(self, seen: Inputs, told: Flags) -> None:
        hidden, output, hidden_bias, output_bias = self._weights
        active = seen @ hidden
        active += hidden_bias
        np.maximum(active, 0, out=active)
        odds = active @ output
        odds += output_bias
        error = expit(odds) - told
        behind = error @ output.T
        behind *= active > 0
        np.matmul(seen.T, behind, out=self._slopes[0])
        np.matmul(active.T, error, out=self._slopes[1])
        np.sum(behind, axis=0, out=self._slopes[2])
        np.sum(error, axis=0, out=self._slopes[3])
        self._slope[: self._decayed] += self.DECAY * self._all[: self._decayed]
        self._slope /= len(seen)
        self._steps += 1
        one, two = self.BETAS
        self._mean *= one
        self._mean += (1 - one) * self._slope
        self._square *= two
        self._square += (1 - two) * self._slope**2
        # In double precision, as the classifier's rate is.
        rate = np.float64(self.RATE * np.sqrt(1 - two**self._steps) / (1 - one**self._steps))
        self._all -= rate * self._mean / (np.sqrt(self._square) + self.EPSILON)


def _standard(rows: Inputs) -> tuple[Inputs, Inputs]:
    """Mean and standard deviation of each log probability; the labels' inputs stay 0 and 1."""
    classes = rows.shape[1] // 2
    shift, scale = np.zeros(2 * classes, np.float32), np.ones(2 * classes, np.float32)
    shift[:classes] = rows[:, :classes].mean(axis=0, dtype=np.float64)
    spread = rows[:, :classes].std(axis=0, dtype=np.float64)
    scale[:classes] = np.where(spread > 1e-6, spread, 1.0)
    return shift, scale


def _draw(source: Source, classes: int, rows: int, seed: int) -> tuple[Piece, tuple[str, ...]]:
    """The rows to train on, and notes on them."""
    seen: set[str] = set()
    total = 0

    def pieces() -> Iterator[tuple[Piece, Flags]]:
        nonlocal total
        for run, piece in shadow_logits(source, classes):
            seen.add(run)
            usable = piece.usable()
            total += int(usable.sum())
            yield piece, usable

    most = max(LEAST, min(rows, MOST_INPUTS // (2 * classes)) // 2)
    drawn = draw_evenly(pieces(), most, seed)
    notes = left_out(source, seen)
    if drawn is None or len(drawn) < 2 * LEAST:
        raise NotEnoughData(
            f"shadow-nn trains on {LEAST} predictions for members and {LEAST} for non-members at least, and the "
            f"{len(seen)} shadow runs of experiment {source.experiment!r} have fewer; collect more"
        )
    if len(drawn) < total:
        notes += (
            f"trained on {len(drawn)} of {total} predictions of {len(seen)} shadow runs, drawn at random",
        )
    return drawn, notes


def draw_evenly(pieces: Iterable[tuple[Piece, Flags]], most: int, seed: int) -> Piece | None:
    """Up to ``most`` rows of members and equally many of non-members, of the rows that each piece's flags allow.

    Every row gets a random number, and those with the least are kept: each set of rows is as likely as any other, and
    memory holds a few times ``most`` rows whatever the length of the stream. None where either kind has no row.
    """
    random = np.random.default_rng(seed)
    sides = (_Lowest(most), _Lowest(most))
    for piece, allowed in pieces:
        ticket = random.random(len(piece))
        for member, side in zip((False, True), sides, strict=True):
            side.offer(piece, ticket, allowed & (piece.member == member))
    if not all(side.waiting for side in sides):
        return None
    drawn = [side.drawn() for side in sides]
    count = min(len(tickets) for _, tickets in drawn)
    return Piece.joined([piece.rows(slice(count)) for piece, _ in drawn])


class _Lowest:
    """The rows with the least tickets among all that were offered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bound = np.inf
        self.waiting: list[tuple[Piece, Floats]] = []

    def offer(self, piece: Piece, ticket: Floats, allowed: Flags) -> None:
        rows = np.flatnonzero(allowed & (ticket < self._bound))
        if len(rows):
            self.waiting.append((piece.rows(rows), ticket[rows]))
        if sum(len(tickets) for _, tickets in self.waiting) > 2 * self._most:
            self.waiting = [self.drawn()]
            self._bound = self.waiting[0][1][-1]

    def drawn(self) -> tuple[Piece, Floats]:
        """The rows and their tickets, ascending."""
        tickets = np.concatenate([ticket for _, ticket in self.waiting])
        least = np.argsort(tickets, kind="stable")[: self._most]
        return Piece.joined([piece for piece, _ in self.waiting]).rows(least), tickets[least]
