"""A model's outputs as the logits that a lake holds, of the classes that it knows; or why they are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ...store.errors import InvalidInput

Output = Literal["logits", "probabilities"]

_SHARES = 2e-2
"""How far apart the sums of shares may lie, of the largest: percentages are often whole numbers."""

_ROUNDING = 5e-3
"""How far from 1 the probabilities of a record may add up, as half precision has it; the importers allow as much."""


def class_numbers(labels: np.ndarray, classes: Sequence[Any] | None, what: str) -> np.ndarray:
    """The place of each label among the classes of the model, int64 (n,); without these, labels are class numbers.

    Raises InvalidInput for a label that the model does not know.
    """
    values = labels.tolist()
    if classes is None:
        wrong = [i for i, value in enumerate(values) if not _is_class_number(value)]
        if wrong:
            raise InvalidInput(
                f"label {values[wrong[0]]!r} of record {wrong[0]} of {what} is no class number 0, 1, 2, ...; give classes=, the labels in the "
                "order of the model's outputs"
            )
        return labels.astype(np.int64)
    places = {value: number for number, value in enumerate(classes)}
    unknown = [i for i, value in enumerate(values) if value not in places]
    if unknown:
        named = ", ".join(dict.fromkeys(repr(values[i]) for i in unknown[:100]))
        raise InvalidInput(
            f"{what} have labels that the model does not know: {named[:200]} (record {unknown[0]} first, {len(unknown)} in all); it knows "
            f"{', '.join(map(repr, list(classes)[:10]))}"
        )
    return np.fromiter((places[value] for value in values), dtype=np.int64, count=len(values))


def _is_class_number(value: Any) -> bool:
    """Whether it is a whole number from 0 that int64 holds; infinity and NaN are none."""
    return isinstance(value, (bool, int, float)) and 0 <= value < 2**63 and value == int(value)


# --- as logits ----------------------------------------------------------------------------------------------


def kind_of(outputs: np.ndarray, name: str) -> Output:
    """Logits or probabilities, as all outputs of a model show. Raises InvalidInput where they may be either."""
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if not inside:
        _check_no_shares(outputs, name)
        return "logits"
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        if bool((np.abs(outputs.sum(axis=1) - 1) <= _ROUNDING).all()):
            return "probabilities"
        raise InvalidInput(
            f"the outputs of {name} all lie from 0 to 1 and do not add up to 1 for each record: neither probabilities of classes nor plainly "
            "logits; say output='logits' where they are logits"
        )
    raise InvalidInput(
        f"{name} gives one number from 0 to 1 a record, which may be a probability of class 1 or its logit; say output='probabilities' "
        "or output='logits'"
    )


def _check_no_shares(outputs: np.ndarray, name: str) -> None:
    """Raises InvalidInput for shares of another whole than 1, such as percentages: of logits about as many lie below 0 as above."""
    if len(outputs) < 2 or (outputs < 0).any():
        return
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        raise InvalidInput(
            f"{name} gives one number a record, from {outputs.min():.4g} to {outputs.max():.4g} and none below 0: as a logit it would mean class "
            "1 for all records. Where these are percentages, divide them by 100; say output='logits' where they are logits"
        )
    wholes = outputs.sum(axis=1)
    if np.ptp(wholes) <= _SHARES * wholes.max():
        raise InvalidInput(
            f"the outputs of {name} are 0 or more and add up to about {np.median(wholes):.4g} for each record, as percentages do: divide them "
            "by that for probabilities; say output='logits' where they are logits"
        )


def least_of(outputs: np.ndarray) -> float:
    """What a probability of exactly 0 is read as, unless somebody says it: half of the least other one, and 1/4 at most.

    A forest of T trees counts votes: less than half of one, 1 / (2 T), is what none of them says. Far below that such records would lie
    apart from all others, and the spread that LiRA fits be theirs alone.
    """
    return min(0.25, least_given(outputs) / 2)


def least_given(outputs: np.ndarray) -> float:
    """The least probability above 0 that a model gives a class; infinite where it gives none."""
    lone = outputs.ndim == 1 or outputs.shape[1] == 1
    p = np.concatenate([1 - outputs, outputs]) if lone else outputs
    return float(p[p > 0].min(initial=np.inf))


def as_logits(outputs: np.ndarray, output: Output, least: float, where: Callable[[int], str]) -> np.ndarray:
    """Logits (n, C) float32 of outputs (n, C), (n, 1) or (n,); of probabilities their logarithms, that of 0 being ``least``'s.

    ``where(row)`` names a record in errors. Raises InvalidInput for NaN, for what is infinite, and for probabilities that are none.
    """
    lone = outputs.ndim == 1 or outputs.shape[1] == 1
    z = outputs.reshape(len(outputs), -1)
    with np.errstate(over="ignore"):
        finite = np.isfinite(z.astype(np.float32))  # as the lake has them
    broken = ~finite.all(axis=1)
    if broken.any():
        row = int(np.argmax(broken))
        raise InvalidInput(
            f"the model gives {z[row][~finite[row]][0]:.4g} for {where(row)} ({int(broken.sum())} such records): nothing can be told of "
            "it; look for what is missing in the data, or a training that diverged"
        )
    if output == "logits":
        return (np.hstack([np.zeros_like(z), z]) if lone else z).astype(np.float32)
    wrong = ((z < -_ROUNDING) | (z > 1 + _ROUNDING)).any(axis=1)
    if not lone:
        wrong |= np.abs(z.sum(axis=1) - 1) > _ROUNDING
    if wrong.any():
        row = int(np.argmax(wrong))
        told = (
            f"is {z[row, 0]:.4g}"
            if lone
            else f"are {', '.join(f'{p:.4g}' for p in z[row][:5])} and add up to {z[row].sum():.4g}"
        )
        raise InvalidInput(
            f"the probabilities of a record must lie from 0 to 1 and add up to 1: what the model says of {where(row)} {told} "
            f"({int(wrong.sum())} such records); where these are logits, say output='logits'"
        )
    p = np.hstack([1 - z, z]) if lone else z
    return np.log(np.where(p > 0, p, least)).astype(np.float32)


def in_order(
    outputs: np.ndarray,
    name: str,
    output: Output | None,
    classes: Sequence[Any] | None,
    wanted: Sequence[Any] | None,
) -> np.ndarray:
    """Outputs of a model of these ``classes`` in the order of those ``wanted``: a probability of 0 for a class that it has not seen.

    Raises InvalidInput for logits of other classes, of which nothing is known.
    """
    if classes is None or wanted is None or list(classes) == list(wanted):
        return outputs
    if output != "probabilities" or outputs.ndim != 2 or outputs.shape[1] != len(classes):
        raise InvalidInput(
            f"{name} knows the classes {list(classes)[:5]}, and the audited model {list(wanted)[:5]}: their outputs do not compare"
        )
    found = np.zeros((len(outputs), len(wanted)))
    for column, label in enumerate(classes):
        if label not in wanted:
            raise InvalidInput(f"{name} knows the class {label!r}, which the audited model does not")
        found[:, list(wanted).index(label)] = outputs[:, column]
    return found
