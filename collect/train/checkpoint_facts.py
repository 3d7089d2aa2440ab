"""Whether what a checkpoint says of a training is what a training says: looked at before anything of the training is touched."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...store.errors import CorruptLake
from ...store.write.checkpoints import Checkpoint
from .loop import Training
from .state import generators

Facts = Mapping[str, Any]


def check_facts(checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], training: Training) -> None:
    """Raises CorruptLake for a checkpoint whose facts nobody wrote who trained, or that its tensors do not go with."""
    try:
        _check_all(checkpoint.facts, tensors, training, checkpoint.epoch)
    except CorruptLake as error:
        raise CorruptLake(f"{checkpoint.path} is not of a training: {error}") from None


def _check_all(facts: Facts, tensors: Mapping[str, torch.Tensor], training: Training, epoch: int) -> None:
    _check(facts, _WHOLE)
    if facts["epoch"] != epoch:
        raise CorruptLake(f"its epoch is {_shown(facts['epoch'])}, not {epoch}")
    for full, tensor in tensors.items():
        if full.startswith("optimizer/"):
            _check_layout(facts["layout"], full.removeprefix("optimizer/"), tensor)
    if training.stopping is not None:
        _check(facts, {"stopping": _is_mapping})
        _check(facts["stopping"], _STOPPING)
    for name, generator in generators(training).items():
        state = generator.get_state()
        _check_tensor(tensors, f"random/{name}", state.dtype, tuple(state.shape))
    version, numbers, _ = random.getstate()
    if facts["python"][0] != version:
        raise CorruptLake(f"its stream of Python is of version {_shown(facts['python'][0])}, not {version}")
    _check_tensor(tensors, "random/python", torch.int64, (len(numbers),))
    if "numpy" in facts:
        _check(facts, {"numpy": _is_numpy})
        _check_tensor(tensors, "random/numpy", torch.int64, (624,))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_texts(value: Any) -> bool:
    return _is_mapping(value) and all(isinstance(text, str) for text in value.values())


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _is_python(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and (value[1] is None or _is_number(value[1]))


def _is_numpy(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and _is_counts(value[:2]) and _is_number(value[2])


_WHOLE: Mapping[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "steps": _is_count,
    "optimizer": _is_mapping,
    "layout": _is_mapping,
    "scaler": _is_mapping,
    "python": _is_python,
    "what": _is_mapping,
    "seconds": _is_seconds,
    "resumed_after": _is_counts,
    "versions": _is_texts,
}

_STOPPING: Mapping[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "best_epoch": _is_count,
    "least": _is_number,
}


def _check(facts: Facts, kinds: Mapping[str, Callable[[Any], bool]]) -> None:
    for name, fits in kinds.items():
        if name not in facts:
            raise CorruptLake(f"it does not say its {name}")
        if not fits(facts[name]):
            raise CorruptLake(f"its {name} is {_shown(facts[name])}")


def _check_layout(layout: Facts, full: str, tensor: torch.Tensor) -> None:
    told = layout.get(full)
    if not (isinstance(told, list) and len(told) == 2 and isinstance(told[0], str) and _is_counts(told[1])):
        raise CorruptLake(f"its layout of {_shown(full)} is {_shown(told)}")
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
