"""Whether what a checkpoint says of a training is what a training says: looked at before anything of the training is touched."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import torch

from ...store.errors import CorruptLake
from ...store.format.kinds import anything, listed, mapping, number, or_null, record, text, whole, wrong
from ...store.write.checkpoints import Checkpoint
from .loop import Training
from .state import generators

Facts = Mapping[str, Any]


def check_facts(checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], training: Training) -> None:
    """Raises CorruptLake for a checkpoint whose facts nobody wrote who trained, or that its tensors do not go with."""
    try:
        _check_all(checkpoint.facts, tensors, training, checkpoint.epoch)
    except (CorruptLake, ValueError) as error:
        raise CorruptLake(f"{checkpoint.path} is not of a training: {error}") from None


def _check_all(facts: Facts, tensors: Mapping[str, torch.Tensor], training: Training, epoch: int) -> None:
    _FACTS(facts, "")
    if facts["epoch"] != epoch:
        raise CorruptLake(f"its epoch is {_shown(facts['epoch'])}, not {epoch}")
    for full, tensor in tensors.items():
        if full.startswith("optimizer/"):
            _check_layout(facts["layout"], full.removeprefix("optimizer/"), tensor)
    if training.stopping is not None:
        record({"stopping": _STOPPING})(facts, "")
    for name, generator in generators(training).items():
        state = generator.get_state()
        _check_tensor(tensors, f"random/{name}", state.dtype, tuple(state.shape))
    version, numbers, _ = random.getstate()
    if facts["python"][0] != version:
        raise CorruptLake(f"its stream of Python is of version {_shown(facts['python'][0])}, not {version}")
    _check_tensor(tensors, "random/python", torch.int64, (len(numbers),))
    if "numpy" in facts:
        _check_tensor(tensors, "random/numpy", torch.int64, (624,))


def _seconds(value: Any, name: str) -> None:
    number(value, name)
    if not 0 <= value < math.inf:
        raise wrong(value, name)


def _value(value: Any, name: str) -> None:
    number(value, name)
    if math.isnan(value):
        raise wrong(value, name)


def _of_python(value: Any, name: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise wrong(value, name)
    or_null(_value)(value[1], name)


def _of_numpy(value: Any, name: str) -> None:
    if not isinstance(value, list) or len(value) != 3:
        raise wrong(value, name)
    listed(whole())(value[:2], name)
    _value(value[2], name)


_FACTS = record(
    {
        "epoch": whole(),
        "steps": whole(),
        "optimizer": mapping(anything),
        "layout": mapping(anything),
        "scaler": mapping(anything),
        "python": _of_python,
        "what": mapping(anything),
        "seconds": _seconds,
        "resumed_after": listed(whole()),
        "versions": mapping(text),
    },
    {"numpy": _of_numpy},
)

_STOPPING = record({"epoch": whole(), "best_epoch": whole(), "least": _value})

_LAYOUT = listed(whole())


def _check_layout(layout: Facts, full: str, tensor: torch.Tensor) -> None:
    told = layout.get(full)
    if not (isinstance(told, list) and len(told) == 2 and isinstance(told[0], str)):
        raise CorruptLake(f"its layout of {_shown(full)} is {_shown(told)}")
    _LAYOUT(told[1], f"layout of {full[:100]!r}")
    reach = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, told[1], strict=False))
    if len(told[1]) != tensor.dim() or (tensor.numel() and reach > tensor.numel()):
        raise CorruptLake(
            f"its layout of {_shown(full)} does not fit a tensor of shape {tuple(tensor.shape)}"
        )


def _check_tensor(
    tensors: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    found = tensors.get(name)
    if found is None or found.dtype != dtype or tuple(found.shape) != shape:
        raise CorruptLake(f"its {name} is not {dtype} of shape {shape}")


def _shown(value: Any) -> str:
    return repr(value)[:100]
