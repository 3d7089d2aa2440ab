"""What recording costs a training loop.

    python benchmarks/recording_overhead.py [--device cpu] [--trials 12] [--rounds 3] [--batches 12] [--threads 1]

Three loops train the same model: two plain ones and one that is recorded by `watch_criterion`, every sample's loss and margin
from the logits of each step. They take turns in one process. Which was built first matters by 2 to 3%, so each trial
builds all three anew, in the next of the six orders, and is one measurement: the recorded loop against the geometric mean
of the plain ones, and as a control one plain loop against the other. Told are medians over the trials with their 95% intervals.

On a CPU the model is a small CNN with a data loader; turns are batches, and what counts is the processor time of all threads, the one
that writes included. On a GPU it is the recipe fast with the records on the device; turns are --epochs epochs and what counts
is the time that passes, the writing of the last epoch included; how often the host waits for the device is counted.
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from losslake.collect.data.training import DeviceData, TrainingData
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.collect.recipe import load_recipe
from losslake.collect.run_facts import choose_device, device_name
from losslake.collect.train.step import TrainStep
from losslake.store.lake import Lake
from scipy.stats import quantile_test
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BARS = {"cpu": 1.03, "cuda": 1.01}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass(frozen=True, eq=False)
class Loop:
    """A training loop: its model, the steps of an epoch, and what ends a turn."""

    model: nn.Module
    epoch: Callable[[], Iterator[None]]
    finish: Callable[[], None]


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


def small_loop(x: torch.Tensor, y: torch.Tensor, batch: int, run: RecordedRun | None) -> Loop:
    """The small CNN with a data loader."""
    model = small_cnn()
    loader: Any = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
    criterion: nn.Module = nn.CrossEntropyLoss()
    if run is not None:
        loader, criterion = run.watch_loader(loader), run.watch_criterion(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def epoch() -> Iterator[None]:
        for a, b in loader:
            optimizer.zero_grad(set_to_none=True)
            criterion(model(a), b).backward()
            optimizer.step()
            yield

    return Loop(model, epoch, _finish(run))


def fast_loop(held: DeviceData, run: RecordedRun | None) -> Loop:
    """The recipe fast on records that are on the device."""
    changes = {"precision": "fp32"} if held.device.type == "cpu" else {}
    recipe = load_recipe(Path("fast"), changes)
    torch.manual_seed(0)
    step = TrainStep(held, recipe)
    model = step.start(torch.arange(len(held.y)))
    criterion: nn.Module = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    if run is not None:
        criterion = run.watch_criterion(criterion)
    random = torch.Generator(held.device).manual_seed(0)

    def epoch() -> Iterator[None]:
        order = torch.randperm(len(held.y), device=held.device, generator=random)
        for ids in order.split(recipe.batch_size):
            if run is not None:
                run.batch(ids)
            x, _ = held.augmented(
                held.x[ids],
                flip=recipe.flip,
                crop=recipe.crop,
                border=recipe.crop_border,
                generator=random,
            )
            step.optimizer.zero_grad(set_to_none=True)
            criterion(step.logits(x).float(), held.y[ids]).backward()
            step.optimizer.step()
            yield
        if run is not None:
            run.end_epoch()

    return Loop(model, epoch, _finish(run))


def _finish(run: RecordedRun | None) -> Callable[[], None]:
    # The thread that writes must be done within the turn that it writes.
    return run._recorder.wait if run is not None else lambda: None


def made_pictures(records: int, device: torch.device) -> tuple[DeviceData, np.ndarray]:
    """Noise of CIFAR-10's size on the device, and its labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, records)
    unit = np.ones(3, dtype=np.float32)
    pictures = rng.integers(0, 256, (records, 3, 32, 32), dtype=np.uint8)
    data = TrainingData("made", 10, pictures, y, np.zeros(records, dtype=bool), unit / 2, unit)
    return DeviceData(data, device, normalize=True), y


def turns(loop: Loop, epochs: int, *, by_step: bool) -> Iterator[None]:
    """So many epochs; pauses after each batch, or only at the end."""
    for _ in range(epochs):
        for _ in loop.epoch():
            if by_step:
                yield
    loop.finish()
    yield


def seconds_of_round(
    loops: Sequence[Loop], epochs: int, clock: Callable[[], float], *, by_step: bool, first: int
) -> list[float]:
    """Seconds of each loop, taking turns; who begins takes turns too. Of its steps, which are all alike, the median counts."""
    steps: list[list[float]] = [[] for _ in loops]
    under_way = dict(enumerate(turns(loop, epochs, by_step=by_step) for loop in loops))
    ended = object()
    while under_way:
        for place in range(len(loops)):
            way = (first + place) % len(loops)
            if way in under_way:
                started = clock()
                if next(under_way[way], ended) is ended:
                    del under_way[way]
                else:
                    steps[way].append(clock() - started)
        first += 1
    return [median(each[:-1]) * len(each[:-1]) + each[-1] if by_step else sum(each) for each in steps]


def waits(loop: Loop, trace: Path | None = None) -> int:
    """How often the host waits for the device in the steps of an epoch, by torch's profiler; its trace goes to a file."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    steps = loop.epoch()
    next(steps)
    with profile(activities=activities) as found:
        for _ in range(20):
            next(steps, None)
    for _ in steps:
        pass
    loop.finish()
    if trace is not None:
        found.export_chrome_trace(str(trace))
    return sum(event.count for event in found.key_averages() if event.key in WAITS)


def told(what: str, ratios: Sequence[float]) -> str:
    interval = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
    return f"{what} {median(ratios):.4f}x (95% interval {interval.low:.4f} to {interval.high:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--trials", type=int, default=12, help="a multiple of 6 has every order equally often"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="in a turn, on a GPU")
    parser.add_argument("--batch", type=int, default=128, help="of the small CNN")
    parser.add_argument("--batches", type=int, default=12, help="in an epoch of the small CNN")
    parser.add_argument("--records", type=int, default=50_000, help="of the recipe fast")
    parser.add_argument("--recipe", choices=["small", "fast"], help="default: small on a CPU, fast on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    small = (options.recipe or ("fast" if on_gpu else "small")) == "small"
    torch.set_num_threads(options.threads)
    n = options.batch * options.batches if small else options.records
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, n)
    if small:
        x, labels = torch.randn(n, 3, 32, 32), torch.from_numpy(y)
        make = lambda run: small_loop(x, labels, options.batch, run)  # noqa: E731
    else:
        held = made_pictures(n, device)[0]
        make = lambda run: fast_loop(held, run)  # noqa: E731

    def clock() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    epochs = options.epochs if on_gpu else 1
    orders = list(permutations(range(3)))
    recorded, control, plain_seconds, evaluation = [], [], [], []
    waited: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        for trial in range(options.trials):
            samples = {"samples": y} if trial == 0 else {}
            with start_run(lake, "e", members=np.ones(n, dtype=bool), **samples) as run:
                built = {which: make(run if which == 2 else None) for which in orders[trial % len(orders)]}
                loops = [built[which] for which in range(3)]
                seconds = [
                    seconds_of_round(loops, epochs, clock, by_step=not on_gpu, first=number)
                    for number in range(options.rounds + 1)
                ][1:]
                if on_gpu and trial == options.trials - 1:
                    waited = [waits(loop) for loop in loops]
                if small:
                    started = clock()
                    run.evaluate(loops[2].model, (x, labels))
                    evaluation.append((clock() - started) / median(each[0] for each in seconds))
            recorded.append(median(third / math.sqrt(one * two) for one, two, third in seconds))
            control.append(median(two / one for one, two, _ in seconds))
            plain_seconds.append(median(each[0] for each in seconds))
    print(
        f"{device_name(device)}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{options.threads} threads; {'small CNN' if small else 'fast'}, {options.trials} trials of {options.rounds} rounds\n"
        f"plain: {median(plain_seconds) * 1e3:.0f} ms a round\n"
        f"{told('recorded: ', recorded)}, bar {BARS[device.type]}x\n{told('control, plain against plain: ', control)}"
    )
    if waited:
        print(f"waits for the device in 20 steps: plain {waited[0]} and {waited[1]}, recorded {waited[2]}")
    if evaluation:
        print(f"logits and signals of the finished model: {median(evaluation):.2f} epochs, once a run")


if __name__ == "__main__":
    main()
