"""What the lake knows about an experiment and about a run, apart from their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .manifest import DataFile
from .paths import trace_source

Role = Literal["target", "shadow", "reference", "distilled", "leave_one_out"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Experiment:
    """One sample universe. ``samples`` is its size; ``dataset`` says how to load it again; ``digest`` pins it."""

    name: str
    samples: int
    created: str
    digest: str
    dataset: Mapping[str, Any]
    files: tuple[DataFile, ...]


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
        return frozenset(trace_source(file.path) for file in self.files if file.table == "traces")
