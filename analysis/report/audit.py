"""What identifies an audit, so that it can be repeated: lake, experiment, target, versions, and digests of data and recipe."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.format.records import Experiment, Run
from ...version import __version__
from ..remedies import of_audit
from ..source import Source

if TYPE_CHECKING:
    from .compared import Compared

SHORT = 16
"""Digits of a digest that the first screen shows; all of them stand under what was trained, and in the JSON."""

_COVERS = (
    "The digest of the data is over the checksums (SHA-256) that the lake's manifests list for the files of the experiment's samples and of all "
    "its runs, with the runs' names and roles, and the forgotten samples: any row more, less or changed gives another one, and so does "
    "the same data written anew by another collection. Compaction, copying the lake and further analyses leave it as it is. Whether the files still are what "
    "the manifests list, ‘losslake lake verify’ tells. "
)
_RECIPE = "The digest of the recipe is over the target's model, recipe, epochs and seed."
_FINISHED = (
    "The digest of the recipe is over what is known of a finished model: of which class it is, and, of an estimator, its parameters. Its epochs and "
    "seed are not known."
)


def covers(experiment: Experiment) -> str:
    """What the digests cover, for readers."""
    return _COVERS + (_FINISHED if of_audit(experiment) else _RECIPE)


@dataclass(frozen=True)
class Audit:
    """One audit: ``data`` and ``recipe`` are SHA-256 in hexadecimal. ``beside`` is the defended experiment's name and its digest of the data.

    ``compare`` names other models as they were asked for, ``compared`` are the digests of their data. ``fprs``, ``pictures`` and the names are all that a report was asked for.
    ``kept``: its lake is there to be asked again.
    """

    lake: str
    experiment: str
    target: str | None
    losslake: str
    data: str
    recipe: str
    fprs: tuple[float, ...]
    pictures: bool
    beside: tuple[str, str] | None = None
    compare: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    kept: bool = True

    @property
    def command(self) -> str:
        """What makes the same report; the lake comes from --lake or LOSSLAKE_LAKE. Empty where the lake was not kept."""
        if not self.kept:
            return ""
        words = ["losslake", "report", "--experiment", self.experiment]
        words += ["--target", self.target] if self.target is not None else []
        words += ["--with", self.beside[0]] if self.beside is not None else []
        words += [word for name in self.compare for word in ("--compare", name)]
        words += [] if self.pictures else ["--no-pictures"]
        return shlex.join(words)

    @property
    def line(self) -> str:
        """The audit in one line, its digests short."""
        told = [
            f"lake {self.lake}" if self.kept else "a lake that was not kept",
            f"experiment {self.experiment}",
            f"target {self.target}" if self.target is not None else "no target",
            f"losslake {self.losslake}",
            f"data {self.data[:SHORT]}",
            f"recipe {self.recipe[:SHORT]}",
        ]
        if self.beside is not None:
            told.append(f"beside {self.beside[0]}, data {self.beside[1][:SHORT]}")
        told += [
            f"compared with {name}, data {data[:SHORT]}"
            for name, data in zip(self.compare, self.compared, strict=True)
        ]
        return ", ".join(told)


def audit_of(
    source: Source,
    fprs: tuple[float, ...],
    pictures: bool,
    defended: str | None,
    compare: tuple[str, ...] = (),
    compared: Compared | None = None,
    *,
    kept: bool = True,
) -> Audit:
    """The audit that a report of this source is; ``defended`` is the experiment that it is set beside. Raises NotFound where there is none."""
    lake, experiment = source.lake, source.lake.experiment(source.experiment)
    beside = None
    if defended is not None:
        beside = (defended, data_digest(lake.experiment(defended), lake.runs(defended)))
    return Audit(
        lake=Path(lake.path).name,
        experiment=experiment.name,
        target=source.target.run if source.target else None,
        losslake=__version__,
        data=data_digest(experiment, source.runs),
        recipe=recipe_digest(source.target, source.runs),
        fprs=fprs,
        pictures=pictures,
        beside=beside,
        compare=compare,
        compared=tuple(model.data for model in compared.models[1:]) if compared is not None else (),
        kept=kept,
    )


def data_digest(experiment: Experiment, runs: Sequence[Run]) -> str:
    """SHA-256 of what the manifests list of an experiment: its samples, what was forgotten, and the files of each run.

    A manifest's checksum stands for the rows wherever they lie, so that compaction changes nothing here. No file is read.
    """
    told = {
        "samples": [experiment.samples, experiment.digest, _files(experiment)],
        "forgotten": list(experiment.forgotten),
        "runs": sorted([run.run, run.info.role, run.members, _files(run)] for run in runs),
    }
    return _digest(told)


def recipe_digest(target: Run | None, runs: Sequence[Run]) -> str:
    """SHA-256 of how the target was trained: model, recipe, epochs and seed; without a target, of how every run was."""
    trained = [target] if target is not None else sorted(runs, key=lambda run: run.run)
    return _digest([[run.info.model, run.info.recipe, run.info.epochs, run.info.seed] for run in trained])


def audit_json(audit: Audit) -> dict[str, Any]:
    """An audit for programs, and for `audit_from_json`."""
    return {
        "lake": audit.lake,
        "experiment": audit.experiment,
        "target": audit.target,
        "losslake": audit.losslake,
        "data_sha256": audit.data,
        "recipe_sha256": audit.recipe,
        "false_positive_rates": list(audit.fprs),
        "pictures": audit.pictures,
        "beside": None
        if audit.beside is None
        else {"experiment": audit.beside[0], "data_sha256": audit.beside[1]},
        "compared": [
            {"model": name, "data_sha256": data}
            for name, data in zip(audit.compare, audit.compared, strict=True)
        ],
        "kept": audit.kept,
        "command": audit.command,
    }


def audit_from_json(told: Mapping[str, Any]) -> Audit:
    """What `audit_json` said. Raises KeyError, TypeError or ValueError for anything else."""
    beside = told["beside"]
    compared = [(one["model"], one["data_sha256"]) for one in told["compared"]]
    names = ("lake", "experiment", "losslake", "data_sha256", "recipe_sha256")
    texts = [told[name] for name in names] + ([] if beside is None else [*_pair(beside)])
    texts += [text for pair in compared for text in pair]
    texts += [] if told["target"] is None else [told["target"]]
    if any(type(text) is not str for text in texts) or not all(
        type(flag) is bool for flag in (told["pictures"], told.get("kept", True))
    ):
        raise TypeError("a name in it is no text")
    return Audit(
        lake=told["lake"],
        experiment=told["experiment"],
        target=told["target"],
        losslake=told["losslake"],
        data=told["data_sha256"],
        recipe=told["recipe_sha256"],
        fprs=tuple(float(fpr) for fpr in told["false_positive_rates"]),
        pictures=told["pictures"],
        beside=None if beside is None else _pair(beside),
        compare=tuple(name for name, _ in compared),
        compared=tuple(data for _, data in compared),
        kept=told.get("kept", True),
    )


def _pair(beside: Mapping[str, Any]) -> tuple[Any, Any]:
    return beside["experiment"], beside["data_sha256"]


def _files(owner: Experiment | Run) -> list[list[Any]]:
    return sorted([file.table, file.rows, file.sha256] for file in owner.files)


def _digest(told: Any) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
