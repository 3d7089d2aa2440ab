"""What a GPU should be asked first: twelve minutes of one, the most telling first, all results in one folder.

    python benchmarks/gpu_first.py FOLDER DATA [--minutes 12] [--device auto]
    python benchmarks/gpu_first.py FOLDER --toy             # digits on a CPU, to see that all of it runs

DATA is CIFAR-10 as a folder of Parquet files in Hugging Face's layout (or whatever `losslake collect --dataset` takes); nothing is downloaded.

1. tests       the tests that need a GPU (marker gpu)
2. waits       how often the host waits for the device in 20 steps, plain and recorded, by torch's profiler
3. overhead    what recording costs with the recipe fast: benchmarks/recording_overhead.py
4. throughput-fast, throughput-wrn28-2: seconds a model of fast, and of two epochs of lt-iqr-wrn28-2 in bf16, and examples a second
5. accuracy    test accuracy of fast trained on every record
6. shadows     as many shadow models of fast as fit into what is left, and LiRA on the first of them

Each is a process of its own with a time limit, so that none takes what is left from the others; its result is FOLDER/NAME.json, its output
FOLDER/NAME.log, and summary.md tells of all. A part that has a result is not done again: the same command goes on where it was
stopped, with whatever --minutes says then. A part that failed or ran out of time is tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESERVE = 10
"""Seconds that are kept for the summary."""


@dataclass(frozen=True)
class Asked:
    """What all parts are told: results and lake go to ``folder``, records come from ``data``."""

    folder: Path
    data: str
    device: str
    toy: bool
    seconds: float

    @property
    def records(self) -> int | None:
        """How many records of ``data``; None: all."""
        return 200 if self.toy else None


Result = dict[str, Any]


def tests(asked: Asked) -> Result:
    """The tests with the marker gpu, counted."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "-p", "no:cacheprovider"]
    marked = [
        str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()
    ]
    run = subprocess.run([*command, *marked], cwd=ROOT, capture_output=True, text=True)
    print(run.stdout[-6000:], run.stderr[-2000:])
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", run.stdout)}
    if run.returncode not in (0, 1) or counts.get("failed") or counts.get("error"):
        raise SystemExit(f"tests failed: {counts or run.returncode}")
    if not asked.toy and not counts.get("passed"):
        raise SystemExit("no test found a GPU")
    return counts


def waits(asked: Asked) -> Result:
    """Waits for the device in 20 steps of fast: plain, and recorded; no more of the latter is what is wanted."""
    import numpy as np
    import recording_overhead as overhead
    from losslake.collect.hook.start import start_run
    from losslake.collect.run_facts import choose_device
    from losslake.store.lake import Lake

    device = choose_device(asked.device)
    held, labels = overhead.made_pictures(256 if asked.toy else 50_000, device)
    lake = Lake.open(asked.folder / "waits-lake", create=True)
    samples: dict[str, Any] = {} if lake.experiments() else {"samples": labels}
    with start_run(lake, "e", members=np.ones(len(labels), dtype=bool), **samples) as run:
        loops = [overhead.fast_loop(held, each) for each in (None, run)]
        for loop in loops:
            list(loop.epoch())
        found = [
            overhead.waits(loop, asked.folder / f"trace-{which}.json")
            for which, loop in zip(("plain", "recorded"), loops, strict=True)
        ]
    return {"plain": found[0], "recorded": found[1], "more": found[1] - found[0]}


def overhead(asked: Asked) -> Result:
    """benchmarks/recording_overhead.py; --trials 6 has every order once."""
    size = (
        ["--trials", "1", "--rounds", "1", "--batches", "3"]
        if asked.toy
        else ["--trials", "6", "--rounds", "2"]
    )
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "recording_overhead.py"),
        "--device",
        asked.device,
        *size,
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    print(run.stdout, run.stderr)
    if run.returncode:
        raise SystemExit(f"recording_overhead.py ended with {run.returncode}")
    ratios = dict(re.findall(r"(recorded|control)[^\d\n]*?(\d+\.\d+)x", run.stdout))
    return {**{name: float(value) for name, value in ratios.items()}, "told": run.stdout.strip().splitlines()}


def throughput_fast(asked: Asked) -> Result:
    """Seconds a model of fast."""
    return throughput(asked, "fast", 4, {})


def throughput_wide(asked: Asked) -> Result:
    """Seconds of two epochs of WRN28-2 in bf16, its paper's recipe otherwise."""
    return throughput(asked, "lt-iqr-wrn28-2", 2, {"epochs": 2, "precision": "bf16"})


def throughput(asked: Asked, recipe: str, count: int, changes: Mapping[str, Any]) -> Result:
    """Seconds of the first of ``count`` models, which has the compiling in it, and of the fastest after it."""
    from losslake.collect.fleet.target_and_shadows import collect_shadows

    lake, prepared, chosen = prepared_for(asked, recipe, recipe, changes)
    runs = collect_shadows(
        lake,
        recipe,
        count=count,
        design="bernoulli",
        recipe=chosen,
        prepared=prepared,
        device=asked.device,
        jobs=1,
    )
    first, *others = [run.info.seconds or 0.0 for run in runs]
    return {
        "first_model_seconds": first,
        "model_seconds": min(others),
        "epochs": chosen.epochs,
        "examples_per_second": runs[0].members * chosen.epochs / min(others),
    }


def prepared_for(
    asked: Asked, experiment: str, recipe: str, changes: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """The lake of the folder, an experiment in it, and a recipe; at toy size small enough for a CPU."""
    from losslake.collect.experiment.prepare import prepare_experiment
    from losslake.collect.recipe import load_recipe
    from losslake.store.lake import Lake

    chosen = load_recipe(Path(recipe), dict(changes))
    if asked.toy:
        chosen = replace(chosen, precision="fp32", batch_size=32, lr=0.01, epochs=2, warmup_epochs=0)
        if chosen.model == "fast":
            chosen = replace(chosen, model_options={"widths": (8, 8)})
    lake = Lake.open(asked.folder / "lake", create=True)
    prepared = prepare_experiment(lake, experiment, dataset=asked.data, samples=asked.records, pictures=False)
    return lake, prepared, chosen


def accuracy(asked: Asked) -> Result:
    """The recipe fast on every record, three seeds; of the test split where the data has one."""
    from losslake.collect.fleet.target_and_shadows import collect_target

    lake, prepared, recipe = prepared_for(asked, "accuracy", "fast", {})
    runs = collect_target(
        lake,
        "accuracy",
        recipe=recipe,
        prepared=prepared,
        fraction=1.0,
        duals=0 if asked.toy else 2,
        traces=False,
        device=asked.device,
    )
    return {
        "members": runs[0].members,
        "test_accuracy": [run.info.test_accuracy for run in runs],
        "train_accuracy": [run.info.train_accuracy for run in runs],
        "seconds": [run.info.seconds for run in runs],
    }


def shadows(asked: Asked) -> Result:
    """Shadow models of fast until the time is over, of which LiRA takes the first for the target."""
    from losslake.analysis.scoring.catalogue import find, open_source
    from losslake.analysis.scoring.run import run_analysis
    from losslake.collect.fleet.target_and_shadows import collect_shadows

    started = time.monotonic()
    known = asked.folder / "throughput-fast.json"
    each = json.loads(known.read_text())["result"]["model_seconds"] if known.exists() else 5.0
    lake, prepared, recipe = prepared_for(asked, "shadows", "fast", {})
    there = len(lake.runs("shadows"))
    while True:
        left = 0.8 * asked.seconds - (time.monotonic() - started)
        more = 4 - there if asked.toy else min(64 if there else 8, int(left / each))
        if more <= 0 and there >= 2:
            break
        before = time.monotonic()
        # A coin a model and record: whatever number of them is there, none says who is in the others.
        collect_shadows(
            lake,
            "shadows",
            count=there + max(2, more),
            design="bernoulli",
            recipe=recipe,
            prepared=prepared,
            traces=False,
            device=asked.device,
            jobs=1,
        )
        each = (time.monotonic() - before) / max(2, more)
        there += max(2, more)
    with open_source(lake, "shadows", "shadow-0000") as source:
        outcome = run_analysis(source, find("lira"), fprs=(0.001, 0.01))
    return {
        "models": there,
        "seconds_a_model": each,
        "lira": [metric.to_json() for metric in outcome.metrics],
    }


PARTS: Mapping[str, tuple[Callable[[Asked], Result], float]] = {
    "tests": (tests, 150),
    "waits": (waits, 90),
    "overhead": (overhead, 180),
    "throughput-fast": (throughput_fast, 120),
    "throughput-wrn28-2": (throughput_wide, 120),
    "accuracy": (accuracy, 120),
    "shadows": (shadows, float("inf")),
}
"""Every part in the order of its worth, and the most seconds that it gets."""


def main(arguments: list[str] | None = None) -> None:
    """Do what is missing in order, each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--toy", action="store_true", help="digits on a CPU, a minute or two")
    parser.add_argument("--part", choices=PARTS, help="this part alone, here and now")
    parser.add_argument("--seconds", type=float, default=600, help="what --part may take")
    given = parser.parse_args(arguments)
    if given.data is None and not given.toy:
        parser.error("name the folder of the data, or --toy")
    device = "cpu" if given.toy else given.device
    asked = Asked(given.folder.resolve(), given.data or "digits", device, given.toy, given.seconds)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if given.part:
        do(given.part, asked)
        return
    until = time.monotonic() + 60 * given.minutes - RESERVE
    for name, (_, most) in PARTS.items():
        left = until - time.monotonic()
        if (asked.folder / f"{name}.json").exists():
            print(f"{name}: is there", flush=True)
        elif left < 5:
            print(f"{name}: no time left", flush=True)
        else:
            print(f"{name}: {apart(name, asked, min(most, left))}", flush=True)
    (asked.folder / "summary.md").write_text(summary(asked.folder))
    print((asked.folder / "summary.md").read_text())


def do(name: str, asked: Asked) -> None:
    """Do a part here, and write its result whole."""
    started = time.perf_counter()
    result = PARTS[name][0](asked)
    told = {
        "part": name,
        "result": result,
        "seconds": time.perf_counter() - started,
        "toy": asked.toy,
        "machine": machine(asked),
    }
    unfinished = asked.folder / f".{name}.json"
    unfinished.write_text(json.dumps(told, indent=1) + "\n")
    unfinished.replace(asked.folder / f"{name}.json")


def machine(asked: Asked) -> dict[str, str]:
    """What it was measured on."""
    import torch
    from losslake.collect.run_facts import choose_device, device_name

    return {
        "device": device_name(choose_device(asked.device)),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    }


def apart(name: str, asked: Asked, seconds: float) -> str:
    """Do a part in a process of its own, which ends when its time is over; how it went."""
    command = [
        sys.executable,
        __file__,
        str(asked.folder),
        asked.data,
        "--part",
        name,
        "--device",
        asked.device,
    ]
    command += ["--seconds", str(seconds), *(["--toy"] if asked.toy else [])]
    started = time.monotonic()
    with (asked.folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.wait()
            return f"stopped after {seconds:.0f} s; see {name}.log"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    took = f"{time.monotonic() - started:.0f} s"
    return f"done in {took}" if process.returncode == 0 else f"failed after {took}; see {name}.log"


def summary(folder: Path) -> str:
    """What is there, and what is not."""
    lines = ["# What the GPU said", ""]
    for name in PARTS:
        file = folder / f"{name}.json"
        if not file.exists():
            lines.append(f"- **{name}**: nothing yet")
            continue
        told = json.loads(file.read_text())
        size = "toy size, " if told["toy"] else ""
        lines.append(
            f"- **{name}** ({size}{told['machine']['device']}, {told['seconds']:.0f} s): `{json.dumps(told['result'])}`"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
