"""Rows that stand for all records, as one row of position embeddings does: their gradient of each record, found where autograd spreads them.

The gradient of such an output is the sum over the records. Before it is summed it is there, at the node of the autograd graph that adds the
output to something with a row a record; nothing in the forward pass is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import Node

Spread = Callable[[torch.Tensor], None]
"""Takes a part of the gradient of each record, (rows, ...), the rest as the output has it."""

_RESHAPES = ("UnsqueezeBackward0", "ViewBackward0", "ToCopyBackward0", "AliasBackward0")
_SUMS = {"AddBackward0": 1.0, "SubBackward0": -1.0}
_EXPANSIONS = ("ExpandBackward0", "RepeatBackward0")


class Users:
    """What uses each node's result in the graph below a loss."""

    def __init__(self, root: Node) -> None:
        self._users: dict[Node, list[tuple[Node, int]]] = {}
        seen, waiting = {root}, [root]
        while waiting:
            node = waiting.pop()
            for at, (below, _) in enumerate(node.next_functions):
                if below is None:
                    continue
                self._users.setdefault(below, []).append((node, at))
                if below not in seen:
                    seen.add(below)
                    waiting.append(below)

    def places(self, output: Node, rows: int) -> list[tuple[Node, float]] | None:
        """Where a result is spread over ``rows`` records, in a first dimension: (node, factor) each.

        Results that are added up first, or given another shape, are followed. None where it is used in any other way, too.
        """
        found = []
        waiting = [(output, 1.0)]
        while waiting:
            node, factor = waiting.pop()
            below = _shape(node)
            for user, at in self._users.get(node, ()):
                name, above = user.name(), _shape(user)
                if below is None or above is None:
                    return None
                own = factor
                if name in _SUMS and at == 1:
                    own *= _SUMS[name] * float(getattr(user, "_saved_alpha", 1.0))
                if name in _RESHAPES or (name in _SUMS and above == below):
                    waiting.append((user, own))
                elif (name in _SUMS or name in _EXPANSIONS) and _spread_over(below, above, rows):
                    found.append((user, own))
                else:
                    return None
        return found or None


def listen_at(places: list[tuple[Node, float]], spread: Spread, deaf: Callable[[], bool]) -> None:
    """Give ``spread`` the gradients that arrive at the places in a backward pass, unless ``deaf()``."""
    for node, factor in places:

        def arrive(grads: Any, factor: float = factor) -> None:
            if grads and grads[0] is not None and not deaf():
                spread(grads[0].detach() * factor)

        node.register_prehook(arrive)


def _shape(node: Node) -> tuple[int, ...] | None:
    """The shape of a node's one result; None where there are several, or torch does not say."""
    results: Any = getattr(node, "_input_metadata", ())
    return tuple(results[0].shape) if len(results) == 1 else None


def _spread_over(below: tuple[int, ...], above: tuple[int, ...], rows: int) -> bool:
    """Whether ``above`` is ``below`` with a row a record in front.

    As long as the batch is another dimension than the first, it may be positions as many as it: not looked at.
    """
    padded: tuple[int, ...] = (1,) * (len(above) - len(below)) + below
    if len(padded) != len(above) or not above:
        return False
    there = (padded[0], above[0]) == (1, rows) and padded[1:] == above[1:]
    return there and (rows > 1 or len(below) < len(above))
