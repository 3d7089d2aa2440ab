"""Records of several inputs: arrays with a row a record, nested as the batches of a loader are, and how a model takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from ...store.errors import InvalidInput

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]
"""forward(model, batch) -> (outputs, targets), a row a record each, as `start_run` takes it too."""

ROWS_TOLD = "a tensor of logits (records, classes), two classes or more"


@dataclass(frozen=True, eq=False)
class Nested:
    """Records of several inputs, in place of one array x; their labels are among them.

    arrays  NumPy arrays or tensors of N rows each
    layout  how a batch of them is nested, as JSON values: the number of an array, {"dict": {name: layout}},
            {"list": [layout, ...]} or {"tuple": [layout, ...]}
    label   the number of the array that holds the labels

    Indexed by rows it is those rows of each array.
    """

    arrays: tuple[Any, ...]
    layout: Any
    label: int

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows: Any) -> Self:
        return self.each(lambda array: array[rows])

    def each(self, function: Callable[[Any], Any]) -> Self:
        """The same of each array made by the function."""
        return replace(self, arrays=tuple(map(function, self.arrays)))

    def to(self, device: torch.device) -> Self:
        return self.each(lambda array: array.to(device))

    def labelled(self, y: Any) -> Self:
        """The same records with the labels y (N,)."""
        return replace(
            self, arrays=tuple(y if at == self.label else each for at, each in enumerate(self.arrays))
        )

    def names(self) -> tuple[str, ...]:
        """What to call each array in a sentence: its place in a batch, such as input_ids or 0.image."""
        found = {number: path for path, number in _leaves(self.layout, ())}
        return tuple(".".join(found[number]) or "the record" for number in range(len(self.arrays)))

    def batch(self) -> Any:
        """The arrays nested as a loader gives them, labels among them."""
        return _nested(self.layout, self.arrays)

    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(arguments, keywords) of the model, without labels: the entries of a dict by name, those of a list by place.

        Of a pair (x, y) where x is nested, its entries.
        """
        return _arguments(_without(self.layout, self.label), lambda part: _nested(part, self.arrays))

    def shapes(self) -> Any:
        """The shape of each input of one record, as the model is called with them: by name, or in a tuple."""
        args, keywords = _arguments(
            _without(self.layout, self.label),
            lambda part: _nested(part, tuple(tuple(array.shape[1:]) for array in self.arrays)),
        )
        return keywords or (args[0] if len(args) == 1 else args)


def layout_of(batch: Any, where: str) -> tuple[list[Any], Any]:
    """(leaves, layout) of a collated batch of dicts, lists and tuples. Raises InvalidInput for entries 1 and "1" of one dict."""
    leaves: list[Any] = []
    return leaves, _layout(batch, leaves, where)


def logits_of(
    model: nn.Module, records: Nested, forward: Forward | None, *, classes: int, check: bool = True
) -> torch.Tensor:
    """What a model says of records on its device: logits (B, C).

    ``check`` compares the targets that ``forward`` returns with the labels, for which the host waits for the device. Raises
    InvalidInput where the model cannot be called so, and where it says something else.
    """
    y = records.arrays[records.label]
    if forward is None:
        args, keywords = records.inputs()
        try:
            said = model(*args, **keywords)
        except TypeError as error:
            raise InvalidInput(
                f"{type(model).__name__} could not be called {_call(args, keywords)}: {error}; say how by --forward, a function "
                "(model, batch) -> (outputs, targets)"
            ) from error
        output = getattr(said, "logits", said)
    else:
        said = forward(model, records.batch())
        if not isinstance(said, (tuple, list)) or len(said) != 2:
            raise InvalidInput(f"forward returned a {type(said).__name__}; it must return (outputs, targets)")
        output, targets = said
        if check:
            _check_targets(targets, y)
    or_else = "" if forward is not None else ", or --forward must"
    return checked_logits(model, output, records=len(y), classes=max(2, classes), or_else=or_else)


def checked_logits(
    model: nn.Module, output: Any, *, records: int, classes: int, or_else: str = ""
) -> torch.Tensor:
    """What a model said of so many records, where it is logits (B, C) of as many classes or more; else InvalidInput."""
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[0] != records:
        what = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise InvalidInput(
            f"{type(model).__name__} gives {what} for {records} records; it must give {ROWS_TOLD}{or_else}"
        )
    if output.shape[1] < classes:
        raise InvalidInput(
            f"{type(model).__name__} gives {output.shape[1]} numbers a record, and there are {classes} classes; it must give {ROWS_TOLD}"
        )
    return output


def _check_targets(targets: Any, y: torch.Tensor) -> None:
    if not isinstance(targets, torch.Tensor) or targets.numel() != len(y) or targets.is_floating_point():
        what = (
            f"{targets.dtype} {tuple(targets.shape)}"
            if isinstance(targets, torch.Tensor)
            else type(targets).__name__
        )
        raise InvalidInput(
            f"the targets that forward returned are {what}; the built-in trainer takes one class number a record, {len(y)} here"
        )
    if not torch.equal(targets.reshape(-1).to(y.device, y.dtype), y):
        raise InvalidInput(
            "the targets that forward returned are not the labels of these records; return those of the batch as they are"
        )


def _call(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    given = [*(f"input {number + 1}" for number in range(len(args))), *(f"{name}=..." for name in keywords)]
    return f"as model({', '.join(given)})"


def _layout(batch: Any, leaves: list[Any], where: str) -> Any:
    if isinstance(batch, Mapping):
        if len({str(name) for name in batch}) < len(batch):
            raise InvalidInput(
                f"{where}: entries of its records have the same name as text: {', '.join(map(repr, batch))}"
            )
        return {"dict": {str(name): _layout(part, leaves, where) for name, part in batch.items()}}
    # Texts that were collated are a leaf, to be named where it is refused.
    if isinstance(batch, (list, tuple)) and not all(isinstance(part, (str, bytes)) for part in batch):
        kind = "tuple" if isinstance(batch, tuple) else "list"
        return {kind: [_layout(part, leaves, where) for part in batch]}
    leaves.append(batch)
    return len(leaves) - 1


def _leaves(layout: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(layout, int):
        yield path, layout
        return
    for name, part in _parts(layout):
        yield from _leaves(part, (*path, name))


def _parts(layout: Any) -> Iterable[tuple[str, Any]]:
    ((kind, parts),) = layout.items()
    return parts.items() if kind == "dict" else ((str(at), part) for at, part in enumerate(parts))


def _nested(layout: Any, arrays: tuple[Any, ...]) -> Any:
    if isinstance(layout, int):
        return arrays[layout]
    ((kind, parts),) = layout.items()
    if kind == "dict":
        return {name: _nested(part, arrays) for name, part in parts.items()}
    made = [_nested(part, arrays) for part in parts]
    return tuple(made) if kind == "tuple" else made


def _without(layout: Any, label: int) -> Any:
    """A layout less the labels, which stand on its first level."""
    ((kind, parts),) = layout.items()
    if kind == "dict":
        return {kind: {name: part for name, part in parts.items() if part != label}}
    return {kind: [part for part in parts if part != label]}


def _arguments(layout: Any, made: Callable[[Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ((kind, parts),) = layout.items()
    if kind == "dict":
        return (), {name: made(part) for name, part in parts.items()}
    if len(parts) == 1 and not isinstance(parts[0], int):
        return _arguments(parts[0], made)
    return tuple(made(part) for part in parts), {}
