"""Laying fleets down in the lake before they are trained, so that every call and every machine trains the same runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...store.errors import InvalidOption
from ...store.lake import Lake
from .setup import derived

_BLOCKS = 13

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
    check: Callable[[Block], object] | None = None,
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
        blocks = sorted(lake.designs(experiment, fleet), key=lambda block: int(block["first"]))
        own = [block for block in blocks if block.get("target") == target]
        for block in own:
            if any(block.get(name) != value for name, value in options.items()):
                there = {name: block.get(name) for name in options}
                about = f" for {target!r}" if target else ""
                raise InvalidOption(
                    f"the {fleet} runs of experiment {experiment!r}{about} were laid out with {_listed(there)}, not "
                    f"{_listed(options)}; give these, or choose another experiment name"
                )
        laid = sum(int(block["count"]) for block in own)
        if laid >= count:
            return list(own)
        first = sum(int(block["count"]) for block in blocks)
        made = {
            **named,
            **options,
            "count": count - laid,
            "first": first,
            "seed": seed if first == 0 else derived(seed, _BLOCKS, first),
        }
        if check is not None:
            check(made)
        # False when another process laid its block down first: look again at what there is.
        lake.add_design(experiment, fleet, len(blocks), made)


def numbered(fleet: str, blocks: list[Block], count: int) -> Iterator[tuple[str, int, Block]]:
    """(name, number, block) of the first ``count`` runs: shadow-0000, shadow-0001, ... for the fleet "shadow"."""
    for block in blocks:
        wanted = min(int(block["count"]), count)
        count -= wanted
        for number in range(int(block["first"]), int(block["first"]) + wanted):
            yield f"{fleet}-{number:04d}", number, block


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
