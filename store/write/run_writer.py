"""Writing one run: epochs and signals as they come, visible all at once when the run commits.

While a run lasts its epochs lie under ``staging/`` and its signals in files that no manifest names. Commit
lays the traces out sample by sample and writes the manifest last: before that instant the run does not
exist for any reader, after it the run is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from ..errors import AlreadyExists, CorruptLake, InvalidInput
from ..files.filesystem import Files
from ..format import manifest
from ..format.manifest import DataFile
from ..format.paths import (
    begun_file,
    run_manifest,
    signals_folder,
    staging_folder,
    trace_file,
)
from ..format.records import Run, RunInfo, forgotten_mask, run_to_json
from . import leases
from .given_rows import (
    Ids,
    Values,
    check_complete,
    check_finite,
    check_info,
    checked_ids,
    distinct,
    epoch_values,
    samples_seen,
    signal_columns,
    signal_schema,
    signal_tables,
    whole_traces,
)
from .index import index_if_worth
from .table_file import TableFile, check_there, copy_without
from .token_lists import token_columns
from .traces import StagedTrace, Traces, given_traces, write_traces
from .visible_run import (
    add_signals,
    copies_under,
    delete_leftovers,
    gone,
    may_be_committed,
    not_committed,
    was_removed,
    withdraw_if_lost,
    withdraw_if_removed,
)

Source = Literal["train", "eval"]


class RunWriter:
    """The rows of one run on their way into the lake. Use as a context manager, end with `commit`.

    ``members`` is a boolean array over all samples of the experiment. Leaving the block without a commit
    discards everything written. Rows of samples that the experiment has forgotten are dropped, also those of samples
    forgotten while the writer is at work.

    ``onto`` is a run that is committed and has no signals: the writer takes these alone, and its commit adds them.
    """

    def __init__(
        self,
        files: Files,
        experiment: str,
        run: str,
        members: npt.NDArray[np.bool_],
        *,
        forget_late: Callable[[str, str], Run],
        committed: Callable[[str], object] = lambda experiment: None,
        failed: Callable[[], object] = lambda: None,
        onto: Run | None = None,
    ) -> None:
        # What to do where samples were forgotten while the run was committed, and after the commit; given, as they stand on all
        # else in the store.
        self._forget_late = forget_late
        self._committed = committed
        self._failed = failed
        if onto is None and files.exists(run_manifest(experiment, run)):
            raise _taken(experiment, run)
        self._onto = onto
        self.experiment = experiment
        self.run = run
        self.members = np.array(members, dtype=bool)
        self._files = files
        self.token = leases.token(files)
        self._staged: dict[Source, StagedTrace] = {}
        self._whole: set[Source] = set()
        self._written: list[DataFile] = []
        self._signals: TableFile | None = None
        self._seen: dict[int, npt.NDArray[np.bool_]] = {}
        self._open = True
        self._claiming = False
        self.beside = 0
        """How many runs there were in the experiment when this one was begun, where the one who began it knows."""
        self._begin()

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
        staged = self._staged.get(source)
        if epoch < 0 or (staged is not None and epoch in staged.paths):
            raise InvalidInput(
                f"epoch {epoch} of the {source} trace of run {self.run!r} was given twice or is negative"
            )
        what = f"epoch {epoch} of the {source} trace"
        ids = self._ids(sample_id, what)
        given = epoch_values({"loss": loss, "grad_norm": grad_norm, "margin": margin}, ids, what)
        if not given:
            raise InvalidInput(f"{what} of run {self.run!r} has neither loss nor grad_norm nor margin")
        distinct(ids, len(self.members), f"{what} of run {self.run!r}")
        ids, given = self._without_forgotten(ids, given)
        if staged is None:
            folder = staging_folder(self.experiment, self.run, self.token)
            staged = StagedTrace(self._files, folder, source, len(self.members))
        staged.add(int(epoch), ids, given)
        self._staged[source] = staged

    def staged_epochs(self) -> list[tuple[Source, int]]:
        """The epochs that `append_epoch` was given so far."""
        return [(source, epoch) for source, staged in self._staged.items() for epoch in staged.paths]

    def staged_epoch(self, source: Source, epoch: int) -> dict[str, npt.NDArray]:
        """What `append_epoch` was given for one epoch: sample_id, ascending, and the values of each signal, float32."""
        table = self._staged[source].read(epoch)
        return {name: table[name].to_numpy() for name in table.column_names}

    def staged_traces(
        self, source: Source, name: str
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        """A trace as far as `append_epoch` was given it: (sample ids, values, which are there), some samples at a time.

        Values and flags are (ids, epochs from 0 to the last). Nothing where the source has no epoch with ``name``.
        """
        self._check_source(source)
        staged = self._staged.get(source)
        if staged is not None and name in staged.names:
            for ids, traces in staged.traces({name}):
                yield ids, *traces[name]

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
        traces = whole_traces({"loss": loss, "grad_norm": grad_norm, "margin": margin}, len(ids), what)
        if not traces:
            raise InvalidInput(f"{what} of run {self.run!r} has neither loss nor grad_norm nor margin")
        self._write_traces(source, given_traces(traces, ids, held))
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
        token_losses: Sequence[Values] | None = None,
        token_z: Sequence[Values] | None = None,
        lower_loss: Values | None = None,
    ) -> None:
        """Add signals of the finished model, one row a (sample, query): arrays of shape (rows,).

        ``logits`` and ``features`` have shape (rows, width), float16 or float32; the first call fixes which
        columns are there. phi, loss and logits must not be NaN and phi must be finite; None where the loss has no phi.

        Of a language model: ``token_losses``, -log p of the tokens that its loss counts, an array a row, of its own length;
        ``token_z`` likewise, each log p in standard deviations above what the model expects of a token drawn from it;
        ``lower_loss`` (rows,), the mean token loss of the text in lower case. All are finite, losses not negative.
        """
        self._check_open()
        ids = self._ids(sample_id, "signals")
        columns = signal_columns(ids, query, label, loss, phi, correct, logits, features)
        columns |= token_columns(self.run, ids, token_losses, token_z, lower_loss)
        ids, columns = self._without_forgotten(ids, columns)
        check_finite(self.run, ids, columns)
        seen = samples_seen(self.run, ids, columns["query"], len(self.members), self._seen)
        schema = signal_schema(columns)
        if self._signals is None:
            path = f"{signals_folder(self.experiment, self.run)}/{self.token}.parquet"
            self._signals = TableFile(self._files, "signals", path, schema)
        self._signals.check(schema)
        for table in signal_tables(self.run, ids, self.members[ids], columns, schema):
            self._signals.write(table)
        self._seen = seen

    def drop_signals(self) -> None:
        """Take back all that `append_signals` was given; nothing happens where that was nothing."""
        self._check_open()
        if self._signals is not None:
            self._signals.abort()
            self._signals = None
        self._seen = {}

    def commit(self, info: RunInfo, *, if_taken: Callable[[], str] | None = None) -> Run:
        """Make the run visible. Raises AlreadyExists when another writer committed the same run first, unless ``if_taken()`` gives
        another name, under which the run is committed then; its attribute ``run`` is that one.

        Raises InvalidInput for an ``info`` that cannot be stored; the writer is then still open. Raises CorruptLake where
        a file that was written is missing or has another size: the run is then not in the lake, and its other files stay
        where they are until garbage is collected.
        """
        self._check_open()
        check_info(info, self.run)
        try:
            epochs = [(source, staged.paths) for source, staged in self._staged.items()]
            check_complete(self.run, self._seen, epochs)
            if self._signals is not None:
                self._written.insert(0, self._signals.close())
                self._signals = None
            for source in sorted(self._staged):
                staged = self._staged[source]
                self._write_traces(source, staged.traces(staged.names))
            try:
                self._drop_forgotten()
                self._check_there()
            except CorruptLake as error:
                # Who forgets removes what a writer has of a run that another one has committed.
                if self._onto is None and self._files.exists(run_manifest(self.experiment, self.run)):
                    raise _taken(self.experiment, self.run) from error
                raise
            # The experiment is there; who made it may have been killed before it was on stable storage.
            self._files.settle("experiments")
            while self._onto is None:
                run = Run(
                    experiment=self.experiment,
                    run=self.run,
                    members=int((self.members & ~self.forgotten).sum()),
                    created=manifest.now(),
                    info=info,
                    files=tuple(self._written),
                )
                self._claiming = True
                if self._files.put_if_absent(
                    run_manifest(self.experiment, self.run), manifest.dump(run_to_json(run))
                ):
                    break
                if if_taken is None:
                    raise _taken(self.experiment, self.run)
                self._claiming = False  # what is there is another writer's
                self._rename(if_taken())
            else:
                run = self._add(info)
        except BaseException:
            self.discard()
            raise
        self._open = False
        try:
            if self._onto is None:
                withdraw_if_lost(self._files, self.experiment, self.run, self._written)
                withdraw_if_removed(self._files, self.experiment, self.run, self._written)
        finally:
            self._drop_staging()
        # Whoever forgets a sample looks for runs after saying so: one of both sees the other.
        late = forgotten_mask(self._files, self.experiment, len(self.members)) & ~self.forgotten
        if late.any():
            run = self._forget_late(self.experiment, self.run)
        index_if_worth(self._files, self.experiment, self.beside + 1)
        self._committed(self.experiment)
        return run

    def discard(self) -> None:
        """Remove everything written; the run never was. No error when already ended."""
        if not self._open:
            return
        self._open = False
        if self._signals is not None:
            self._signals.abort()
        # A Ctrl-C or an I/O error may strike in the instant after the manifest was written.
        if not (self._claiming and may_be_committed(self._files, self.experiment, self.run, self._written)):
            self._delete([file.path for file in self._written])
        self._drop_staging()

    @property
    def ended(self) -> bool:
        """Whether it was committed or discarded: it takes nothing any more."""
        return not self._open

    def fail(self) -> None:
        """`discard`, and an experiment that was made for this run alone goes with it."""
        self.discard()
        self._failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _begin(self) -> None:
        """Say that the run is being written, and only then look for its experiment.

        Who removes an experiment does it the other way round, so one of both sees the other.
        """
        self._begun = begun_file(self.experiment, self.run, self.token)
        try:
            with self._files.create(self._begun, durable=False) as file:
                file.write(manifest.dump({"kind": "begun", "experiment": self.experiment, "run": self.run}))
            self.forgotten = forgotten_mask(self._files, self.experiment, len(self.members))
        except BaseException as error:
            self._delete([self._begun])
            if isinstance(error, CorruptLake) and was_removed(self._files, self.experiment):
                raise gone(self.experiment, self.run) from error
            raise

    def _add(self, info: RunInfo) -> Run:
        def claims() -> None:
            self._claiming = True

        return add_signals(self._files, self.experiment, self.run, self._written, info, claims)

    def _rename(self, run: str) -> None:
        """Give the run another name, before its manifest: its files lie in folders of the name, and say it in every row."""
        before, self._written = self._written, copies_under(self._files, self._written, run)
        self.run = run
        self._delete([file.path for file in before])

    def _check_there(self) -> None:
        try:
            check_there(self._files, self._written, not_committed(self.experiment, self.run))
        except CorruptLake:
            self._open = False  # what is left of the run stays
            raise

    def _check_open(self) -> None:
        if not self._open:
            raise InvalidInput(f"run {self.run!r} was committed or discarded: it takes no more rows")

    def _check_source(self, source: Source) -> None:
        self._check_open()
        if self._onto is not None:
            raise InvalidInput(f"run {self.run!r} is committed, and its traces are as they are")
        if source not in get_args(Source):
            raise InvalidInput(f"a trace's source is 'train' or 'eval', not {source!r}")

    def _ids(self, sample_id: Ids, what: str) -> npt.NDArray[np.int64]:
        return checked_ids(sample_id, len(self.members), what, self.experiment)

    def _without_forgotten(
        self, ids: npt.NDArray[np.int64], columns: dict[str, npt.NDArray]
    ) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray]]:
        kept = ~self.forgotten[ids]
        if kept.all():
            return ids, columns
        return ids[kept], {name: values[kept] for name, values in columns.items()}

    def _write_traces(self, source: Source, traces: Traces) -> None:
        path = trace_file(self.experiment, self.run, self.token, source)
        self._written.append(write_traces(self._files, path, self.run, source, self.members, traces))

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
        epochs = [path for staged in self._staged.values() for path in staged.paths.values()]
        self._delete([*epochs, self._begun])
        self._staged = {}

    def _delete(self, paths: list[str]) -> None:
        delete_leftovers(self._files, paths)


def _taken(experiment: str, run: str) -> AlreadyExists:
    return AlreadyExists(
        f"run {run!r} of experiment {experiment!r} is in the lake already and is never overwritten; choose another run name"
    )
