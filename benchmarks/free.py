"""Is there one free score for all: scores of a target's loss trace alone, judged by what LiRA finds with all other models.

LAKE holds experiments whose shadow runs have signals and the loss of each record after each epoch (`losslake collect shadows --trace loss`, `collect import
arrays`, or benchmarks/science.py). Every model is the target in turn, up to --targets of them. Printed are: precision among the top 1% and 5% of members, members that LiRA finds at an FPR of
0.1% being right; then, for each data set, what the score that is best on all others comes to there (the part of an experiment's name before "-" is
its data set), and a logistic regression on ranks that was fitted to the others.

    python benchmarks/free.py LAKE [EXPERIMENT ...] [--targets 24]
    LOSSLAKE_SHARED_DATA=... python benchmarks/free.py LAKE --collect FOLDER    # trains the convolutional fleets there first; FOLDER keeps their records
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from losslake.analysis.attacks.lira_each import lira_each
from losslake.analysis.attacks.phi_matrix import read_phi
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.statistics.roc import split, threshold_at_fpr
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.recipe import Recipe
from losslake.store.lake import Lake
from science_data import DATA, PLAIN, SEED
from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]
Scores = dict[str, Floats]
Target = tuple[Scores, npt.NDArray[np.bool_]]

OFFERED = "4(1 - p^1/4), first 40%, less final"
"""What `losslake analyze free` computes."""

FPR = 0.001
SHARES = (0.01, 0.05)
KNOWN = ("lt-iqr", "error 1-3", "first-half-minus-final", "sd of p", "mean loss", "mean error")
"""Scores that people know; the others are of one family, early loss less the final one, with the loss as it is or held down."""

CONVOLUTIONAL = {
    "cifar10-cnn": (32, Recipe(**{**PLAIN.__dict__, "model": "cnn", "model_options": {}, "epochs": 20})),
    "mnist-cnn": (32, Recipe(**{**PLAIN.__dict__, "model": "cnn", "model_options": {}, "epochs": 12})),
    "cifar10-resnet20": (24, Recipe(**{**PLAIN.__dict__, "model": "resnet20", "model_options": {}, "epochs": 15, "lr": 0.1})),
    "mnist-resnet20": (24, Recipe(**{**PLAIN.__dict__, "model": "resnet20", "model_options": {}, "epochs": 10, "lr": 0.1})),
}  # fmt: skip
"""Experiments beside those of `science.py`, whose models are MLPs: how many models, and how they are trained."""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("lake", type=Path)
    parser.add_argument("experiments", nargs="*")
    parser.add_argument("--targets", type=int, default=24)
    parser.add_argument(
        "--collect", type=Path, metavar="FOLDER", help="train CNNs and ResNets on the records in FOLDER/data"
    )
    given = parser.parse_args()
    lake = Lake.open(given.lake, create=given.collect is not None)
    if given.collect is not None:
        collect(lake, given.collect)
    names = given.experiments or list(lake.experiments())
    targets = {name: read(lake, name, given.targets) for name in names}
    found = {
        name: {score: np.array([precision(own[score], right) for own, right in of]) for score in of[0][0]}
        for name, of in targets.items()
    }
    table(found)
    left_out(found, targets)
    offered(found)


def collect(lake: Lake, folder: Path) -> None:
    """Train the models of `CONVOLUTIONAL` that are not there yet, on the records that `science.py` takes."""
    for name, (count, recipe) in CONVOLUTIONAL.items():
        data = DATA[name.partition("-")[0]]
        prepared = prepare_experiment(
            lake, name, dataset=data.make(folder / "data"), samples=data.samples, population=data.population, seed=SEED, pictures=False
        )  # fmt: skip
        collect_shadows(
            lake, name, count=count, design="bernoulli", recipe=recipe, prepared=prepared, traces=True, queries="original", device="cpu", jobs=1
        )  # fmt: skip


def read(lake: Lake, experiment: str, most: int) -> list[Target]:
    """Scores of the members of each target, and which of them LiRA finds."""
    with open_source(lake, experiment) as source:
        runs = [run for run in source.runs if {"signals", "traces"} <= run.tables()]
        matrix = read_phi(source, runs, [0])
        rows = np.linspace(0, len(runs) - 1, min(most, len(runs))).astype(np.intp)
        lira = lira_each(matrix, np.ones(len(runs), bool), rows, mode="online", variance="bayes")
        targets = []
        for row, attacked in zip(rows, lira, strict=True):
            frame = source.rows(runs[row], "traces", ["sample_id", "source", "loss"])
            frame = frame.filter((pl.col("source") == "eval") & pl.col("sample_id").is_in(matrix.sample_id))
            loss = np.stack(frame.sort("sample_id")["loss"].to_list()).astype(np.float64)
            member = matrix.member[row]
            right = attacked > threshold_at_fpr(split(attacked, member)[1], FPR)
            targets.append((scores_of(loss[member]), right[member]))
    return targets


def scores_of(loss: Floats) -> Scores:
    """Each score of the traces (records, epochs + 1); higher = more exposed."""
    epochs = loss.shape[1] - 1
    p = np.exp(-loss)
    found = {
        "lt-iqr": np.subtract(*np.quantile(loss, [0.75, 0.25], axis=1)),
        "error 1-3": 1 - p[:, 1:4].mean(axis=1),
        "first-half-minus-final": loss[:, : (epochs + 1) // 2].mean(axis=1) - loss[:, -1],
        "sd of p": p.std(axis=1),
        "mean loss": loss.mean(axis=1),
        "mean error": 1 - p.mean(axis=1),
    }
    held = {
        "loss": loss,
        "log(1 + loss)": np.log1p(loss),
        "loss up to 3": loss.clip(max=3),
        "loss up to 5": loss.clip(max=5),
        "4(1 - p^1/4)": 4 * (1 - p**0.25),
        "error": 1 - p,
    }
    for share in (0.12, 0.25, 0.33, 0.4, 0.5):
        first = max(1, round(epochs * share))
        for name, values in held.items():
            found[f"{name}, first {share:.0%}, less final"] = (
                values[:, 1 : first + 1].mean(axis=1) - values[:, -1]
            )
    return found


def precision(score: Floats, right: npt.NDArray[np.bool_]) -> list[float]:
    """Among the top shares of the members."""
    order = np.argsort(-score, kind="stable")
    return [float(right[order][: max(1, int(share * len(order)))].mean()) for share in SHARES]


def table(found: dict[str, Scores]) -> None:
    """Mean precision over targets of each score, and how far it is behind the best of the known ones."""
    behind = {
        score: np.array([gap(of, score) for of in found.values()]) for score in next(iter(found.values()))
    }
    print(
        f"| score | behind the best known one: mean, most | {' | '.join(found)} |\n| --- | --- {'| --- ' * len(found)}|"
    )
    for score in (*KNOWN, *sorted(set(behind) - set(KNOWN), key=lambda one: -behind[one].mean())):
        cells = [" / ".join(f"{value:.2f}" for value in of[score].mean(axis=0)) for of in found.values()]
        print(f"| {score} | {-behind[score].mean():.3f}, {-behind[score].min():.3f} | {' | '.join(cells)} |")


def gap(of: Scores, score: str) -> Floats:
    """Mean precision less that of the best known score, at each share; below 0 = worse."""
    best = np.max([of[known].mean(axis=0) for known in KNOWN], axis=0)
    return np.asarray(of[score].mean(axis=0) - best)


def left_out(found: dict[str, Scores], targets: dict[str, list[Target]]) -> None:
    """For each data set what was chosen, and fitted, on the others."""
    print(
        "\n| judged on | chosen on the other data sets | precision | less first-half-minus-final | less the best known one there | logistic regression |"
    )
    print("| --- " * 6 + "|")
    kind = {name: name.partition("-")[0] for name in found}
    for name, of in found.items():
        others = [other for other in found if kind[other] != kind[name]]
        if not others:
            continue
        chosen = max(of, key=lambda score: np.mean([gap(found[other], score) for other in others]))
        learnt = fitted([one for other in others for one in targets[other]])
        own = [precision(learnt.decision_function(inputs(scores)), right) for scores, right in targets[name]]
        best = [max(KNOWN, key=lambda score, at=at: of[score].mean(axis=0)[at]) for at in range(len(SHARES))]  # type: ignore[misc]
        ahead = of[chosen] - np.stack([of[score][:, at] for at, score in enumerate(best)], axis=1)
        cells = [
            name, chosen, " / ".join(f"{value:.2f}" for value in of[chosen].mean(axis=0)),
            told(of[chosen] - of["first-half-minus-final"]), f"{told(ahead)} ({' / '.join(best)})",
            " / ".join(f"{value:.2f}" for value in np.mean(own, axis=0)),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def offered(found: dict[str, Scores]) -> None:
    """What is offered under the name of free, less LT-IQR, less the mean of the first half minus the final loss, less the best known score of each fleet."""
    rivals = ("lt-iqr", "first-half-minus-final")
    print(
        f"\n| {OFFERED} | precision | {' | '.join(f'less {rival}' for rival in rivals)} | less the best known one |"
    )
    print("| --- " * (3 + len(rivals)) + "|")
    for name, of in found.items():
        best = [max(KNOWN, key=lambda score, at=at: of[score].mean(axis=0)[at]) for at in range(len(SHARES))]  # type: ignore[misc]
        ahead = of[OFFERED] - np.stack([of[score][:, at] for at, score in enumerate(best)], axis=1)
        cells = [
            name, " / ".join(f"{value:.2f}" for value in of[OFFERED].mean(axis=0)),
            *(told(of[OFFERED] - of[rival]) for rival in rivals), f"{told(ahead)} ({' / '.join(best)})",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def told(difference: Floats) -> str:
    """Means over targets with their 95% intervals."""
    reach = 1.96 * difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    return " / ".join(f"{m:+.3f} +- {r:.3f}" for m, r in zip(difference.mean(axis=0), reach, strict=True))


def inputs(scores: Scores) -> Floats:
    """Ranks of the known scores and their powers, which tell the top apart."""
    ranks = np.stack([np.argsort(np.argsort(scores[name])) / len(scores[name]) for name in KNOWN], axis=1)
    return np.concatenate([ranks**power for power in (1, 2, 4, 8)], axis=1)


def fitted(targets: Sequence[Target]) -> LogisticRegression:
    """A regression of what LiRA finds on the ranks; each target counts alike."""
    x = np.concatenate([inputs(scores) for scores, _ in targets])
    right = np.concatenate([right for _, right in targets])
    weight = np.concatenate([np.full(len(right), 1 / len(right)) for _, right in targets])
    return LogisticRegression(max_iter=300).fit(x, right, sample_weight=weight / weight.mean())


if __name__ == "__main__":
    main()
