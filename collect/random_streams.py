"""Random streams: those of a run, one for each purpose and all from its seed, and the process's own left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_WEIGHTS, _ORDER, _AUGMENTATION, _NOISE = 1, 2, 3, 4


def order_of(seed: int) -> torch.Generator:
    """The stream that a run's batches are drawn from: one permutation of its records an epoch."""
    return torch.Generator().manual_seed(_stream(seed, _ORDER))


def augmentation_of(seed: int, device: torch.device) -> torch.Generator:
    """The stream of flips and crops."""
    return torch.Generator(device).manual_seed(_stream(seed, _AUGMENTATION))


def noise_of(seed: int, device: torch.device) -> torch.Generator:
    """The stream of DP-SGD's noise."""
    return torch.Generator(device).manual_seed(_stream(seed, _NOISE))


def device_stream(device: torch.device) -> torch.Tensor | None:
    """The state of an accelerator's own global stream; None of a CPU, whose stream is torch's."""
    module = None if device.type == "cpu" else getattr(torch, device.type, None)
    state_of = getattr(module, "get_rng_state", None)
    return None if state_of is None else state_of(*_which(device))


def set_device_stream(state: torch.Tensor, device: torch.device) -> None:
    """Have an accelerator's global stream go on from a state that `device_stream` gave."""
    getattr(torch, device.type).set_rng_state(state, *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """What names the device to its module: that of MPS knows of one alone, and takes none."""
    return () if device.type == "mps" else (device,)


@contextmanager
def kept_streams(device: torch.device) -> Iterator[None]:
    """Whatever the block draws, torch's global streams, on the CPU and on the device, are as they were after it."""
    state = device_stream(device)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            if state is not None:
                set_device_stream(state, device)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global streams (weights, dropout) seeded in the block, and as they were after it."""
    with kept_streams(device):
        torch.manual_seed(_stream(seed, _WEIGHTS))
        yield


@contextmanager
def undisturbed_randomness(device: torch.device) -> Iterator[None]:
    """Whatever the block draws, the random streams of Python, NumPy and torch go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    with kept_streams(device):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _stream(seed: int, purpose: int) -> int:
    """A seed of its own for each purpose, so that no two random streams of a run are the same one."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))
