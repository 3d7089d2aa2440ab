"""What the lake knows about an experiment, a run and a result of an analysis, apart from their rows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorruptLake, InvalidInput
from ..files.filesystem import Files
from . import manifest, paths
from .contents import METRIC, check_said
from .contents import ROLES as ROLES
from .contents import Role as Role
from .manifest import DataFile, files_from_json, files_to_json

FORGOTTEN = "forgotten"
"""The pool of forgotten samples."""

CANARY = "canary"
"""The group of planted records, and of the candidates that they are ranked among."""

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


def experiment_from_json(content: dict[str, Any]) -> Experiment:
    """An experiment from its manifest's checked content."""
    return Experiment(
        name=content["experiment"],
        **{name: content[name] for name in ("samples", "created", "digest", "dataset")},
        files=files_from_json(content["files"]),
        forgettings=tuple(
            Forgetting(**{**each, "samples": tuple(each["samples"])}) for each in content.get("forgotten", ())
        ),
    )


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


def forgotten_samples(files: Files, experiment: str) -> tuple[int, ...]:
    """The samples that an experiment has forgotten by now, ascending."""
    path = paths.experiment_manifest(experiment)
    return experiment_from_json(manifest.load(files, path)).forgotten


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


def run_from_json(content: dict[str, Any]) -> Run:
    """A run from its manifest's checked content."""
    return Run(
        **{name: content[name] for name in ("experiment", "run", "members", "created")},
        info=RunInfo(**content["info"]),
        files=files_from_json(content["files"]),
    )


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


def result_from_json(content: dict[str, Any]) -> Result:
    """A result from its manifest's checked content."""
    names = ("experiment", "analysis", "target", "variant", "options", "fingerprint")
    files = files_from_json(content["files"])
    return Result(
        **{name: content[name] for name in names},
        notes=tuple(content["notes"]),
        metrics=tuple(content["metrics"]),
        file=files[0] if files else None,
        forgotten=tuple(content.get("forgotten", ())),
    )


def check_metrics(analysis: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidInput for a metric without a name, or with something else than numbers that a query can hold."""
    for metric in metrics:
        try:
            check_said(METRIC, metric)
        except ValueError as error:
            raise InvalidInput(
                f"a metric of {analysis} needs a name and numbers, not {str(dict(metric))[:300]}"
            ) from error


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
