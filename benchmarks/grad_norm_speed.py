"""What exact per-sample gradient norms cost a training step, on a CPU with one thread.

    python benchmarks/grad_norm_speed.py [--batch 128] [--rounds 15] [--processes 5] [--model wrn-16-1|mlp]

A plain step and another one take turns in one process, so that what else the machine does meets both; the ratio of
processor times is the median over the rounds. Memory is the peak above what the process held before its first step: the median
over fresh processes for each way, with the least and the most; once as it comes, and once with a mapping of its own for each
larger block, so that the peak is what the step holds and not how malloc happened to cut its heap (glibc). vmap(grad) makes every sample's whole gradient and stands for
the direct way. Where Opacus is installed there are two more: its GradSampleModule, which makes them too, and the
module of its ghost clipping, which takes norms of linear layers without them; of that one pass alone, as the second is for clipping. That all
ways find the same norms is checked first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from losslake.collect.grad_norms.hooks import GradNormWatcher
from losslake.collect.models.build import mlp
from losslake.collect.models.residual import wide_resnet
from torch import nn
from torch.nn import functional

MODELS: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...], int]] = {
    "wrn-16-1": (
        "WRN-16-1, GroupNorm",
        lambda: wide_resnet(16, 1)((3, 32, 32), 10, dropout=0.0, norm="group"),
        (3, 32, 32),
        10,
    ),
    # The network of the Purchase100 experiments in "Enhanced membership inference attacks".
    "mlp": (
        "MLP 600-512-256-128-64-100",
        lambda: mlp((600,), 100, widths=(512, 256, 128, 64), dropout=0.0),
        (600,),
        100,
    ),
}
WAYS = ("plain", "watched", "vmap(grad)", "opacus", "opacus, ghost")
Step = Callable[[], Any]

_OWN_MAPPING = 1 << 17
"""Bytes from which glibc gives a block a mapping of its own, unless it has found that such blocks come and go."""


def steps_of(way: str, name: str, batch: int) -> Step:
    """A function that does one training step."""
    _, make, shape, classes = MODELS[name]
    torch.manual_seed(0)
    model: Any = make()
    x, y = torch.randn(batch, *shape), torch.randint(0, classes, (batch,))
    if way == "opacus":
        from opacus import GradSampleModule

        model = GradSampleModule(model)
    elif way == "opacus, ghost":
        from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
            GradSampleModuleFastGradientClipping,
        )

        model = GradSampleModuleFastGradientClipping(model, use_ghost_clipping=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    if way == "vmap(grad)":
        return lambda: _vmap_step(model, optimizer, x, y)
    watcher = GradNormWatcher(model) if way == "watched" else None
    ids = torch.arange(batch)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        if way == "opacus":
            model.zero_grad(set_to_none=True)
        if watcher is not None:
            watcher.begin()
        loss = functional.cross_entropy(model(x), y)
        if watcher is not None:
            watcher.loss(loss, ids, batch)
        loss.backward()
        norms: Any = [found.norms for found in watcher.take()] if watcher is not None else None
        if way == "opacus":
            norms = (
                torch.stack([p.grad_sample.flatten(1).square().sum(1) for p in model.parameters()])
                .sum(0)
                .sqrt()
            )
        elif way == "opacus, ghost":
            norms = model.get_norm_sample()
        optimizer.step()
        return norms

    return step


def check_norms(name: str, batch: int) -> None:
    """Raises AssertionError where two ways find other norms in the first step of the same model on the same batch."""
    expected = steps_of("vmap(grad)", name, batch)().numpy()
    for way in WAYS:
        if way not in ("plain", "vmap(grad)") and available(way):
            found = steps_of(way, name, batch)()
            if way == "watched":
                (found,) = found
            np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-3, err_msg=way)


def _vmap_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(values: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(model, values, (one.unsqueeze(0),))
        return functional.cross_entropy(out, label.unsqueeze(0))

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    norms = torch.stack([grad.flatten(1).square().sum(1) for grad in grads.values()]).sum(0).sqrt()
    for name, value in model.named_parameters():
        value.grad = grads[name].mean(0)
    optimizer.step()
    return norms


def timed(name: str, way: str, batch: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of a plain step, and by what factor the other one takes longer: medians."""
    plain, other = steps_of("plain", name, batch), steps_of(way, name, batch)
    for _ in range(2):
        plain(), other()
    taken, ratios = [], []
    for _ in range(rounds):
        seconds = []
        for step in (plain, other):
            started = time.process_time()
            step()
            seconds.append(time.process_time() - started)
        taken.append(seconds[0])
        ratios.append(seconds[1] / seconds[0])
    return median(taken) * 1e3, median(ratios)


def peak(name: str, way: str, batch: int) -> float:
    """MB that three steps take above what the process holds before them; call it in a fresh process."""
    step = steps_of(way, name, batch)
    held = _memory("VmRSS")
    for _ in range(3):
        step()
    return _memory("VmHWM") - held


def in_fresh_processes(name: str, way: str, batch: int, processes: int, environment: dict[str, str]) -> str:
    """The median of `peak` over that many processes, with the least and the most, as text."""
    command = [sys.executable, __file__, "--model", name, "--peak-of", way, "--batch", str(batch)]
    found = sorted(
        json.loads(
            subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | environment
            ).stdout
        )
        for _ in range(processes)
    )
    return f"{median(found):.0f} MB ({found[0]:.0f} to {found[-1]:.0f})"


def _memory(which: str) -> float:
    """MB of this process, now (VmRSS) or at its peak (VmHWM), which unlike getrusage's is its own, not its parent's."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(which))
    return int(line.split()[1]) / 1e3


def available(way: str) -> bool:
    return not way.startswith("opacus") or importlib.util.find_spec("opacus") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        print(json.dumps(peak(options.model, options.peak_of, options.batch)))
        return
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}, batch {options.batch}\n"
    )
    print(
        "| model | way | step | times a plain one | memory of a step | held |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in [options.model] if options.model else MODELS:
        check_norms(name, options.batch)
        for way in WAYS:
            title = MODELS[name][0]
            if not available(way):
                print(f"| {title} | {way} | not installed | | | |")
                continue
            milliseconds, ratio = timed(name, way, options.batch, options.rounds)
            memory = [
                in_fresh_processes(name, way, options.batch, options.processes, environment)
                for environment in ({}, {"MALLOC_MMAP_THRESHOLD_": str(_OWN_MAPPING)})
            ]
            print(
                f"| {title} | {way} | {milliseconds * ratio:.1f} ms | {ratio:.2f} | {memory[0]} | {memory[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
