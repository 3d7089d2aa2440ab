"""Which runs a fleet has, laid down in the lake before they are trained: every call and every machine trains the same ones.

A fleet can be split over jobs that know nothing of each other: job 3 of 16 trains every 16th run, from the third on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...store.errors import CorruptLake, InvalidOption
from ...store.lake import Lake

_BLOCKS = 13
_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)

Block = Mapping[str, Any]
"""Runs ``first`` to ``first + count - 1`` of a fleet, the ``seed`` that theirs come from, the ``target`` they are about
(in fleets that are about one), and the fleet's options."""


def lay_down(
    lake: Lake,
    experiment: str,
    fleet: str,
    count: int,
    *,
    seed: int,
    options: Mapping[str, Any],
    target: str | None = None,
    check: Callable[[Block], object] = lambda block: None,
) -> list[Block]:
    """The blocks of a fleet, in order, of at least ``count`` runs in all; for ``target``, where the fleet is about one.

    A block that is missing is laid down in the lake for good, after ``check`` let it pass. Runs are numbered through
    the whole fleet, so that those for two targets never share a name. Raises InvalidOption where count is below 1
    and where the blocks there have other options.
    """
    if count < 1:
        raise InvalidOption(f"count is {count}; it must be 1 or more")
    named = {} if target is None else {"target": target}
    while True:
        blocks = sorted(_designs(lake, experiment, fleet), key=lambda block: int(block["first"]))
        own: list[Block] = [block for block in blocks if block.get("target") == target]
        for block in own:
            there = {name: block.get(name) for name in options}
            if there != options:
                about = f" for {target!r}" if target else ""
                raise InvalidOption(
                    f"the {fleet} runs of experiment {experiment!r}{about} were laid out with {_listed(there)}, not "
                    f"{_listed(options)}; give these, or choose another experiment name"
                )
        laid = sum(int(block["count"]) for block in own)
        if laid >= count:
            return own
        first = sum(int(block["count"]) for block in blocks)
        made = {
            **named,
            **options,
            "count": count - laid,
            "first": first,
            "seed": seed if first == 0 else derived(seed, _BLOCKS, first),
        }
        check(made)
        # False when another process laid its block down first: look again at what there is.
        lake.add_design(experiment, fleet, len(blocks), made)


def _designs(lake: Lake, experiment: str, fleet: str) -> list[Block]:
    """The blocks that are laid down. Raises CorruptLake for a design that is not that of a fleet."""
    found: list[Block] = [*lake.designs(experiment, fleet)]
    for block in found:
        for name in ("first", "count", "seed"):
            if block.get(name) is None:
                raise CorruptLake(
                    f"a design of the {fleet} runs of experiment {experiment!r} does not say their {name}; choose another "
                    "experiment name"
                )
    return found


def numbered(fleet: str, blocks: list[Block], count: int) -> Iterator[tuple[str, int, Block]]:
    """(name, number, block) of the first ``count`` runs: shadow-0000, shadow-0001, ... for the fleet "shadow"."""
    for block in blocks:
        wanted = min(int(block["count"]), count)
        count -= wanted
        for number in range(int(block["first"]), int(block["first"]) + wanted):
            yield f"{fleet}-{number:04d}", number, block


def derived(seed: int, purpose: int, *numbers: int) -> int:
    """A seed for each of many runs; the same for the same numbers, different otherwise."""
    return int(np.random.SeedSequence([seed, purpose, *numbers]).generate_state(1)[0] >> np.uint32(1))


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``count`` parts of a fleet. Raises InvalidOption where there is no such part."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise _no_shard(self)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, runs: int) -> range:
        """Which of so many runs, counted from 0 in the order of the fleet, are this part's.

        The parts of one count have no run in common and are all runs together; a fleet that grows keeps them.
        """
        return range(self.number - 1, runs, self.count)


def parse_shard(text: str) -> Shard:
    """The shard that ``3/16`` stands for. Raises InvalidOption for anything else."""
    written = _SHARD.fullmatch(text.strip())
    if written is None:
        raise _no_shard(repr(text))
    return Shard(int(written[1]), int(written[2]))


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _no_shard(given: object) -> InvalidOption:
    return InvalidOption(
        f"shard is {given}; it must be I/N with I from 1 to N, such as 3/16 for the third of 16"
    )
