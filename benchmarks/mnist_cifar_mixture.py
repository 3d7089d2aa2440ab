"""A data set of two groups: MNIST digits, and a few CIFAR-10 pictures made grey and as small as the digits.

The pictures of CIFAR-10's class c get the label of digit c, so that they are rare and atypical of their class. This
is the mixture of "Why Train More? Effective and Efficient Membership Inference via Memorization", section 4, at a size
that two cores can train a hundred models on.

    python benchmarks/mnist_cifar_mixture.py MNIST_FOLDER CIFAR10_FOLDER mixture.parquet --digits 4000 --pictures 400

Both folders are in Hugging Face's Parquet layout. The file has the columns image, label and origin.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

SIDE = 28


def main() -> None:
    """Write the mixture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--digits", type=int, default=4000)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    digits = balanced(read(given.mnist), given.digits, given.seed)
    pictures = balanced(read(given.cifar10), given.pictures, given.seed)
    both = pl.concat(
        [
            digits.with_columns(origin=pl.lit("mnist")),
            pictures.with_columns(
                image=pl.Series([grey(picture) for picture in pictures["image"]]), origin=pl.lit("cifar10")
            ),
        ]
    )
    both.write_parquet(given.out)
    print(f"{given.out}: {len(digits)} digits, {len(pictures)} grey pictures")


def read(folder: Path) -> pl.DataFrame:
    """The train split's encoded pictures and labels, as columns image and label."""
    frame = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("train-*.parquet"))])
    image = next(name for name in ("image", "img") if name in frame.columns)
    return frame.select(pl.col(image).struct.field("bytes").alias("image"), pl.col("label").cast(pl.Int64))


def balanced(frame: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """``count`` rows at random, as many of each label."""
    labels = frame["label"].to_numpy()
    rng = np.random.default_rng(seed)
    kinds = np.unique(labels)
    rows = [rng.permutation(np.flatnonzero(labels == kind))[: count // len(kinds)] for kind in kinds]
    return frame[np.sort(np.concatenate(rows))]


def grey(picture: bytes) -> bytes:
    """An encoded picture as a grey PNG of 28 x 28."""
    small = Image.open(io.BytesIO(picture)).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    small.save(out, "png")
    return out.getvalue()


if __name__ == "__main__":
    main()
