"""The four analyses of far.py in Polars and in NumPy, from the same Parquet files, for one process each.

    python benchmarks/far_peers.py LAKE JOB ENGINE

``polars`` groups by sample in its streaming engine; ``numpy`` reads run after run and adds up; ``matrix`` reads all runs into
one array (runs, samples) first, as codes of attacks do. What follows from the sums of each sample is the same NumPy for
all three. Prints JSON: scored (samples) and auc.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq
from synthetic_lake import EXPERIMENT

JOBS = ("lira", "lira-median", "rmia", "memorization", "lt-iqr")
ENGINES = ("polars", "numpy", "matrix")

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fit:
    """Of each sample, over the shadow runs of one side: how many, their centre (mean or median), variance (by n)."""

    n: npt.NDArray[np.int64]
    centre: Floats
    variance: Floats


@dataclass(frozen=True, eq=False)
class Signals:
    """The files of a lake's signals; values are phi for LiRA, whether the label was predicted, or its probability."""

    shadows: list[str]
    target: str
    audit: Flags
    job: str

    @property
    def column(self) -> str:
        return {"memorization": "correct", "rmia": "loss"}.get(self.job, "phi")

    def read(self, path: str) -> tuple[Floats, Flags]:
        """Values and membership of one run, in the order of sample ids."""
        table = pq.read_table(path, columns=["sample_id", "member", self.column], partitioning=None)
        values, member = np.empty(len(self.audit)), np.empty(len(self.audit), bool)
        ids = table["sample_id"].to_numpy()
        values[ids] = table[self.column].to_numpy()
        member[ids] = table["member"].to_numpy()
        return (np.exp(-values) if self.job == "rmia" else values), member


def signals_of(lake: Path, job: str) -> Signals:
    """Looks at the folders; a lake that was just made has one file a run, and no other run."""
    folders = sorted((lake / "signals" / f"experiment={EXPERIMENT}").iterdir())
    files = {folder.name.removeprefix("run="): str(*folder.glob("*.parquet")) for folder in folders}
    target = files.pop("target")
    samples = lake / "samples" / f"experiment={EXPERIMENT}"
    pool = pq.read_table(next(samples.glob("*.parquet")), columns=["pool"], partitioning=None)["pool"]
    audit = pool.to_numpy(zero_copy_only=False) == "audit"
    return Signals(list(files.values()), target, audit, job)


# --- sums of each sample ------------------------------------------------------------------------------------------


def by_polars(signals: Signals) -> tuple[Fit, Fit]:
    """Both sides by one grouping."""
    value = pl.col(signals.column).cast(pl.Float64)
    value = (-value).exp() if signals.job == "rmia" else value
    groups = pl.scan_parquet(signals.shadows, hive_partitioning=False).group_by("sample_id", "member")
    centre = value.median() if signals.job == "lira-median" else value.mean()
    frame = groups.agg(n=pl.len(), centre=centre, variance=value.var(ddof=0)).collect(engine="streaming")
    return _side(frame, len(signals.audit), True), _side(frame, len(signals.audit), False)


def _side(frame: pl.DataFrame, samples: int, member: bool) -> Fit:
    part = frame.filter(pl.col("member") == member)
    ids = part["sample_id"].to_numpy()
    found = Fit(np.zeros(samples, np.int64), np.full(samples, np.nan), np.full(samples, np.nan))
    found.n[ids], found.centre[ids] = part["n"].to_numpy(), part["centre"].to_numpy()
    found.variance[ids] = part["variance"].to_numpy()
    return found


def by_numpy(signals: Signals) -> tuple[Fit, Fit]:
    """Run after run, by sums of the values and of their squares; medians cannot be added up."""
    samples = len(signals.audit)
    n, total, squares = np.zeros((2, samples), np.int64), np.zeros((2, samples)), np.zeros((2, samples))
    for path in signals.shadows:
        values, member = signals.read(path)
        for side, used in enumerate((member, ~member)):
            own = np.where(used, values, 0.0)
            n[side] += used
            total[side] += own
            squares[side] += own * own
    with np.errstate(invalid="ignore"):
        inside, outside = (Fit(k, t / k, s / k - (t / k) ** 2) for k, t, s in zip(n, total, squares))
    return inside, outside


def by_matrix(signals: Signals) -> tuple[Fit, Fit]:
    """All runs at once, in float32 as they are stored."""
    shape = (len(signals.shadows), len(signals.audit))
    values, member = np.empty(shape, np.float32), np.empty(shape, bool)
    for row, path in enumerate(signals.shadows):
        values[row], member[row] = signals.read(path)
    centre = np.nanmedian if signals.job == "lira-median" else np.nanmean
    sides = []
    for used in (member, ~member):
        shown = np.where(used, values, np.float32(np.nan))
        middle = centre(shown, axis=0).astype(np.float64)
        sides.append(Fit(used.sum(axis=0), middle, np.nanvar(shown, axis=0).astype(np.float64)))
    return sides[0], sides[1]


# --- scores from them ---------------------------------------------------------------------------------------------


def scores(signals: Signals, inside: Fit, outside: Fit) -> Floats:
    """A score for each sample of the audit pool."""
    if signals.job == "memorization":
        return (inside.centre - outside.centre)[signals.audit]
    own, _ = signals.read(signals.target)
    with np.errstate(invalid="ignore", divide="ignore"):
        if signals.job == "rmia":
            both = np.log((inside.centre + outside.centre) / 2)
            ratio = (np.log(own) - np.where(signals.audit, both, np.log(outside.centre))).round(12)
            population = np.sort(ratio[~signals.audit])
            return (np.searchsorted(population, ratio, "left") / len(population))[signals.audit]
        found = _log_density(own, inside) - _log_density(own, outside)
    return found[signals.audit]


def _log_density(x: Floats, fit: Fit) -> Floats:
    return -0.5 * (np.log(2 * np.pi * fit.variance) + (x - fit.centre) ** 2 / fit.variance)


# --- the traces ---------------------------------------------------------------------------------------------------


def quantile_ranges(lake: Path, engine: str) -> Floats:
    """LT-IQR of every trace."""
    path = str(next((lake / "traces").rglob("*-eval.parquet")))
    if engine == "polars":
        between = pl.element().quantile(0.75, "linear") - pl.element().quantile(0.25, "linear")
        frame = pl.scan_parquet(path, hive_partitioning=False).select(
            pl.col("loss").cast(pl.List(pl.Float64)).list.eval(between).list.first()
        )
        return frame.collect(engine="streaming")["loss"].to_numpy()
    return np.concatenate([_ranges(traces) for traces in _traces(path, whole=engine == "matrix")])


def _traces(path: str, *, whole: bool) -> Iterator[npt.NDArray[np.float32]]:
    with pq.ParquetFile(path) as file:
        groups = range(file.num_row_groups)
        for some in [groups] if whole else [[group] for group in groups]:
            loss = file.read_row_groups(some, columns=["loss"])["loss"].combine_chunks()
            yield loss.flatten().to_numpy().reshape(len(loss), -1)


def _ranges(traces: npt.NDArray[np.float32]) -> Floats:
    low, high = np.percentile(traces.astype(np.float64), [25, 75], axis=1)
    return high - low


# --- how well they tell members -----------------------------------------------------------------------------------


def auc(score: Floats, member: Flags) -> float:
    """By ranks, ties half; samples without a score left out."""
    known = ~np.isnan(score)
    members, others = np.sort(score[known & member]), np.sort(score[known & ~member])
    below = np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")
    return float(below.mean() / 2 / len(others))


def main() -> None:
    """Compute, and print what can be compared with losslake's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", type=Path)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("engine", choices=ENGINES)
    given = parser.parse_args()
    signals = signals_of(given.lake, given.job)
    if given.job == "lt-iqr":
        found = quantile_ranges(given.lake, given.engine)
    else:
        fits = {"polars": by_polars, "numpy": by_numpy, "matrix": by_matrix}[given.engine]
        found = scores(signals, *fits(signals))
    _, member = signals.read(signals.target)
    area = auc(found, member[signals.audit])
    print(json.dumps({"scored": int((~np.isnan(found)).sum()), "auc": area}))


if __name__ == "__main__":
    main()
