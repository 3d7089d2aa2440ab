"""Drawing rows at random out of a stream that is too long to keep: as many of members as of non-members."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .logits import Piece

Flags = npt.NDArray[np.bool_]


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
    drawn = [side.drawn() for side in sides]
    count = min(len(tickets) for _, tickets in drawn)
    if count == 0:
        return None
    return _joined([piece.rows(slice(count)) for piece, _ in drawn])


class _Lowest:
    """The rows with the least tickets among all that were offered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bound = np.inf
        self._waiting: list[tuple[Piece, npt.NDArray[np.float64]]] = []

    def offer(self, piece: Piece, ticket: npt.NDArray[np.float64], allowed: Flags) -> None:
        rows = np.flatnonzero(allowed & (ticket < self._bound))
        if len(rows):
            self._waiting.append((piece.rows(rows), ticket[rows]))
        if sum(len(tickets) for _, tickets in self._waiting) > 2 * self._most:
            self._waiting = [self.drawn()]
            self._bound = self._waiting[0][1][-1]

    def drawn(self) -> tuple[Piece, npt.NDArray[np.float64]]:
        """The rows and their tickets, ascending."""
        if not self._waiting:
            return _NO_ROWS, np.zeros(0)
        tickets = np.concatenate([ticket for _, ticket in self._waiting])
        least = np.argsort(tickets, kind="stable")[: self._most]
        return _joined([piece for piece, _ in self._waiting]).rows(least), tickets[least]


def _joined(pieces: list[Piece]) -> Piece:
    return Piece(
        np.concatenate([piece.sample_id for piece in pieces]),
        np.concatenate([piece.query for piece in pieces]),
        np.concatenate([piece.member for piece in pieces]),
        np.concatenate([piece.label for piece in pieces]),
        np.concatenate([piece.values for piece in pieces]),
    )


_NO_ROWS = Piece(
    np.zeros(0, np.int64),
    np.zeros(0, np.int16),
    np.zeros(0, bool),
    np.zeros(0, np.int32),
    np.zeros((0, 0), np.float32),
)
