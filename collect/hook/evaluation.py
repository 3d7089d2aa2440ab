"""The signals of a recorded run: what its finished model says, written in the place of what an earlier evaluation wrote."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...store.format.records import Run, RunInfo
from ...store.write.run_writer import RunWriter
from .. import ranks
from ..signals.from_logits import Answers
from ..signals.queries import Query, expand_queries

Ask = Callable[[np.ndarray, Query], Iterable[tuple[np.ndarray, Answers]]]
"""ask(ids, query): what the model says of a view of the samples, some of them at a time, each piece with its ids."""


@dataclass(eq=False)
class Evaluation:
    """A run's writer and facts, as far as evaluations change them, and how these went.

    queries     the views asked for
    population  bool (samples,): never trained on
    reopen      makes a writer of a committed run that has no signals; None: it takes none
    done        whether the run has signals
    failed      what the last evaluation raised
    """

    writer: RunWriter
    info: RunInfo
    queries: tuple[str, ...]
    population: np.ndarray
    reopen: Callable[[Run, np.ndarray], RunWriter] | None = None
    done: bool = dataclasses.field(default=False, init=False)
    failed: Exception | None = dataclasses.field(default=None, init=False)

    def write(self, ask: Ask) -> None:
        """The answers to every query, and the accuracy that they show. Of several processes only the one that writes asks."""
        if not ranks.writes():
            self.done = True
            return
        ids = np.flatnonzero(~self.writer.forgotten)
        for query in expand_queries(self.queries):
            right = []
            for part, said in ask(ids, query):
                if not self.done:
                    self.writer.drop_signals()
                    self.done = True
                self.writer.append_signals(
                    part,
                    np.full(len(part), query.number),
                    said.label,
                    loss=said.loss,
                    phi=said.phi,
                    correct=said.correct,
                    logits=said.logits,
                    token_losses=said.token_losses,
                    token_z=said.token_z,
                )
                right.append(said.correct)
            known = [each for each in right if each is not None]
            if query.kind == self.queries[0] and known:
                self._note_accuracy(ids, np.concatenate(known))
        self._tell(recording={"queries": list(self.queries)})

    @contextlib.contextmanager
    def under_way(self, late: Run | None, loss: Callable[[], str | None]) -> Iterator[list[Run]]:
        """New signals in the place of older ones; where the block raises, which `failed` then tells, older ones stay if it raises
        before the first new ones.

        A run that was committed before, ``late``, is committed again with them and put into what the block is given; ``loss`` names the
        loss that was asked for.
        """
        before, self.done = self.done, False
        committed: list[Run] = []
        if late is not None and self.reopen is not None and self.writer.ended:
            self.writer, self.info = self.reopen(late, self.writer.members), late.info
        try:
            yield committed
        except Exception as error:
            self.failed = error
            if before and not self.done:
                self.done = True
                error.add_note("the signals of the evaluation before are kept")
            else:
                self.done = False
                if ranks.writes():
                    self.writer.drop_signals()
            if late is not None:
                self.writer.discard()
            raise
        self.failed = None
        if late is not None:
            name = loss()
            told = {} if name is None else {"loss": name}
            committed.append(
                self.writer.commit(dataclasses.replace(self.info, extra={**told, **self.info.extra}))
            )

    def _note_accuracy(self, ids: np.ndarray, right: np.ndarray) -> None:
        members = self.writer.members
        within = right[members[ids]]
        outside = right[~(members | self.population)[ids]]
        self.info = dataclasses.replace(
            self.info,
            train_accuracy=float(within.mean()) if len(within) else None,
            test_accuracy=float(outside.mean()) if len(outside) else None,
        )
        if len(outside):
            self._tell(tested_on="audit samples that are no members")

    def _tell(self, **facts: object) -> None:
        self.info = dataclasses.replace(self.info, extra={**self.info.extra, **facts})
