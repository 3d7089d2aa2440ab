"""What a checkpoint keeps of a run between two epochs, and back: its training as named tensors and JSON values, and the
epochs recorded so far as pieces of safetensors. Nothing is pickled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import nn

from ...store.errors import InvalidInput, InvalidOption
from ...store.write.run_writer import RunWriter, Source
from ..random_streams import device_stream, set_device_stream
from .loop import Training

Tensors = dict[str, torch.Tensor]
Epoch = tuple[Source, int]

_PIECE_BYTES = 64 << 20
"""Recorded values that are held at once; an epoch is never parted."""


def state_of(training: Training) -> tuple[Tensors, dict[str, Any]]:
    """(tensors, facts) of all that the next epochs depend on; the tensors are copies on the CPU, contiguous.

    That is the model's parameters and buffers, the optimizer, the loss scaler, every random stream (the run's own, and
    the global ones of torch, NumPy and Python, which a model of the user's may draw from), how far the schedule is, and
    early stopping with its best weights.

    Raises InvalidOption for a model with state beside its parameters and buffers (`torch.nn.Module.get_extra_state`).
    """
    step = training.step
    _refuse_extra_state(step.model)
    tensors: Tensors = {f"model/{name}": value for name, value in _values(step.model)}
    tensors |= {f"random/{name}": stream.get_state() for name, stream in generators(training).items()}
    facts: dict[str, Any] = {
        "epoch": training.epoch,
        "steps": training.steps,
        "optimizer": {},
        "layout": {},
        "scaler": step.scaler.state_dict(),
    }
    for number, parameter in enumerate(_parameters(step.optimizer)):
        for name, value in step.optimizer.state.get(parameter, {}).items():
            full = f"{number}/{name}"
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{full}"] = value
                # Channels last or not: sums of tensors that lie in other ways may be rounded in other ways.
                facts["layout"][full] = [value.device.type, list(value.stride())]
            else:
                facts["optimizer"][full] = value
    if training.stopping is not None:
        facts["stopping"], best = training.stopping.state()
        tensors |= {f"best/{name}": value for name, value in best.items()}
    if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise InvalidOption("the model's state_dict holds what is no tensor, which only pickle could store")
    _keep_global_streams(tensors, facts, step.held.device)
    # On the CPU, contiguous, with memory of its own, as safetensors wants it.
    return {
        name: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        for name, value in tensors.items()
    }, facts


def restore(training: Training, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Put a training of the same plan, which has not begun, where `state_of` found the other one.

    Raises InvalidInput, and changes nothing, where the model has other parameters or buffers.
    """
    step = training.step
    model, stored = dict(_values(step.model)), _below("model/", tensors)
    now, then = (
        {name: (value.shape, value.dtype) for name, value in each.items()} for each in (model, stored)
    )
    if now != then:
        raise InvalidInput("the model has other parameters or buffers now")
    with torch.no_grad():
        for name, value in model.items():
            value.copy_(stored[name])
    for number, parameter in enumerate(_parameters(step.optimizer)):
        found = _below(f"{number}/", facts["optimizer"])
        for name, value in _below(f"optimizer/{number}/", tensors).items():
            kind, stride = facts["layout"][f"{number}/{name}"]
            device = parameter.device if kind == parameter.device.type else torch.device(kind)
            place = torch.empty_strided(value.shape, stride, dtype=value.dtype, device=device)
            found[name] = place.copy_(value)
        if found:
            step.optimizer.state[parameter] = found
    step.scaler.load_state_dict(facts["scaler"])
    if training.stopping is not None:
        training.stopping.go_on(facts["stopping"], _below("best/", tensors))
    for name, stream in generators(training).items():
        stream.set_state(tensors[f"random/{name}"])
    _set_global_streams(tensors, facts, step.held.device)
    training.epoch, training.steps = facts["epoch"], facts["steps"]


def new_pieces(writer: RunWriter, taken: set[Epoch]) -> Iterator[bytes]:
    """The epochs that the writer was given and that are not among those ``taken``; they are added when a piece is used."""
    held: dict[str, np.ndarray] = {}
    epochs: set[Epoch] = set()
    for source, epoch in sorted(set(writer.staged_epochs()) - taken):
        values = writer.staged_epoch(source, epoch)
        held |= {f"{source}/{epoch}/{name}": value for name, value in values.items()}
        epochs.add((source, epoch))
        if sum(value.nbytes for value in held.values()) >= _PIECE_BYTES:
            yield safetensors.numpy.save(held)
            taken |= epochs
            held, epochs = {}, set()
    if held:
        yield safetensors.numpy.save(held)
        taken |= epochs


def give_piece(writer: RunWriter, piece: bytes) -> None:
    """Give a writer the epochs in a piece."""
    found: dict[Epoch, dict[str, np.ndarray]] = {}
    for full, values in safetensors.numpy.load(piece).items():
        source, epoch, name = full.split("/")
        found.setdefault((source, int(epoch)), {})[name] = values  # type: ignore[arg-type]
    for (source, number), columns in found.items():
        writer.append_epoch(source, number, columns.pop("sample_id"), **columns)


def _values(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, those too that a state_dict leaves out."""
    return chain(model.named_parameters(), model.named_buffers())


def _refuse_extra_state(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise InvalidOption(
                f"{name or 'the model'} ({type(module).__name__}) has state beside its parameters and buffers, which only "
                "pickle could store"
            )


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return chain.from_iterable(group["params"] for group in optimizer.param_groups)


def generators(training: Training) -> dict[str, torch.Generator]:
    """The run's own random streams, by name."""
    return {"order": training.order, "augmentation": training.augmentation, "noise": training.noise}


def _keep_global_streams(tensors: Tensors, facts: dict[str, Any], device: torch.device) -> None:
    tensors["random/torch"] = torch.get_rng_state()
    of_device = device_stream(device)
    if of_device is not None:
        tensors["random/device"] = of_device
    numpy = np.random.get_state(legacy=False)
    if numpy["bit_generator"] == "MT19937":  # somebody may have put another one in its place
        tensors["random/numpy"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
        facts["numpy"] = [numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"]]
    version, numbers, gauss = random.getstate()
    tensors["random/python"] = torch.tensor(numbers, dtype=torch.int64)
    facts["python"] = [version, gauss]


def _set_global_streams(
    tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], device: torch.device
) -> None:
    torch.set_rng_state(tensors["random/torch"])
    if "random/device" in tensors:
        set_device_stream(tensors["random/device"], device)
    if "numpy" in facts:
        key = tensors["random/numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", key, *facts["numpy"]))
    version, gauss = facts["python"]
    random.setstate((version, tuple(tensors["random/python"].tolist()), gauss))


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
