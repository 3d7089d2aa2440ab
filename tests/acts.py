"""What processes do with the lake of `protocol.Protocol`, and which samples are in it afterwards.

Every writer has a mark, which all its rows have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from losslake.store.errors import AlreadyExists, NotFound
from losslake.store.format.records import Run, RunInfo
from losslake.store.lake import Lake
from losslake.store.read.catalogue import Catalogue, fingerprint
from losslake.store.write.results import save_result
from losslake.store.write.run_writer import RunWriter

N = 5
"""Samples; the highest is never forgotten."""


class Broken(AssertionError):
    """The lake shows what it must not, or not what it must."""


def write(lake: Lake, run: str, mark: int) -> None:
    """A run whose losses are all the mark."""
    members = np.arange(N) % 2 == 0
    members[list(lake.experiment("e").forgotten)] = False
    with lake.write_run("e", run, members=members) as writer:
        rows_to(writer, mark)


def rows_to(writer: RunWriter, mark: int) -> None:
    """Rows of a mark, and the commit."""
    ids = np.arange(N)
    writer.append_epoch("eval", 0, ids, loss=np.full(N, float(mark)))
    writer.append_signals(ids, ids * 0, None, loss=np.full(N, float(mark)), phi=ids * 1.0)
    writer.commit(RunInfo(role="shadow", seed=mark))


Rows = Callable[[Run, str], pa.Table]


def rows_of(lake: Catalogue, rows: Rows | None = None) -> dict[str, tuple[int, dict[str, list[int]]]]:
    """Of each run its writer's mark and, by table, the samples that it has rows of. Raises Broken for one that is not whole."""
    shown = {}
    for run in lake.runs("e"):
        try:
            tables = {
                table: rows(run, table) if rows else pa.concat_tables(lake.run_rows(run, table))
                for table in ("signals", "traces")
            }
        except NotFound:
            continue  # removed since
        now = {run.info.seed} if run.info.seed is not None else set()
        marks = {
            *tables["signals"]["loss"].to_pylist(),
            *(v for t in tables["traces"]["loss"] for v in t.as_py()),
        }
        if len(marks) != 1 or not (len(now) == 1 and marks == now):
            raise Broken(f"{run.run} of the writer {run.info.seed} has rows of {marks}")
        shown[run.run] = int(marks.pop()), {name: t["sample_id"].to_pylist() for name, t in tables.items()}
    return shown


def read(lake: Lake) -> dict[str, Any]:
    """All runs, as one who reads while others work."""
    return rows_of(lake)


def analyze(lake: Lake) -> None:
    """A result that says which samples and which writers' rows it was computed from."""
    known = lake.experiment("e").forgotten
    runs = lake.runs("e")
    total = bits = 0
    try:
        for run in runs:
            for rows in lake.run_rows(run, "signals"):
                held = [i for i in rows["sample_id"].to_pylist() if i not in known]
                total += int(run.info.seed or 0)
                bits |= sum(1 << i for i in held)
    except NotFound:
        return  # a run was removed: nothing is kept
    seen = fingerprint(lake, "e", runs, known)
    ids = [i for i in range(N) if i not in known]
    scores = pa.table(
        {"sample_id": ids, "member": [i % 2 == 0 for i in ids], "score": [float(total)] * len(ids)}
    )
    metrics = [{"metric": "total", "value": float(total)}, {"metric": "bits", "value": float(bits)}]
    save_result(
        lake,
        "e",
        "loss",
        None,
        "",
        options={},
        notes=[],
        metrics=metrics,
        scores=scores,
        seen=seen,
        forgotten=known,
    )


def found(lake: Lake, run: str, mark: int) -> None:
    """Make the experiment "x" where it is not there, whose labels are the mark of who made it, and a run of the mark in it.

    What it knows of the experiment, the mark of its maker, is the run's phi.
    """
    with contextlib.suppress(AlreadyExists):
        lake.create_experiment("x", pa.table({"label": [mark] * N}))
    maker = lake.samples("x")["label"].to_pylist()[0]
    ids = np.arange(N)
    with lake.write_run("x", run, members=ids % 2 == 0) as writer:
        writer.append_signals(ids, ids * 0, None, loss=np.full(N, float(mark)), phi=np.full(N, float(maker)))
        writer.commit(RunInfo(role="shadow", seed=mark))


def samples() -> pa.Table:
    """The samples of the experiment, each with a class and a key of its own."""
    return pa.table({"label": [*range(N)], "key": [f"key-{i}" for i in range(N)]})


def samples_in_files(path: Path) -> dict[Path, set[int]]:
    """Which samples of experiment "e" each data file below a folder has rows of."""
    found = {}
    for file in path.rglob("*"):
        if "experiment=x" in str(file):
            continue
        if file.suffix == ".parquet":
            rows = pq.read_table(file, partitioning=None)
            if "sample_id" not in rows.column_names:
                continue  # of runs or metrics, which other engines read
            if "pool" in rows.column_names:
                rows = rows.filter(pa.compute.field("pool") != "forgotten")
            found[file] = set(rows["sample_id"].to_pylist())
        elif file.suffix == ".arrow":
            found[file] = set(pa.ipc.open_file(file).read_all()["sample_id"].to_pylist())
    return found
