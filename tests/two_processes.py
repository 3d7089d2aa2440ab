"""Scripts that two processes run together, of 30 records, 21 of them members: what they keep, and what is recorded of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from losslake.store.lake import Lake
from warm import EVERYTHING, HANGS, warm_python

Kept = dict[tuple[int, int], list[float]]
"""(sample, epoch) to the values that the two processes computed."""


def run_both(script: str, folder: Path, modules: Sequence[str] = EVERYTHING, **environment: str) -> None:
    """Run a script as ``script.py FOLDER RANK`` in two processes that have imported ``modules``, with a lake in the folder."""
    Lake.open(folder / "lake", create=True)
    started = [
        subprocess.Popen(
            [*warm_python(modules), "-c", script, str(folder), str(rank)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        for rank in (0, 1)
    ]
    for process in started:
        _, error = process.communicate(timeout=HANGS)
        assert process.returncode == 0, error


def kept_by_both(folder: Path, name: str) -> Kept:
    """From lists of (epoch, samples, values), which each process stored in ``NAME-RANK.pt``."""
    seen: Kept = {}
    for rank in (0, 1):
        for epoch, samples, values in torch.load(folder / f"{name}-{rank}.pt", weights_only=True):
            for sample, value in zip(samples.tolist(), values.tolist(), strict=True):
                seen.setdefault((sample, epoch), []).append(value)
    return seen


def check_two_epochs(lake: Lake, experiment: str, seen: Kept) -> None:
    """The only run has the mean of what each record's loss was in each epoch, losses of all after each, and signals of all."""
    assert len(seen) == 42
    assert sum(len(each) for each in seen.values()) == 44, "the sampler padded once an epoch"
    assert [run.run for run in lake.runs(experiment)] == ["target"]
    given = {"experiment": experiment}
    rows = lake.sql(
        "select sample_id, loss from traces where experiment = $experiment and source = 'train' order by sample_id",
        given,
    )
    assert rows["sample_id"].to_list() == list(range(21))
    for sample, loss in rows.iter_rows():
        for epoch in (1, 2):
            np.testing.assert_allclose(loss[epoch], np.mean(seen[sample, epoch]), rtol=1e-5)
    assert lake.sql("select count(*) from signals where experiment = $experiment", given).item() == 30
    lengths = "select distinct len(loss) from traces where experiment = $experiment and source = 'eval'"
    assert lake.sql(lengths, given).rows() == [(3,)]
