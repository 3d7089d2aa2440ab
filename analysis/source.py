"""What an analysis reads: one experiment of one lake, the run it is about, and the runs that it is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from ..sql import read_sql
from ..store.errors import CorruptLake, InvalidOption, NotEnoughData, NotFound
from ..store.format.records import Experiment, Role, Run
from ..store.lake import Lake
from ..store.query.connection import connect
from ..store.query.engine_errors import engine_errors
from ..store.query.scan import rows_of_each
from ..store.read.catalogue import check_remembered, listed_files
from ..store.read.changes import read_again
from .declare import Analysis, parse_score
from .statistics.dependence import (
    ALIKE,
    SURE,
    TrainingSets,
    alike,
    members_apart,
    opposite,
)

T = TypeVar("T")

_ROWS = 1 << 24
"""Rows whose memberships are read at a time, 7 bytes each; a bit a run and sample is kept of them."""

_PASSED_OVER = """
create or replace temp view signals as
select * from memory.main.signals as kept
where not exists (
  select 1 from passed_over where passed_over.sample_id = kept.sample_id and passed_over.run = kept.run
)
"""


@dataclass(frozen=True, eq=False)
class Fits:
    """What is left out of the runs that the target is compared with, so that who they are does not tell its members.

    ``runs`` are names; ``passed_over`` (sample_id, run) are single records of runs; ``notes`` say so.
    """

    runs: tuple[str, ...] = ()
    passed_over: pa.Table | None = None
    notes: tuple[str, ...] = ()


def of_own_loop(experiment: Experiment) -> bool:
    """Whether its models come from a training loop of one's own, which `losslake collect` cannot run."""
    return experiment.dataset.get("recorded_by") == "start_run"


def collect_shadows(lake: Lake, experiment: str, some: str = "some") -> str:
    """What to do for shadow models: 'losslake collect' cannot train those of an experiment from a loop of one's own."""
    if not of_own_loop(lake.experiment(experiment)):
        return f"collect {some} with 'losslake collect shadows'"
    return f"train {some} with your own loop: for run in lake.shadow_runs({experiment!r}, count=32)"


@dataclass
class Source:
    """An experiment opened for analysis. ``target`` is the run under attack, or None.

    ``runs`` and every query answer as of the moment of opening: the rows of these runs, wherever others have moved them
    since. ``forgotten`` are the samples that were forgotten then. Use as a context manager: leaving it raises ForgottenMeanwhile
    where one was forgotten since, as what was read may know it.
    """

    engine: ClassVar[str] = "duckdb"
    adds_up_in_sql: ClassVar[bool] = False
    """Whether queries add up what many runs say, as rows may lie on many machines; else NumPy does, run after run."""

    lake: Lake
    experiment: str
    target: Run | None
    runs: tuple[Run, ...]
    forgotten: tuple[int, ...]
    connection: duckdb.DuckDBPyConnection = field(repr=False)
    find: Callable[[str], Analysis] = field(repr=False)
    left_out: tuple[str, ...] = ()
    _fits: Fits | None = field(default=None, repr=False)
    _asked: bool = field(default=False, repr=False)
    _sets: dict[tuple[Any, ...], TrainingSets] = field(default_factory=dict, repr=False)
    _provided: dict[str, pa.Table] = field(default_factory=dict, repr=False)
    _moved: bool = field(default=False, repr=False)

    @classmethod
    def open(
        cls,
        lake: Lake,
        experiment: str,
        target: str | None = None,
        *,
        find: Callable[[str], Analysis],
        left_out: tuple[str, ...] = (),
    ) -> Self:
        """Open an experiment. Without ``target`` the only run of role target is meant, if there is one.

        ``left_out`` names runs that it is not to be compared with. ``find`` gives the analysis of a name to those that ask for another one's scores; `open_source` knows them all.
        Raises NotFound for an unknown run, and when several targets leave the choice open.
        """

        def connected() -> tuple[Run | None, tuple[Run, ...], tuple[int, ...], duckdb.DuckDBPyConnection]:
            forgotten = lake.experiment(experiment).forgotten  # before any row is read
            runs = tuple(lake.runs(experiment))
            chosen = lake.run(experiment, target) if target is not None else _only_target(experiment, runs)
            return chosen, runs, forgotten, connect(lake, experiment, runs=runs)

        return cls(
            lake, experiment, *read_again(connected, lambda: listed_files(lake, experiment)), find, left_out
        )

    @property
    def target_name(self) -> str:
        """The target's name for a query; empty, which no run is called, where there is no target."""
        return self.target.run if self.target else ""

    def need_target(self) -> Run:
        """The target. Raises NotEnoughData where there is none."""
        if self.target is None:
            if not self.runs:
                raise NotEnoughData(
                    f"experiment {self.experiment!r} has no committed run; collect one with 'losslake collect target'"
                )
            names = ", ".join(run.run for run in self.runs[:5])
            raise NotEnoughData(
                f"experiment {self.experiment!r} has no run of role target; name the run to look at with --target "
                f"(runs: {names}{', ...' if len(self.runs) > 5 else ''})"
            )
        return self.target

    def need_target_table(self, table: str) -> Run:
        """The target, which must have rows in ``table`` (signals or traces)."""
        target = self.need_target()
        if table not in target.tables():
            raise NotEnoughData(f"run {target.run!r} of experiment {self.experiment!r} has no {table}")
        return target

    def need_shadows(self) -> tuple[Run, ...]:
        """The shadow runs with signals that the target is compared with. Raises NotEnoughData where there is none.

        Left out are the target, the runs that were asked to be, and those whose training set is the target's own or its
        complement; where how many trained on a record still tells whether the target did, single records of runs are
        passed over. From here on queries see neither; `told` says what was left out.
        """
        found = self._others("shadow")
        if not found:
            raise NotEnoughData(
                f"experiment {self.experiment!r} has no shadow runs"
                f"{f' beside {self.target_name!r}' if self.target else ''}; "
                f"{collect_shadows(self.lake, self.experiment)}{''.join(f' ({note})' for note in self.fits().notes)}"
            )
        return found

    def need_references(self) -> tuple[Run, ...]:
        """The same with reference runs beside the shadow runs."""
        return self._others("shadow", "reference") or self.need_shadows()

    def _others(self, *roles: Role) -> tuple[Run, ...]:
        self._asked = True
        return self._with_signals(*roles, but=self.fits().runs)

    def _with_signals(self, *roles: Role, but: Sequence[str]) -> tuple[Run, ...]:
        return tuple(
            run
            for run in self.runs
            if run.info.role in roles
            and run.run != self.target_name
            and "signals" in run.tables()
            and run.run not in but
        )

    def told(self) -> tuple[str, ...]:
        """What was left out of the runs to compare with, if these were asked for since this was called last."""
        asked, self._asked = self._asked, False
        return self.fits().notes if asked else ()

    def without(self, runs: Sequence[str]) -> Self:
        """The same experiment and target, compared with no run of these names.

        Raises NotFound for a name that no run has, InvalidOption for the target's.
        """
        names = {run.run for run in self.runs}
        for run in runs:
            if run == self.target_name:
                raise InvalidOption(
                    f"run {run!r} is the target, which is never compared with itself; leave out others"
                )
            if run not in names:
                raise NotFound(f"experiment {self.experiment!r} has no run {run!r} to leave out")
        return self._beside(self.target_name or None, left_out=tuple(dict.fromkeys((*self.left_out, *runs))))

    def fits(self) -> Fits:
        """What is left out of the runs to compare with; found once."""
        if self._fits is None:
            fits = self._find_fits()
            if fits.runs or fits.passed_over is not None:
                self._fits = fits
                self._reconnect()
            self._fits = fits
        return self._fits

    def _find_fits(self) -> Fits:
        asked = [
            run.run for run in self._with_signals("shadow", "reference", but=()) if run.run in self.left_out
        ]
        notes = [f"left out as asked: {', '.join(asked)}"] if asked else []
        if self.target is None or "signals" not in self.target.tables():
            return Fits(tuple(asked), None, tuple(notes))
        same, complements = self._alike()
        kin = (*same, *complements)
        compared = {run.run for run in self._with_signals("shadow", "reference", but=asked)}
        same, complements = ([run for run in names if run in compared] for names in (same, complements))
        if same:
            notes.append(
                f"left out, for they trained on the members of {self.target_name!r}: {', '.join(same)}; they know of "
                "them what the target does"
            )
        if complements:
            notes.append(
                f"left out, for they trained on what {self.target_name!r} did not: {', '.join(complements)}; with them in, "
                "the number of runs with a record would tell whether the target is one of them"
            )
        runs = (*asked, *same, *complements)
        fitted = [run.run for run in self._with_signals("shadow", but=runs) if run.members]
        # Runs that nothing is fitted to may be of the fleet too: other targets, and what was asked to be left out.
        others = [
            run.run
            for run in self._with_signals("shadow", "target", but=kin)
            if run.members and run.info.parent is None
        ]
        fleets = [fleet for fleet in (fitted, others) if fleet and fitted]
        found = [(*self._apart(fleet), fleet) for fleet in fleets[: 1 if fitted == others else 2]]
        apart, errors, fleet = max(found, key=lambda one: abs(one[1]), default=(0.0, 0.0, fitted))
        if abs(errors) <= SURE:
            return Fits(runs, None, tuple(notes))
        if apart > 0 or apart < -1.5:
            notes.append(
                f"members of {self.target_name!r} are in the training sets of {apart:+.2g} other runs more than non-members "
                "are: that alone may tell them apart, so the scores are no clean evidence of what the target learnt"
            )
        if errors >= -SURE:
            return Fits(runs, None, tuple(notes))
        cells = self._opposite(fleet, fitted)
        notes.append(
            f"{self.target_name!r} is one of a fleet in balance: its members are in {-apart:.2g} other runs fewer than "
            "non-members are. Where that calls for it one of a record's runs on the other side than the target, drawn at random, "
            "is passed over, so that their number tells nothing"
        )
        return Fits(runs, cells if len(cells) else None, tuple(notes))

    def _alike(self) -> tuple[list[str], list[str]]:
        """The runs with the target's training set, and those with its complement."""
        sets = self._training_sets()
        found = alike(sets, sets.row(self.target_name))
        others = [
            (run, value) for run, value in zip(sets.runs, found, strict=True) if run != self.target_name
        ]
        return [run for run, value in others if value >= ALIKE], [
            run for run, value in others if value <= -ALIKE
        ]

    def _apart(self, fleet: list[str]) -> tuple[float, float]:
        """How many more runs of a fleet trained on a member than on a non-member, and that in standard errors."""
        sets = self._training_sets()
        return members_apart(sets, sets.row(self.target_name), sets.rows(fleet))

    def _opposite(self, fleet: list[str], fitted: list[str]) -> pa.Table:
        """What is passed over, sample_id and run: of the samples drawn a run of the fleet, if it is among ``fitted``."""
        sets = self._training_sets()
        chosen = opposite(sets, sets.row(self.target_name), sets.rows(fleet))
        chosen[~np.isin(chosen, sets.rows(fitted))] = -1
        cells = np.flatnonzero(chosen >= 0)
        names = pa.DictionaryArray.from_arrays(pa.array(chosen[cells].astype(np.int32)), pa.array(sets.runs))
        return pa.table({"sample_id": sets.sample_id[cells].astype(np.int32), "run": names.cast(pa.string())})

    def _training_sets(self) -> TrainingSets:
        """Who trained on what, of all runs that may be compared; read once for a source and those beside it."""
        roles = ("target", "shadow", "reference")
        runs = [
            run
            for run in self.runs
            if "signals" in run.tables() and (run.info.role in roles or run.run == self.target_name)
        ]
        # The sums of rows stay when they are laid out anew.
        key = (
            self.experiment,
            *((run.run, *(file.sha256 for file in run.files if file.table == "signals")) for run in runs),
        )
        if key not in self._sets:
            self._sets.clear()
            self._sets[key] = self._read_training_sets(runs)
        return self._sets[key]

    def _read_training_sets(self, runs: Sequence[Run]) -> TrainingSets:
        audit = self.audited()
        sample_id = np.flatnonzero(audit)
        rows = [sum(file.rows for file in run.files if file.table == "signals") for run in runs]
        at_once = max(1, _ROWS // max(1, max(rows, default=1)))
        known, member = (np.zeros((len(runs), -(-len(sample_id) // 8)), np.uint8) for _ in range(2))
        ids, bits, whole = np.zeros(0, np.int32), known[0], False
        for start in range(0, len(runs), at_once):
            frames = self.rows_of_each(
                runs[start : start + at_once], "signals", ["sample_id", "query", "member"]
            )
            for row, frame in enumerate(frames, start):
                plain = frame.filter(pl.col("query") == 0) if frame["query"].max() != 0 else frame
                # Runs nearly always hold the same samples in the same order.
                if not np.array_equal(ids, here := plain["sample_id"].to_numpy()):
                    ids, flags = here, np.zeros(len(audit), dtype=np.bool_)
                    flags[ids] = True
                    bits = np.packbits(flags[sample_id])
                    whole = np.array_equal(ids, sample_id)
                inside = plain["member"].to_numpy()
                if not whole:
                    flags = np.zeros(len(audit), dtype=np.bool_)
                    flags[ids] = inside
                    inside = flags[sample_id]
                known[row], member[row] = bits, np.packbits(inside)
        return TrainingSets(tuple(run.run for run in runs), sample_id, known, member)

    def audited(self) -> np.ndarray:
        """Which samples are of the audit pool, (samples,) bool."""
        return (pl.Series(self.lake.samples(self.experiment)["pool"]) == "audit").to_numpy()

    def passed_over(self, runs: Sequence[Run], sample_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of what is passed over in a matrix of ``runs`` and ``sample_id`` (samples,), ascending."""
        cells = self.fits().passed_over
        if cells is None or not len(sample_id):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        row_of = {run.run: row for row, run in enumerate(runs)}
        rows = np.array([row_of.get(name, -1) for name in cells["run"].to_pylist()], dtype=np.intp)
        ids = cells["sample_id"].to_numpy()
        columns = np.minimum(np.searchsorted(sample_id, ids), len(sample_id) - 1)
        there = (rows >= 0) & (sample_id[columns] == ids)
        return rows[there], columns[there]

    def query(
        self, name: str, parameters: Mapping[str, Any], given: Mapping[str, pa.Table] | None = None
    ) -> pl.DataFrame:
        """The answer to ``sql/NAME.sql`` with its ``$parameters`` bound.

        ``given`` are tables in place of its common table expressions of these names.
        """
        for table, rows in (given or {}).items():
            self.provide(f"given_{table}", rows)
        text = read_sql(name, given or ())
        asked = re.sub(r"--.*", "", text)  # what is given may have been all that a parameter was for
        return self.sql(text, {key: value for key, value in parameters.items() if f"${key}" in asked})

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The answer to one query with its ``$parameters`` bound. Raises CorruptLake for a damaged file."""

        def ask() -> pl.DataFrame:
            with engine_errors(self.connection):
                return self.connection.sql(text, params=dict(parameters or {})).pl()

        return self.again(ask)

    def provide(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        self.connection.register(name, table)
        self._provided[name] = table

    def rows(self, run: Run, table: str, columns: list[str]) -> pl.DataFrame:
        """Columns of one run's rows in ``signals`` or ``traces``, read from its own files only."""
        return self.rows_of_each((run,), table, columns)[0]

    def rows_of_each(self, runs: Sequence[Run], table: str, columns: list[str]) -> list[pl.DataFrame]:
        """The same for many runs, a frame a run, read in one go. Raises CorruptLake for a damaged file."""
        return self.again(lambda: rows_of_each(self.lake, self.now(runs), table, columns))

    def rows_between(self, run: Run, table: str, columns: list[str], samples: range) -> pl.DataFrame:
        """`rows` of the samples in a range alone; of files in the order of sample ids little else is read."""
        wanted = [("sample_id", ">=", samples.start), ("sample_id", "<", samples.stop)]

        def read() -> pl.DataFrame:
            files = [file for file in self.now([run])[0].files if file.table == table]
            found = [self.lake.read_file(file, columns=columns, filters=wanted) for file in files]
            return pl.DataFrame(pa.concat_tables(found))

        return self.again(read)

    def now(self, runs: Sequence[Run]) -> list[Run]:
        """The same runs with the files in which their rows lie now. To be asked inside `again`."""
        by_name = {run.run: run for run in self.runs}
        return [by_name.get(run.run, run) for run in runs]

    def again(self, read: Callable[[], T]) -> T:
        """What ``read`` returns, called once more where the files that it reads have been replaced meanwhile."""

        def read_what_is_there() -> T:
            if self._moved:
                self._reconnect()
            return read()

        def look() -> frozenset[str]:
            self._moved = True
            return listed_files(self.lake, self.experiment)

        return read_again(read_what_is_there, look)

    def _reconnect(self) -> None:
        names = {run.run for run in self.runs}
        self.runs = tuple(run for run in self.lake.runs(self.experiment) if run.run in names)
        self.target = self.now([self.target])[0] if self.target else None
        connection = connect(self.lake, self.experiment, runs=self._shown())
        self.connection.close()
        self.connection = connection
        cells = self._fits.passed_over if self._fits else None
        if cells is not None:
            self._provided["passed_over"] = cells
        for name, table in self._provided.items():
            connection.register(name, table)
        if cells is not None:
            connection.execute(_PASSED_OVER)
        self._moved = False

    def _shown(self) -> tuple[Run, ...]:
        """The runs that queries see."""
        hidden = self._fits.runs if self._fits else ()
        return tuple(run for run in self.runs if run.run not in hidden)

    def reopened(self) -> Self:
        """The same experiment and target as of now, with what was kept since."""
        return self.beside(self.target_name or None)

    def beside(self, target: str | None, *, experiment: str | None = None, lake: Lake | None = None) -> Self:
        """Another target, of this experiment or another one, in this lake or another one.

        In this experiment it is compared with the same runs: those left out are left out of it too.
        """
        left_out = self.left_out if experiment in (None, self.experiment) else ()
        return self._beside(target, experiment=experiment, lake=lake, left_out=left_out)

    def _beside(
        self,
        target: str | None,
        *,
        experiment: str | None = None,
        lake: Lake | None = None,
        left_out: tuple[str, ...],
    ) -> Self:
        found = type(self).open(
            lake or self.lake, experiment or self.experiment, target, find=self.find, left_out=left_out
        )
        if lake is None:
            found._sets = self._sets
        return found

    def analysis(self, score: str) -> tuple[Analysis, dict[str, Any]]:
        """The analysis that a score's name means, and its options; see `parse_score`."""
        return parse_score(score, self.find)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        # A kept result that was read may have gone with a sample: that is no damage.
        if kind is None or issubclass(kind, CorruptLake):
            check_remembered(self.lake, self.experiment, self.forgotten, "it was analysed")


def _only_target(experiment: str, runs: tuple[Run, ...]) -> Run | None:
    targets = [run for run in runs if run.info.role == "target"]
    # Duals name the target as their parent.
    first = [run for run in targets if run.info.parent is None] or targets
    if len(first) > 1:
        raise NotFound(
            f"experiment {experiment!r} has several targets ({', '.join(run.run for run in first[:8])}); "
            "choose one with --target"
        )
    return first[0] if first else None


def with_membership(source: Source, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the column member after sample_id: membership in the target, NULL where there is no target."""
    if source.target is None or not source.target.tables():
        return frame.select("sample_id", pl.lit(None, pl.Boolean).alias("member"), pl.exclude("sample_id"))
    table = "signals" if "signals" in source.target.tables() else "traces"
    known = (
        source.rows(source.target, table, ["sample_id", "member"])
        .group_by("sample_id")
        .agg(pl.col("member").any())
    )
    joined = frame.join(known, on="sample_id", how="left", maintain_order="left")
    return joined.select("sample_id", "member", pl.exclude("sample_id", "member"))
