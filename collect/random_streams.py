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


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global streams (weights, dropout) seeded in the block, and as they were after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_stream(seed, _WEIGHTS))
        yield


@contextmanager
def undisturbed_randomness(device: torch.device) -> Iterator[None]:
    """Whatever the block draws, the random streams of Python, NumPy and torch go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _stream(seed: int, purpose: int) -> int:
    """A seed of its own for each purpose, so that no two random streams of a run are the same one."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))
