"""Removing a run, or an experiment with all its runs, and what hangs on it.

What is removed is invisible first and gone after that, so a reader sees it whole or not at all, and a removal that was
stopped is completed by the same call. Of an experiment the manifest goes first; a mark in ``removals/`` says until the
end that the rest is on its way out, and not orphaned by an accident. Of a run the others leave the files that they share
with it, then its manifest goes, and then its files. Whoever writes into the experiment keeps it: a writer says in
``staging/`` that it has begun before it looks for the experiment, and who removes looks for that before and after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ..errors import CorruptLake, InvalidOption, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..format.paths import check_name
from ..format.records import Experiment
from ..read.catalogue import Catalogue, listed_files
from ..write import leases
from ..write.checkpoints import resumable_files
from ..write.index import drop_index
from ..write.leases import Claim, claim
from .compact import Part, pack
from .leftovers import files_listed_by, what_became_of

_OF_RUNS = ("signals", "traces", "staging", paths.CHECKPOINTS)
_DATA = ("samples", "pictures", "packed", "scores", *_OF_RUNS)


@dataclass(frozen=True)
class Removed:
    """What was removed, or would be: the ``runs`` by name, how many ``results`` of analyses, the ``bytes`` of all their files.

    ``samples`` is the size of the experiment where it goes as a whole, else None. ``completed``: an earlier call that was
    stopped has been completed, and the rest counts what that one had left.
    """

    experiment: str
    samples: int | None
    runs: tuple[str, ...]
    results: int
    bytes: int
    completed: bool = False


def remove(
    lake: Catalogue, experiment: str, runs: Collection[str] | None = None, *, dry_run: bool = False
) -> Removed:
    """Remove an experiment with all that is in it, or some of its runs with their rows; what was computed with them goes too.

    With a run every result of the experiment goes: it was computed with the run, or is stale without it. Doing it again
    completes a removal that was stopped. Raises NotFound for what is not there, InvalidOption where other runs come from
    one (distilled models, duals) that are not named too, OlderFormat for a lake that has to be migrated, LosslakeError
    while somebody writes into the experiment.
    """
    check_name("experiment", experiment)
    if runs is None:
        return _remove_experiment(lake, experiment, dry_run)
    if isinstance(runs, str):
        raise InvalidOption(f"runs are a list of names; for one give [{runs!r}]")
    names = tuple(dict.fromkeys(check_name("run", run) for run in runs))
    if not names:
        raise InvalidOption("no run named")
    return _remove_runs(lake, experiment, names, dry_run)


def remove_unused(lake: Catalogue, experiment: str) -> bool:
    """Remove an experiment that a start which failed has made; whether it did.

    It stays where a run of it is committed, or stopped with a checkpoint to go on from, or where any other process is at
    work in the lake: that one may be about to use it.
    """
    files, own = lake.files, tokens.process_part(lake.files.root)
    if any(
        writer != own and _may_be_at_work(files, paths.lease(writer), writer, state)
        for writer, state in leases.states(files).items()
    ):
        return False
    if files.list(f"runs/experiment={experiment}", ".json"):
        return False
    folder = f"{paths.CHECKPOINTS}/experiment={experiment}/"
    if any(path.startswith(folder) for path in resumable_files(files)):
        return False
    _remove_experiment(lake, experiment, dry_run=False)
    return True


@contextlib.contextmanager
def unused_removed(lake: Catalogue, experiment: str) -> Iterator[bool]:
    """Where the block makes an experiment and then fails before a run of it is committed, the name is free again.

    The block is told whether the experiment is not there yet.
    """
    new = not lake.files.exists(paths.experiment_manifest(check_name("experiment", experiment)))
    try:
        yield new
    except BaseException:
        if new:
            with contextlib.suppress(LosslakeError):  # what failed is told, and not that this did as well
                remove_unused(lake, experiment)
        raise


def stopped_removals(lake: Catalogue) -> list[str]:
    """The experiments whose removal was begun and did not end, nor is somebody at it."""
    files = lake.files
    found = [path.removeprefix(f"{paths.REMOVALS}/")[:-5] for path in files.list(paths.REMOVALS, ".json")]
    return [
        name
        for name in found
        if not files.exists(paths.experiment_manifest(name))
        and not leases.claimed(files, f"experiment={name}")
        and files.exists(paths.removal(name))  # else it ended before its claim was looked for
    ]


def complete_removal(lake: Catalogue, experiment: str) -> None:
    """Complete the removal of an experiment where one was stopped, so that another one may take its name."""
    if lake.files.exists(paths.removal(experiment)) and not lake.files.exists(
        paths.experiment_manifest(experiment)
    ):
        _remove_experiment(lake, experiment, dry_run=False)


# --- an experiment ------------------------------------------------------------------------------------------


def _remove_experiment(lake: Catalogue, experiment: str, dry_run: bool) -> Removed:
    files = lake.files
    path, mark = paths.experiment_manifest(experiment), paths.removal(experiment)
    stopped = files.exists(mark) and not files.exists(path)
    if not stopped:
        lake.experiment(experiment)  # raises NotFound with the names there are
    if dry_run:
        return _counted(lake, experiment, stopped)
    with claim(files, f"experiment={experiment}") as held:
        _refuse_at_work(files, experiment)
        counted = _counted(lake, experiment, stopped)
        if not stopped:
            content = files.read(path)
            begun = {"kind": "removal", "experiment": experiment, "begun": manifest.now()}
            files.put(mark, manifest.dump(begun), before=held.check)
            held.check()
            files.delete(path)
            try:
                _refuse_at_work(files, experiment)
            except LosslakeError:
                # It began in this moment. It looks for the experiment once more when it commits, so nothing is lost.
                files.put_if_absent(path, content)
                files.delete(mark)
                raise
        files.settle("experiments")  # no failure of power brings it back once its files go

        def take(path: str) -> None:
            held.check()  # else the name may be another experiment's by now
            files.delete(path)

        for folder in ("results", "runs", "designs", paths.INDEXES, *_DATA):
            files.each(take, files.list(f"{folder}/experiment={experiment}"))
            files.settle(f"{folder}/experiment={experiment}")
        lake.changed(experiment, rewritten=True)
        files.settle(paths.DELTA)
        take(mark)
        files.settle(paths.REMOVALS)
    return counted


def _counted(lake: Catalogue, experiment: str, stopped: bool) -> Removed:
    files = lake.files
    present = [path for folder in _DATA for path in files.list(f"{folder}/experiment={experiment}")]
    return Removed(
        experiment,
        None if stopped else lake.experiment(experiment).samples,
        tuple(path.rpartition("/")[2][:-5] for path in files.list(f"runs/experiment={experiment}", ".json")),
        len(_results_of(files, experiment)),
        sum(_size(files, path) for path in present),
        completed=stopped,
    )


# --- runs ---------------------------------------------------------------------------------------------------


def _remove_runs(lake: Catalogue, experiment: str, names: tuple[str, ...], dry_run: bool) -> Removed:
    known = lake.experiment(experiment)
    if dry_run:
        return _checked(lake, known, names)
    with claim(lake.files, f"experiment={experiment}") as held:
        _refuse_at_work(lake.files, experiment)
        _settle_removed(lake.files, experiment, names)  # what a call did that was stopped
        counted = _checked(lake, known, names)
        runs = [run for run in lake.runs(experiment) if run.run in counted.runs]
        shared = {file.path for run in runs for file in run.files if file.shared is not None}
        for path in sorted(shared):
            held.renew()
            _let_others_leave(lake, experiment, path, set(names), held)
        held.check()
        _drop_results(lake, experiment)
        for run in runs:
            held.check()  # else the name may be another run's by now
            lake.files.delete(paths.run_manifest(experiment, run.run))
        _settle(lake.files, experiment, ("runs", "results"))  # they do not come back once their files go
        for name in names:
            _take_files(lake.files, experiment, name, held)
        drop_index(lake.files, experiment)
        # What was shared, by these or by runs of a call that was stopped, no manifest lists any more.
        listed = listed_files(lake, experiment)
        for path in lake.files.list(paths.packed_folder(experiment)):
            if path not in listed:
                held.check()
                lake.files.delete(path)
        _drop_results(lake, experiment)  # an analysis may have gone on meanwhile
        lake.changed(experiment, rewritten=True)
        lake.files.settle(paths.DELTA)
        _settle_removed(lake.files, experiment, names)
    return counted


def _take_files(files: Files, experiment: str, name: str, held: Claim) -> None:
    """Delete all that lies in the folders of a run, and its manifest before, where a writer that has begun meanwhile commits it."""
    path = paths.run_manifest(experiment, name)
    while True:
        if files.exists(path):
            held.check()
            files.delete(path)
            _settle(files, experiment, ("runs",))
        there = _files_of(files, experiment, name)
        if not there:  # who commits now looks for its files after that, and takes its manifest back
            return
        for file in there:
            held.check()
            files.delete(file)


def _settle_removed(files: Files, experiment: str, names: Collection[str]) -> None:
    _settle(files, experiment, ("runs", "results", "scores", "packed", paths.INDEXES))
    for name in names:
        _settle(files, f"{experiment}/run={name}", _OF_RUNS)


def _settle(files: Files, experiment: str, folders: Iterable[str]) -> None:
    for folder in folders:
        files.settle(f"{folder}/experiment={experiment}")


def _checked(lake: Catalogue, known: Experiment, names: tuple[str, ...]) -> Removed:
    """What removing runs would remove. Raises NotFound and InvalidOption as `remove`."""
    runs = {run.run: run for run in lake.runs(known.name)}
    for name in names:
        if name not in runs and not _files_of(lake.files, known.name, name):
            lake.run(known.name, name)  # raises NotFound with the names there are
    derived = [run.run for run in runs.values() if run.info.parent in names and run.run not in names]
    if derived:
        told = ", ".join(derived[:8]) + (", ..." if len(derived) > 8 else "")
        parent = runs[derived[0]].info.parent
        raise InvalidOption(
            f"{len(derived)} runs of experiment {known.name!r} come from run {parent!r}: {told}; name them too, or leave it"
        )
    chosen = [runs[name] for name in names if name in runs]
    return Removed(
        known.name,
        None,
        tuple(run.run for run in chosen),
        len(_results_of(lake.files, known.name)),
        sum(file.bytes for run in chosen for file in run.files),
        completed=len(chosen) < len(names),
    )


def _let_others_leave(lake: Catalogue, experiment: str, path: str, leaving: set[str], held: Claim) -> None:
    """Let the runs that share a file with those that are removed share one without them."""
    parts = [
        Part(run.run, file)
        for run in lake.runs(experiment)
        if run.run not in leaving
        for file in run.files
        if file.path == path
    ]
    if not parts:
        return
    for part, new in pack(lake, experiment, parts):
        where = paths.run_manifest(experiment, part.run)
        content = manifest.load(lake.files, where)
        old, entry = manifest.files_to_json((part.file, new))
        listed = [entry if file == old else file for file in content["files"]]
        lake.files.put(where, manifest.dump({**content, "files": listed}), before=held.check)


def _drop_results(lake: Catalogue, experiment: str) -> None:
    for path in _results_of(lake.files, experiment):
        listed: tuple[DataFile, ...] = ()
        with contextlib.suppress(LosslakeError):  # damaged, or gone since
            listed = files_listed_by(lake.files, path)
        lake.files.delete(path)
        for file in listed:
            lake.files.delete(file.path)


def _results_of(files: Files, experiment: str) -> list[str]:
    return files.list(f"results/experiment={experiment}", ".json")


def _files_of(files: Files, experiment: str, run: str) -> list[str]:
    """All that lies in the folders of a run; what it shares with others does not."""
    return [path for folder in _OF_RUNS for path in files.list(f"{folder}/experiment={experiment}/run={run}")]


# --- who is at work -----------------------------------------------------------------------------------------


def _refuse_at_work(files: Files, experiment: str) -> None:
    """Raises LosslakeError while somebody writes a run of the experiment, this process included."""
    staged = files.list(f"staging/experiment={experiment}")
    states = leases.states(files)
    for path in staged:
        writer = tokens.writer_of(path)
        state = what_became_of(path, states)
        if writer is not None and _may_be_at_work(files, path, writer, state):
            run = path.split("/run=", 1)[1].partition("/")[0]
            raise LosslakeError(
                f"run {run!r} of experiment {experiment!r} is being written; remove nothing before that has ended, or end it"
            )


def _may_be_at_work(files: Files, path: str, writer: str, state: str) -> bool:
    if state in ("at work", "killed"):
        return state == "at work"
    # On another machine a writer shows by its lease; one that has ended takes away what says that it writes, and of one
    # that has just begun the lease may not be seen yet.
    patience = leases.SILENT if state == "elsewhere" else leases.SHOWN
    try:
        last = files.modified(path)
        if state == "elsewhere":
            last = max(last, files.modified(paths.lease(writer)))
    except CorruptLake:  # it has gone since
        return False
    return leases.lake_time(files) - last < patience.total_seconds()


def _size(files: Files, path: str) -> int:
    try:
        return files.size(path)
    except CorruptLake:  # it has gone since
        return 0
