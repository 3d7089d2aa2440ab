"""What analyses found, kept in the lake: scores as rows, metrics beside them.

A result is named by (experiment, analysis, target, variant); the variant spells the options that differ from
the defaults. Writing it again replaces it. It carries a fingerprint of the runs it was computed from, so that
a stale one is never mistaken for a fresh one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ... import __version__
from ..errors import CorruptLake, InvalidInput
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..format.names import NO_TARGET, check_name
from ..format.schema import SAMPLES
from . import leases
from .row_removal import rows_without
from .table_file import write_table

if TYPE_CHECKING:
    from ..format.records import Run
    from ..lake import Lake

SCORES = pa.schema(
    [("variant", pa.string()), ("sample_id", pa.int32()), ("member", pa.bool_()), ("score", pa.float64())]
)

METRICS = pa.schema(
    [
        ("experiment", pa.string()),
        ("analysis", pa.string()),
        ("target", pa.string()),
        ("variant", pa.string()),
        ("metric", pa.string()),
        ("parameters", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Result:
    """One stored result. ``metrics`` are objects with metric, value, ci_low, ci_high, n and parameters."""

    experiment: str
    analysis: str
    target: str
    variant: str
    options: Mapping[str, Any]
    fingerprint: str
    notes: tuple[str, ...]
    metrics: tuple[Mapping[str, Any], ...]
    file: DataFile | None


def fingerprint(lake: Lake, experiment: str, runs: Iterable[Run] | None = None) -> str:
    """Changes whenever the samples or the committed runs of an experiment do, or losslake itself.

    ``runs`` are those that an analysis saw; without them, those that are committed now.
    """
    known = lake.experiment(experiment)
    parts = [__version__, known.digest, *(f"without {sample}" for sample in known.forgotten)]
    for run in lake.runs(experiment) if runs is None else runs:
        parts += [run.run, run.info.role, *(file.sha256 for file in run.files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def save_result(
    lake: Lake,
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
) -> None:
    """Write or replace a result. ``scores`` has sample_id, member, score and the analysis's own columns.

    ``seen`` is the `fingerprint` of the runs it was computed from, taken when they were read: a run that was
    committed while the analysis went on then makes the result a stale one. Default: what is committed now.
    Rows of forgotten samples are dropped; of a result on its way while a sample is forgotten nothing is kept.
    Raises OlderFormat for a lake that has to be migrated first.
    """
    leases.hold(lake.files)
    check_name("analysis", analysis)
    forgotten = lake.experiment(experiment).forgotten
    where = check_name("run", target) if target else NO_TARGET
    seen = seen or fingerprint(lake, experiment)
    _check_metrics(analysis, metrics)
    file = None
    if scores is not None:
        folder = paths.scores_folder(experiment, analysis, where)
        table = rows_without(_scores_table(analysis, variant, scores), forgotten)
        file = write_table(lake.files, "scores", f"{folder}/{leases.token(lake.files)}.parquet", table)
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
    path = result_path(experiment, analysis, where, variant)
    lake.files.put(path, manifest.dump(content))
    # Whoever forgets a sample looks for results after saying so: one of both sees the other.
    if lake.experiment(experiment).forgotten != forgotten:
        for gone in (path, *([file.path] if file else [])):
            lake.files.delete(gone)


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
            field.name: scores[field.name].cast(field.type) for field in SCORES if field.name != "variant"
        }
    except pa.ArrowException as error:
        raise InvalidInput(f"the scores of {analysis} have a column of the wrong type: {error}") from error
    return pa.table(
        {"variant": pa.repeat(variant, len(scores)), **fixed, **{name: scores[name] for name in own}}
    )


def _check_metrics(analysis: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    for metric in metrics:
        numbers = [metric.get(name) for name in ("value", "ci_low", "ci_high", "n")]
        if not isinstance(metric.get("metric"), str) or not all(
            n is None or isinstance(n, Real) for n in numbers
        ):
            raise InvalidInput(f"a metric of {analysis} needs a name and numbers, not {dict(metric)}")


def results(lake: Lake, experiment: str) -> list[Result]:
    """Every stored result of an experiment, fresh or stale, by analysis, target and variant."""
    return [result for _, result, _ in _stored(lake, experiment)]


def results_with(lake: Lake, experiment: str, samples: Sequence[int]) -> list[tuple[str, Result]]:
    """The results, and where their manifests are, that were computed when one of ``samples`` was not forgotten yet."""
    return [(path, result) for path, result, known in _stored(lake, experiment) if set(samples) - known]


def _stored(lake: Lake, experiment: str) -> list[tuple[str, Result, set[int]]]:
    """Each result with the path of its manifest and the samples that were forgotten when it was computed."""
    found = lake.files.list(f"results/experiment={check_name('experiment', experiment)}", ".json")

    def load(path: str) -> tuple[str, Result, set[int]] | None:
        try:
            content = manifest.load(lake.files, path)
        except CorruptLake:
            if lake.files.exists(path):
                raise
            return None  # removed since it was listed, with a sample that it tells of
        manifest.check_names(content, path, experiment=experiment)
        return path, result_from_json(content, path), set(content.get("forgotten", ()))

    return [loaded for loaded in lake.files.each(load, found) if loaded is not None]


def result_path(experiment: str, analysis: str, target: str, variant: str) -> str:
    # A variant is free text; its digest is a name that fits any file system.
    short = hashlib.sha256(variant.encode()).hexdigest()[:12] if variant else "default"
    return paths.result_manifest(experiment, analysis, target, short)


def result_from_json(content: dict[str, Any], path: str) -> Result:
    """A result from its manifest's content. Raises CorruptLake for anything that is not one."""
    names = ("experiment", "analysis", "target", "variant", "options", "fingerprint")
    try:
        place = [content[name] for name in names[:4]]
        if path != result_path(*place):
            raise ValueError(f"it speaks of {'/'.join(place)}")
        files = manifest.files_from_json(content["files"], paths.scores_folder(*place[:3]))
        metrics = tuple(dict(metric) for metric in content["metrics"])
        _check_metrics(place[1], metrics)
        return Result(
            **{name: content[name] for name in names},
            notes=tuple(content["notes"]),
            metrics=metrics,
            file=files[0] if files else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
        raise CorruptLake(f"{path} is not the manifest of a result: {error}") from error
