"""The lake: one folder with experiments, and the runs and results on them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .errors import AlreadyExists, InvalidInput, LosslakeError, NotFound, OlderFormat
from .files.filesystem import Files, files_at
from .files.local import LocalFiles
from .format import manifest, paths
from .format.contents import DESIGN, check_said
from .format.paths import check_distinct, check_name
from .format.records import Experiment, Run
from .read.catalogue import Catalogue
from .upkeep.remove import Removed, complete_removal, remove, remove_unused
from .write import leases
from .write.new_experiment import complete_samples, samples_digest, write_experiment
from .write.run_writer import RunWriter
from .write.visible_run import check_no_signals

if TYPE_CHECKING:
    import polars as pl

    from .query.connection import Connection

T = TypeVar("T")


class Lake(Catalogue):
    """One lake. Make it with `Lake.open`; everything it returns is committed data."""

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self.changed = self._bring_along

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Self:
        """The lake at ``path``. With ``create`` a missing one is made; otherwise NotFound says how.

        Raises NewerFormat for a lake of a newer losslake, InvalidInput for a folder that is something else.
        """
        files = files_at(path)
        if manifest.load_if_there(files, paths.LAKE) is None:
            # Looked at before asking again: another process may be making the lake at this moment.
            used = files.holds_anything()
            if not files.exists(paths.LAKE):
                if used:
                    raise InvalidInput(
                        f"{files.root} exists and is not a lake (no {paths.LAKE} in it); choose another folder"
                    )
                if not create:
                    raise NotFound(f"there is no lake at {files.root}; 'losslake collect' makes one")
                files.put_if_absent(paths.LAKE, manifest.dump({"kind": "lake", "created": manifest.now()}))
            manifest.load(files, paths.LAKE)
        return cls(files)

    def _bring_along(self, experiment: str | None, *, rewritten: bool = False) -> None:
        """Bring the Delta tables of a published lake along (see `delta.publish.follow`)."""
        if isinstance(self.files, LocalFiles) and self.files.exists(
            paths.DELTA if rewritten else paths.PUBLISHED
        ):
            from .delta.publish import follow

            follow(self, experiment, rewritten=rewritten)

    # --- writing ------------------------------------------------------------------------------------------

    def create_experiment(
        self,
        name: str,
        samples: pa.Table,
        *,
        dataset: Mapping[str, Any] | None = None,
        digest: str | None = None,
        pictures: pa.Array | None = None,
    ) -> Experiment:
        """Make an experiment, or return it when it exists with the same samples.

        ``samples`` has one row a sample, in the order of sample ids: column ``label`` (integer or NULL) and
        optionally pool (audit, population), split, group, key and any columns of the user's.
        ``dataset`` says how to load the data again, ``digest`` pins its content (default: a digest of
        ``samples``), ``pictures`` are PNG bytes a sample. Raises AlreadyExists when an experiment of that name
        holds other samples.
        """
        check_name("experiment", name)
        table = complete_samples(samples)
        digest = digest or samples_digest(table)
        path = paths.experiment_manifest(name)
        with contextlib.suppress(OlderFormat):  # of such a lake nothing but what is there can be had
            leases.hold(self.files)  # from now on others see that somebody is about to use it
        if not self.files.exists(path):
            complete_removal(self, name)
            check_distinct("experiment", name, self.experiments())
            write_experiment(self.files, name, table, digest, dict(dataset or {}), pictures)
            self.changed(name)
        experiment = self.experiment(name)
        if experiment.digest != digest:
            raise AlreadyExists(
                f"experiment {name!r} in {self.path} holds other samples ({experiment.samples} of them) than these "
                f"({len(table)}); choose another experiment name{self._or_remove(name)}"
            )
        return experiment

    def write_run(
        self, experiment: str, run: str, *, members: npt.NDArray[np.bool_], made: bool = False
    ) -> RunWriter:
        """Start writing a run. ``members`` is boolean over all samples: who is in its training set.

        ``made``: the experiment was made for this run, and goes with it where that fails and nobody else is at work.
        Rows of samples that the experiment has forgotten are dropped. Raises AlreadyExists when the run is committed,
        InvalidInput when members do not fit the samples or a sample of the population or a forgotten one is among them.
        """
        import pyarrow.compute as pc

        check_name("run", run)
        known = self.experiment(experiment)
        members = np.asarray(members)
        if members.dtype != bool or members.shape != (known.samples,):
            raise InvalidInput(
                f"members of run {run!r} must be boolean of shape ({known.samples},), not {members.dtype}{members.shape}"
            )

        def failed() -> None:
            if made:
                with contextlib.suppress(
                    LosslakeError
                ):  # what ended the run is told, and not that this failed as well
                    remove_unused(self, experiment)

        writer = RunWriter(
            self.files,
            experiment,
            run,
            members,
            forget_late=self._forget_late,
            committed=self.changed,
            failed=failed,
        )
        others = self._names_in(f"runs/experiment={experiment}")
        check_distinct("run", run, others)
        writer.beside = len(others)
        population = pc.equal(self.samples(experiment, columns=["pool"])["pool"], "population").to_numpy()
        wrong = np.flatnonzero(members & population)
        if len(wrong):
            raise InvalidInput(
                f"sample {wrong[0]} belongs to the population, which no run trains on, yet is a member of run {run!r}"
            )
        wrong = np.flatnonzero(members & writer.forgotten)
        if len(wrong):
            raise InvalidInput(
                f"sample {wrong[0]} of experiment {experiment!r} was forgotten, and no run may train on it, yet it is a "
                f"member of run {run!r}; leave it out of the training set"
            )
        return writer

    def write_signals(self, run: Run, *, members: npt.NDArray[np.bool_]) -> RunWriter:
        """Start writing the signals of a committed run that has none; ``members`` is who is in its training set, as in `write_run`.

        Raises AlreadyExists where it has signals, InvalidInput where members are not as many as the run counts.
        """
        known = self.run(run.experiment, run.run)
        check_no_signals(known)
        writer = RunWriter(
            self.files,
            run.experiment,
            run.run,
            members,
            forget_late=self._forget_late,
            committed=self.changed,
            onto=known,
        )
        count = int((writer.members & ~writer.forgotten).sum())
        if count != known.members:
            writer.discard()
            raise InvalidInput(f"members are {count}, but run {run.run!r} has {known.members}")
        return writer

    def add_design(self, experiment: str, fleet: str, number: int, design: Mapping[str, Any]) -> bool:
        """Lay down design ``number`` of a fleet for good; False when another process did so first.

        Raises InvalidInput for a design that cannot be stored.
        """
        try:
            check_said(DESIGN, design)
        except ValueError as error:
            raise InvalidInput(f"a design of {fleet!r} cannot be stored: {error}") from error
        path = paths.design_file(check_name("experiment", experiment), check_name("fleet", fleet), number)
        leases.hold(self.files)
        return self.files.put_if_absent(path, manifest.dump({"kind": "design", "design": dict(design)}))

    def remove(
        self, experiment: str, runs: str | Collection[str] | None = None, *, dry_run: bool = False
    ) -> Removed:
        """Remove an experiment with all its runs, or some runs of it, for good, and what was computed with them.

        With a run every result of the experiment goes (compute them again); membership designs stay, so
        'losslake collect shadows' trains a removed shadow model again. It asks nothing. Where it was stopped the same call
        completes it. Returns what was removed: its ``runs``, the number of ``results``, ``bytes``. With ``dry_run`` it removes nothing.

        Raises NotFound for what is not there, InvalidOption where other runs come from a run (distilled models, duals) and are not
        named too, LosslakeError while somebody writes into the experiment.
        """
        return remove(self, experiment, [runs] if isinstance(runs, str) else runs, dry_run=dry_run)

    # --- asking -------------------------------------------------------------------------------------------

    def connect(
        self,
        experiment: str | None = None,
        *,
        threads: int | None = None,
        memory: str | None = None,
        timeout: float | None = None,
    ) -> Connection:
        """A connection that takes queries over the lake's views, of one experiment or of all, and nothing else.

        The views show what was committed when the connection was made. ``memory`` is a limit such as '4GB', ``timeout`` one
        in seconds per answer.
        """
        from .query.connection import Connection, connect

        return Connection(connect(self, experiment, threads=threads, memory=memory), timeout)

    @overload
    def sql(
        self,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        experiment: str | None = None,
        arrow: Literal[False] = False,
        memory: str | None = None,
        timeout: float | None = None,
    ) -> pl.DataFrame: ...

    @overload
    def sql(
        self,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        experiment: str | None = None,
        arrow: Literal[True],
        memory: str | None = None,
        timeout: float | None = None,
    ) -> pa.Table: ...

    def sql(
        self,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        experiment: str | None = None,
        arrow: bool = False,
        memory: str | None = None,
        timeout: float | None = None,
    ) -> pl.DataFrame | pa.Table:
        """The answer to one read-only SQL statement over the lake's views, as a Polars frame, or as an Arrow table.

        Parameters stand in the query as ``$name``. Raises QueryRefused for anything but a query, and for one that
        the engine rejects; CorruptLake where it met a file that is missing or damaged; LimitReached where it took more than
        ``timeout`` seconds or more memory than ``memory`` ('4GB').
        """

        def ask() -> pl.DataFrame | pa.Table:
            with self.connect(experiment, memory=memory, timeout=timeout) as connection:
                answer = connection.sql(query, parameters)
                return answer.arrow() if arrow else answer.pl()

        return self._again(experiment, ask)

    def scan(self, view: str, experiment: str | None = None) -> pl.LazyFrame:
        """A view as a Polars LazyFrame; for what SQL says less well than Polars."""
        from .query.scan import scan

        return self._again(experiment, lambda: scan(self, view, experiment))

    def arrow(self, view: str, experiment: str | None = None) -> pa.Table:
        """A view as an Arrow table."""
        from .query.connection import read_view

        return self._again(experiment, lambda: read_view(self, view, experiment))

    def _or_remove(self, experiment: str) -> str:
        """What else helps where the samples of an experiment are not those that somebody has."""
        if self.files.list(f"runs/experiment={experiment}", ".json"):
            return ""
        return f"; it has no runs: 'losslake lake remove --experiment {experiment}' makes the name free"

    def _forget_late(self, experiment: str, run: str) -> Run:
        from .upkeep.forget import forget_in_run

        return forget_in_run(self, experiment, run)
