"""Whether shadow models depend on the records that they are given; of others no attack tells anything, and finding nothing says nothing."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...store.errors import InvalidInput
from .answers import Said

_CHANCE, _PLAIN = 2.0, 4.0
"""Standard errors within which a difference between records is chance, and beyond which it is none."""

REMEDY = "; a shadow model is a new one, trained on the members that train is called with and on nothing else"


@dataclass(frozen=True, eq=False)
class Shadow:
    """A shadow model's name and seed, what it says of all records, and which of the audited (n,) it was given."""

    name: str
    seed: int
    said: Said
    chosen: np.ndarray


def check_another(made: Any, model: Any, earlier: Any, name: str, maker: str) -> None:
    """Raises InvalidInput where what was made is the audited model itself, or the one that was made before it."""
    if _whose(made) is _whose(model):
        raise InvalidInput(f"{name} is the audited model itself, as {maker} gives it{REMEDY}")
    if earlier is not None and _whose(made) is _whose(earlier):
        raise InvalidInput(f"{name} is the model before it once more, as {maker} gives it{REMEDY}")


def digest_of(said: Said) -> str:
    """The same for answers that are the same."""
    return hashlib.sha256(np.ascontiguousarray(said.compared + 0.0).tobytes()).hexdigest()


def is_constant(said: Said) -> bool:
    """Whether a model says the same of all records."""
    return bool((said.compared == said.compared[:1]).all())


def is_telling(said: Said) -> bool:
    """Whether two models' agreement on all these answers is no chance: they are more than a class a record."""
    return len(np.unique(said.compared, axis=0)) > said.compared.shape[1]


def agreement(shadow: Shadow, target: Said, others: dict[str, str]) -> str | None:
    """What a shadow model's answers about all records are those of, the target or one of ``others`` by their digests; None: its own."""
    if np.array_equal(shadow.said.compared, target.compared):
        return "the audited model"
    return others.get(digest_of(shadow.said))


def check_depends(
    first: Shadow,
    second: Shadow,
    members: int,
    again: Callable[[], Said],
) -> list[str]:
    """A note where two shadow models tell the target's members from the others, and not what they were given themselves.

    So does a training on the target's members, whatever it is given; and one on what it is given, where the two sides differ by themselves.
    ``again()`` gives the answers of a model of the first one's seed that was given the second one's records. Raises InvalidInput where
    these are the first one's answers.
    """
    ours = np.arange(len(first.chosen)) < members
    losses = [one.said.losses()[: len(ours)] for one in (first, second)]
    given = _apart(losses, [first.chosen, second.chosen])
    sides = _apart(losses, [ours, ours])
    if sides < _PLAIN or given > _CHANCE:
        return []
    if np.array_equal(again().compared, first.said.compared):
        raise InvalidInput(
            f"train does not depend on its members: of the same seed, {first.name} is the same model whether it is given these records or "
            f"others, and it knows the audited model's members{REMEDY}"
        )
    return [
        "the first shadow models know the records that they were given no better than others, and the audited model's members better than "
        "non-members: either train uses other records than its members, or the two sides differ by themselves"
    ]


def _whose(model: Any) -> Any:
    """The object that a method belongs to, which is another method each time it is asked for; else the model."""
    return model.__self__ if inspect.ismethod(model) else model


def _apart(losses: Sequence[np.ndarray], sides: Sequence[np.ndarray]) -> float:
    """How much lower the losses of one side rank, in standard errors of Mann and Whitney, over all models together."""
    found = []
    for values, side in zip(losses, sides, strict=True):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(count) - (count - 1) / 2)[place]
        n, m = int(side.sum()), int((~side).sum())
        if n and m:
            found.append(
                (ranks[~side].mean() - ranks[side].mean()) / np.sqrt((n + m) ** 2 / 12 * (1 / n + 1 / m))
            )
    return float(np.sum(found) / np.sqrt(max(len(found), 1)))
