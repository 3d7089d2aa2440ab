"""How well the tail of one model's losses tells what LiRA finds with shadow models: small fleets of many recipes.

Digits, MNIST (14x14) and CIFAR-10 (8x8), 2,400 records of each (digits 1,797), MLPs of several widths, decays, epochs, rates of smoothing.
Every model of a fleet is the target in turn, the others its shadow models. Printed are a line a fleet, and how the estimates from
one model alone (the tail, the loss attack's own TPR, the gap of mean losses) go with LiRA's TPR. Each fleet's figures are kept in OUT, so that it goes on where it was.

    python benchmarks/tail.py OUT.csv [--models 24] [--fleets 48]        # CIFAR-10 and MNIST as folders under LOSSLAKE_SHARED_DATA
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from losslake.analysis.attacks.lira_each import lira_each
from losslake.analysis.attacks.phi_matrix import PhiMatrix
from losslake.analysis.statistics.roc import auc, split, tpr_at_fpr
from losslake.collect.data.load import load_dataset
from losslake.collect.data.training import DeviceData, TrainingData
from losslake.collect.recipe import Recipe
from losslake.collect.train.run import RunPlan
from losslake.collect.train.stacked_mlp import train_stack
from scipy.stats import spearmanr

RATES = (0.001, 0.01)
RECORDS = 2_400
ESTIMATES = ("tail", "loss_tpr", "gap", "auc")
Floats = npt.NDArray[np.float64]


def main() -> None:
    """Train and measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--fleets", type=int, default=48)
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = {row["fleet"] for row in rows_of(given.out)}
    held: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = {}
    for name, data, recipe in fleets(given.fleets):
        if name not in done:
            started = time.process_time()
            if data not in held:
                held[data] = records(data)
            found = measured(*held[data], recipe, given.models)
            with given.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, ["fleet", *found[0]])
                if not done:
                    writer.writeheader()
                writer.writerows({"fleet": name, **one} for one in found)
            done.add(name)
            print(f"{name}: {time.process_time() - started:.0f} s", flush=True)
    table(rows_of(given.out))


def fleets(count: int) -> list[tuple[str, str, Recipe]]:
    """Recipes spread over all combinations of what is varied, in an order drawn once, data sets in turn."""
    choices = list(itertools.product((32, 128, 256), (4, 12, 30), (0.0, 1e-3, 1e-2), (0.0, 0.1)))
    found = []
    for number in range(count):
        data = ("digits", "mnist", "cifar10")[number % 3]
        order = np.random.default_rng(number % 3).permutation(len(choices))
        width, epochs, decay, smoothing = choices[order[number // 3 % len(choices)]]
        recipe = Recipe(
            model="mlp", model_options={"widths": (width,)}, epochs=epochs, batch_size=64, lr=0.1, weight_decay=decay,
            label_smoothing=smoothing,
        )  # fmt: skip
        found.append(
            (f"{data} width={width} epochs={epochs} decay={decay:g} smoothing={smoothing:g}", data, recipe)
        )
    return found


def records(data: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Records as columns (N, F) and labels; pictures made smaller by the mean of each square of pixels."""
    spec = data if data == "digits" else str(Path(os.environ["LOSSLAKE_SHARED_DATA"]) / data)
    loaded = load_dataset(spec)
    assert isinstance(loaded.x, np.ndarray)
    drawn = np.random.default_rng(0).permutation(len(loaded.y))[:RECORDS]
    x, y = loaded.x[drawn], loaded.y[drawn]
    if x.ndim == 4:
        side = 2 if x.shape[1] == 1 else 4
        small = x.reshape(*x.shape[:2], x.shape[2] // side, side, x.shape[3] // side, side)
        x = small.mean(axis=(3, 5)) / 255
    return x.reshape(len(x), -1).astype(np.float32), y.astype(np.int64)


def measured(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], recipe: Recipe, models: int
) -> list[dict[str, float]]:
    """A row a model: LiRA's TPR with the others as shadow models, and what this model alone tells."""
    everyone = np.zeros(len(y), dtype=bool)
    # One scale for all columns: a pixel that hardly ever varies would get a huge one of its own.
    mean, std = np.full(x.shape[1], x.mean(), np.float32), np.full(x.shape[1], x.std(), np.float32)
    data = TrainingData("benchmark", int(y.max()) + 1, x, y, everyone, mean, std)
    device = DeviceData(data, torch.device("cpu"), normalize=True)
    member = np.random.default_rng(1).random((models, len(y))) < 0.5
    plans = [RunPlan(f"run-{number}", "shadow", number) for number in range(models)]
    stack = train_stack(device, recipe, plans, list(member))
    inputs = device.inputs(device.x)
    phi = np.stack([phi_of(one.model, inputs, y) for one in stack if one.model is not None])
    member = member[[one.model is not None for one in stack]]
    matrix = PhiMatrix(phi[:, :, None].astype(np.float32), member, np.arange(len(y)), (0,))
    each = np.arange(len(phi))
    lira = lira_each(matrix, np.ones(len(phi), bool), each, mode="online", variance="bayes")
    found = []
    for number, inside in enumerate(member):
        loss = np.logaddexp(0, -phi[number])
        attack, own, tail = split(lira[number], inside), split(-loss, inside), split(loss, ~inside)
        row = {"gap": loss[~inside].mean() - loss[inside].mean(), "auc": auc(*own).value or 0.0}
        row["test"] = float((phi[number][~inside] > 0).mean())
        for rate in RATES:
            for what, sides in (("lira", attack), ("tail", tail), ("loss_tpr", own)):
                value = tpr_at_fpr(*sides, rate).value
                row[f"{what}@{rate:g}"] = np.nan if value is None else value
        found.append(row)
    return found


def phi_of(model: torch.nn.Module, inputs: torch.Tensor, y: npt.NDArray[np.int64]) -> Floats:
    """log p_y - log(1 - p_y) of each record."""
    with torch.no_grad():
        z = model.eval()(inputs).double().numpy()
    own = z[np.arange(len(y)), y]
    z[np.arange(len(y)), y] = -np.inf
    return np.asarray(own - np.logaddexp.reduce(z, axis=1))


def rows_of(out: Path) -> list[dict[str, str]]:
    """What was measured before."""
    if not out.exists():
        return []
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> None:
    """Fleets one by one, then each estimate from one model against the mean LiRA of its fleet."""
    names = np.array([row["fleet"] for row in rows])
    order = list(dict.fromkeys(names))
    data = np.array([name.split()[0] for name in order])
    print(
        "| fleet | non-members with p above one half | LiRA TPR at 0.1%, 1% | tail's TNR at 0.1%, 1% |\n| --- | --- | --- | --- |"
    )
    value = {key: np.array([float(row[key]) for row in rows]) for key in rows[0] if key != "fleet"}
    of_fleet = {
        key: np.array([np.nanmean(all_[names == name]) for name in order]) for key, all_ in value.items()
    }
    for number, name in enumerate(order):
        told = [f"{of_fleet[f'{what}@{rate:g}'][number]:.3f}" for what in ("lira", "tail") for rate in RATES]
        print(f"| {name} | {of_fleet['test'][number]:.2f} | {', '.join(told[:2])} | {', '.join(told[2:])} |")
    print(
        "\n| LiRA at | estimate | RMSE | bias | rank correlation over fleets | (by data set) | of single models |"
    )
    print("| --- " * 7 + "|")
    where = np.array([order.index(name) for name in names])
    for rate in RATES:
        truth = of_fleet[f"lira@{rate:g}"]
        for what in ESTIMATES:
            key = f"{what}@{rate:g}" if f"{what}@{rate:g}" in value else what
            single, mean = value[key], of_fleet[key]
            error = single - truth[where]
            scale = what in ("tail", "loss_tpr")
            cells = (
                [f"{np.sqrt(np.nanmean(error**2)):.3f}", f"{np.nanmean(error):+.3f}"] if scale else ["", ""]
            )
            within = [f"{d} {rank(mean[data == d], truth[data == d]):.2f}" for d in dict.fromkeys(data)]
            print(
                f"| {rate:.1%} | {what} | {' | '.join(cells)} | {rank(mean, truth)} | {', '.join(within)} | {rank(single, truth[where]):.2f} |"
            )
        error = value[f"lira@{rate:g}"] - truth[where]
        print(
            f"| {rate:.1%} | LiRA on one of the models itself | {np.sqrt(np.nanmean(error**2)):.3f} | | | | |"
        )


def rank(first: Floats, second: Floats) -> Floats:
    """Spearman's correlation."""
    known = ~np.isnan(first + second)
    return np.round(spearmanr(first[known], second[known]).statistic, 2)


if __name__ == "__main__":
    main()
