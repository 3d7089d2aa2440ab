"""Data sets that have a name: those that torchvision downloads, and scikit-learn's digits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...store.errors import InvalidInput
from .cache import data_directory
from .record import Dataset, row_keys

TORCHVISION_NAMES = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN")


def load_torchvision(spec: str, name: str, *, data_dir: Path | None) -> Dataset:
    """The data set `name` (one of TORCHVISION_NAMES), downloaded into data_directory(data_dir) if needed.

    The CIFAR archives hold pickles; torchvision reads them, and only where their checksums are the published
    ones. SVHN is used without its `extra` split. Raises InvalidInput where the data cannot be fetched.
    """
    import torchvision.datasets as published  # takes seconds, with torch

    root = data_directory(data_dir)
    maker: Callable[..., Any] = getattr(published, name)
    parts = []
    for half in ("train", "test"):
        chosen = {"split": half} if name == "SVHN" else {"train": half == "train"}
        try:
            root.mkdir(parents=True, exist_ok=True)
            # torchvision reports with print(); standard output belongs to results.
            with contextlib.redirect_stdout(sys.stderr):
                parts.append(maker(root=str(root), download=True, **chosen))
        # URLError is an OSError; torchvision raises RuntimeError for mirrors that fail and wrong checksums.
        except (OSError, RuntimeError, EOFError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise InvalidInput(
                f"{name} could not be fetched into {root}: {why[:300]}\n"
                "offline? Put the files there, or give a folder of Parquet files (train-*.parquet, test-*.parquet)"
            ) from error
    pictures = [_channels_first(np.asarray(part.data)) for part in parts]
    labels = [np.asarray(part.labels if name == "SVHN" else part.targets, dtype=np.int64) for part in parts]
    y, split = np.concatenate(labels), np.repeat(["train", "test"], [len(part) for part in labels])
    names = getattr(parts[0], "classes", None)
    return Dataset(
        name=spec,
        x=np.concatenate(pictures),
        y=y,
        classes=tuple(str(c) for c in (names if names is not None else range(int(y.max()) + 1))),
        split=split,
        key=row_keys(split),
    )


def load_digits(spec: str) -> Dataset:
    """scikit-learn's handwritten digits: 1,797 grey pictures of 8 x 8, all in the train split."""
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    split = np.full(len(data.target), "train")
    return Dataset(
        name=spec,
        x=np.rint(data.images[:, None] * (255 / 16)).astype(np.uint8),
        y=np.asarray(data.target, dtype=np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        split=split,
        key=row_keys(split),
    )


def _channels_first(x: np.ndarray) -> np.ndarray:
    """(N, H, W), (N, H, W, 3) or (N, 3, H, W) as (N, C, H, W)."""
    if x.ndim == 3:
        return x[:, None]
    return x if x.shape[1] == 3 else x.transpose(0, 3, 1, 2)


BUNDLED: Mapping[str, Callable[[str], Dataset]] = {"digits": load_digits}
"""Data sets that an installed package brings along, each with the function that loads it under a spec."""

DATASET_NAMES = (*TORCHVISION_NAMES, *BUNDLED)
