"""Where things lie inside a lake. Every path of the layout is made here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from ..errors import InvalidOption

LAKE = "lake.json"
CHECKPOINTS = "checkpoints"

CLAIMS = "claims"
"""Where the claims of processes lie that rewrite manifests."""

LEASES = "writers"
"""Where the leases of writers lie."""

INDEXES = "index"
"""Where it is said once more what the manifests of runs say."""

REMOVALS = "removals"
"""Where it is said of experiments that they are being removed, until nothing of them is left."""

DELTA = "delta"
"""Where Delta tables over the lake's files lie."""

PUBLISHED = f"{DELTA}/published.json"
"""What says that the lake is published as Delta tables, and whether every commit brings them up to date."""

NO_TARGET = "all"
"""Stands where a run's name would for an analysis that looks at all runs alike; no run is called so."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789"),
}
"""What Windows takes for a device, with any extension: no file of a lake may be called so."""


def experiment_manifest(experiment: str) -> str:
    return f"experiments/{experiment}.json"


def removal(experiment: str) -> str:
    return f"{REMOVALS}/{experiment}.json"


def run_manifest(experiment: str, run: str) -> str:
    return f"runs/experiment={experiment}/{run}.json"


def index(experiment: str) -> str:
    """What spares reading the manifests of an experiment's runs one by one."""
    return f"{INDEXES}/experiment={experiment}/runs.json"


def delta_table(table: str) -> str:
    return f"{DELTA}/{table}"


def delta_log(table: str) -> str:
    return f"{delta_table(table)}/_delta_log"


def design_file(experiment: str, fleet: str, number: int) -> str:
    return f"designs/experiment={experiment}/{fleet}-{number:04d}.json"


def result_manifest(experiment: str, analysis: str, target: str, variant: str) -> str:
    # A variant is free text; its digest is a name that fits any file system.
    short = hashlib.sha256(variant.encode()).hexdigest()[:12] if variant else "default"
    return f"results/experiment={experiment}/analysis={analysis}/{target}~{short}.json"


def lease(process: str) -> str:
    return f"{LEASES}/{process}.json"


def claims_folder(what: str) -> str:
    return f"{CLAIMS}/{what}"


def packed_folder(experiment: str) -> str:
    return f"packed/experiment={experiment}"


def packed_signals(experiment: str, token: str) -> str:
    return f"{packed_folder(experiment)}/{token}-signals.parquet"


def packed_traces(experiment: str, token: str, source: str) -> str:
    return f"{packed_folder(experiment)}/{token}-traces-{source}.parquet"


def samples_folder(experiment: str) -> str:
    return f"samples/experiment={experiment}"


def pictures_folder(experiment: str) -> str:
    return f"pictures/experiment={experiment}"


def signals_folder(experiment: str, run: str) -> str:
    return f"signals/experiment={experiment}/run={run}"


def traces_folder(experiment: str, run: str) -> str:
    return f"traces/experiment={experiment}/run={run}"


def trace_file(experiment: str, run: str, token: str, source: str) -> str:
    return f"{traces_folder(experiment, run)}/{token}-{source}.parquet"


def trace_source(path: str) -> str:
    """Which source the traces of a `trace_file` or of `packed_traces` are of."""
    return path.removesuffix(".parquet").rpartition("-")[2]


def scores_folder(experiment: str, analysis: str, target: str) -> str:
    return f"scores/experiment={experiment}/analysis={analysis}/target={target}"


def staging_folder(experiment: str, run: str, token: str) -> str:
    return f"staging/experiment={experiment}/run={run}/{token}"


def begun_file(experiment: str, run: str, token: str) -> str:
    """What says, from its first moment on, that a run is being written."""
    return f"{staging_folder(experiment, run, token)}/begun.json"


def checkpoints_folder(experiment: str, run: str) -> str:
    return f"{CHECKPOINTS}/experiment={experiment}/run={run}"


def checkpoint_folder(experiment: str, run: str, token: str) -> str:
    return f"{checkpoints_folder(experiment, run)}/{token}"


def checkpoint_manifest(experiment: str, run: str, token: str, epoch: int) -> str:
    return f"{checkpoint_folder(experiment, run, token)}/epoch-{epoch:06d}.json"


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it can safely be part of a path inside the lake, else raise InvalidOption."""
    if not isinstance(name, str):
        raise InvalidOption(f"{kind} name {name!r} is not usable: a name is text")
    if _NAME.fullmatch(name) is None or name.endswith("."):
        raise InvalidOption(
            f"{kind} name {name[:120]!r} is not usable: take letters, digits, '.', '_' and '-', "
            "start with a letter or digit, end without a dot, at most 100 characters"
        )
    if name.partition(".")[0].casefold() in _DEVICES or (kind == "run" and name.casefold() == NO_TARGET):
        raise InvalidOption(f"{kind} name {name!r} is reserved; choose another")
    return name


def check_distinct(kind: str, name: str, existing: Iterable[str]) -> None:
    """Raises InvalidOption where ``name`` differs from an existing one in upper and lower case only.

    On many disks the two would be one folder, so a lake that held both could not be copied there.
    """
    for other in existing:
        if other != name and other.casefold() == name.casefold():
            raise InvalidOption(
                f"{kind} name {name!r} is too close to {other!r}, which exists; choose another"
            )
