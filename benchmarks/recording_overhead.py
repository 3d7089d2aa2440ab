"""What recording costs an epoch of a training loop, on a CPU with one thread.

    python benchmarks/recording_overhead.py [--batch 128] [--batches 12] [--rounds 15]

A small CNN on random pictures, trained with a watched loader and criterion (every sample's loss and margin), and without. Batches of
both loops take turns in one process, so that what else the machine does meets both; an epoch's ratio is that of the processor times, of
all threads, summed over its batches with what ends the epoch, and the result the median over the rounds.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from losslake.collect.hook import start_run
from losslake.store.lake import Lake
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BAR = 1.03


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 10),
    )


def epoch_in_steps(
    model: nn.Module, optimizer: Any, loader: Any, criterion: Any, at_end: Callable[[], None]
) -> Iterator[None]:
    """One epoch; pauses after each batch, and ends with what is done at its end."""
    for x, y in loader:
        optimizer.zero_grad(set_to_none=True)
        criterion(model(x), y).backward()
        optimizer.step()
        yield
    at_end()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = options.batch * options.batches
    x, y = torch.randn(n, 3, 32, 32), torch.randint(0, 10, (n,))
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        with start_run(lake, "e", samples=y, members=np.ones(n, dtype=bool)) as run:
            loops = []
            for watched in (False, True):
                model = small_cnn()
                loader: Any = DataLoader(TensorDataset(x, y), batch_size=options.batch, shuffle=True)
                criterion: nn.Module = nn.CrossEntropyLoss()
                if watched:
                    loader, criterion = run.watch_loader(loader), run.watch_criterion(criterion)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
                # The thread that writes must be done within the epoch that it writes.
                at_end = run._recorder.wait if watched else lambda: None
                loops.append((model, optimizer, loader, criterion, at_end))
            seconds = []
            for number in range(options.rounds + 1):
                taken = [0.0, 0.0]
                epochs = [epoch_in_steps(*loop) for loop in loops]
                for step in range(options.batches + 1):
                    # Who is first takes turns too.
                    for way in (0, 1) if (number + step) % 2 else (1, 0):
                        started = time.process_time()
                        next(epochs[way], None)
                        taken[way] += time.process_time() - started
                if number:
                    seconds.append(taken)
    ratios = sorted(watched / plain for plain, watched in seconds)
    low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    plain, watched = (median(each) * 1e3 for each in zip(*seconds, strict=True))
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, batch {options.batch}, {options.batches} batches "
        f"an epoch\nplain {plain / options.batches:.2f} ms a batch, recorded {watched / options.batches:.2f} ms, "
        f"{(watched - plain) / options.batches:.2f} ms more: {ratio:.3f}x (quartiles {low:.3f} to "
        f"{high:.3f}), bar {BAR}x"
    )


if __name__ == "__main__":
    main()
