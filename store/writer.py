"""Writing one run: epochs and signals as they come, visible all at once when the run commits.

While a run lasts its epochs lie under ``staging/`` and its signals in files that no manifest names. Commit
lays the traces out sample by sample and writes the manifest last: before that instant the run does not
exist for any reader, after it the run is whole.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import manifest
from .errors import AlreadyExists, InvalidInput
from .filesystem import Files
from .manifest import DataFile
from .paths import run_manifest, signals_folder, staging_folder, traces_folder
from .records import Run, RunInfo
from .schema import ROW_GROUP, SIGNALS, TRACE_SIGNALS, TRACES
from .table_file import TableFile

Source = Literal["train", "eval"]
Ids = npt.NDArray[np.integer]
Values = npt.NDArray[np.floating]


class RunWriter:
    """The rows of one run on their way into the lake. Use as a context manager, end with `commit`.

    ``members`` is a boolean array over all samples of the experiment. Leaving the block without a commit
    discards everything written.
    """

    def __init__(self, files: Files, experiment: str, run: str, members: npt.NDArray[np.bool_]) -> None:
        if files.exists(run_manifest(experiment, run)):
            raise _taken(experiment, run)
        self.experiment = experiment
        self.run = run
        self.members = np.asarray(members, dtype=bool)
        self._files = files
        self._token = secrets.token_hex(8)
        self._staged: dict[Source, dict[int, str]] = {}
        self._written: list[DataFile] = []
        self._signals: TableFile | None = None
        self._seen: dict[int, npt.NDArray[np.bool_]] = {}
        self._open = True

    def append_epoch(
        self,
        source: Source,
        epoch: int,
        sample_id: Ids,
        *,
        loss: Values | None = None,
        grad_norm: Values | None = None,
        margin: Values | None = None,
    ) -> None:
        """Add one epoch of a trace: values of shape (len(sample_id),), epoch 0 = before training.

        Samples may come in any order; one left out is NULL in that epoch. A NaN is kept: the run had it.
        """
        self._check_open()
        values = {"loss": loss, "grad_norm": grad_norm, "margin": margin}
        given = {name: np.asarray(v, dtype=np.float32) for name, v in values.items() if v is not None}
        ids = self._checked_ids(sample_id, f"epoch {epoch} of the {source} trace")
        for name, value in given.items():
            if value.shape != ids.shape:
                raise InvalidInput(
                    f"{name} of epoch {epoch} has shape {value.shape}, its sample ids have shape {ids.shape}"
                )
        if epoch < 0 or epoch in self._staged.get(source, {}):
            raise InvalidInput(f"epoch {epoch} of the {source} trace of run {self.run!r} was given twice or is negative")
        path = f"{staging_folder(self.experiment, self.run, self._token)}/{source}-{epoch:06d}.arrow"
        table = pa.table({"sample_id": ids.astype(np.int32), **given})
        with self._files.create(path) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        self._staged.setdefault(source, {})[epoch] = path

    def append_signals(
        self,
        sample_id: Ids,
        query: Ids,
        label: Ids | None,
        *,
        loss: Values,
        phi: Values,
        correct: npt.NDArray[np.bool_] | None = None,
        logits: Values | None = None,
        features: Values | None = None,
    ) -> None:
        """Add signals of the finished model, one row a (sample, query): arrays of shape (rows,).

        ``logits`` and ``features`` have shape (rows, width), float16 or float32; the first call fixes which
        columns are there. phi and loss must not be NaN and phi must be finite.
        """
        self._check_open()
        ids = self._checked_ids(sample_id, "signals", unique=False)
        queries = np.asarray(query)
        loss = np.asarray(loss, dtype=np.float32)
        phi = np.asarray(phi, dtype=np.float32)
        self._check_signals(ids, queries, loss, phi)
        rows = len(ids)
        columns: dict[str, pa.Array] = {
            "sample_id": pa.array(ids.astype(np.int32)),
            "query": pa.array(queries.astype(np.int16)),
            "member": pa.array(self.members[ids]),
            "label": pa.nulls(rows, pa.int32()) if label is None else pa.array(np.asarray(label).astype(np.int32)),
            "loss": pa.array(loss),
            "phi": pa.array(phi),
            "correct": pa.nulls(rows, pa.bool_()) if correct is None else pa.array(np.asarray(correct, dtype=bool)),
            "logits": _lists(logits, rows, "logits"),
            "features": _lists(features, rows, "features"),
        }
        schema = pa.schema([field.with_type(columns[field.name].type) for field in SIGNALS])
        table = pa.table(columns, schema=schema)
        if self._signals is None:
            folder = signals_folder(self.experiment, self.run)
            self._signals = TableFile(self._files, "signals", f"{folder}/{self._token}.parquet", schema)
        self._signals.write(table)

    def commit(self, info: RunInfo) -> Run:
        """Make the run visible. Raises AlreadyExists when another writer committed the same run first."""
        self._check_open()
        try:
            self._check_complete()
            if self._signals is not None:
                self._written.append(self._signals.close())
                self._signals = None
            for source in sorted(self._staged):
                self._written.append(self._lay_out(source))
            run = Run(
                experiment=self.experiment,
                run=self.run,
                members=int(self.members.sum()),
                created=datetime.now(UTC).isoformat(timespec="milliseconds"),
                info=info,
                files=tuple(self._written),
            )
            if not self._files.put_if_absent(run_manifest(self.experiment, self.run), manifest.dump(run_to_json(run))):
                raise _taken(self.experiment, self.run)
        except BaseException:
            self.discard()
            raise
        self._open = False
        self._drop_staging()
        return run

    def discard(self) -> None:
        """Remove everything written; the run never was. No error when already ended."""
        if not self._open:
            return
        self._open = False
        if self._signals is not None:
            self._signals.abort()
        for file in self._written:
            self._files.delete(file.path)
        self._drop_staging()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.discard()

    # --- checks -----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._open:
            raise InvalidInput(f"run {self.run!r} was committed or discarded: it takes no more rows")

    def _checked_ids(self, sample_id: Ids, what: str, unique: bool = True) -> npt.NDArray[np.int64]:
        ids = np.asarray(sample_id)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise InvalidInput(f"sample ids of {what} must be a one-dimensional integer array, not {ids.dtype}{ids.shape}")
        ids = ids.astype(np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self.members)):
            bad = ids[(ids < 0) | (ids >= len(self.members))][0]
            raise InvalidInput(
                f"sample id {bad} of {what} is not in experiment {self.experiment!r} (0 to {len(self.members) - 1})"
            )
        if unique and len(np.unique(ids)) != len(ids):
            values, counts = np.unique(ids, return_counts=True)
            raise InvalidInput(f"sample id {values[counts > 1][0]} comes twice in {what} of run {self.run!r}")
        return ids

    def _check_signals(self, ids: npt.NDArray[np.int64], queries: Ids, loss: Values, phi: Values) -> None:
        for name, values in (("query", queries), ("loss", loss), ("phi", phi)):
            if values.shape != ids.shape:
                raise InvalidInput(f"{name} of the signals has shape {values.shape}, the sample ids have shape {ids.shape}")
        bad = np.isnan(loss) | ~np.isfinite(phi)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InvalidInput(
                f"run {self.run!r}: {int(bad.sum())} signals are not finite, first sample {ids[first]} "
                f"(loss {loss[first]}, phi {phi[first]}); the model has probably diverged: lower the learning rate"
            )
        for number in np.unique(queries):
            seen = self._seen.setdefault(int(number), np.zeros(len(self.members), dtype=bool))
            rows = ids[queries == number]
            if seen[rows].any() or len(np.unique(rows)) != len(rows):
                raise InvalidInput(f"run {self.run!r} has two rows for a sample and query {int(number)}")
            seen[rows] = True

    def _check_complete(self) -> None:
        sizes = {number: int(seen.sum()) for number, seen in self._seen.items()}
        if len(set(sizes.values())) > 1:
            raise InvalidInput(f"run {self.run!r} has unequal numbers of samples by query: {sizes}")
        for source, epochs in self._staged.items():
            # Only the train trace has no value before training: it is recorded inside the steps.
            missing = sorted(set(range(source == "train", max(epochs) + 1)) - set(epochs))
            if missing:
                raise InvalidInput(f"the {source} trace of run {self.run!r} lacks epochs {missing[:5]}")

    # --- the trace, sample by sample ----------------------------------------------------------------------

    def _lay_out(self, source: Source) -> DataFile:
        """Turn the epochs staged for one source into one row a sample, in pieces that bound the memory."""
        staged = self._staged[source]
        length = max(staged) + 1
        epochs = {epoch: _read_staged(self._files, path) for epoch, path in staged.items()}
        names = [n for n in TRACE_SIGNALS if any(n in table.column_names for table in epochs.values())]
        held = np.zeros(len(self.members), dtype=bool)
        for table in epochs.values():
            held[table["sample_id"].to_numpy()] = True
        path = f"{traces_folder(self.experiment, self.run)}/{self._token}-{source}.parquet"
        out = TableFile(self._files, "traces", path, TRACES)
        try:
            for start in range(0, len(held), ROW_GROUP):
                ids = start + np.flatnonzero(held[start : start + ROW_GROUP])
                out.write(self._trace_rows(source, ids, epochs, names, length))
            return out.close()
        except BaseException:
            out.abort()
            raise

    def _trace_rows(
        self, source: Source, ids: npt.NDArray[np.int64], epochs: dict[int, pa.Table], names: list[str], length: int
    ) -> pa.Table:
        place = np.full(len(self.members), -1, dtype=np.int64)
        place[ids] = np.arange(len(ids))
        columns: dict[str, pa.Array] = {}
        for name in TRACE_SIGNALS:
            if name not in names:
                columns[name] = pa.nulls(len(ids), TRACES.field(name).type)
                continue
            values = np.zeros((len(ids), length), dtype=np.float32)
            absent = np.ones((len(ids), length), dtype=bool)
            for epoch, table in epochs.items():
                if name not in table.column_names:
                    continue
                where = place[table["sample_id"].to_numpy()]
                here = where >= 0
                values[where[here], epoch] = table[name].to_numpy()[here]
                absent[where[here], epoch] = False
            flat = pa.array(values.ravel(), mask=absent.ravel() if absent.any() else None)
            offsets = np.arange(0, values.size + 1, length, dtype=np.int32)
            columns[name] = pa.ListArray.from_arrays(offsets, flat)
        return pa.table(
            {
                "sample_id": pa.array(ids.astype(np.int32)),
                "source": pa.array([source] * len(ids), pa.string()),
                "member": pa.array(self.members[ids]),
                **columns,
            },
            schema=TRACES,
        )

    def _drop_staging(self) -> None:
        for epochs in self._staged.values():
            for path in epochs.values():
                self._files.delete(path)
        self._staged = {}


def run_to_json(run: Run) -> dict[str, object]:
    return {
        "kind": "run",
        "experiment": run.experiment,
        "run": run.run,
        "members": run.members,
        "created": run.created,
        "info": asdict(run.info),
        "files": manifest.files_to_json(run.files),
    }


def _lists(values: Values | None, rows: int, name: str) -> pa.Array:
    if values is None:
        return pa.nulls(rows, SIGNALS.field(name).type)
    values = np.ascontiguousarray(values)
    if values.ndim != 2 or len(values) != rows or values.dtype not in (np.float16, np.float32):
        raise InvalidInput(f"{name} must be float16 or float32 of shape ({rows}, width), not {values.dtype}{values.shape}")
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def _read_staged(files: Files, path: str) -> pa.Table:
    with pa.memory_map(files.location(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _taken(experiment: str, run: str) -> AlreadyExists:
    return AlreadyExists(
        f"run {run!r} of experiment {experiment!r} is in the lake already and is never overwritten; choose another run name"
    )
