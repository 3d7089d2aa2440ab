"""A run becomes visible by its manifest: whether it has, how it is taken back, and how signals are added to one that is.

Of a writer and who collects garbage or removes the experiment in the same instant one of both sees the other: each looks again after it
has written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ..errors import AlreadyExists, CorruptLake, InvalidInput, LosslakeError, NotFound
from ..files.filesystem import Files
from ..format import manifest
from ..format.manifest import DataFile
from ..format.paths import experiment_manifest, run_manifest
from ..format.records import Run, RunInfo, run_from_json, run_to_json
from .leases import claim
from .table_file import check_there, copy_as, lost_files


def may_be_committed(files: Files, experiment: str, run: str, written: Iterable[DataFile]) -> bool:
    """Whether the run's manifest names the files ``written``; yes where that cannot be found out."""
    path = run_manifest(experiment, run)
    try:
        if not files.exists(path):
            return False
        listed = {file["path"] for file in manifest.load(files, path)["files"]}
    except (LosslakeError, KeyError, TypeError):
        return True
    return {file.path for file in written} <= listed


def withdraw_if_lost(files: Files, experiment: str, run: str, written: Sequence[DataFile]) -> None:
    """Take the manifest back where files went in the instant before it was there: a collection had not seen it.

    Raises CorruptLake then.
    """
    lost = lost_files(files, written)
    if not lost:
        return
    path = run_manifest(experiment, run)
    try:
        listed = {file["path"] for file in manifest.load(files, path)["files"]}
    except CorruptLake:
        if files.exists(path):
            raise
    else:
        if listed.isdisjoint(lost):
            return  # compacted, or rewritten without a forgotten sample
        files.delete(path)
    check_there(files, written, not_committed(experiment, run))


def withdraw_if_removed(files: Files, experiment: str, run: str, written: Iterable[DataFile]) -> None:
    """Take everything back where the experiment has gone, which a writer of an older losslake cannot prevent.

    Raises NotFound then.
    """
    if was_removed(files, experiment):
        files.delete(run_manifest(experiment, run))
        delete_leftovers(files, (file.path for file in written))
        raise gone(experiment, run)


def was_removed(files: Files, experiment: str) -> bool:
    """Whether an experiment that was there has gone."""
    return not files.exists(experiment_manifest(experiment))


def add_signals(
    files: Files,
    experiment: str,
    run: str,
    written: Sequence[DataFile],
    info: RunInfo,
    claims: Callable[[], None],
) -> Run:
    """List signals in the manifest of a run that is committed, which says ``info`` from now on.

    ``claims`` is called before the manifest is put. Raises AlreadyExists where it has signals by now, CorruptLake where the files have gone.
    """
    path = run_manifest(experiment, run)
    with claim(files, f"experiment={experiment}") as held:
        content = manifest.load(files, path)
        known = run_from_json(content)
        check_no_signals(known)
        if not written:
            raise InvalidInput(f"run {run!r} was given no signals")
        changed = replace(known, info=info, files=(*known.files, *written))
        held.renew()
        claims()
        files.put(path, manifest.dump({**content, **run_to_json(changed)}), before=held.check)
        held.check()
        if lost_files(files, written):  # a collection had not seen the manifest
            files.put(path, manifest.dump(content), before=held.check)
            check_there(files, written, not_committed(experiment, run))
    return changed


def check_no_signals(run: Run) -> None:
    """Raises AlreadyExists where a run has signals: these are never overwritten."""
    if "signals" in run.tables():
        raise AlreadyExists(
            f"run {run.run!r} of experiment {run.experiment!r} has signals, which are never overwritten; evaluate a run of its own"
        )


def copies_under(files: Files, written: Iterable[DataFile], run: str) -> list[DataFile]:
    """Copies of a run's files as those of ``run``, whose name stands in their folders and in every row; all of them or none."""
    copies: list[DataFile] = []
    try:
        for file in written:
            folder, _, name = file.path.rpartition("/")
            copies.append(copy_as(files, file, run, f"{folder.rpartition('/')[0]}/run={run}/{name}"))
    except BaseException:
        delete_leftovers(files, (file.path for file in copies))
        raise
    return copies


def delete_leftovers(files: Files, paths: Iterable[str]) -> None:
    """Delete files that no manifest names. One that stays is a leftover, which 'lake verify' lists; no run is at stake."""
    for path in paths:
        with contextlib.suppress(LosslakeError):
            files.delete(path)


def not_committed(experiment: str, run: str) -> str:
    """What an error says before it says why."""
    return f"run {run!r} of experiment {experiment!r} is not committed"


def gone(experiment: str, run: str) -> NotFound:
    """What a writer raises whose experiment was removed."""
    return NotFound(
        f"experiment {experiment!r} was removed while run {run!r} was being written; nothing of it is left"
    )
