"""What a lake must show, whatever happens to its writers: the promise that the durability tests hold it to.

Every command is done once undisturbed, in a lake of its own. What that lake shows of a run, or of a result, is what any
lake may show of it at any moment: all of it, or nothing. What has been seen once must be seen from then on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.read.changes import TRIES
from losslake.store.upkeep import gc

MADE = "made"
"""The experiment of `write_runs`. Its runs are called NAME-NUMBER, those of one NAME have the same rows."""

# One row a (view, experiment, run or result): how many rows it has there, and the sum of their hashes.
DIGESTS = """
with row_of as (
  select 'samples' as what, experiment, '' as run, hash(sample_id, label, pool, split, "group", "key") as row_hash
  from samples
  union all
  select 'signals', experiment, run, hash(sample_id, query, member, label, loss, phi, correct, logits, features)
  from signals
  union all
  select 'traces', experiment, run, hash(sample_id, source, member, loss, grad_norm, margin) from traces
  union all
  select 'trace_points', experiment, run, hash(sample_id, source, epoch, member, loss, grad_norm, margin)
  from trace_points
  union all
  select 'runs', experiment, run,
         hash(role, seed, dataset, model, recipe, epochs, members, train_accuracy, test_accuracy, parent)
  from runs
  union all
  select 'scores', experiment, concat_ws('/', analysis, target, variant), hash(sample_id, member, score) from scores
  union all
  select 'metrics', experiment, concat_ws('/', analysis, target, variant),
         hash(metric, parameters, value, ci_low, ci_high, n)
  from metrics
)
select what, experiment, run, count(*) as rows, cast(sum(row_hash) as varchar) as digest
from row_of group by what, experiment, run
"""

Place = tuple[str, str, str]
"""A view, an experiment, and a run or a result."""

State = tuple[int, str]
"""How many rows there are, and their digest."""


class Broken(Exception):
    """A lake shows what it must not, or no longer what it must."""


class Promise:
    """What a lake may show, from one in which nothing was disturbed, and what this one has shown so far.

    ``expected`` has the states of each place in their order: of most one, of those that samples are forgotten in two.
    """

    def __init__(self, expected: dict[Place, list[State]]) -> None:
        self.expected = expected
        self.seen: dict[Place, int] = {}

    @classmethod
    def load(cls, path: Path) -> Promise:
        """From what `save` wrote."""
        stored = json.loads(path.read_text())
        return cls({tuple(place): [tuple(state) for state in states] for place, states in stored})

    def save(self, path: Path) -> None:
        """Store what is expected."""
        path.write_text(json.dumps(list(self.expected.items())))

    def add(self, lake: Lake, *, changed: str = "") -> None:
        """Learn what an undisturbed lake shows, for lakes in which experiments and runs have other numbers.

        What is known may not differ, but for the experiments of the kind ``changed``. Raises Broken.
        """
        for place, state in digests(lake).items():
            states = self.expected.setdefault(_kind(place), [])
            if state not in states:
                if states and _kind(place)[1] != changed:
                    raise Broken(f"{'/'.join(place)} has {state}, another of its kind {states}")
                states.append(state)

    def runs_of(self, experiment: str) -> set[str]:
        """The runs that an experiment has in the end."""
        kind = _kind(("runs", experiment, ""))[1]
        return {run for what, where, run in self.expected if (what, where) == ("runs", kind)}

    def unfinished(self, experiment: str) -> list[Place]:
        """The places of an experiment that did not show their last state yet."""
        return [
            place
            for place, state in self.seen.items()
            if place[1] == experiment and state < len(self.expected[_kind(place)]) - 1
        ]

    def check(self, shown: dict[Place, State]) -> None:
        """Raises Broken unless all that is shown is whole and as it should be, and nothing is gone or as it was before."""
        now = {}
        for place, state in shown.items():
            states = self.expected.get(_kind(place), [])
            if state not in states[self.seen.get(place, 0) :]:
                raise Broken(f"{'/'.join(place)} has {state}, not one of {states}, {self.seen.get(place)}")
            now[place] = states.index(state)
        for experiment, run in {place[1:] for place in shown}:
            kind = _kind(("", experiment, run))[1:]
            there = {what for what, *where in shown if where == [experiment, run]}
            all_of_it = {what for what, *where in self.expected if tuple(where) == kind}
            if there != all_of_it:
                raise Broken(f"{experiment}/{run} shows in {sorted(there)} alone, not in {sorted(all_of_it)}")
        if gone := self.seen.keys() - now.keys():
            raise Broken(f"{'/'.join(min(gone))} is gone, and {len(gone) - 1} more")
        self.seen = now


def digests(lake: Lake) -> dict[Place, State]:
    """Rows and digest of everything that a lake shows."""
    return read_digests(lake.sql(DIGESTS).rows())


def read_digests(rows: Sequence[tuple[str, str, str, int, str]]) -> dict[Place, State]:
    """The same from the rows of `DIGESTS`."""
    return {(what, experiment, run): (count, digest) for what, experiment, run, count, digest in rows}


def rows_for_polars(lake: Lake) -> dict[Place, int]:
    """How many signals each run has by `Lake.scan`, which leaves it to its caller to ask again where files were replaced."""
    for _ in range(TRIES):
        with contextlib.suppress(pl.exceptions.ComputeError, OSError):
            counted = lake.scan("signals").group_by("experiment", "run").agg(pl.len()).collect()
            return {("signals", experiment, run): count for experiment, run, count in counted.rows()}
    raise Broken(f"Polars does not find the files of the lake, {TRIES} times")


def _kind(place: Place) -> Place:
    what, experiment, run = place
    kind = re.sub(r"-\d+$", "", experiment)
    return what, kind, re.sub(r"-\d+$", "", run) if kind == MADE else run


def make_experiment(lake: Lake, samples: int) -> None:
    """The experiment of `write_runs`."""
    labels = np.arange(samples, dtype=np.int32) % 10
    lake.create_experiment(MADE, pa.table({"label": labels}))


def write_run(lake: Lake, run: str, *, pause: float = 0.0) -> None:
    """Write a run with traces of four epochs and two queries of signals, which its name decides upon."""
    samples = lake.experiment(MADE).samples
    ids = np.arange(samples)
    kind = re.sub(r"-\d+$", "", run)
    seed = int.from_bytes(kind.encode()[-4:], "big")
    rng = np.random.default_rng(seed)
    members = rng.random(samples) < 0.5
    with lake.write_run(MADE, run, members=members) as writer:
        for epoch in range(4):
            writer.append_epoch("eval", epoch, ids[::-1], loss=rng.random(samples))
            time.sleep(pause)
        for query in (0, 1):
            phi = rng.normal(0, 2, samples)
            writer.append_signals(
                ids, np.full(samples, query), ids % 10, loss=np.logaddexp(0, -phi), phi=phi, correct=phi > 0
            )
            time.sleep(pause)
        writer.commit(RunInfo(role="shadow", seed=seed))


def write_runs(path: str, runs: Sequence[str]) -> None:
    """Write the runs that are not there, as a collector does that is started again."""
    lake = Lake.open(path)
    for run in runs:
        if not lake.has_run(MADE, run):
            write_run(lake, run)


def collect(lake: Lake, *, checkpoints: bool = False) -> gc.Collected:
    """Collect garbage, without the time that files have else: all writers are on this machine, and readers look again."""
    gc.GRACE = timedelta()
    return gc.collect_garbage(lake, older_than=timedelta(), checkpoints=checkpoints)


def collect_now(path: str) -> None:
    """The same in a process of its own."""
    collect(Lake.open(path))


def write_on(path: str, name: str, stop: str, pause: float) -> None:
    """Write one run after another, slowly, until there is a file ``stop``; print their names once they are committed."""
    lake, parent = Lake.open(path), os.getppid()
    number = 0
    while not Path(stop).exists() and os.getppid() == parent:
        write_run(lake, f"{name}-{number}", pause=pause)
        print(f"{name}-{number}", flush=True)
        number += 1


def read_on(path: str, promised: str, analysed: str, stop: str) -> None:
    """Read in all ways until there is a file ``stop``, then print how often; raises what goes wrong."""
    promise, parent = Promise.load(Path(promised)), os.getppid()
    count, found = 0, set()
    while True:
        last = Path(stop).exists() or os.getppid() != parent
        lake = Lake.open(path)
        promise.check(digests(lake))
        count += 1
        if analysed:
            with open_source(lake, analysed, "run-0000") as source:
                found.add(float(find("lira").compute(source).frame["score"].sum()))
        if len(found) > 1:
            raise Broken(f"lira finds {found}")
        shown = rows_for_polars(lake)
        for place, count_there in shown.items():
            if count_there not in {rows for rows, _ in promise.expected[_kind(place)]}:
                raise Broken(f"{'/'.join(place)} has {count_there} rows for Polars")
        if gone := {place for place in promise.seen if place[0] == "signals"} - shown.keys():
            raise Broken(f"Polars does not see {gone}")
        if last:
            print(json.dumps({"reads": count}))
            return
        time.sleep(
            0.1
        )  # readers that do nothing else would leave little of a small machine to what is killed
