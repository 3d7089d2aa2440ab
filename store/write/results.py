"""Keeping what an analysis found in the lake. Writing a result again replaces it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..errors import ForgottenMeanwhile, InvalidInput
from ..format import manifest, paths
from ..format.paths import NO_TARGET, check_name
from ..format.records import check_metrics, experiment_from_json
from ..format.schema import SAMPLES, SCORES
from ..format.tables import constant_column
from ..read.catalogue import Catalogue, check_none_forgotten, fingerprint
from . import leases
from .index import index_if_worth
from .table_file import check_there, lost_files, rows_without, write_table


def save_result(
    lake: Catalogue,
    experiment: str,
    analysis: str,
    target: str | None,
    variant: str,
    *,
    options: Mapping[str, Any],
    notes: Sequence[str],
    metrics: Sequence[Mapping[str, Any]],
    scores: pa.Table | None,
    seen: str | None = None,
    forgotten: Sequence[int] | None = None,
) -> None:
    """Write or replace a result. ``scores`` has sample_id, member, score and the analysis's own columns.

    ``seen`` is the `fingerprint` of the runs it was computed from, taken when they were read: a run that was
    committed while the analysis went on then makes the result a stale one. Default: what is committed now.
    ``forgotten`` are the samples that were forgotten before the first row was read. Default: those forgotten now, for what
    was computed from no row. Their rows are dropped. Raises ForgottenMeanwhile, and keeps nothing, where a sample was forgotten since:
    metrics and scores know it. Nothing is kept either where the target or the experiment was removed meanwhile. Raises CorruptLake where
    the scores that were written are lost, OlderFormat for a lake that has to be migrated first.
    """
    token = leases.token(lake.files)
    check_name("analysis", analysis)
    known = lake.experiment(experiment)
    forgotten = known.forgotten if forgotten is None else tuple(sorted(forgotten))
    what = f"{analysis} was computed"
    check_none_forgotten(known, forgotten, what)
    where = check_name("run", target) if target else NO_TARGET
    seen = seen or fingerprint(lake, experiment)
    about = paths.run_manifest(experiment, where)
    there = lake.files.exists(about)
    check_metrics(analysis, metrics)
    file = None
    if scores is not None:
        folder = paths.scores_folder(experiment, analysis, where)
        table = rows_without(_scores_table(analysis, variant, scores), forgotten)
        file = write_table(lake.files, "scores", f"{folder}/{token}.parquet", table)
    content = {
        "kind": "result",
        "experiment": experiment,
        "analysis": analysis,
        "target": where,
        "variant": variant,
        "options": dict(options),
        "fingerprint": seen,
        "notes": list(notes),
        "metrics": [dict(metric) for metric in metrics],
        "files": manifest.files_to_json((file,) if file else ()),
        "forgotten": list(forgotten),
    }
    # The file of a replaced result stays: a reader may be in the middle of it. 'lake verify' lists it as a leftover.
    path = paths.result_manifest(experiment, analysis, where, variant)
    written = (file,) if file else ()
    unkept = f"the result of {analysis} in experiment {experiment!r} is not kept"
    check_there(lake.files, written, unkept)
    data = manifest.dump(content)
    lake.files.put(path, data)
    put = (path, *(each.path for each in written))
    # Whoever forgets a sample or removes a run looks for results after saying so: one of both sees the other.
    now = manifest.load_if_there(lake.files, paths.experiment_manifest(experiment))
    if now is None or (there and not lake.files.exists(about)):
        for gone in put:
            lake.files.delete(gone)
        return
    try:
        check_none_forgotten(experiment_from_json(now), forgotten, what)
    except ForgottenMeanwhile:
        for gone in put:
            lake.files.delete(gone)
        raise
    many = lake.not_indexed.pop(experiment, 0)
    index_if_worth(lake.files, experiment, many, many)
    lost = lost_files(lake.files, written)
    if lost and lake.files.exists(path) and lake.files.read(path) == data:  # else another one has replaced it
        lake.files.delete(path)
        check_there(lake.files, written, unkept)
    lake.changed(experiment)


def _scores_table(analysis: str, variant: str, scores: pa.Table) -> pa.Table:
    missing = [name for name in ("sample_id", "member", "score") if name not in scores.column_names]
    if missing:
        raise InvalidInput(f"the scores of {analysis} lack the column {missing[0]!r}")
    own = [name for name in scores.column_names if name not in SCORES.names]
    # What samples say already (label, group, ...) would make every join of scores with samples ambiguous.
    taken = (*SCORES.names, *SAMPLES.names[1:], "experiment", "analysis", "target")
    lower = [name.casefold() for name in (*taken, *own)]
    clash = next((name for name in own if lower.count(name.casefold()) > 1), None)
    if clash is not None:
        raise InvalidInput(
            f"the scores of {analysis} have a column {clash!r}, whose name is taken; rename it"
        )
    try:
        fixed = {
            field.name: _as_type(scores[field.name], field.type)
            for field in SCORES
            if field.name != "variant"
        }
    except pa.ArrowException as error:
        raise InvalidInput(f"the scores of {analysis} have a column of the wrong type: {error}") from error
    of = constant_column(variant, len(scores))
    return pa.Table.from_arrays(
        [of, *fixed.values(), *(scores[name] for name in own)], ["variant", *fixed, *own]
    )


def _as_type(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    # To cast, pyarrow imports all of its functions first.
    return column if column.type == wanted else column.cast(wanted)
