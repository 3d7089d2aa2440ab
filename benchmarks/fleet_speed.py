"""What a fleet of shadow models costs: one after another, side by side, as a stack, by one compiled model.

    python benchmarks/fleet_speed.py [--device auto] [--runs 16] [--epochs 20] [--records 50000]

On a CPU the fleet is one of small MLPs on scikit-learn's digits, on a GPU one of the preset fast and one of WRN28-2 on made
records of CIFAR-10's size. Wall time is that of the whole fleet with its signals, from an experiment in memory to runs in
the lake; the processor's is that of all processes. TFLOP/s count the products of training alone, by torch's own count.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from losslake.collect.experiment import DEFAULTS, Prepared, prepare_experiment
from losslake.collect.fleet import collect_shadows
from losslake.collect.models import build_model
from losslake.collect.recipe import Recipe, load_recipe
from losslake.collect.run_facts import choose_device, device_name
from losslake.collect.training_data import TrainingData, channel_statistics
from losslake.store.lake import Lake
from torch.utils.flop_counter import FlopCounterMode

DIGITS = Recipe(model="mlp", model_options={"widths": (256, 128)}, lr=0.05)
CPU_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one after another", {"jobs": 1}),
    ("2 processes", {"jobs": 2}),
    ("stacks of 16, one process", {"jobs": 1, "stack": 16}),
)
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


def training_flop(prepared: Prepared, recipe: Recipe) -> float:
    """Floating-point operations to train one model on half of the records."""
    shape = prepared.data.x.shape[1:]
    model = build_model(
        recipe.model, input_shape=shape, classes=prepared.data.classes, options=recipe.model_options
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(4, *shape)).sum().backward()
    return counter.get_total_flops() / 4 * len(prepared.data) / 2 * recipe.epochs


def timed(
    prepared: Prepared, recipe: Recipe, runs: int, device: torch.device, **way: Any
) -> tuple[float, float]:
    """Wall and processor seconds of a fleet."""
    before, started = _processor(), time.perf_counter()
    collect_shadows(
        prepared.lake, "fleet", count=runs, recipe=recipe, prepared=prepared, device=str(device), **way
    )
    return time.perf_counter() - started, _processor() - before


def _processor() -> float:
    """Processor seconds of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20, help="of the MLPs and of WRN28-2")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256], help="of the MLPs")
    parser.add_argument("--records", type=int, default=50_000, help="on a GPU")
    options = parser.parse_args()
    device = choose_device(options.device)
    mlps = [replace(DIGITS, epochs=options.epochs, batch_size=size) for size in options.batch_size]
    cases: list[tuple[str, Any, Recipe, Any]] = []
    for recipe in mlps:
        ways = CPU_WAYS if device.type == "cpu" else SMALL_GPU_WAYS
        cases.append((f"digits, mlp 256-128, batch {recipe.batch_size}", digits, recipe, ways))
    if device.type == "cuda":
        wide = Recipe(model="wrn28-2", epochs=options.epochs, precision="bf16", flip=True, crop=4)
        for name, recipe in (("fast", load_recipe(Path("fast"), {})), ("wrn28-2", wide)):
            cases.append((name, lambda lake: made(lake, options.records), recipe, GPU_WAYS))
    torch.set_num_threads(1)
    print(
        f"{device_name(device)}, {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {options.runs} runs\n"
    )
    print(
        "| fleet | way | wall | processor | models an hour | TFLOP/s |\n| --- | --- | --- | --- | --- | --- |"
    )
    for title, prepare, recipe, ways in cases:
        for way, given in ways:
            with tempfile.TemporaryDirectory() as folder:
                prepared = prepare(Lake.open(Path(folder) / "lake", create=True))
                wall, processor = timed(prepared, recipe, options.runs, device, **given)
                rate = training_flop(prepared, recipe) * options.runs / wall / 1e12
            print(
                f"| {title} | {way} | {wall:.1f} s | {processor:.1f} s | {options.runs / wall * 3600:.0f} | {rate:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
