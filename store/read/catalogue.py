"""The catalogue of a lake: the experiments, runs and results that its manifests list, and the rows behind them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ...version import __version__
from ..errors import CorruptLake, ForgottenMeanwhile, NotFound
from ..files.filesystem import Files
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..format.paths import check_name
from ..format.records import (
    Experiment,
    Result,
    Run,
    experiment_from_json,
    result_from_json,
    run_from_json,
)
from .changes import check_unchanged, read_again
from .data_rows import columns_of, read_rows
from .index import LEAST, Indexed, manifest_in, read_index

T = TypeVar("T")


class Changed(Protocol):
    """What is called after something of an experiment, or of any, was committed.

    ``rewritten``: after files that manifests listed were replaced or removed.
    """

    def __call__(self, experiment: str | None, *, rewritten: bool = False) -> None: ...


def _nothing_follows(experiment: str | None, *, rewritten: bool = False) -> None: ...


class Catalogue:
    """What is committed in the lake whose ``files`` these are. `Lake` is the one that users see."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.not_indexed: dict[str, int] = {}
        """How many manifests of runs were read one by one when the runs of an experiment were read last."""
        self.changed: Changed = _nothing_follows
        """Called after something was committed or rewritten: `Lake` brings along what hangs on it."""

    @property
    def path(self) -> str:
        return self.files.root

    # --- experiments --------------------------------------------------------------------------------------

    def experiments(self) -> list[str]:
        """Names of the experiments, sorted."""
        return self._names_in("experiments")

    def experiment(self, name: str) -> Experiment:
        """One experiment. Raises NotFound with the names there are."""
        check_name("experiment", name)
        path = paths.experiment_manifest(name)
        content = manifest.load_if_there(self.files, path)
        if content is None:
            known = ", ".join(self.experiments()) or "none yet"
            raise NotFound(f"there is no experiment {name!r} in the lake {self.path} (experiments: {known})")
        return experiment_from_json(content)

    def samples(self, experiment: str, *, columns: list[str] | None = None) -> pa.Table:
        """The samples of an experiment, one row each, in the order of sample ids, with the user's columns; or some columns."""

        def read() -> pa.Table:
            listed = self._unchanged(self.experiment(experiment), "samples")
            return pa.concat_tables([self.read_file(file, columns=columns) for file in listed])

        return self._again(experiment, read)

    def pictures(self, experiment: str, sample_ids: list[int]) -> dict[int, bytes]:
        """PNG bytes of the samples asked for; empty when the experiment holds no pictures."""

        def read() -> dict[int, bytes]:
            found: dict[int, bytes] = {}
            known = self.experiment(experiment)
            for file in self._unchanged(known, "pictures") if sample_ids else ():
                wanted = [("sample_id", "in", sample_ids)]
                rows = self.read_file(file, columns=["sample_id", "png"], filters=wanted)
                found.update(zip(rows["sample_id"].to_pylist(), rows["png"].to_pylist(), strict=True))
            return found

        return self._again(experiment, read)

    # --- runs ---------------------------------------------------------------------------------------------

    def runs(self, experiment: str, role: str | None = None) -> list[Run]:
        """The committed runs of an experiment, by name; of one role when given."""
        loaded = with_runs(self, experiment)[1]
        return [run for run in loaded if role is None or run.info.role == role]

    def run(self, experiment: str, run: str) -> Run:
        """One committed run. Raises NotFound with the names there are."""
        self.experiment(experiment)
        check_name("run", run)
        path = paths.run_manifest(experiment, run)
        found = self._run_if_there(path)
        if found is None:
            names = self._names_in(f"runs/experiment={experiment}")
            known = ", ".join([*names[:8], "..."] if len(names) > 8 else names) or "none yet"
            raise NotFound(f"there is no run {run!r} in experiment {experiment!r} (runs: {known})")
        return found

    def has_run(self, experiment: str, run: str) -> bool:
        """Whether that run is committed."""
        return self.files.exists(
            paths.run_manifest(check_name("experiment", experiment), check_name("run", run))
        )

    def run_rows(
        self,
        run: Run,
        table: str | None = None,
        *,
        columns: list[str] | None = None,
        filters: list[tuple[Any, ...]] | None = None,
    ) -> list[pa.Table]:
        """The rows of a run in ``signals`` or ``traces``, or in both, a table a file, wherever they lie by now.

        Raises CorruptLake when one cannot be read.
        """

        def read() -> list[pa.Table]:
            wanted = self._unchanged(self.run(run.experiment, run.run), table)
            return [self.read_file(file, columns=columns, filters=filters) for file in wanted]

        return self._again(run.experiment, read)

    def read_file(
        self,
        file: DataFile,
        *,
        columns: list[str] | None = None,
        filters: list[tuple[Any, ...]] | None = None,
    ) -> pa.Table:
        """The rows of one data file that a manifest lists, its owner's alone; of some columns or rows where asked for.

        Raises CorruptLake when it cannot be read, also where its manifest has been replaced since: see `run_rows`.
        """
        return read_rows(self.files, file, columns, filters)

    def designs(self, experiment: str, fleet: str) -> list[dict[str, Any]]:
        """The membership designs laid down for a fleet of runs, in order."""
        folder = f"designs/experiment={check_name('experiment', experiment)}"
        pattern = re.compile(re.escape(check_name("fleet", fleet)) + "-([0-9]{4,})")
        matches = (pattern.fullmatch(name) for name in self._names_in(folder))
        found = sorted((int(match[1]), f"{folder}/{match[0]}.json") for match in matches if match)
        return [manifest.load(self.files, path)["design"] for _, path in found]

    # --- inside -------------------------------------------------------------------------------------------

    def _again(self, experiment: str | None, read: Callable[[], T]) -> T:
        return read_again(read, lambda: listed_files(self, experiment))

    def _unchanged(self, owner: Experiment | Run, table: str | None) -> list[DataFile]:
        """The files that a manifest lists for a table, or for all, looked at as `check_unchanged` does."""
        wanted = [file for file in owner.files if table is None or file.table == table]
        check_unchanged(self.files, [replace(owner, files=tuple(wanted))])
        return wanted

    def _names_in(self, folder: str) -> list[str]:
        return [path[len(folder) + 1 : -len(".json")] for path in self.files.list(folder, ".json")]

    def _run_if_there(self, path: str) -> Run | None:
        """A run by its manifest; None where there is none, or none any more."""
        content = manifest.load_if_there(self.files, path)
        return None if content is None else run_from_json(content)


def with_runs(lake: Catalogue, experiment: str) -> tuple[Experiment, list[Run]]:
    """An experiment with its committed runs, by name, in one look. Raises NotFound as `Catalogue.experiment`."""
    check_name("experiment", experiment)
    looks: tuple[Callable[[], Any], ...] = (
        lambda: lake.experiment(experiment),
        lambda: lake.files.stamps(f"runs/experiment={experiment}", ".json"),
    )
    known, stamps = lake.files.each(lambda look: look(), looks)
    indexed = read_index(lake.files, experiment, known.forgotten) if len(stamps) >= LEAST else {}
    found = {path: _indexed_run(path, indexed.get(path), stamp) for path, stamp in stamps.items()}
    missing = [path for path, run in found.items() if run is None]
    lake.not_indexed[experiment] = len(missing)
    found |= zip(missing, lake.files.each(lake._run_if_there, missing), strict=True)
    return known, [run for run in found.values() if run is not None]


def results(lake: Catalogue, experiment: str) -> list[Result]:
    """Every stored result of an experiment, fresh or stale, by analysis, target and variant.

    One whose manifest is damaged is left out, as if it had never been computed; 'lake verify' names it.
    """
    return [result for _, result in _stored(lake, experiment) if result is not None]


def result_of(lake: Catalogue, experiment: str, analysis: str, target: str, variant: str) -> Result | None:
    """The stored result of that name, fresh or stale; None where there is none, or a damaged one."""
    path = paths.result_manifest(experiment, analysis, target, variant)
    try:
        found = result_from_json(manifest.load(lake.files, path))
    except CorruptLake:
        return None
    return found if (found.analysis, found.target, found.variant) == (analysis, target, variant) else None


def results_with(lake: Catalogue, experiment: str, samples: Sequence[int]) -> list[tuple[str, Result | None]]:
    """The results, and where their manifests are, that were computed when one of ``samples`` was not forgotten yet.

    None stands for a damaged one, which does not say what it was computed from.
    """
    return [
        (path, result)
        for path, result in _stored(lake, experiment)
        if samples and (result is None or set(samples).difference(result.forgotten))
    ]


def check_remembered(lake: Catalogue, experiment: str, forgotten: Sequence[int], what: str) -> None:
    """Raises ForgottenMeanwhile where an experiment has forgotten more than ``forgotten``, what it had when rows were read.

    ``what`` was done with the rows, for the message. Whoever forgets says so before any row goes: who reads rows, and finds
    here that nothing was forgotten since, has read none of a sample that is.
    """
    check_none_forgotten(lake.experiment(experiment), forgotten, what)


def check_none_forgotten(known: Experiment, forgotten: Sequence[int], what: str) -> None:
    """The same of an experiment as it is now."""
    late = set(known.forgotten).difference(forgotten)
    if late:
        raise ForgottenMeanwhile(
            f"{len(late)} sample{'s' if len(late) > 1 else ''} of experiment {known.name!r} "
            f"{'were' if len(late) > 1 else 'was'} forgotten while {what}; nothing of it is kept, run it again"
        )


def fingerprint(
    lake: Catalogue,
    experiment: str,
    runs: Iterable[Run] | None = None,
    forgotten: Sequence[int] | None = None,
) -> str:
    """Changes whenever the samples or the committed runs of an experiment do, or losslake itself.

    ``runs`` are those that an analysis saw, and ``forgotten`` the samples that were forgotten then; without them, what is
    committed and forgotten now.
    """
    known, there = (lake.experiment(experiment), runs) if runs is not None else with_runs(lake, experiment)
    gone = known.forgotten if forgotten is None else forgotten
    parts = [__version__, known.digest, *(f"without {sample}" for sample in gone)]
    for run in there:
        parts += [run.run, run.info.role, *(file.sha256 for file in run.files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_result(
    lake: Catalogue, result: Result, columns: Sequence[str] | None = None
) -> tuple[Result, pa.Table]:
    """The scores of a result, and the result itself: as it is now where it was replaced since. It must have scores.

    Of ``columns``, where they are given, those that it has, and no others are read.
    """
    latest = result

    def read() -> tuple[Result, pa.Table]:
        if latest.file is None:
            raise ValueError(f"the result of {latest.analysis} has no scores")
        check_unchanged(lake.files, [latest])
        wanted = None
        if columns is not None:
            there = columns_of(lake.files, latest.file)
            wanted = [name for name in columns if name in there]
        return latest, lake.read_file(latest.file, columns=wanted)

    def look() -> Result:
        nonlocal latest
        name = (result.analysis, result.target, result.variant)
        for each in results(lake, result.experiment):
            if (each.analysis, each.target, each.variant) == name:
                latest = each
        return latest

    return read_again(read, look)


def listed_files(lake: Catalogue, experiment: str | None = None) -> frozenset[str]:
    """The data files that the manifests of an experiment, or of all, list at this moment."""
    found: set[str] = set()
    for name in [experiment] if experiment is not None else lake.experiments():
        known, runs = with_runs(lake, name)
        owners: tuple[Experiment | Run, ...] = (known, *runs)
        found.update(file.path for owner in owners for file in owner.files)
        found.update(result.file.path for result in results(lake, name) if result.file is not None)
    return frozenset(found)


def _stored(lake: Catalogue, experiment: str) -> list[tuple[str, Result | None]]:
    """Each result with the path of its manifest; None for one that is damaged."""
    found = lake.files.list(f"results/experiment={check_name('experiment', experiment)}", ".json")

    def load(path: str) -> tuple[str, Result | None] | None:
        try:
            return path, result_from_json(manifest.load(lake.files, path))
        except CorruptLake:
            # It may have been removed since it was listed, with a sample that it tells of.
            return (path, None) if lake.files.exists(path) else None

    return [loaded for loaded in lake.files.each(load, found) if loaded is not None]


def _indexed_run(path: str, entry: Indexed | None, stamp: str) -> Run | None:
    """A run by what an index says of its manifest; None where that is not what has ``stamp``."""
    if entry is None or not stamp or entry.stamp != stamp:
        return None
    try:
        return run_from_json(manifest_in(entry, path))
    except CorruptLake:
        return None
