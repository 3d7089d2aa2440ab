"""Whether attacks claim membership where there is none: models that remember nothing, over who trains on what.

    python benchmarks/nulls.py [--lakes 2] [--models 4 8 16 64] [--each | --signal] [--attacks ramia shadow-nn attack-d attack-l]

Every lake is imported and analyzed as a user's is: one target, 7,200 records in parts of 400, and logits that say nothing of who
was trained on. An AUC's 95% interval must hold .5 in 93% of the parts, and the mean AUC lie within its scatter of .5. ``--signal`` plants an effect and says
how much of it is found with what losslake leaves out of the fits, and with the same counts for every record.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import auc, split, tpr_at_fpr
from losslake.collect.experiment.membership import design_members
from losslake.collect.importers.arrays import import_arrays
from losslake.store.errors import NotEnoughData
from losslake.store.format.ranges import parse_range
from losslake.store.format.records import Role, RunInfo
from losslake.store.lake import Lake
from losslake.store.write.run_writer import RunWriter

RECORDS, POPULATION, PART = 7_200, 200, 400
BAR = 0.93
ATTACKS = (
    "lira",
    "lira[center=median]",
    "lira[mode=offline]",
    "lira[queries=gaussian]",
    "lira[variance=pooled]",
    "lira[variance=sample]",
    "lira[center=median,variance=pooled]",
    "lira[mode=offline,variance=pooled]",
    "lira[mode=offline,variance=sample]",
    "lira[queries=gaussian,variance=pooled]",
    "rmia",
    "rmia[mode=offline,a=0.3]",
    "rmia[rank=share]",
    "calibrated",
    "attack-r",
    "attack-r[interpolate=true]",
    "attack-s",
    "entropy",
)
LEFT_OUT = 120
"""Records that runs are made without, for attack-l."""

RANGE = "noise:3:0.1"
ROLES: dict[str, Role] = {"attack-d": "distilled", "attack-l": "leave_one_out"}
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def coin(models: int, rng: np.random.Generator) -> Mask:
    """A coin for every model and record."""
    return design_members(RECORDS, models, design="bernoulli", seed=_seed(rng))


def halves(models: int, rng: np.random.Generator) -> Mask:
    """A half of the records for every model, each drawn by itself."""
    return np.argsort(rng.random((models, RECORDS)), axis=1) < RECORDS // 2


def balanced(models: int, rng: np.random.Generator) -> Mask:
    """Each record in half of the models."""
    return design_members(RECORDS, models, design="balanced", seed=_seed(rng))


def paired(models: int, rng: np.random.Generator) -> Mask:
    """Every second model trains on what the one before it does not, of a random half each."""
    return design_members(RECORDS, models, design="paired", seed=_seed(rng))


def tf_privacy(models: int, rng: np.random.Generator) -> Mask:
    """As in TensorFlow Privacy's LiRA: uniform numbers, and of each record the models with the lowest ones."""
    order = rng.uniform(0, 1, (models, RECORDS)).argsort(0)
    return order < int(0.5 * models)


def privacy_meter(models: int, rng: np.random.Generator) -> Mask:
    """As in Privacy Meter: indices shuffled a pair, the first half to one model and the second to the other."""
    keep = np.ones((models, RECORDS), dtype=bool)
    indices = np.arange(RECORDS)
    for pair in range(models // 2):
        rng.shuffle(indices)
        keep[2 * pair, indices[RECORDS // 2 :]] = False
        keep[2 * pair + 1, indices[: RECORDS // 2]] = False
    return keep


def own_coin(models: int, rng: np.random.Generator) -> Mask:
    """As `losslake collect` has it: a fleet in balance beside a target with a coin of its own."""
    fleet = balanced(models, rng)
    return np.concatenate([rng.random((1, RECORDS)) < 0.5, fleet])


DESIGNS: dict[str, Callable[[int, np.random.Generator], Mask]] = {
    "coin": coin,
    "halves": halves,
    "balanced": balanced,
    "paired": paired,
    "tf-privacy": tf_privacy,
    "privacy-meter": privacy_meter,
    "own coin": own_coin,
}


def made(folder: Path, keep: Mask, rng: np.random.Generator, effect: float = 0.0) -> Lake:
    """A lake of these runs: records that are hard or easy and vary more or less, runs that are surer or less sure."""
    models = len(keep)
    keep = np.concatenate([keep, np.zeros((models, POPULATION), bool)], axis=1)
    records = keep.shape[1]
    labels = rng.integers(0, 3, records)
    spread = np.asarray(rng.gamma(4, 0.25, records))[:, None]
    logits = np.asarray(rng.normal(0, 1, (models, records, 3)) * spread)
    logits[:, np.arange(records), labels] += rng.normal(2, 1, records) + rng.normal(0, 0.3, (models, 1))
    logits[:, np.arange(records), labels] += effect * rng.gamma(1, 1, records) * keep
    np.savez(
        folder / "runs.npz",
        labels=labels,
        keep=keep,
        population=np.arange(records) >= RECORDS,
        logits=logits[:, :, None].astype(np.float32),
    )
    lake = Lake.open(folder / "lake", create=True)
    import_arrays(lake, "e", folder / "runs.npz", target="run-0000")
    return lake


def made_for(name: str, folder: Path, keep: Mask, rng: np.random.Generator) -> Lake:
    """A lake with what this attack compares the target with; of most attacks it is that of `made`."""
    if name == "ramia":
        return _with_neighbours(folder, keep, rng)
    return _derived(folder, keep, rng, name) if name in ROLES else made(folder, keep, rng)


def _phi(keep: Mask, rng: np.random.Generator) -> Floats:
    """Records that are hard or easy and vary more or less, and runs that are surer or less sure: (runs, records)."""
    runs, records = keep.shape
    spread = rng.gamma(4, 0.25, records)
    return rng.normal(2, 1, records) + rng.normal(0, 0.3, (runs, 1)) + spread * rng.normal(size=keep.shape)


def _with_neighbours(folder: Path, keep: Mask, rng: np.random.Generator) -> Lake:
    """Three neighbours of every record, which each run answers nearly as it answers the record."""
    keep = np.concatenate([keep, np.zeros((len(keep), POPULATION), bool)], axis=1)
    phi = _phi(keep, rng)
    pool = np.where(np.arange(keep.shape[1]) >= RECORDS, "population", "audit")
    lake = Lake.open(folder / "lake", create=True)
    lake.create_experiment("e", pa.table({"pool": pool}))
    for number, members in enumerate(keep):
        with lake.write_run("e", f"run-{number:04d}", members=members) as writer:
            for query in parse_range(RANGE).queries:
                _write(writer, np.arange(len(pool)), query, phi[number] + rng.normal(0, 0.5, len(pool)))
            role: Role = "shadow" if number else "target"
            writer.commit(RunInfo(role=role, extra={"recording": {"queries": [RANGE]}}))
    return lake


def _derived(folder: Path, keep: Mask, rng: np.random.Generator, name: str) -> Lake:
    """As many runs as there are models but the target: distilled from it, or without one record, so many for each of a few."""
    members = keep[0] if name == "attack-d" else keep[0, :LEFT_OUT]
    phi = _phi(np.broadcast_to(members, (len(keep), len(members))), rng)
    every = np.arange(len(members))
    lake = Lake.open(folder / "lake", create=True)
    lake.create_experiment("e", pa.table({"pool": pa.array(["audit"] * len(members))}))
    with lake.write_run("e", "run-0000", members=members) as writer:
        _write(writer, every, 0, phi[0])
        writer.commit(RunInfo(role="target"))
    for number in range(1, len(keep)):
        for sample in [None] if name == "attack-d" else every:
            ids = every if sample is None else np.array([sample])
            inside = np.zeros_like(members) if sample is None else members & (every != sample)
            extra = {} if sample is None else {"sample_id": int(sample)}
            run = f"{ROLES[name].replace('_', '-')}-{'' if sample is None else sample}-{number}"
            with lake.write_run("e", run, members=inside) as writer:
                _write(writer, ids, 0, phi[number, ids])
                writer.commit(RunInfo(role=ROLES[name], parent="run-0000", extra=extra))
    return lake


def _write(writer: RunWriter, ids: npt.NDArray[np.int64], query: int, phi: Floats) -> None:
    writer.append_signals(ids, np.full(len(ids), query), None, loss=np.logaddexp(0, -phi), phi=phi)


def cut_to_smallest(keep: Mask, rng: np.random.Generator) -> Mask:
    """Which (run, record) are kept so that each record has as many other runs with and without it as the one with fewest."""
    others = keep[1:]
    count = int(min(others.sum(axis=0).min(), (~others).sum(axis=0).min()))
    order = rng.random(others.shape)
    place = np.where(
        others,
        np.where(others, order, 2).argsort(axis=0).argsort(axis=0),
        np.where(~others, order, 2).argsort(axis=0).argsort(axis=0),
    )
    return np.concatenate([np.ones((1, keep.shape[1]), bool), place < count])


def cut(lake: Lake, held: Mask, folder: Path) -> Lake:
    """The same lake with no more signals than ``held`` marks, (runs, records)."""
    fewer = Lake.open(folder / "cut", create=True)
    fewer.create_experiment("e", lake.samples("e").select(["label", "pool"]))
    for run, rows in zip(lake.runs("e"), held, strict=True):
        found = lake.scan("signals", "e").filter(pl.col("run") == run.run).sort("sample_id").collect()
        member = found["member"].to_numpy()
        part = found.filter(pl.Series(np.append(rows, np.ones(POPULATION, bool))))
        with fewer.write_run("e", run.run, members=member) as writer:
            ids, query, label, loss, phi, correct = (
                part[name].to_numpy() for name in ("sample_id", "query", "label", "loss", "phi", "correct")
            )
            writer.append_signals(ids, query, label, loss=loss, phi=phi, correct=correct)
            writer.commit(RunInfo(role=run.info.role))
    return fewer


def signal(designs: list[str], models: list[int], lakes: int, attacks: list[str]) -> None:
    """One line an attack, design and number of models: AUC and TPR at an FPR of 1%, both ways."""
    print("| attack | design | models | AUC as it is | cut to the smallest count | TPR at 1% | cut |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for design in designs:
        for count in models:
            found: dict[str, list[list[float]]] = {name: [] for name in attacks}
            for number in range(lakes):
                rng = np.random.default_rng([number, count, list(DESIGNS).index(design)])
                with tempfile.TemporaryDirectory() as folder:
                    keep = DESIGNS[design](count, rng)
                    lake = made(Path(folder), keep, rng, effect=1.0)
                    less = cut(lake, cut_to_smallest(keep, rng), Path(folder))
                    for name in attacks:
                        values = [_found(one, name) for one in (lake, less)]
                        found[name].append([*np.transpose(values).ravel()])
            for name in attacks:
                area, area_cut, tpr, tpr_cut = np.mean(found[name], axis=0)
                print(
                    f"| {name} | {design} | {count} | {area:.3f} | {area_cut:.3f} | {tpr:.3f} | {tpr_cut:.3f} |",
                    flush=True,
                )


def _found(lake: Lake, name: str) -> tuple[float, float]:
    """AUC and TPR at an FPR of 1%; NaN where too few runs are left."""
    try:
        sides = split(*scored(lake, name))
    except NotEnoughData:
        return np.nan, np.nan
    area, rate = auc(*sides).value, tpr_at_fpr(*sides, 0.01).value
    return np.nan if area is None else area, np.nan if rate is None else rate


def scored(lake: Lake, name: str) -> tuple[Floats, Mask]:
    """Score and membership in the target of each record, by the analysis as a user runs it."""
    with open_source(lake, "e", "run-0000") as source:
        analysis, options = source.analysis(name)
        frame = run_analysis(source, analysis, options).scores.frame
    return frame["score"].cast(float).fill_null(np.nan).to_numpy(), frame["member"].to_numpy()


def no_signal(designs: list[str], models: list[int], lakes: int, attacks: list[str], each: bool) -> None:
    """One line a design and number of models, over all attacks; with ``each`` one an attack too.

    The share of intervals with .5, and the attack whose mean AUC lies furthest from it in its standard errors.
    """
    print("| design | models | attack | parts | holds .5 | mean AUC | standard errors off |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    every: dict[str, list[bool]] = {name: [] for name in attacks}
    for design in designs:
        for count in models:
            held, areas = _parts_of(design, count, lakes, attacks)
            lines = []
            for name in attacks:
                every[name] += held[name]
                mean = float(np.mean(areas[name]))
                off = (mean - 0.5) / (np.std(areas[name], ddof=1) / np.sqrt(len(areas[name])))
                lines.append((abs(off), name, float(np.mean(held[name])), mean, off))
            if each:
                for _, name, share, mean, off in lines:
                    print(
                        f"| {design} | {count} | {name} | {len(held[name])} | {share:.1%} | {mean:.4f} | {off:+.1f} |"
                    )
            _, name, _, mean, off = max(lines)
            share = float(np.mean([line[2] for line in lines]))
            parts = sum(len(one) for one in held.values())
            print(
                f"| {design} | {count} | all; furthest: {name} | {parts} | {share:.1%} | {mean:.4f} | {off:+.1f} |",
                flush=True,
            )
    for name, all_parts in every.items():
        print(f"| all | all | {name} | {len(all_parts)} | {np.mean(all_parts):.1%} | | |")
    print(f"\nThe least is to be {BAR:.0%}, less two standard errors of so many parts.")


def _parts_of(
    design: str, count: int, lakes: int, attacks: list[str]
) -> tuple[dict[str, list[bool]], dict[str, list[float]]]:
    """Whether .5 lies in the interval of each part, and the AUC of each, of every attack."""
    held: dict[str, list[bool]] = {name: [] for name in attacks}
    areas: dict[str, list[float]] = {name: [] for name in attacks}
    shared = [name for name in attacks if name != "ramia" and name not in ROLES]
    for number in range(lakes):
        for together in (shared, *([name] for name in attacks if name not in shared)):
            rng = np.random.default_rng([number, count, list(DESIGNS).index(design)])
            with tempfile.TemporaryDirectory() as folder:
                if together:
                    lake = made_for(together[0], Path(folder), DESIGNS[design](count, rng), rng)
                for name in together:
                    for found in _by_part(*scored(lake, name)):
                        assert found.value is not None
                        assert found.ci_low is not None
                        assert found.ci_high is not None
                        held[name].append(found.ci_low <= 0.5 <= found.ci_high)
                        areas[name].append(found.value)
    return held, areas


def _by_part(score: Floats, member: Mask) -> Iterator[Metric]:
    for start in range(0, len(score), PART):
        part = slice(start, start + PART)
        yield auc(*split(score[part], member[part]))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 30))


def main() -> None:
    """Simulate, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lakes", type=int, default=2, help="a design and number of models")
    parser.add_argument("--models", type=int, nargs="+", default=[4, 8, 16, 64])
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=DESIGNS)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--each", action="store_true", help="a line for every attack too")
    parser.add_argument("--signal", action="store_true", help="with an effect: what is found")
    given = parser.parse_args()
    if given.signal:
        signal(given.designs, given.models, given.lakes, given.attacks)
        return
    no_signal(given.designs, given.models, given.lakes, given.attacks, given.each)


if __name__ == "__main__":
    main()
