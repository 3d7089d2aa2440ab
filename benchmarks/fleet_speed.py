"""What a fleet of shadow models costs: one after another, side by side, as a stack, by one compiled model.

    python benchmarks/fleet_speed.py [--device auto] [--runs 64] [--repeats 3] [--epochs 20] [--records 50000]

On a CPU one fleet is of small MLPs on scikit-learn's digits and one of small CNNs on made pictures of CIFAR-10's size. The ways take
turns, each --repeats times, so that what else the machine does meets all of them; "one after another" is one process with as
many threads as torch takes by itself, and what the others gain is the median of the ratios within a turn. On a GPU one is of the
preset fast and one of WRN28-2 on made records.

Wall time is that of the whole fleet with its signals, from an experiment in memory to runs in the lake, starting processes
included; the processor's is that of all processes. "Others" are the CPUs that the rest of the machine kept busy meanwhile: where they
are more than a few hundredths, wall times say little, least of all of threads that wait for each other. TFLOP/s count the products of training alone, by torch's own count.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from losslake.collect.data.training import TrainingData, channel_statistics
from losslake.collect.experiment.prepare import DEFAULTS, Prepared, prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.models.build import build_model
from losslake.collect.recipe import Recipe, load_recipe
from losslake.collect.run_facts import available_cpus, choose_device, device_name
from losslake.store.lake import Lake
from torch.utils.flop_counter import FlopCounterMode

DIGITS = Recipe(model="mlp", model_options={"widths": (256, 128)}, lr=0.05)
SMALL_CNN = Recipe(model="cnn", batch_size=128, lr=0.05)
CPU_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one after another", {"jobs": 1}),
    ("as it is by default", {}),
)
STACK: tuple[str, dict[str, Any]] = ("stacks of 8", {"stack": 8})
GPU_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one after another", {"compiled": False}),
    ("one compiled model", {"compiled": True}),
    ("2 processes", {"compiled": False, "jobs": 2}),
    ("4 processes", {"compiled": False, "jobs": 4}),
)
SMALL_GPU_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one after another", {"compiled": False, "stack": 1}),
    ("stacks of 16", {"stack": 16}),
)


def digits(lake: Lake) -> Prepared:
    return prepare_experiment(lake, "fleet", dataset="digits", pictures=False)


def made(lake: Lake, records: int) -> Prepared:
    """Noise of CIFAR-10's size: nothing to learn, all to compute."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (records, 3, 32, 32), dtype=np.uint8)
    y = rng.integers(0, 10, records)
    experiment = lake.create_experiment("fleet", pa.table({"label": y, "pool": ["audit"] * records}))
    mean, std = channel_statistics(x, np.arange(records))
    data = TrainingData("made", 10, x, y, np.zeros(records, dtype=bool), mean, std)
    return Prepared(lake, experiment, data, DEFAULTS, np.zeros(records, dtype=bool))


def records_of(prepared: Prepared) -> np.ndarray:
    """The records, which `made` makes as one array."""
    assert isinstance(prepared.data.x, np.ndarray)
    return prepared.data.x


def training_flop(prepared: Prepared, recipe: Recipe) -> float:
    """Floating-point operations to train one model on half of the records."""
    shape = records_of(prepared).shape[1:]
    model = build_model(
        recipe.model, input_shape=shape, classes=prepared.data.classes, options=recipe.model_options
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(4, *shape)).sum().backward()
    return counter.get_total_flops() / 4 * len(prepared.data) / 2 * recipe.epochs


@dataclass(frozen=True)
class Taken:
    """Wall and processor seconds of a fleet, and how many CPUs others kept busy meanwhile."""

    wall: float
    processor: float
    others: float


def timed(prepared: Prepared, recipe: Recipe, runs: int, device: torch.device, **way: Any) -> Taken:
    """Train a fleet of so many runs."""
    before, busy, started = _processor(), _busy(), time.perf_counter()
    collect_shadows(
        prepared.lake, "fleet", count=runs, recipe=recipe, prepared=prepared, device=str(device), **way
    )
    wall, processor = time.perf_counter() - started, _processor() - before
    return Taken(wall, processor, max(0.0, _busy() - busy - processor) / wall)


def _busy() -> float:
    """Processor seconds of the whole machine so far; 0 where it does not tell."""
    try:
        user, nice, system, _, _, *rest = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _processor() -> float:
    """Processor seconds of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(
    prepare: Any, recipe: Recipe, ways: Any, runs: int, repeats: int, device: torch.device
) -> Iterator[tuple[str, list[Taken], list[float], float]]:
    """Of each way what it took in each turn, how much faster than the first way it was there, and TFLOP/s."""
    taken: dict[str, list[Taken]] = {way: [] for way, _ in ways}
    flop = 0.0
    for turn in range(repeats):
        at = turn % len(ways)
        for way, given in (*ways[at:], *ways[:at]):
            with tempfile.TemporaryDirectory() as folder:
                prepared = prepare(Lake.open(Path(folder) / "lake", create=True))
                taken[way].append(timed(prepared, recipe, runs, device, **given))
                flop = flop or training_flop(prepared, recipe)
    for way, each in taken.items():
        gains = [first.wall / own.wall for first, own in zip(taken[ways[0][0]], each, strict=True)]
        yield way, each, gains, flop * runs / median(own.wall for own in each) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of the MLPs and of WRN28-2")
    parser.add_argument("--cnn-epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256], help="of the MLPs")
    parser.add_argument("--records", type=int, help="made ones; default: 1000 on a CPU, 50000 on a GPU")
    parser.add_argument("--only", choices=["mlp", "cnn"], help="one kind of fleet, on a CPU")
    options = parser.parse_args()
    device = choose_device(options.device)
    on_cpu = device.type == "cpu"
    records = options.records or (1_000 if on_cpu else 50_000)
    mlps = [replace(DIGITS, epochs=options.epochs, batch_size=size) for size in options.batch_size]
    cases: list[tuple[str, Any, Recipe, Any]] = []
    for recipe in mlps if options.only != "cnn" else ():
        ways = (*CPU_WAYS, STACK) if on_cpu else SMALL_GPU_WAYS
        cases.append((f"digits, mlp 256-128, batch {recipe.batch_size}", digits, recipe, ways))
    if on_cpu and options.only != "mlp":
        recipe = replace(SMALL_CNN, epochs=options.cnn_epochs)
        cases.append((f"{records} pictures, cnn", lambda lake: made(lake, records), recipe, CPU_WAYS))
    if not on_cpu:
        wide = Recipe(model="wrn28-2", epochs=options.epochs, precision="bf16", flip=True, crop=4)
        for name, recipe in (("fast", load_recipe(Path("fast"), {})), ("wrn28-2", wide)):
            cases.append((name, lambda lake: made(lake, records), recipe, GPU_WAYS))
    print(
        f"{device_name(device)}, {platform.processor() or platform.machine()}, {available_cpus()} CPUs, "
        f"Python {platform.python_version()}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, {options.runs} runs, {options.repeats} turns\n"
    )
    print(
        "| fleet | way | wall | processor | others | models an hour | TFLOP/s | times the first (lowest to highest) |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for title, prepare, recipe, ways in cases:
        for way, taken, gains, rate in measured(prepare, recipe, ways, options.runs, options.repeats, device):
            wall, processor, others = (
                median(getattr(each, name) for each in taken) for name in ("wall", "processor", "others")
            )
            print(
                f"| {title} | {way} | {wall:.1f} s | {processor:.1f} s | {others:.2f} | {options.runs / wall * 3600:.0f} | "
                f"{rate:.3f} | {median(gains):.2f}x ({min(gains):.2f} to {max(gains):.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
