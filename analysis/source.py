"""What an analysis reads: one experiment of one lake, the run it is about, and the runs that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from ..sql import read_sql
from ..store.errors import CorruptLake, InvalidOption, NotEnoughData, NotFound
from ..store.format.records import CANARY, Role, Run
from ..store.lake import Lake
from ..store.query.kept import Kept, kept_rows_of_each, place_of, rows_by_sum
from ..store.read.catalogue import check_remembered, listed_files, with_runs
from ..store.read.changes import check_unchanged, read_again
from ..store.read.data_rows import columns_of
from .declare import Analysis, parse_score
from .not_compared import (
    MembershipBits,
    Memberships,
    NotCompared,
    find_not_compared,
    read_training_sets,
    with_signals,
)
from .queries import Queries, without_comments
from .remedies import collect_shadows
from .statistics.dependence import TrainingSets
from .token_counts import Marks, check_same_tokens

T = TypeVar("T")

KEPT, KEPT_BY_MANY = 64 << 20, 256 << 20
"""Bytes of what was read that one analysis keeps at most, and many together, which read the same again and again."""

_LARGE = 1_000_000
"""Rows of a run from which on what the engine keeps between two questions is more than its start is worth, a twentieth of a second."""


@dataclass
class Source:
    """An experiment opened for analysis. ``target`` is the run under attack, or None.

    ``runs`` and every query answer as of the moment of opening: the rows of these runs, wherever others have moved them
    since. What has to be looked for again raises NotFound where one of them was removed, or collected anew, since. ``forgotten`` are the samples that were forgotten then. Use as a context manager: leaving it raises ForgottenMeanwhile
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
    find: Callable[[str], Analysis] = field(repr=False)
    left_out: tuple[str, ...] = ()
    _not_compared: NotCompared | None = field(default=None, repr=False)
    _token_marks: Marks = field(default_factory=dict, repr=False)
    _asked: bool = field(default=False, repr=False)
    _sets: dict[tuple[Any, ...], TrainingSets] = field(default_factory=dict, repr=False)
    kept: Kept = field(default_factory=lambda: Kept(KEPT), repr=False)
    _moved: bool = field(default=False, repr=False)
    _audited: np.ndarray | None = field(default=None, repr=False)
    _candidates: np.ndarray | None = field(default=None, repr=False)
    _queries: Queries = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._queries = Queries(self.lake, self.experiment)

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

        def seen() -> tuple[Run | None, tuple[Run, ...], tuple[int, ...]]:
            known, listed = with_runs(lake, experiment)  # what is forgotten by now, before any row is read
            runs = tuple(listed)
            if target is None:
                chosen = _only_target(experiment, runs)
            else:
                named = (run for run in runs if run.run == target)
                chosen = next(named, None) or lake.run(experiment, target)
            check_unchanged(lake.files, runs)
            return chosen, runs, known.forgotten

        return cls(
            lake, experiment, *read_again(seen, lambda: listed_files(lake, experiment)), find, left_out
        )

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The engine's, with the views: made when it is first asked for, as many analyses read columns alone."""
        return self._queries.connection(self._shown(), self._cells(), with_results=True)

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
                f"{collect_shadows(self.lake, self.experiment)}{''.join(f' ({note})' for note in self.not_compared().notes)}"
            )
        return found

    def need_references(self) -> tuple[Run, ...]:
        """The same with reference runs beside the shadow runs."""
        return self._others("shadow", "reference") or self.need_shadows()

    def _others(self, *roles: Role) -> tuple[Run, ...]:
        self._asked = True
        found = with_signals(self.runs, self.target_name, roles, but=self.not_compared().runs)
        if self.target is not None and found:
            check_same_tokens(
                self._token_marks,
                self.target,
                found,
                keeps_tokens=lambda run: keeps_tokens(self, run),
                ask=self.sql,
            )
        return found

    def ask_anew(self) -> None:
        """What was asked for by somebody who failed on it is not told to the next, who may ask for nothing of the kind."""
        self._asked = False

    def told(self) -> tuple[str, ...]:
        """What was left out of the runs to compare with, if these were asked for since this was called last."""
        asked, self._asked = self._asked, False
        return self.not_compared().notes if asked else ()

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
        return self._beside(self.target_name or None, tuple(dict.fromkeys((*self.left_out, *runs))))

    def not_compared(self) -> NotCompared:
        """What is left out of the runs to compare with; found once."""
        if self._not_compared is None:
            found = find_not_compared(self.target, self.runs, self.left_out, self._memberships)
            self._not_compared = found
            if found.runs or found.passed_over is not None:
                self._reconnect()
        return self._not_compared

    def _memberships(self) -> Memberships:
        """What the runs trained on, as it is compared with what the target did."""
        return MembershipBits(self._training_sets(), self.target_name)

    def _training_sets(self) -> TrainingSets:
        """Who trained on what, of all runs that may be compared; read once for a source and those beside it."""
        roles = ("target", "shadow", "reference")
        runs = [
            run
            for run in self.runs
            if "signals" in run.tables() and (run.info.role in roles or run.run == self.target_name)
        ]
        key = (self.experiment, *map(rows_by_sum, runs))
        if key not in self._sets:
            self._sets.clear()
            self._sets[key] = read_training_sets(runs, self.audited(), self.rows_of_each)
        return self._sets[key]

    def audited(self) -> np.ndarray:
        """Which samples are of the audit pool, (samples,) bool."""
        if self._audited is None:
            pool = pl.DataFrame(self.lake.samples(self.experiment, columns=["pool"]))
            self._audited = (pool["pool"] == "audit").to_numpy()
            self._audited.flags.writeable = False
        return self._audited

    def candidates(self) -> np.ndarray:
        """Which samples of the population are of group `CANARY`, (samples,) bool: made for the rank of a canary, and not drawn as records are.

        No analysis but `exposure` looks at them; what any run says of them is no reference. Queries of sql/ leave the same ones out.
        """
        if self._candidates is None:
            group = pl.DataFrame(self.lake.samples(self.experiment, columns=["group"]))
            self._candidates = ~self.audited() & group["group"].eq_missing(CANARY).to_numpy()
            self._candidates.flags.writeable = False
        return self._candidates

    def compared_population(self) -> np.ndarray:
        """Which samples are of the population, whose losses are what others are compared with, (samples,) bool: no `candidates`."""
        return ~self.audited() & ~self.candidates()

    def passed_over(self, runs: Sequence[Run], sample_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of what is passed over in a matrix of ``runs`` and ``sample_id`` (samples,), ascending."""
        cells = self.not_compared().passed_over
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
        asked = without_comments(text)  # what is given may have been all that a parameter was for
        try:
            return self.sql(text, {key: value for key, value in parameters.items() if f"${key}" in asked})
        finally:
            for table in given or ():  # sums of every sample, which no other query asks for
                self._withdraw(f"given_{table}")

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The answer to one query with its ``$parameters`` bound. Raises CorruptLake for a damaged file."""

        return self.again(
            lambda: self._queries.ask(text, dict(parameters or {}), self._shown(), self._cells())
        )

    def provide(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        self._queries.provide(name, table)

    def _withdraw(self, name: str) -> None:
        self._queries.withdraw(name)

    def rows(self, run: Run, table: str, columns: list[str]) -> pl.DataFrame:
        """Columns of one run's rows in ``signals`` or ``traces``, read from its own files only."""
        return self.rows_of_each((run,), table, columns)[0]

    def rows_of_each(self, runs: Sequence[Run], table: str, columns: list[str]) -> list[pl.DataFrame]:
        """The same for many runs, a frame a run, read in one go, or kept since. Raises CorruptLake for a damaged file."""
        every = sum(file.rows for run in self.runs for file in run.files if file.table == table)
        return self.again(
            lambda: kept_rows_of_each(self.kept, self.lake, self.now(runs), table, columns, every)
        )

    def compared(self) -> tuple[Hashable, ...]:
        """What the answers of runs that the target is compared with follow from, as a key of what is kept."""
        return (
            self.experiment,
            self.target_name,
            self.left_out,
            tuple((run.run, place_of(run, "signals")) for run in self.runs),
        )

    def keep_more(self) -> None:
        """Keep as much of what is read as many analyses after one another make use of: 256 MB at most."""
        self.kept.raise_to(KEPT_BY_MANY)

    def pause(self) -> None:
        """End the engine until it is asked again, where a run is large: it keeps memory that it has let go of, 150 MB a million records."""
        rows = (sum(file.rows for file in run.files if file.table == "signals") for run in self.runs)
        if max(rows, default=0) > _LARGE:
            self._queries.close()

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
        there = {run.run: run for run in self.lake.runs(self.experiment)}
        # Rows of theirs have been read: with those of other trainings they would make a result of neither.
        gone = [run.run for run in self.runs if run.run not in there or there[run.run].created != run.created]
        if gone:
            raise NotFound(
                f"run {gone[0]!r} of experiment {self.experiment!r} was removed or collected anew while it was analysed; run it again"
            )
        self.runs = tuple(there[run.run] for run in self.runs)
        self.target = self.now([self.target])[0] if self.target else None
        check_unchanged(self.lake.files, self.runs)
        self._queries.close()
        self._moved = False

    def _shown(self) -> tuple[Run, ...]:
        """The runs that queries see."""
        hidden = self._not_compared.runs if self._not_compared else ()
        return tuple(run for run in self.runs if run.run not in hidden)

    def _cells(self) -> pa.Table | None:
        """The single records of runs that queries do not see: run and sample_id."""
        return self._not_compared.passed_over if self._not_compared else None

    def reopened(self) -> Self:
        """The same experiment and target as of now, with what was kept since."""
        return self._opened(self.lake, self.experiment, self.target_name or None, self.left_out)

    def beside(self, target: str | None, *, experiment: str | None = None, lake: Lake | None = None) -> Self:
        """Another target, of this experiment or another one, in this lake or another one.

        In this experiment it is compared with the same runs, those of the moment in which this one was opened: those left out are left out of it too.
        """
        if lake is None and experiment in (None, self.experiment):
            return self._beside(target, self.left_out)
        left_out = self.left_out if experiment in (None, self.experiment) else ()
        return self._opened(lake or self.lake, experiment or self.experiment, target, left_out)

    def _beside(self, target: str | None, left_out: tuple[str, ...]) -> Self:
        """Of the same lake and experiment, of which nothing is read anew."""
        chosen = next((run for run in self.runs if run.run == target), None)
        if chosen is None:
            # To say so as `open` does; one that was collected since is compared with the others of now.
            return self._opened(self.lake, self.experiment, target, left_out)
        found = type(self)(self.lake, self.experiment, chosen, self.runs, self.forgotten, self.find, left_out)
        found._sets, found.kept, found._audited = self._sets, self.kept, self._audited
        found._token_marks = self._token_marks
        return found

    def _opened(self, lake: Lake, experiment: str, target: str | None, left_out: tuple[str, ...]) -> Self:
        found = type(self).open(lake, experiment, target, find=self.find, left_out=left_out)
        if lake is self.lake:
            found._sets, found.kept, found._token_marks = self._sets, self.kept, self._token_marks
        return found

    def analysis(self, score: str) -> tuple[Analysis, dict[str, Any]]:
        """The analysis that a score's name means, and its options; see `parse_score`."""
        return parse_score(score, self.find)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queries.close()
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


def keeps_tokens(source: Source, run: Run, column: str = "token_losses") -> bool:
    """Whether a run has a column that a language model says of tokens: the footers of its files say so."""
    files = source.lake.files
    return source.again(
        lambda: any(
            column in columns_of(files, file)
            for file in source.now([run])[0].files
            if file.table == "signals"
        )
    )


def with_membership(source: Source, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the column member after sample_id: membership in the target, NULL where there is no target."""
    if source.target is None or not source.target.tables():
        return frame.select("sample_id", pl.lit(None, pl.Boolean).alias("member"), pl.exclude("sample_id"))
    table = "signals" if "signals" in source.target.tables() else "traces"
    rows = source.rows(source.target, table, ["sample_id", "member"])
    # By place and not by a join, which copies the other columns: they are many times as much.
    shape = source.lake.experiment(source.experiment).samples
    known, member = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    known[rows["sample_id"].to_numpy()] = True
    member[rows["sample_id"].filter(rows["member"]).to_numpy()] = True
    asked = frame["sample_id"].to_numpy()
    column = pl.select(pl.when(pl.Series(known[asked])).then(pl.Series(member[asked])).alias("member"))
    others = [frame[name] for name in frame.columns if name not in ("sample_id", "member")]
    return pl.DataFrame([frame["sample_id"], column["member"], *others])
