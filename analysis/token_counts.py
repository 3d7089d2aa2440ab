"""Whether runs count the same tokens of each text: losses of tokens of another tokenizer cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import polars as pl

from ..sql import read_sql
from ..store.errors import NotEnoughData
from ..store.format.records import Run
from ..store.query.kept import rows_by_sum

Marks = dict[tuple[str, ...], tuple[int, int] | None]
"""Of runs by what they hold: a mark of the tokens of each text (see sql/token_marks.sql), None where a run keeps none."""


class Ask(Protocol):
    """Answers a query."""

    def __call__(self, text: str, parameters: Mapping[str, Any] | None = None, /) -> pl.DataFrame: ...


def check_same_tokens(
    marks: Marks, target: Run, runs: Sequence[Run], *, keeps_tokens: Callable[[Run], bool], ask: Ask
) -> None:
    """Raises NotEnoughData where one of ``runs`` counts other tokens of a text than ``target``; ``marks`` keeps what was found."""
    own = rows_by_sum(target)
    if own not in marks and not keeps_tokens(target):
        marks[own] = None
    if own in marks and marks[own] is None:
        return
    if any(rows_by_sum(run) not in marks for run in (target, *runs)):
        rows = ask(read_sql("token_marks"))
        found = {row["run"]: (row["texts"], row["mark"]) for row in rows.iter_rows(named=True)}
        marks.update({rows_by_sum(run): found.get(run.run) for run in (target, *runs)})
    differ = [run.run for run in runs if marks[rows_by_sum(run)] not in (None, marks[own])]
    if not differ:  # in tokens, or in the samples that they have
        return
    for told in ask(read_sql("token_counts"), {"target": target.run}).iter_rows(named=True):
        if told["run"] in differ:
            raise NotEnoughData(
                f"run {told['run']!r} of experiment {target.experiment!r} has the losses of {told['tokens']} tokens of sample "
                f"{told['sample_id']}, and {target.run!r} of {told['own']} ({told['texts']} texts differ so): another tokenizer, "
                f"whose losses cannot be compared; leave it out with --without {told['run']}"
            )
