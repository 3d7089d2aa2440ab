"""Writing one run: epochs and signals as they come, visible all at once when the run commits.

While a run lasts its epochs lie under ``staging/`` and its signals in files that no manifest names. Commit
lays the traces out sample by sample and writes the manifest last: before that instant the run does not
exist for any reader, after it the run is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import AlreadyExists, InvalidInput, LosslakeError
from ..files.filesystem import Files
from ..format import manifest
from ..format.manifest import DataFile
from ..format.paths import run_manifest, signals_folder, staging_folder, trace_file
from ..format.records import Run, RunInfo, forgotten_mask, run_to_json
from ..format.schema import SIGNALS, TRACE_SIGNALS
from . import leases
from .given_rows import (
    Ids,
    Values,
    added_rows,
    as_floats,
    as_integers,
    as_matrix,
    as_traces,
    check_complete,
    check_finite,
    check_info,
    checked_ids,
    copied,
    distinct,
)
from .table_file import TableFile, copy_without
from .traces import (
    BLOCK,
    Piece,
    given_piece,
    pieces,
    read_epoch,
    staged_piece,
    write_epoch,
    write_traces,
)

Source = Literal["train", "eval"]

_APPENDED_ROWS = 32_768
"""Signals are taken in by so many rows at a time: copies of wide logits stay small."""


class RunWriter:
    """The rows of one run on their way into the lake. Use as a context manager, end with `commit`.

    ``members`` is a boolean array over all samples of the experiment. Leaving the block without a commit
    discards everything written. Rows of samples that the experiment has forgotten are dropped, also those of samples
    forgotten while the writer is at work.
    """

    def __init__(
        self,
        files: Files,
        experiment: str,
        run: str,
        members: npt.NDArray[np.bool_],
        *,
        forget_late: Callable[[str, str], Run],
    ) -> None:
        # What to do where samples were forgotten while the run was committed; given, as it stands on all else in the store.
        self._forget_late = forget_late
        if files.exists(run_manifest(experiment, run)):
            raise _taken(experiment, run)
        self.experiment = experiment
        self.run = run
        self.members = np.array(members, dtype=bool)
        self.forgotten = forgotten_mask(files, experiment, len(self.members))
        self._files = files
        self.token = leases.token(files)
        self._staged: dict[Source, dict[int, str]] = {}
        self._columns: dict[Source, set[str]] = {}
        self._held: dict[Source, npt.NDArray[np.bool_]] = {}
        self._whole: set[Source] = set()
        self._written: list[DataFile] = []
        self._signals: TableFile | None = None
        self._seen: dict[int, npt.NDArray[np.bool_]] = {}
        self._open = True
        self._claiming = False

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
        self._check_source(source)
        if source in self._whole:
            raise InvalidInput(f"the {source} trace of run {self.run!r} was given as a whole before")
        if epoch < 0 or epoch in self._staged.get(source, {}):
            raise InvalidInput(
                f"epoch {epoch} of the {source} trace of run {self.run!r} was given twice or is negative"
            )
        what = f"epoch {epoch} of the {source} trace"
        values = {"loss": loss, "grad_norm": grad_norm, "margin": margin}
        given = {name: as_floats(v, f"{name} of {what}") for name, v in values.items() if v is not None}
        if not given:
            raise InvalidInput(f"{what} of run {self.run!r} has neither loss nor grad_norm nor margin")
        ids = self._ids(sample_id, what)
        seen = distinct(ids, len(self.members), f"{what} of run {self.run!r}")
        for name, value in given.items():
            if value.shape != ids.shape:
                raise InvalidInput(
                    f"{name} of {what} has shape {value.shape}, its sample ids have shape {ids.shape}"
                )
        if self.forgotten[ids].any():
            kept = ~self.forgotten[ids]
            ids, given = ids[kept], {name: value[kept] for name, value in given.items()}
            seen &= ~self.forgotten
        path = f"{staging_folder(self.experiment, self.run, self.token)}/{source}-{epoch:06d}.arrow"
        write_epoch(self._files, path, len(self.members), ids, given)
        self._staged.setdefault(source, {})[int(epoch)] = path
        self._columns.setdefault(source, set()).update(given)
        self._held[source] = self._held[source] | seen if source in self._held else seen

    def staged_epochs(self) -> list[tuple[Source, int]]:
        """The epochs that `append_epoch` was given so far."""
        return [(source, epoch) for source, epochs in self._staged.items() for epoch in epochs]

    def staged_epoch(self, source: Source, epoch: int) -> dict[str, npt.NDArray]:
        """What `append_epoch` was given for one epoch: sample_id, ascending, and the values of each signal, float32."""
        blocks = -(-len(self.members) // BLOCK)
        table = read_epoch(self._files, self._staged[source][epoch], 0, blocks)
        return {name: table[name].to_numpy() for name in table.column_names}

    def staged_traces(
        self, source: Source, name: str
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        """A trace as far as `append_epoch` was given it: (sample ids, values, which are there), some samples at a time.

        Values and flags are (ids, epochs from 0 to the last). Nothing where the source has no epoch with ``name``.
        """
        self._check_source(source)
        epochs = dict(self._staged.get(source, {}))
        if name not in self._columns.get(source, ()):
            return
        length = max(epochs) + 1
        for ids, traces in pieces(
            self._held[source], [name], length, staged_piece(self._files, epochs, [name], length)
        ):
            values, there = traces[name]
            yield ids, values, np.ones(values.shape, dtype=bool) if there is None else there

    def append_traces(
        self,
        source: Source,
        sample_id: Ids,
        *,
        loss: Values | None = None,
        grad_norm: Values | None = None,
        margin: Values | None = None,
    ) -> None:
        """Add a whole trace at once: values of shape (len(sample_id), epochs), the first of them before training.

        What is stored is what `append_epoch` stores, without staging every epoch; the two do not mix within a source.
        Arrays may be memory-mapped: few of their rows are read at a time. A NaN is kept: the run had it.
        """
        self._check_source(source)
        what = f"the {source} trace"
        if source in self._staged or source in self._whole:
            raise InvalidInput(f"{what} of run {self.run!r} was given before; give it once")
        ids = self._ids(sample_id, what)
        held = distinct(ids, len(self.members), f"{what} of run {self.run!r}") & ~self.forgotten
        given = {"loss": loss, "grad_norm": grad_norm, "margin": margin}
        traces = {name: np.asanyarray(values) for name, values in given.items() if values is not None}
        if not traces:
            raise InvalidInput(f"{what} of run {self.run!r} has neither loss nor grad_norm nor margin")
        length = as_traces(traces, len(ids), what)
        self._written.append(self._write_traces(source, held, list(traces), length, given_piece(traces, ids)))
        self._whole.add(source)

    def append_signals(
        self,
        sample_id: Ids,
        query: Ids,
        label: Ids | None,
        *,
        loss: Values,
        phi: Values | None,
        correct: npt.NDArray[np.bool_] | None = None,
        logits: Values | None = None,
        features: Values | None = None,
    ) -> None:
        """Add signals of the finished model, one row a (sample, query): arrays of shape (rows,).

        ``logits`` and ``features`` have shape (rows, width), float16 or float32; the first call fixes which
        columns are there. phi, loss and logits must not be NaN and phi must be finite; None where the loss has no phi.
        """
        self._check_open()
        ids = self._ids(sample_id, "signals")
        queries = as_integers(query, "query of the signals", np.int16)
        losses = as_floats(loss, "loss of the signals")
        columns: dict[str, npt.NDArray] = {"query": queries, "loss": losses}
        if phi is not None:
            columns["phi"] = as_floats(phi, "phi of the signals")
        if label is not None:
            columns["label"] = as_integers(label, "label of the signals", np.int32)
        if correct is not None:
            columns["correct"] = np.asarray(correct, dtype=bool)
        for name, values in columns.items():
            if values.shape != ids.shape:
                raise InvalidInput(
                    f"{name} of the signals has shape {values.shape}, the sample ids have shape {ids.shape}"
                )
        wide = {
            name: as_matrix(values, len(ids), name)
            for name, values in (("logits", logits), ("features", features))
            if values is not None
        }
        if self.forgotten[ids].any():
            kept = ~self.forgotten[ids]
            ids, queries, losses = ids[kept], queries[kept], losses[kept]
            columns = {name: values[kept] for name, values in columns.items()}
            wide = {name: values[kept] for name, values in wide.items()}
        check_finite(self.run, ids, losses, columns.get("phi"), wide.get("logits"))
        added = added_rows(self.run, ids, queries, len(self.members), self._seen)
        types = {name: pa.list_(pa.from_numpy_dtype(v.dtype)) for name, v in wide.items()}
        schema = pa.schema([field.with_type(types.get(field.name, field.type)) for field in SIGNALS])
        if self._signals is None:
            path = f"{signals_folder(self.experiment, self.run)}/{self.token}.parquet"
            self._signals = TableFile(self._files, "signals", path, schema)
        self._signals.check(schema)
        for start in range(0, len(ids), _APPENDED_ROWS):
            rows = slice(start, start + _APPENDED_ROWS)
            arrays = {
                "sample_id": pa.array(ids[rows].astype(np.int32)),
                "member": pa.array(self.members[ids[rows]]),
                **{name: copied(values, rows) for name, values in (columns | wide).items()},
            }
            count = len(arrays["sample_id"])
            table = [arrays.get(field.name, pa.nulls(count, field.type)) for field in schema]
            self._signals.write(pa.table(table, schema=schema))
        for number, seen in added.items():
            self._seen[number] = self._seen[number] | seen if number in self._seen else seen

    def commit(self, info: RunInfo) -> Run:
        """Make the run visible. Raises AlreadyExists when another writer committed the same run first.

        Raises InvalidInput for an ``info`` that cannot be stored; the writer is then still open.
        """
        self._check_open()
        check_info(info, self.run)
        try:
            check_complete(self.run, self._seen, self._staged.items())
            if self._signals is not None:
                self._written.insert(0, self._signals.close())
                self._signals = None
            for source in sorted(self._staged):
                self._written.append(self._lay_out(source))
            self._drop_forgotten()
            run = Run(
                experiment=self.experiment,
                run=self.run,
                members=int((self.members & ~self.forgotten).sum()),
                created=manifest.now(),
                info=info,
                files=tuple(self._written),
            )
            self._claiming = True
            if not self._files.put_if_absent(
                run_manifest(self.experiment, self.run), manifest.dump(run_to_json(run))
            ):
                raise _taken(self.experiment, self.run)
        except BaseException:
            self.discard()
            raise
        self._open = False
        self._drop_staging()
        # Whoever forgets a sample looks for runs after saying so: one of both sees the other.
        late = forgotten_mask(self._files, self.experiment, len(self.members)) & ~self.forgotten
        if late.any():
            run = self._forget_late(self.experiment, self.run)
        return run

    def discard(self) -> None:
        """Remove everything written; the run never was. No error when already ended."""
        if not self._open:
            return
        self._open = False
        if self._signals is not None:
            self._signals.abort()
        # A Ctrl-C or an I/O error may strike in the instant after the manifest was written.
        if not (self._claiming and self._may_be_committed()):
            self._delete([file.path for file in self._written])
        self._drop_staging()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _may_be_committed(self) -> bool:
        """Whether the run's manifest names this writer's files; yes where that cannot be found out."""
        path = run_manifest(self.experiment, self.run)
        try:
            if not self._files.exists(path):
                return False
            listed = {file["path"] for file in manifest.load(self._files, path)["files"]}
        except (LosslakeError, KeyError, TypeError):
            return True
        return listed == {file.path for file in self._written}

    def _check_open(self) -> None:
        if not self._open:
            raise InvalidInput(f"run {self.run!r} was committed or discarded: it takes no more rows")

    def _check_source(self, source: Source) -> None:
        self._check_open()
        if source not in get_args(Source):
            raise InvalidInput(f"a trace's source is 'train' or 'eval', not {source!r}")

    def _lay_out(self, source: Source) -> DataFile:
        """Turn the epochs staged for one source into one row a sample."""
        length = max(self._staged[source]) + 1
        names = [name for name in TRACE_SIGNALS if name in self._columns[source]]
        piece = staged_piece(self._files, self._staged[source], names, length)
        return self._write_traces(source, self._held[source], names, length, piece)

    def _ids(self, sample_id: Ids, what: str) -> npt.NDArray[np.int64]:
        return checked_ids(sample_id, len(self.members), what, self.experiment)

    def _write_traces(
        self, source: Source, held: npt.NDArray[np.bool_], names: list[str], length: int, piece: Piece
    ) -> DataFile:
        path = trace_file(self.experiment, self.run, self.token, source)
        return write_traces(self._files, path, source, self.members, held, names, length, piece)

    def _drop_forgotten(self) -> None:
        """Take the samples that were forgotten since the writer began out of what it has written."""
        now = forgotten_mask(self._files, self.experiment, len(self.members))
        ids = np.flatnonzero(now & ~self.forgotten).tolist()
        if ids:
            for number, file in enumerate(self._written):
                token, kind = leases.token(self._files), file.path.rpartition(self.token)[2]
                path = f"{file.path.rpartition('/')[0]}/{token}{kind}"
                self._written[number] = copy_without(self._files, file, ids, path)
                self._delete([file.path])
            self.forgotten = now

    def _drop_staging(self) -> None:
        self._delete([path for epochs in self._staged.values() for path in epochs.values()])
        self._staged = {}

    def _delete(self, paths: list[str]) -> None:
        for path in paths:
            with contextlib.suppress(
                LosslakeError
            ):  # a leftover, which 'lake verify' lists; the run is not at stake
                self._files.delete(path)


def _taken(experiment: str, run: str) -> AlreadyExists:
    return AlreadyExists(
        f"run {run!r} of experiment {experiment!r} is in the lake already and is never overwritten; choose another run name"
    )
