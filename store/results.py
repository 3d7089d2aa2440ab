"""What analyses found, kept in the lake: scores as rows, metrics beside them.

A result is named by (experiment, analysis, target, variant); the variant spells the options that differ from
the defaults. Writing it again replaces it. It carries a fingerprint of the runs it was computed from, so that
a stale one is never mistaken for a fresh one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from . import manifest, paths
from .errors import CorruptLake, InvalidInput
from .manifest import DataFile
from .names import check_name
from .table_file import write_table

if TYPE_CHECKING:
    from .lake import Lake

NO_TARGET = "all"
"""Stands for the target where an analysis looks at all runs alike."""

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


def fingerprint(lake: Lake, experiment: str) -> str:
    """Changes whenever the samples or the committed runs of an experiment do."""
    parts = [lake.experiment(experiment).digest]
    parts += [file.sha256 for run in lake.runs(experiment) for file in run.files]
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
) -> None:
    """Write or replace a result. ``scores`` has sample_id, member, score and the analysis's own columns."""
    where = check_name("run", target) if target else NO_TARGET
    file = None
    if scores is not None:
        missing = [name for name in ("sample_id", "member", "score") if name not in scores.column_names]
        if missing:
            raise InvalidInput(f"the scores of {analysis} lack the column {missing[0]!r}")
        own = [name for name in scores.column_names if name not in SCORES.names]
        columns = {field.name: scores[field.name].cast(field.type) for field in SCORES if field.name != "variant"}
        table = pa.table({"variant": pa.repeat(variant, len(scores)), **columns, **{n: scores[n] for n in own}})
        folder = paths.scores_folder(experiment, check_name("analysis", analysis), where)
        file = write_table(lake.files, "scores", f"{folder}/{token_hex(8)}.parquet", table)
    content = {
        "kind": "result",
        "experiment": experiment,
        "analysis": analysis,
        "target": where,
        "variant": variant,
        "options": dict(options),
        "fingerprint": fingerprint(lake, experiment),
        "notes": list(notes),
        "metrics": [dict(metric) for metric in metrics],
        "files": manifest.files_to_json((file,) if file else ()),
    }
    lake.files.put(_path(experiment, analysis, where, variant), manifest.dump(content))


def results(lake: Lake, experiment: str) -> list[Result]:
    """Every stored result of an experiment, fresh or stale, by analysis, target and variant."""
    found = lake.files.list(f"results/experiment={check_name('experiment', experiment)}", ".json")
    return [_from_json(manifest.load(lake.files, path), path) for path in found]


def _path(experiment: str, analysis: str, target: str, variant: str) -> str:
    # A variant is free text; its digest is a name that fits any file system.
    short = hashlib.sha256(variant.encode()).hexdigest()[:12] if variant else "default"
    return paths.result_manifest(experiment, analysis, target, short)


def _from_json(content: dict[str, Any], path: str) -> Result:
    try:
        files = manifest.files_from_json(content["files"])
        return Result(
            **{name: content[name] for name in ("experiment", "analysis", "target", "variant", "options", "fingerprint")},
            notes=tuple(content["notes"]),
            metrics=tuple(content["metrics"]),
            file=files[0] if files else None,
        )
    except (KeyError, TypeError) as error:
        raise CorruptLake(f"{path} is not the manifest of a result: {error}") from error
