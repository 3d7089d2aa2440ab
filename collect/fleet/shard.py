"""Splitting a fleet over jobs that know nothing of each other: job 3 of 16 trains every 16th run, from the third on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...store.errors import InvalidOption

_WRITTEN = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``count`` parts of a fleet. Raises InvalidOption where there is no such part."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InvalidOption(
                f"shard is {self}; it must be I/N with I from 1 to N, such as 3/16 for the third of 16"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, runs: int) -> range:
        """Which of so many runs, counted from 0 in the order of the fleet, are this part's.

        The parts of one count have no run in common and are all runs together; a fleet that grows keeps them.
        """
        return range(self.number - 1, runs, self.count)


def parse_shard(text: str) -> Shard:
    """The shard that ``3/16`` stands for. Raises InvalidOption for anything else."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise InvalidOption(
            f"shard is {text!r}; it must be I/N with I from 1 to N, such as 3/16 for the third of 16"
        )
    return Shard(int(written[1]), int(written[2]))
