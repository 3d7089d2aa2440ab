"""What defences take from attacks, and what they cost: digits, a small MLP, one audit for each defence.

An undefended model and the same with label smoothing, early stopping and DP-SGD are trained on the same records, each
with shadow models trained by the same defence; the masks hide part of what the undefended model answers. Every defence
is compared with the undefended model by `losslake analyze defences`. A few minutes on two cores.

    python benchmarks/defences.py [LAKE] [--shadows 16]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.metric import Metric
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.recipe import Recipe
from losslake.store.lake import Lake

PLAIN = Recipe(
    model="mlp",
    model_options={"widths": (256,)},
    epochs=100,
    batch_size=32,
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0,
)
PRIVATE = replace(PLAIN, epochs=40, batch_size=128, lr=0.5, momentum=0.0, dp_clip=1.0, dp_noise=1.0)
TRAINED = {
    "undefended": PLAIN,
    "label-smoothing": replace(PLAIN, label_smoothing=0.2),
    "early-stopping": replace(PLAIN, early_stop=3),
    "dp-weak": replace(PRIVATE, dp_noise=None, dp_epsilon=50.0),
    "dp-strong": replace(PRIVATE, dp_noise=None, dp_epsilon=4.0),
}
MASKS = ("round:1", "top-k:1", "label-only")
ATTACKS = ("lira", "rmia", "loss")
FPR = 0.01


def main() -> None:
    """Train, attack, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("lake", nargs="?", type=Path)
    parser.add_argument("--shadows", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)  # small steps: threads only wait for each other
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(given.lake or Path(folder) / "lake", create=True)
        for name, recipe in TRAINED.items():
            started = time.perf_counter()
            train(lake, name, recipe, given.shadows)
            print(f"{name}: trained in {time.perf_counter() - started:.0f} s", flush=True)
        heads = [f"{score} {what}" for score in ATTACKS for what in ("AUC", "change")]
        print(
            "\n| defence | epsilon | train | test | " + " | ".join(heads) + f" | lira TPR at {FPR:.0%} FPR |"
        )
        print("| --- " * (len(heads) + 5) + "|")
        with open_source(lake, "undefended") as source:
            for name in list(TRAINED)[1:]:
                comparison = find_evaluation("defences")
                found = run_evaluation(source, comparison, ATTACKS, {"with": name, "fpr": (FPR,)}).metrics
                if name == list(TRAINED)[1]:
                    print(row("undefended", [m for m in found if m.metric != "difference"]))
                print(row(name, found))
            for mask in MASKS:
                print(masked(source, mask))


def train(lake: Lake, name: str, recipe: Recipe, shadows: int) -> None:
    """A target and its shadow models, all by one recipe."""
    prepared = prepare_experiment(
        lake, name, dataset="digits", samples=1000, population=0.2, seed=0, pictures=False
    )
    collect_target(lake, name, recipe=recipe, prepared=prepared, device="cpu")
    collect_shadows(lake, name, count=shadows, prepared=prepared, device="cpu")


def row(name: str, metrics: list[Metric] | tuple[Metric, ...]) -> str:
    """A line of the table from the metrics of one comparison."""
    own = {
        (m.metric, m.parameters.get("score"), m.parameters.get("of")): m
        for m in metrics
        if m.parameters["experiment"] == name
    }
    costs = [own.get((what, None, None)) for what in ("epsilon", "train_accuracy", "test_accuracy")]
    cells = ["" if cost is None or cost.value is None else f"{cost.value:.3g}" for cost in costs]
    for score in ATTACKS:
        cells += [told(own.get(("auc", score, None))), told(own.get(("difference", score, "auc")))]
    return "| " + " | ".join([name, *cells, told(own.get(("tpr_at_fpr", "lira", None)))]) + " |"


def masked(source: Source, mask: str) -> str:
    """A line for a mask on the undefended model; the figures of one experiment, so without a change."""
    cells = ["", "", ""]
    for score in ATTACKS:
        outcome = run_analysis(source, find(score), {"mask": mask}, fprs=(FPR,))
        area, rate = outcome.metrics[:2]
        cells += [told(area), ""]
        if score == "lira":
            last = told(rate)
    return "| " + " | ".join([f"undefended, {mask}", *cells, last]) + " |"


def told(metric: Metric | None) -> str:
    """A value with its interval."""
    if metric is None:
        return ""
    value = "–" if metric.value is None else f"{metric.value:.3f}"
    return f"{value} ({metric.ci_low:.3f} to {metric.ci_high:.3f})"


if __name__ == "__main__":
    main()
