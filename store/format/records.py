"""What the lake knows about an experiment, a run and a result of an analysis, apart from their rows."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import CorruptLake, InvalidInput
from ..files.filesystem import Files
from . import manifest, paths
from .manifest import DataFile, files_from_json, files_to_json

Role = Literal["target", "shadow", "reference", "distilled", "leave_one_out"]
ROLES: tuple[str, ...] = get_args(Role)

FORGOTTEN = "forgotten"
"""The pool of forgotten samples."""

AUDIT = "audit"
"""What the facts of an experiment that `losslake.audit` made say of it under recorded_by."""


@dataclass(frozen=True)
class Experiment:
    """One sample universe. ``samples`` is its size; ``dataset`` says how to load it again; ``digest`` pins it.

    ``forgettings`` say which samples were forgotten since, and when; size and digest stay what they were.
    """

    name: str
    samples: int
    created: str
    digest: str
    dataset: Mapping[str, Any]
    files: tuple[DataFile, ...]
    forgettings: tuple[Forgetting, ...] = ()

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The samples that were forgotten, ascending."""
        return tuple(sorted({sample for each in self.forgettings for sample in each.samples}))


def experiment_from_json(content: dict[str, Any], path: str) -> Experiment:
    """An experiment from its manifest's content. Raises CorruptLake for anything that is not one."""
    try:
        name = content["experiment"]
        if type(content["samples"]) is not int or content["samples"] < 1:
            raise ValueError(f"it has {content['samples']!r} samples")
        files = files_from_json(content["files"], paths.samples_folder(name), paths.pictures_folder(name))
        if not any(file.table == "samples" for file in files):
            raise ValueError("it lists no file of samples")
        return Experiment(
            name=name,
            samples=content["samples"],
            created=content["created"],
            digest=content["digest"],
            dataset=dict(content["dataset"]),
            files=files,
            forgettings=forgettings_from_json(content),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptLake(f"{path} is not the manifest of an experiment: {error}") from error


@dataclass(frozen=True)
class Forgetting:
    """One call of `forget`: when it began, which ``samples``, how many ``rows`` there were of them by table.

    ``finished`` is None as long as rows may be left.
    """

    when: str
    samples: tuple[int, ...]
    rows: Mapping[str, int]
    finished: str | None


def forgettings_to_json(given: tuple[Forgetting, ...]) -> list[dict[str, Any]]:
    return [asdict(each) for each in given]


def forgettings_from_json(content: Mapping[str, Any]) -> tuple[Forgetting, ...]:
    """What an experiment's manifest says. Raises KeyError, TypeError or ValueError for anything else."""
    found = []
    for entry in content.get("forgotten", []):
        each = Forgetting(**{**entry, "samples": tuple(entry["samples"]), "rows": dict(entry["rows"])})
        if any(type(sample) is not int or not 0 <= sample < content["samples"] for sample in each.samples):
            raise ValueError(f"it has forgotten what is no sample: {each.samples[:5]}")
        if type(each.when) is not str or not isinstance(each.finished, str | None):
            raise TypeError(f"it has forgotten samples at {each.when!r}")
        found.append(each)
    return tuple(found)


def forgotten_samples(files: Files, experiment: str) -> tuple[int, ...]:
    """The samples that an experiment has forgotten by now, ascending."""
    path = paths.experiment_manifest(experiment)
    return experiment_from_json(manifest.load(files, path), path).forgotten


def forgotten_mask(files: Files, experiment: str, samples: int) -> npt.NDArray[np.bool_]:
    """The same as bool (samples,)."""
    mask = np.zeros(samples, dtype=np.bool_)
    mask[list(forgotten_samples(files, experiment))] = True
    return mask


@dataclass(frozen=True)
class RunInfo:
    """What a collector says of a run when it commits.

    ``recipe`` and ``versions`` are JSON-able mappings, ``seconds`` is training time, accuracies are shares
    in 0..1, ``parent`` is the run this one derives from (the target of a distilled model, the first of
    a set of duals), ``extra`` is free for the collector (membership design, warnings).
    """

    role: Role
    seed: int | None = None
    dataset: str = ""
    model: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    train_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


_INFO_TYPES: Mapping[str, tuple[type, ...]] = {
    "role": (str,),
    "seed": (int, type(None)),
    "dataset": (str,),
    "model": (str,),
    "recipe": (dict,),
    "epochs": (int, type(None)),
    "train_accuracy": (int, float, type(None)),
    "test_accuracy": (int, float, type(None)),
    "seconds": (int, float, type(None)),
    "device": (str,),
    "versions": (dict,),
    "parent": (str, type(None)),
    "extra": (dict,),
}


def info_from_json(content: Mapping[str, Any]) -> RunInfo:
    """What a manifest says of a run. Raises TypeError for anything but what a collector says."""
    if not isinstance(content, dict):
        raise TypeError("it says nothing of how the run was made")
    for name, value in content.items():
        if name in _INFO_TYPES and type(value) not in _INFO_TYPES[name]:
            raise TypeError(f"{name} of the run is {str(value)[:100]!r}")
    return RunInfo(**content)


@dataclass(frozen=True)
class Run:
    """A committed run. ``members`` counts its training members."""

    experiment: str
    run: str
    members: int
    created: str
    info: RunInfo
    files: tuple[DataFile, ...]

    def tables(self) -> frozenset[str]:
        """Which tables the run has rows in: ``signals``, ``traces``."""
        return frozenset(file.table for file in self.files)

    def trace_sources(self) -> frozenset[str]:
        """Which sources it has traces of: ``eval``, ``train``."""
        return frozenset(paths.trace_source(file.path) for file in self.files if file.table == "traces")


def run_to_json(run: Run) -> dict[str, Any]:
    """The content of a run's manifest."""
    return {
        "kind": "run",
        "experiment": run.experiment,
        "run": run.run,
        "members": run.members,
        "created": run.created,
        "info": asdict(run.info),
        "files": files_to_json(run.files),
    }


def run_from_json(content: dict[str, Any], path: str) -> Run:
    """A run from its manifest's content. Raises CorruptLake for anything that is not one."""
    try:
        experiment, run = content["experiment"], content["run"]
        return Run(
            experiment=experiment,
            run=run,
            members=content["members"],
            created=content["created"],
            info=info_from_json(content["info"]),
            files=files_from_json(
                content["files"],
                paths.signals_folder(experiment, run),
                paths.traces_folder(experiment, run),
                shared=paths.packed_folder(experiment),
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptLake(f"{path} is not the manifest of a run: {error}") from error


@dataclass(frozen=True)
class Result:
    """What an analysis found: scores as rows in ``file``, and ``metrics`` beside them.

    A result is named by (experiment, analysis, target, variant); the variant spells the options that differ from the
    defaults. ``fingerprint`` is that of the runs it was computed from, so that a stale one is never mistaken for a fresh
    one. ``metrics`` are objects with metric, value, ci_low, ci_high, n and parameters. ``forgotten`` are the samples that were
    forgotten when it was computed."""

    experiment: str
    analysis: str
    target: str
    variant: str
    options: Mapping[str, Any]
    fingerprint: str
    notes: tuple[str, ...]
    metrics: tuple[Mapping[str, Any], ...]
    file: DataFile | None
    forgotten: tuple[int, ...] = ()


def result_path(experiment: str, analysis: str, target: str, variant: str) -> str:
    # A variant is free text; its digest is a name that fits any file system.
    short = hashlib.sha256(variant.encode()).hexdigest()[:12] if variant else "default"
    return paths.result_manifest(experiment, analysis, target, short)


_RESULT: Mapping[str, Any] = {
    "variant": str,
    "options": dict,
    "fingerprint": str,
    "notes": [str],
    "metrics": [dict],
    "files": [dict],
}


def result_from_json(content: dict[str, Any], path: str) -> Result:
    """A result from its manifest's content. Raises CorruptLake for anything that is not one."""
    names = ("experiment", "analysis", "target", "variant", "options", "fingerprint")
    try:
        place = [content[name] for name in names[:4]]
        if path != result_path(*place):
            raise ValueError(f"it speaks of {'/'.join(place)}")
        check_json({"forgotten": [], **content}, {**_RESULT, "forgotten": [int]})
        files = files_from_json(content["files"], paths.scores_folder(*place[:3]))
        metrics = tuple(dict(metric) for metric in content["metrics"])
        check_metrics(place[1], metrics)
        return Result(
            **{name: content[name] for name in names},
            notes=tuple(content["notes"]),
            metrics=metrics,
            file=files[0] if files else None,
            forgotten=tuple(content.get("forgotten", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
        raise CorruptLake(f"{path} is not the manifest of a result: {error}") from error


def check_metrics(analysis: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidInput for a metric without a name, or with something else than numbers that a query can hold."""
    for metric in metrics:
        numbers = [metric.get(name) for name in ("value", "ci_low", "ci_high")]
        if not (
            _is_text(metric.get("metric")) and all(map(_is_float, numbers)) and _is_count(metric.get("n"))
        ):
            raise InvalidInput(
                f"a metric of {analysis} needs a name and numbers, not {str(dict(metric))[:300]}"
            )


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be written: JSON can name half a character, and UTF-8 cannot hold it."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_float(value: Any) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:  # a whole number beyond every float
        return False


def _is_count(value: Any) -> bool:
    if value is None:
        return True
    number = _is_float(value) and value == value and abs(value) < 2**63 and int(value) == value
    return bool(number)


def check_json(content: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raises KeyError for a name of the schema that is not there, TypeError for a value of another kind.

    A kind is a type, a tuple of types, or a list with the one kind of its elements. True is no number.
    """
    for name, kind in schema.items():
        value = content[name]
        values, kinds = (value, kind[0]) if isinstance(kind, list) else ([value], kind)
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(values, list) or any(type(each) not in wanted for each in values):
            raise TypeError(f"{name} is {str(value)[:100]!r}")
        if any(type(each) is str and not _is_text(each) for each in values):
            raise ValueError(f"{name} is no text")


def pack_samples(chosen: npt.NDArray[np.bool_]) -> str:
    """The set of samples that ``chosen``, bool (N,), marks. 50,000 samples take 8 KB of text."""
    return base64.b64encode(np.packbits(chosen).tobytes()).decode("ascii")


def unpack_samples(text: str, samples: int) -> npt.NDArray[np.bool_]:
    """What `pack_samples` made of bool (samples,). Raises CorruptLake for anything that is not one."""
    try:
        bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError, TypeError) as error:
        raise CorruptLake(f"a set of samples in a run's manifest cannot be read: {error}") from error
    if len(bits) != -(-samples // 8):
        raise CorruptLake(
            f"a set of samples in a run's manifest is of {len(bits)} bytes; {samples} samples need {-(-samples // 8)}"
        )
    return np.unpackbits(bits, count=samples).astype(np.bool_)
