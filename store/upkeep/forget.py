"""Forgetting: removing what a lake holds of some samples, for good and everywhere.

The experiment's manifest says first that the samples are forgotten: from then on no writer brings rows of them, and one
that is at work looks there before and after it commits. Then every file with rows of them is replaced by a copy without,
as compaction replaces files, many small ones of runs by one that they share, and the old one is deleted at once; readers in the middle of it look again. It may be
killed at any instant, and the same call completes it. One process at a time forgets in, or compacts, an experiment.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CorruptLake, InvalidOption, LosslakeError, NotFound
from ..files.tokens import new_token
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..format.records import (
    FORGOTTEN,
    Experiment,
    Forgetting,
    Run,
    forgettings_to_json,
    pack_samples,
    unpack_samples,
)
from ..read.catalogue import Catalogue, results_with
from ..write import leases
from ..write.index import drop_index, write_index
from ..write.leases import Claim, claim
from ..write.table_file import Holdings, check_there, copy_without, write_table
from .compact import Part, pack, small_of_a_kind
from .elsewhere import SameKey, same_keys
from .leftovers import remove_leftovers, without_class_names

_PATIENCE = 600.0
"""Seconds that a run committed meanwhile waits for the one who forgets or compacts."""

_RUNS_AT_ONCE, _BYTES_AT_ONCE = 256, 256 << 20
"""Runs, and bytes of their files, from which on they are taken out of, before others are: both copies of so many lie in the lake."""

_FOLDERS = (
    "samples",
    "pictures",
    "signals",
    "traces",
    "packed",
    "scores",
    "results",
    "staging",
    paths.CHECKPOINTS,
    paths.INDEXES,
)
"""Where files are removed."""


@dataclass(frozen=True)
class Forgot:
    """What was removed, or would be. ``samples`` are those asked for; ``rows`` counts theirs by table.

    ``rows`` also counts ``results``, the stored results that were computed with them and went whole, and ``files``,
    leftovers and checkpoints of writers that are gone. ``pending`` are files of writers at work that may hold rows: they
    leave them out when they commit. ``completed``: an earlier call that was stopped has been completed. ``elsewhere`` are samples of other
    experiments with the same key, which stay; those of samples that an earlier call forgot cannot be told any more.
    """

    experiment: str
    samples: tuple[int, ...]
    rows: Mapping[str, int]
    pending: tuple[str, ...]
    completed: bool
    elsewhere: tuple[SameKey, ...] = ()


def forget(
    lake: Catalogue,
    experiment: str,
    samples: Collection[int] = (),
    *,
    keys: Collection[str] = (),
    dry_run: bool = False,
) -> Forgot:
    """Remove every row of samples, named by id or key, from an experiment; it can be done again, and then removes nothing.

    A call that was stopped is completed by any later one, also one without samples. Raises NotFound for an unknown
    sample, InvalidOption where none is named and nothing is left to complete, OlderFormat for a lake that has to be
    migrated, LosslakeError where another process compacts the experiment or forgets in it.
    """
    known = lake.experiment(experiment)
    if dry_run:
        chosen = _chosen(lake, known, samples, keys)
        counted = _count(lake, known, chosen, Holdings(lake.files, chosen))
        return Forgot(experiment, chosen, counted, (), False, same_keys(lake, known, chosen))
    with claim(lake.files, f"experiment={experiment}") as held:
        # What a call that was stopped has put, others delete files for.
        for top in ("experiments", f"runs/experiment={experiment}"):
            lake.files.settle(top)
        known = lake.experiment(experiment)
        completed = any(each.finished is None for each in known.forgettings)
        chosen = _chosen(lake, known, samples, keys)
        elsewhere = same_keys(lake, known, chosen)  # as long as they have keys
        holdings = Holdings(lake.files, chosen)
        counted = _count(lake, known, chosen, holdings)
        if set(chosen) - set(known.forgotten) or counted:
            begun = Forgetting(manifest.now(), chosen, counted, None)
            known = _replace_experiment(lake, replace(known, forgettings=(*known.forgettings, begun)), held)
        _forget_class_names(lake, known, held)
        ids = known.forgotten
        if ids != chosen:  # some were forgotten before; else what was looked into for the count stands
            holdings = Holdings(lake.files, ids)
        again, rewritten = True, False
        while again:  # for what was committed meanwhile by a writer that did not know yet
            again = False
            for runs in _together(lake, known, ids, holdings):
                held.renew()
                _forget_in_runs(lake, known, runs, ids, holdings, held)
                again = rewritten = True
            held.check()
            again |= _forget_results(lake, experiment, ids)
        held.renew()
        drop_index(lake.files, experiment)
        lake.changed(experiment, rewritten=True)
        removed, pending = remove_leftovers(lake, known, ids, held.check)
        for top in _FOLDERS:  # also what a call removed that was stopped
            lake.files.settle(f"{top}/experiment={experiment}")
        lake.files.settle(paths.DELTA)
        _finish(lake, experiment, held)
    if rewritten:
        with contextlib.suppress(LosslakeError):  # it costs time where there is none, and no more
            write_index(lake.files, experiment, wait=True)
    rows = {**counted, "files": len(removed)} if removed else counted
    return Forgot(experiment, chosen, rows, tuple(pending), completed, elsewhere)


def forget_in_run(lake: Catalogue, experiment: str, run: str) -> Run:
    """Remove what a committed run holds of forgotten samples; the run as it then is.

    For a writer that committed at the moment when somebody forgot: it waits until nobody else rewrites manifests.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with claim(lake.files, f"experiment={experiment}") as held:
                known = lake.experiment(experiment)
                holdings = Holdings(lake.files, known.forgotten)
                for runs in _together(lake, known, known.forgotten, holdings):
                    if run in {each.run for each in runs}:
                        _forget_in_runs(lake, known, runs, known.forgotten, holdings, held)
                        drop_index(lake.files, experiment)
            lake.changed(experiment, rewritten=True)
            return lake.run(experiment, run)
        except CorruptLake:
            raise
        except LosslakeError as error:
            if time.monotonic() > until:
                raise LosslakeError(
                    f"run {run!r} is committed, and holds rows of samples forgotten meanwhile: run 'losslake lake forget "
                    f"--experiment {experiment}' ({error})"
                ) from error
            time.sleep(0.2)


# --- which --------------------------------------------------------------------------------------------------


def _chosen(
    lake: Catalogue, known: Experiment, samples: Collection[int], keys: Collection[str]
) -> tuple[int, ...]:
    stopped = any(each.finished is None for each in known.forgettings)
    if not samples and not keys and not known.forgettings:
        raise InvalidOption("no sample named; give --sample ID or --key KEY")
    for sample in samples:
        if not 0 <= sample < known.samples:
            raise NotFound(
                f"there is no sample {sample} in experiment {known.name!r} (0 to {known.samples - 1})"
            )
    chosen = set(map(int, samples))
    if keys:
        table = lake.samples(known.name)
        for key in keys:
            found = table.filter(pc.equal(table["key"], key))["sample_id"].to_pylist()
            # The key of a sample went first: a call that was stopped cannot be repeated by its key.
            if not found and not stopped:
                raise NotFound(
                    f"no sample of experiment {known.name!r} has the key {key!r}; forgotten ones have none any more"
                )
            chosen.update(found)
    return tuple(sorted(chosen))


def _count(lake: Catalogue, known: Experiment, ids: Sequence[int], holdings: Holdings) -> dict[str, int]:
    """What a lake holds of samples, by table."""
    counted: Counter[str] = Counter(samples=len(set(ids) - set(known.forgotten)))
    if ids:
        owners: list[Experiment | Run] = [known, *lake.runs(known.name)]
        for file in (file for owner in owners for file in owner.files if file.table != "samples"):
            counted[file.table] += holdings.of(file).rows
        for _, result in results_with(lake, known.name, ids):
            counted["results"] += 1
            if result is not None and result.file is not None:
                counted["scores"] += holdings.of(result.file).rows
    return {name: count for name, count in counted.items() if count}


# --- the experiment's manifest ------------------------------------------------------------------------------


def _replace_experiment(lake: Catalogue, known: Experiment, held: Claim) -> Experiment:
    """Write the manifest with the forgettings of ``known``, over files without the forgotten samples; delete the old ones.

    Saying that samples are forgotten and taking out what identifies them is one step.
    """
    path = paths.experiment_manifest(known.name)
    ids = known.forgotten
    written = []
    for file in known.files:
        new = f"{file.path.rpartition('/')[0]}/{leases.token(lake.files)}.parquet"
        if file.table == "samples":
            written.append(write_table(lake.files, "samples", new, _emptied(lake.read_file(file), ids)))
        else:
            written.append(copy_without(lake.files, file, ids, new))
    before = manifest.load(lake.files, path)
    content = {
        **before,
        "files": manifest.files_to_json(tuple(written)),
        "forgotten": forgettings_to_json(known.forgettings),
    }
    _put_checked(lake, {path: (before, content)}, written, held)
    for file in known.files:
        lake.files.delete(file.path)
    return lake.experiment(known.name)


def _emptied(samples: pa.Table, ids: Sequence[int]) -> pa.Table:
    """The samples with nothing but its number in the rows of ``ids``, and their pool `FORGOTTEN`."""
    gone = np.isin(samples["sample_id"].to_numpy(), list(ids))
    # A row taken from nowhere is NULL in every column, of whatever type.
    emptied = samples.take(pa.array(np.arange(len(samples)), mask=gone))
    pool = pc.if_else(pa.array(gone), FORGOTTEN, samples["pool"])
    for name, column in (("sample_id", samples["sample_id"]), ("pool", pool)):
        at = emptied.schema.get_field_index(name)
        emptied = emptied.set_column(at, emptied.schema.field(at), column)
    return emptied


def _forget_class_names(lake: Catalogue, known: Experiment, held: Claim) -> None:
    """Take the names of classes out of the manifest that only forgotten samples were of."""
    told = without_class_names(lake, known)
    if told != known.dataset:
        path = paths.experiment_manifest(known.name)
        content = {**manifest.load(lake.files, path), "dataset": told}
        lake.files.put(path, manifest.dump(content), before=held.check)


def _finish(lake: Catalogue, experiment: str, held: Claim) -> None:
    known = lake.experiment(experiment)
    if all(each.finished for each in known.forgettings):
        return
    now = manifest.now()
    done = tuple(replace(each, finished=each.finished or now) for each in known.forgettings)
    path = paths.experiment_manifest(experiment)
    content = {**manifest.load(lake.files, path), "forgotten": forgettings_to_json(done)}
    lake.files.put(path, manifest.dump(content), before=held.check)
    held.check()


# --- runs and results ---------------------------------------------------------------------------------------


def _together(
    lake: Catalogue, known: Experiment, ids: Sequence[int], holdings: Holdings
) -> Iterator[list[Run]]:
    """The runs that hold rows of ``ids``, or a note of them, with those that share a file with such a run.

    Many at a time, whose files and manifests are synced together.
    """
    sharing: dict[str, list[Run]] = {}
    concerned: dict[str, Run] = {}
    for run in lake.runs(known.name):
        for file in run.files:
            if file.shared is not None:
                sharing.setdefault(file.path, []).append(run)
        told = _extra_without(run.info.extra, ids, known.samples) != run.info.extra
        if told or any(holdings.of(file).rows for file in run.files):
            concerned[run.run] = run
    group: dict[str, Run] = {}
    while concerned:
        waiting = [concerned.popitem()[1]]
        while waiting:
            run = waiting.pop()
            group[run.run] = run
            concerned.pop(run.run, None)
            for file in run.files:
                waiting += [other for other in sharing.get(file.path, ()) if other.run not in group]
        size = sum(file.bytes for run in group.values() for file in run.files)
        if len(group) >= _RUNS_AT_ONCE or size >= _BYTES_AT_ONCE or not concerned:
            yield list(group.values())
            group = {}


def _forget_in_runs(
    lake: Catalogue,
    known: Experiment,
    runs: Sequence[Run],
    ids: Sequence[int],
    holdings: Holdings,
    held: Claim,
) -> None:
    """Replace the manifests of runs that share files by ones that list copies without ``ids``; delete the old files."""
    new: dict[tuple[str, DataFile], DataFile] = {}
    shared: dict[str, list[Part]] = {}
    own: list[Part] = []
    for run in runs:
        for file in run.files:
            if file.shared is not None:
                shared.setdefault(file.path, []).append(Part(run.run, file))
            elif holdings.of(file).rows:
                own.append(Part(run.run, file))
    # Of many small files few are made, as by compaction: each would be written, synced and listed in a folder of its own.
    many, few = small_of_a_kind(own, lambda part: holdings.schema_of(part.file))
    leases.hold(lake.files)
    for part in few:
        path = _beside(lake, known.name, part)
        new[part.run, part.file] = copy_without(lake.files, part.file, ids, path, later=True)
    lake.files.sync([file.path for file in new.values()])
    concerned = [parts for parts in shared.values() if any(holdings.of(part.file).rows for part in parts)]
    for parts in (*many, *concerned):
        for part, file in pack(lake, known.name, parts, without=ids):
            new[part.run, part.file] = file
    replaced = {}
    for run in runs:
        path = paths.run_manifest(known.name, run.run)
        content = manifest.load(lake.files, path)
        gone = frozenset[int]().union(*(holdings.of(file).members for file in run.files))
        changed = {
            "files": manifest.files_to_json(tuple(new.get((run.run, file), file) for file in run.files)),
            "members": run.members - len(gone),
            "info": {**content["info"], "extra": _extra_without(run.info.extra, ids, known.samples)},
        }
        replaced[path] = (content, {**content, **changed})
    _put_checked(lake, replaced, {file.path: file for file in new.values()}.values(), held)
    for file in new.values():
        holdings.nothing_in(file)
    for old in {file.path for _, file in new}:
        lake.files.delete(old)


def _put_checked(
    lake: Catalogue,
    replaced: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
    written: Collection[DataFile],
    held: Claim,
) -> None:
    """Replace manifests, each by its new content, which lists files that were ``written``.

    Raises CorruptLake where one of these is lost, before the old files are deleted: the manifests say again what they said.
    """
    undone = "the samples are not forgotten yet"
    check_there(lake.files, written, undone)
    after = {path: manifest.dump(content) for path, (_, content) in replaced.items()}
    lake.files.put_all(after, before=held.check)
    held.check()
    try:
        check_there(lake.files, written, undone)
    except CorruptLake:
        first = {path: manifest.dump(content) for path, (content, _) in replaced.items()}
        lake.files.put_all(first, before=held.check)
        raise


def _beside(lake: Catalogue, experiment: str, part: Part) -> str:
    token = new_token(lake.files.root)
    if part.file.table == "traces":
        return paths.trace_file(experiment, part.run, token, paths.trace_source(part.file.path))
    return f"{paths.signals_folder(experiment, part.run)}/{token}.parquet"


def _extra_without(extra: Mapping[str, Any], ids: Sequence[int], samples: int) -> Mapping[str, Any]:
    """What a run tells of itself, without samples in the set that it was distilled on."""
    told = extra.get("distilled_on")
    if not isinstance(told, dict) or not isinstance(told.get("samples"), str):
        return extra
    taught = unpack_samples(told["samples"], samples)
    taught[list(ids)] = False
    return {**extra, "distilled_on": {**told, "samples": pack_samples(taught)}}


def _forget_results(lake: Catalogue, experiment: str, ids: Sequence[int]) -> bool:
    """Delete the results that were computed with one of ``ids``, or may have been: their metrics know it too."""
    found = results_with(lake, experiment, ids)
    for path, result in found:
        lake.files.delete(path)
        if result is not None and result.file is not None:
            lake.files.delete(result.file.path)
    return bool(found)
