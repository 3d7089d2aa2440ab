"""The records that runs train on and are asked about: in memory, in files that processes share, on a device."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...store.errors import InvalidOption
from .nested import Forward, Nested, checked_logits, logits_of

_ROWS = 4096


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All samples of an experiment, in the order of sample ids.

    dataset     the spec it was loaded by
    classes     how many
    x           uint8 (N, C, H, W) or float32 (N, F), or several inputs
    y           int64 (N,)
    population  bool (N,): never trained on
    mean, std   float32 (C,) or (F,): of the audit samples, x in 0..1 for pictures; of several inputs (0,)
    test_x, test_y  the data set's test split, as x and y, or None
    soft        float32 (V, N, C), or None: probabilities that a distilled model learns in place of y; row 0 of the
                samples as they are, row 1, where there is one, of mirrored pictures
    temperature     what logits are divided by before they are compared with ``soft``
    forgotten       bool (N,), by default none: never trained on, and nothing is recorded of them. They keep their place in
                    the draws of members
    candidates      bool (N,), by default none: those of the population that canaries are ranked among (group canary). They are made up:
                    they stand for nobody where the population does
    """

    dataset: str
    classes: int
    x: np.ndarray | Nested
    y: np.ndarray
    population: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    test_x: np.ndarray | Nested | None = None
    test_y: np.ndarray | None = None
    soft: np.ndarray | None = None
    temperature: float = 1.0
    forgotten: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    candidates: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def __post_init__(self) -> None:
        for name in ("forgotten", "candidates"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(len(self.y), dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def outsiders(self) -> np.ndarray:
        """Those of the population that are records like the others, and are there: bool (N,)."""
        return self.population & ~self.candidates & ~self.forgotten

    @property
    def input_shape(self) -> Any:
        """The shape of one record, or of each input of it, as `build_model` takes it."""
        return self.x.shapes() if isinstance(self.x, Nested) else tuple(self.x.shape[1:])

    @property
    def pictures(self) -> bool:
        return isinstance(self.x, np.ndarray) and self.x.ndim == 4

    def save(self, folder: Path) -> None:
        """Write the arrays as .npy files, for `load` in other processes."""
        facts = {name: getattr(self, name) for name in _FACTS}
        for name in _ARRAYS:
            array = getattr(self, name)
            if isinstance(array, Nested):
                facts[name] = {"parts": len(array.arrays), "layout": array.layout, "label": array.label}
                for number, part in enumerate(array.arrays):
                    np.save(folder / f"{name}-{number}.npy", part, allow_pickle=False)
            elif array is not None:
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        (folder / "data.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, mapped: processes share the pages, and writing to an array stays in the process."""
        facts = json.loads((folder / "data.json").read_text())
        arrays: dict[str, Any] = {
            name: _mapped(path) for name in _ARRAYS if (path := folder / f"{name}.npy").exists()
        }
        for name in facts.keys() - _FACTS:
            told = facts.pop(name)
            parts = tuple(_mapped(folder / f"{name}-{number}.npy") for number in range(told["parts"]))
            arrays[name] = Nested(parts, told["layout"], told["label"])
        return cls(**facts, **arrays)


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="c", allow_pickle=False)


_ARRAYS = ("x", "y", "population", "mean", "std", "test_x", "test_y", "soft", "forgotten", "candidates")
_FACTS = frozenset({"dataset", "classes", "temperature"})


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

    Pictures stay uint8 until they are in a batch. ``normalize`` as in the recipe; ``forward`` is how a model takes records
    of several inputs, where it does not take them by name or place.
    """

    x: Any

    def __init__(
        self, data: TrainingData, device: torch.device, *, normalize: bool, forward: Forward | None = None
    ) -> None:
        self.device = device
        self.pictures = data.pictures
        self.population = data.population & ~data.forgotten
        self.outsiders = data.outsiders
        self.classes = data.classes
        self.forward = forward
        self.input_shape = data.input_shape
        self.x = stored(data.x).to(device)
        self.y = torch.from_numpy(data.y).to(device)
        self.soft = None if data.soft is None else torch.from_numpy(data.soft).to(device)
        self.temperature = data.temperature
        self.nested = isinstance(data.x, Nested)
        shape = (1, -1, 1, 1) if data.pictures else (1, -1)
        mean, std = (
            torch.from_numpy(np.array(each)).to(device).reshape(shape) for each in (data.mean, data.std)
        )
        unit = 255.0 if data.pictures else 1.0
        # What one standard deviation of a channel or feature is in a model's inputs.
        self.spread = torch.ones_like(std) if normalize else std
        # Rows that features are imputed from: those no run trains on, or all where there are none.
        self.donors = torch.from_numpy(
            np.flatnonzero(self.outsiders if self.outsiders.any() else ~data.forgotten & ~data.candidates)
        ).to(device)
        # x / unit, then minus mean, over std: as one subtraction and one multiplication.
        self._shift = mean * unit if normalize else torch.zeros_like(mean)
        self._factor = 1.0 / (std * unit) if normalize else torch.ones_like(std) / unit

    def logits(self, model: nn.Module, x: Any, *, check: bool = True) -> torch.Tensor:
        """What a model says of stored records x (B, ...): logits (B, C). ``check`` as in `logits_of`, of several inputs."""
        if self.nested:
            return logits_of(model, x, self.forward, classes=self.classes, check=check)
        return checked_logits(model, model(self.inputs(x)), records=len(x), classes=self.classes)

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Stored records (B, ...) as what a model takes: float32, normalised; pictures channels last."""
        ready = (x.float() - self._shift) * self._factor
        # Convolutions measured 1.3 times faster that way on a CPU, and GPUs want it for tensor cores.
        return ready.contiguous(memory_format=torch.channels_last) if self.pictures else ready

    def augmented(
        self,
        x: torch.Tensor,
        *,
        flip: bool | torch.Tensor,
        crop: int,
        generator: torch.Generator,
        border: str = "zeros",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Stored pictures (B, C, H, W), each mirrored with probability 1/2 and cropped after padding by ``crop``.

        ``flip`` may tell which to mirror, bool (B,). Also which were mirrored, bool (B,); None where none was to be.
        Features and off switches leave x as it is. The numbers come from ``generator``, on x's device.
        """
        mirrored = None
        if not self.pictures:
            return x, mirrored
        rows = len(x)
        if crop:
            offsets = torch.randint(0, 2 * crop + 1, (2, rows), generator=generator, device=x.device)
            x = cut_windows(x, offsets[0], offsets[1], crop, border=border)
        if isinstance(flip, torch.Tensor):
            mirrored = flip
        elif flip:
            mirrored = torch.rand(rows, generator=generator, device=x.device) < 0.5
        if mirrored is not None:
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return x, mirrored


def stored(x: np.ndarray | Nested) -> Any:
    """The records as tensors that share their memory."""
    return x.each(torch.from_numpy) if isinstance(x, Nested) else torch.from_numpy(x)


def cut_windows(
    x: torch.Tensor, top: torch.Tensor, left: torch.Tensor, pixels: int, *, border: str = "zeros"
) -> torch.Tensor:
    """Of each picture (B, C, H, W), with ``pixels`` zeros around it, the H x W window at its own (top, left), (B,) each.

    With the border "reflect" the picture goes on beyond its edge as in a mirror; it must have more than ``pixels`` rows
    and columns, or InvalidOption is raised.
    """
    if border == "reflect":
        padded = _reflected(x, pixels)
    else:
        padded = functional.pad(x, (pixels, pixels, pixels, pixels))
    # All windows as a view; indexing copies one a sample, 4 times faster than gathering pixels (measured).
    windows = padded.unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    return windows[torch.arange(len(x), device=x.device), :, top, left]


def _reflected(x: torch.Tensor, pixels: int) -> torch.Tensor:
    """Pictures with ``pixels`` more rows and columns on each side. By index: torch's own takes no uint8."""
    for dim in (2, 3):
        last = x.shape[dim] - 1
        if pixels > last:
            raise InvalidOption(
                f"pictures of {x.shape[2]} x {x.shape[3]} cannot be reflected {pixels} pixels beyond their edge; take "
                "a smaller crop, or crop_border 'zeros'"
            )
        at = torch.arange(-pixels, last + 1 + pixels, device=x.device)
        x = x.index_select(dim, last - (last - at.abs()).abs())
    return x
