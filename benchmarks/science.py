"""Attacks and free scores x data sets x shadow models: what each finds, and what it costs in models trained.

    LOSSLAKE_SHARED_DATA=... python benchmarks/science.py FOLDER [--data mnist cifar10 ...] [--targets 65] [--minutes 120]
    python benchmarks/science.py FOLDER --page docs/science.md      # the table and picture of what is there, nothing computed

65 MLPs a data set are trained by `losslake collect shadows`, a coin a model and record, with the loss of each record after each epoch. Then model after model is
the target, and the 1, 2, 4, ... 64 models after it (the first after the last) are its shadow models. A cell is one
score of one target at one number of shadow models, a small file in FOLDER/cells; what is there is not computed again, so the same command goes on after
a stop. A score that the catalogue does not have is passed over.

Rates are of the non-members of the target. A record without a score (no shadow model with it, say) is never claimed. The truth
of precision is what `lira` with all 64 shadow models finds at an FPR of 0.1%; precision at k is over members alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from losslake.analysis.declare import parse_score
from losslake.analysis.evaluations.compare import expected_hits
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import evaluate, split, threshold_at_fpr, whole_part
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from science_data import DATA, SEED, TOY, Data, Missing
from science_page import write_page

MOST = 64
"""Shadow models at most; a data set has one model more."""

FPRS = (0.001, 0.01)
SHARES = (0.01, 0.05)
STRIDE = 8
"""From a target to the next: prime to 65, so that every model's turn comes, and the first eight share few shadow models."""

TRUTH = "lira"
ATTACKS = (
    "lira",
    "lira[variance=pooled]",
    "lira[variance=sample]",
    "lira[mode=offline]",
    "rmia",
    "rmia[mode=offline]",
    "rmia[rank=share]",
    "calibrated",
    "calibrated[tau=out]",
    "attack-r",
    "attack-s",
    "entropy",
    "shadow-nn",
)
FREE_ATTACKS = ("loss", "attack-p", "residual")
FREE_SCORES = (
    "lt-iqr",
    "trace[signal=error,aggregate=mean,first=1,last=3]",
    "trace[aggregate=first-half-minus-final]",
    "trace[signal=margin,aggregate=mean]",
    "trace[signal=probability,aggregate=mean]",
    "trace[signal=probability,aggregate=std]",
    "trace[signal=margin,aggregate=forgets]",
    "trace[aggregate=mean]",
    "trace[aggregate=std]",
    "trace[aggregate=slope]",
    "trace[aggregate=final]",
    "free",
)

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """One score of one target with so many shadow models."""

    data: str
    score: str
    shadows: int
    target: int

    def file(self, folder: Path) -> Path:
        plain = re.sub(r"[^a-z0-9]+", "-", self.score).strip("-")
        return folder / "cells" / self.data / plain / f"{self.shadows:02d}-{self.target:02d}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect, score, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--shadows", type=int, default=MOST, help="shadow models at most, a power of two")
    parser.add_argument("--targets", type=int, help="models in turn the target; default: all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop before the next target")
    parser.add_argument("--jobs", type=int, default=2, help="processes that train")
    parser.add_argument("--page", type=Path, help="write the page of what is there to this file, and stop")
    parser.add_argument("--toy", action="store_true", help="seconds: 4 shadow models of 200 digits, 2 epochs")
    given = parser.parse_args(arguments)
    data = {name: DATA[name] for name in given.data}
    most = given.shadows
    if given.toy:
        data, most = {"digits": TOY}, 4
    targets = most + 1 if given.targets is None else min(given.targets, most + 1)
    if given.page is None:
        until = time.monotonic() + 60 * given.minutes
        lake = Lake.open(given.folder / "lake", create=True)
        there = [
            name for name, each in data.items() if collect(lake, given.folder, name, each, most, given.jobs)
        ]
        for turn in range(targets):
            for name in there:
                if time.monotonic() > until:
                    break
                score_target(lake, given.folder, name, turn * STRIDE % (most + 1), most)
    page = given.page or given.folder / "science.md"
    titles = {name: each.title for name, each in data.items()}
    write_page(page, read_cells(given.folder), titles, most, len(list(cells_of("", 0, most))) * targets)


def collect(lake: Lake, folder: Path, name: str, data: Data, most: int, jobs: int) -> bool:
    """Train the models of a data set that are not there yet; False where its records are not here."""
    try:
        spec = data.make(folder / "data")
    except Missing as missing:
        print(f"{name}: left out; {missing}", flush=True)
        return False
    started = time.perf_counter()
    prepared = prepare_experiment(
        lake, name, dataset=spec, samples=data.samples, population=data.population, seed=SEED, pictures=False
    )
    collect_shadows(
        lake,
        name,
        count=most + 1,
        design="bernoulli",
        recipe=data.recipe,
        prepared=prepared,
        traces=True,
        queries="original",
        device="cpu",
        jobs=jobs,
    )
    print(f"{name}: {most + 1} models are there, {time.perf_counter() - started:.0f} s", flush=True)
    return True


def cells_of(name: str, target: int, most: int) -> Iterator[Cell]:
    """All cells of a target: the attacks with most shadow models, what needs none, then the attacks from many to few."""
    fewer = [most >> step for step in range(1, most.bit_length())]
    for shadows in (most, 0, *fewer):
        for score in ATTACKS if shadows else (*FREE_ATTACKS, *FREE_SCORES):
            if known(score):
                yield Cell(name, score, shadows, target)


def known(score: str) -> bool:
    """Whether the catalogue has a score."""
    try:
        parse_score(score, find)
    except InvalidOption:
        return False
    return True


def score_target(lake: Lake, folder: Path, name: str, target: int, most: int) -> None:
    """The cells of a target that are not there yet."""
    missing = [cell for cell in cells_of(name, target, most) if not cell.file(folder).exists()]
    if not missing:
        return
    started = time.perf_counter()
    models = [f"shadow-{number:04d}" for number in range(most + 1)]
    with open_source(lake, name, models[target]) as source:
        truth = found(source)
        for shadows in dict.fromkeys(cell.shadows for cell in missing):
            compared = {models[(target + 1 + step) % (most + 1)] for step in range(shadows or most)}
            others = [model for model in models if model not in compared and model != models[target]]
            with source.without(others) as fewer:
                for cell in missing:
                    if cell.shadows == shadows:
                        put(cell.file(folder), {**cell.__dict__, **measured(fewer, cell.score, truth)})
    print(f"{name}, target {target}: {len(missing)} cells, {time.perf_counter() - started:.0f} s", flush=True)


def found(source: Source) -> dict[int, bool]:
    """The target's members by sample id, and whether `TRUTH` with every shadow model finds them at the lowest FPR."""
    frame = scored(source, TRUTH).frame
    score = frame["score"].fill_null(-np.inf).to_numpy()
    member = frame["member"].to_numpy()
    edge = threshold_at_fpr(split(score, member)[1], FPRS[0])
    ids = frame["sample_id"].to_numpy()
    return dict(zip(ids[member].tolist(), (score[member] > edge).tolist(), strict=True))


def scored(source: Source, score: str) -> Scores:
    """The scores of a name such as lira[mode=offline], computed and not kept."""
    analysis, options = parse_score(score, find)
    result: Scores = analysis.compute(source, **options)
    return result


def measured(source: Source, score: str, truth: dict[int, bool]) -> dict[str, Any]:
    """AUC, TPR at each FPR and precision at each share of the members; or why there is no score."""
    started = time.process_time()
    try:
        frame = scored(source, score).frame
    except NotEnoughData as why:
        return {"failed": str(why).splitlines()[0]}
    seconds = time.process_time() - started
    frame = frame.filter(frame["member"].is_not_null())
    value: Floats = frame["score"].cast(float).fill_null(-np.inf).fill_nan(-np.inf).to_numpy()
    member: Flags = frame["member"].to_numpy()
    rates = {
        f"{metric.metric}@{metric.parameters['fpr']:g}" if metric.parameters else metric.metric: metric.value
        for metric in evaluate(value, member, FPRS)
    }
    ids = frame["sample_id"].to_numpy()[member].tolist()
    vulnerable = np.array([truth[sample] for sample in ids])
    tops = {}
    for share in SHARES:
        k = max(1, whole_part(share, len(ids)))
        tops[f"precision@{share:g}"] = expected_hits(value[member], vulnerable, k) / k
    return {
        **rates,
        **tops,
        "vulnerable": float(vulnerable.mean()),
        "scored": float(np.isfinite(value).mean()),
        "seconds": seconds,
    }


def put(file: Path, cell: dict[str, Any]) -> None:
    """Write a cell, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(cell) + "\n")
    unfinished.replace(file)


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """Every cell that is there."""
    return [json.loads(file.read_text()) for file in sorted((folder / "cells").rglob("*.json"))]


if __name__ == "__main__":
    main()
