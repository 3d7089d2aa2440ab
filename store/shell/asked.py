"""What ``losslake sql`` was given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """The arguments and options of the command, as they came."""

    query: str | None
    lake: str
    experiment: str | None
    file: Path | None
    chosen: str | None
    out: Path | None
    named: str | None
    parameters: tuple[str, ...]
    memory: str | None
    timeout: str | None
    engine: str
    spark_master: str | None
