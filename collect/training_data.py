"""The records that runs train on and are asked about: in memory, in files that processes share, on a device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.nn import functional

_ROWS = 4096


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All samples of an experiment, in the order of sample ids.

    dataset     the spec it was loaded by
    classes     how many
    x           uint8 (N, C, H, W) or float32 (N, F)
    y           int64 (N,)
    population  bool (N,): never trained on
    mean, std   float32 (C,) or (F,): of the audit samples, x in 0..1 for pictures
    test_x, test_y  the data set's test split, as x and y, or None
    """

    dataset: str
    classes: int
    x: np.ndarray
    y: np.ndarray
    population: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    test_x: np.ndarray | None = None
    test_y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def pictures(self) -> bool:
        return self.x.ndim == 4

    def save(self, folder: Path) -> None:
        """Write the arrays as .npy files, for `load` in other processes."""
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None:
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        (folder / "data.json").write_text(json.dumps({"dataset": self.dataset, "classes": self.classes}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, mapped: processes share the pages, and writing to an array stays in the process."""
        facts = json.loads((folder / "data.json").read_text())
        arrays = {
            name: np.load(path, mmap_mode="c", allow_pickle=False)
            for name in _ARRAYS
            if (path := folder / f"{name}.npy").exists()
        }
        return cls(**facts, **arrays)


_ARRAYS = ("x", "y", "population", "mean", "std", "test_x", "test_y")


def channel_statistics(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel (C,) or column (F,) of x[rows], float32; pictures in 0..1.

    A channel that does not vary gets the standard deviation 1.
    """
    axes = (0, 2, 3) if x.ndim == 4 else (0,)
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    total = np.zeros(x.shape[1])
    squares = np.zeros(x.shape[1])
    count = 0
    # Piece by piece: a data set as float64 would take eight times its memory.
    for start in range(0, len(rows), _ROWS):
        part = x[rows[start : start + _ROWS]].astype(np.float64) / scale
        total += part.sum(axis=axes)
        squares += (part**2).sum(axis=axes)
        count += part.size // x.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return mean.astype(np.float32), np.where(std > 1e-6, std, 1.0).astype(np.float32)


class DeviceData:
    """The samples on the device that trains, as they are stored; batches are made there.

    Pictures stay uint8 until they are in a batch. ``normalize`` as in the recipe.
    """

    def __init__(self, data: TrainingData, device: torch.device, *, normalize: bool) -> None:
        self.device = device
        self.pictures = data.pictures
        self.population = data.population
        self.x = torch.from_numpy(data.x).to(device)
        self.y = torch.from_numpy(data.y).to(device)
        shape = (1, -1, 1, 1) if data.pictures else (1, -1)
        mean, std = (
            torch.from_numpy(np.array(each)).to(device).reshape(shape) for each in (data.mean, data.std)
        )
        unit = 255.0 if data.pictures else 1.0
        # x / unit, then minus mean, over std: as one subtraction and one multiplication.
        self._shift = mean * unit if normalize else torch.zeros_like(mean)
        self._factor = 1.0 / (std * unit) if normalize else torch.ones_like(std) / unit

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Stored records (B, ...) as what a model takes: float32, normalised; pictures channels last."""
        ready = (x.float() - self._shift) * self._factor
        # Convolutions measured 1.3 times faster that way on a CPU, and GPUs want it for tensor cores.
        return ready.contiguous(memory_format=torch.channels_last) if self.pictures else ready

    def augmented(
        self, x: torch.Tensor, *, flip: bool, crop: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Stored pictures (B, C, H, W), each mirrored with probability 1/2 and cropped after zero padding by ``crop``.

        Features and off switches leave x as it is. The numbers come from ``generator``, on x's device.
        """
        if not self.pictures:
            return x
        rows, height, width = len(x), x.shape[2], x.shape[3]
        if crop:
            offsets = torch.randint(0, 2 * crop + 1, (2, rows), generator=generator, device=x.device)
            padded = functional.pad(x, (crop, crop, crop, crop))
            # All windows as a view; indexing copies one a sample, 4 times faster than gathering pixels (measured).
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            x = windows[torch.arange(rows, device=x.device), :, offsets[0], offsets[1]]
        if flip:
            coin = torch.rand(rows, generator=generator, device=x.device) < 0.5
            x = torch.where(coin[:, None, None, None], x.flip(3), x)
        return x
