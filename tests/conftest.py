"""Fixtures that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from losslake.store.lake import Lake
from losslake.store.records import RunInfo

Array = npt.NDArray[np.generic]
Traces = Mapping[str, Array]


@pytest.fixture(scope="session")
def lake_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Lake]:
    """Write a lake from arrays; see `_write`. Every call makes a new lake unless ``lake`` names one to add to."""
    numbers = count()

    def make(*args: object, lake: Lake | None = None, **kwargs: object) -> Lake:
        opened = lake or Lake.open(tmp_path_factory.mktemp("lake") / str(next(numbers)), create=True)
        _write(opened, *args, **kwargs)  # type: ignore[arg-type]
        return opened

    return make


def _write(
    lake: Lake,
    keep: Array,
    phi: Array | None = None,
    *,
    loss: Array | None = None,
    correct: Array | Literal["phi"] | None = "phi",
    labels: Array | None = None,
    population: Array | None = None,
    held: Array | None = None,
    traces: Traces | None = None,
    train_traces: Traces | None = None,
    roles: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    parents: Sequence[str | None] | None = None,
    experiment: str = "tests",
) -> None:
    """Commit M runs on N samples: keep (M, N), phi (M, N) or (M, N, Q), loss and correct like phi.

    ``held`` (M, N) marks the samples a run has signals of (default: all). Traces are of the first run: signal to an
    array (N, E) whose masked entries were not recorded. The first run is the target, the others are shadows, unless
    ``roles`` says otherwise.
    """
    runs, samples = keep.shape
    labels = np.zeros(samples, np.int32) if labels is None else labels
    pool = np.where(np.zeros(samples, bool) if population is None else population, "population", "audit")
    if experiment not in lake.experiments():
        lake.create_experiment(experiment, pa.table({"label": labels, "pool": pool}))
    for m in range(runs):
        name = names[m] if names else f"run-{m:04d}"
        with lake.write_run(experiment, name, members=keep[m].astype(bool)) as writer:
            if phi is not None:
                ids = np.flatnonzero(held[m]) if held is not None else np.arange(samples)
                for q, of_query in enumerate(_queries(phi[m])):
                    right = (
                        of_query > 0 if isinstance(correct, str) else None if correct is None else correct[m]
                    )
                    own = (
                        np.logaddexp(0, -of_query.astype(np.float64))
                        if loss is None
                        else _queries(loss[m])[q]
                    )
                    writer.append_signals(
                        ids,
                        np.full(len(ids), q, np.int16),
                        labels[ids],
                        loss=own[ids],
                        phi=of_query[ids],
                        correct=None if right is None else right[ids],
                    )
            if m == 0:
                for source, given in (("eval", traces), ("train", train_traces)):
                    for epoch, ids, values in _epochs(given or {}):
                        writer.append_epoch(source, epoch, ids, **values)  # type: ignore[arg-type]
            role = roles[m] if roles else "target" if m == 0 else "shadow"
            writer.commit(RunInfo(role=role, parent=parents[m] if parents else None))  # type: ignore[arg-type]


def _queries(values: Array) -> Array:
    """(N,) or (N, Q) as (Q, N)."""
    return values[None] if values.ndim == 1 else values.T


def _epochs(traces: Traces) -> Iterator[tuple[int, Array, dict[str, Array]]]:
    """Epoch, ids and values of what was recorded; an epoch 0 without any is left out, as inside the steps."""
    if not traces:
        return
    recorded = ~np.ma.getmaskarray(next(iter(traces.values())))
    for epoch in range(recorded.shape[1]):
        ids = np.flatnonzero(recorded[:, epoch])
        if epoch or len(ids):
            yield epoch, ids, {name: np.ma.getdata(values)[ids, epoch] for name, values in traces.items()}
