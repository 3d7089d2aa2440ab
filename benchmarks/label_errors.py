"""Labels flipped by hand on CIFAR-10: how many of them `analyze suspects` and cleanlab put first, on the same probabilities.

    pip install cleanlab
    python benchmarks/label_errors.py CIFAR10_FOLDER [--records 5000] [--shadows 8] [--epochs 15]

2% of the labels are another class, at random. Shadow models train on them as they are; the probabilities are the mean over
those that were not trained on a record. Precision at the top 2%: the share of flipped labels among as many records as were flipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.lake import Lake
from mnist_cifar_mixture import balanced, read

FLIPPED = 0.02
CLASSES = 10

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Flip, train, rank, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--shadows", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    frame = balanced(read(given.cifar10), given.records, given.seed)
    true = frame["label"].to_numpy()
    flipped = np.zeros(len(true), dtype=np.bool_)
    flipped[rng.choice(len(true), round(FLIPPED * len(true)), replace=False)] = True
    label = np.where(flipped, (true + rng.integers(1, CLASSES, len(true))) % CLASSES, true)
    with tempfile.TemporaryDirectory() as folder:
        data, place = Path(folder) / "flipped.parquet", Path(folder) / "lake"
        frame.select("image").with_columns(label=pl.Series(label)).write_parquet(data)
        recipe = f"--model lenet5 --epochs {given.epochs} --batch-size 32 --lr 0.02 --flip".split()
        common = ["--lake", str(place), "--experiment", "flipped"]
        for command in (
            [
                "target",
                *common,
                "--dataset",
                str(data),
                "--label",
                "label",
                *recipe,
                "--features",
                "--queries",
                "original",
            ],
            ["shadows", *common, "--count", str(given.shadows), "--queries", "original", "--no-traces"],
        ):
            subprocess.run([sys.executable, "-m", "losslake.cli", "collect", *command], check=True)
        lake = Lake.open(place)
        assert lake.samples("flipped")["label"].to_pylist() == label.tolist()
        with open_source(lake, "flipped") as source:
            found = run_analysis(source, find("suspects")).scores.frame
        probability, right = out_of_sample(lake, len(label), true)
    print(
        f"\nModels without a record get {right:.3f} of the true labels right; {int(flipped.sum())} of {len(label)} labels are flipped.\n"
    )
    score = found["score"].to_numpy()
    scores = {
        "losslake, score of suspects": score,
        "losslake, minus the target's AUM": -found["aum"].fill_null(np.inf).to_numpy(),
    }
    for method in ("normalized_margin", "self_confidence", "confidence_weighted_entropy"):
        scores[f"cleanlab, {method}"] = -get_label_quality_scores(label, probability, method=method)
    print("| ranked by | precision at the top 2% | average precision |\n| --- | --- | --- |")
    for name, values in scores.items():
        print(f"| {name} | {precision(values, flipped):.3f} | {average_precision(values, flipped):.3f} |")
    print(
        "\n| called mislabelled by | records | of them flipped | of the flipped |\n| --- | --- | --- | --- |"
    )
    issues = find_label_issues(label, probability, filter_by="confident_learning")
    for name, marked in (
        ("losslake, kind", (found["kind"] == "may be mislabelled").to_numpy()),
        ("cleanlab, confident_learning", issues),
        ("cleanlab, prune_by_noise_rate", find_label_issues(label, probability)),
    ):
        print(
            f"| {name} | {int(marked.sum())} | {flipped[marked].mean():.3f} | {marked[flipped].mean():.3f} |"
        )


def out_of_sample(lake: Lake, samples: int, true: npt.NDArray[np.int64]) -> tuple[Floats, float]:
    """Mean probabilities (samples, classes) over the shadow models without each record, made beside losslake's own way."""
    rows = lake.sql(
        "select sample_id, logits::float[] as logits from signals where query = 0 and not member and run like 'shadow%' order by sample_id",
        experiment="flipped",
    )
    logits = np.stack(rows["logits"].to_list()).astype(np.float64)
    parts = np.exp(logits - logits.max(axis=1, keepdims=True))
    ids = rows["sample_id"].to_numpy()
    total = np.zeros((samples, CLASSES))
    np.add.at(total, ids, parts / parts.sum(axis=1, keepdims=True))
    return total / np.bincount(ids, minlength=samples)[:, None], float(
        (logits.argmax(axis=1) == true[ids]).mean()
    )


def precision(score: Floats, wrong: npt.NDArray[np.bool_]) -> float:
    """The share of wrong labels among as many records, those with the highest scores, as labels are wrong."""
    return float(wrong[np.argsort(-score, kind="stable")[: wrong.sum()]].mean())


def average_precision(score: Floats, wrong: npt.NDArray[np.bool_]) -> float:
    """Mean precision at each wrong label."""
    hit = wrong[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean())


if __name__ == "__main__":
    main()
