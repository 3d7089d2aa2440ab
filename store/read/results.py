"""What analyses found and the lake keeps: scores as rows, metrics beside them.

A result is named by (experiment, analysis, target, variant); the variant spells the options that differ from
the defaults. It carries a fingerprint of the runs it was computed from, so that a stale one is never mistaken for a
fresh one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...version import __version__
from ..errors import CorruptLake, InvalidInput
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..format.paths import check_name

if TYPE_CHECKING:
    from ..format.records import Run
    from .catalogue import Catalogue

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


def results(lake: Catalogue, experiment: str) -> list[Result]:
    """Every stored result of an experiment, fresh or stale, by analysis, target and variant."""
    return [result for _, result, _ in _stored(lake, experiment)]


def results_with(lake: Catalogue, experiment: str, samples: Sequence[int]) -> list[tuple[str, Result]]:
    """The results, and where their manifests are, that were computed when one of ``samples`` was not forgotten yet."""
    return [(path, result) for path, result, known in _stored(lake, experiment) if set(samples) - known]


def fingerprint(lake: Catalogue, experiment: str, runs: Iterable[Run] | None = None) -> str:
    """Changes whenever the samples or the committed runs of an experiment do, or losslake itself.

    ``runs`` are those that an analysis saw; without them, those that are committed now.
    """
    known = lake.experiment(experiment)
    parts = [__version__, known.digest, *(f"without {sample}" for sample in known.forgotten)]
    for run in lake.runs(experiment) if runs is None else runs:
        parts += [run.run, run.info.role, *(file.sha256 for file in run.files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
        check_metrics(place[1], metrics)
        return Result(
            **{name: content[name] for name in names},
            notes=tuple(content["notes"]),
            metrics=metrics,
            file=files[0] if files else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
        raise CorruptLake(f"{path} is not the manifest of a result: {error}") from error


def check_metrics(analysis: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidInput for a metric without a name, or with something else than numbers."""
    for metric in metrics:
        numbers = [metric.get(name) for name in ("value", "ci_low", "ci_high", "n")]
        if not isinstance(metric.get("metric"), str) or not all(
            n is None or isinstance(n, Real) for n in numbers
        ):
            raise InvalidInput(f"a metric of {analysis} needs a name and numbers, not {dict(metric)}")


def _stored(lake: Catalogue, experiment: str) -> list[tuple[str, Result, set[int]]]:
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
