"""Where things lie inside a lake. Every path of the layout is made here."""

from __future__ import annotations

LAKE = "lake.json"
CHECKPOINTS = "checkpoints"

CLAIMS = "claims"
"""Where the claims of processes lie that rewrite manifests."""

LEASES = "writers"
"""Where the leases of writers lie."""


def experiment_manifest(experiment: str) -> str:
    return f"experiments/{experiment}.json"


def run_manifest(experiment: str, run: str) -> str:
    return f"runs/experiment={experiment}/{run}.json"


def design_file(experiment: str, fleet: str, number: int) -> str:
    return f"designs/experiment={experiment}/{fleet}-{number:04d}.json"


def result_manifest(experiment: str, analysis: str, target: str, variant: str) -> str:
    return f"results/experiment={experiment}/analysis={analysis}/{target}~{variant}.json"


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


def checkpoints_folder(experiment: str, run: str) -> str:
    return f"{CHECKPOINTS}/experiment={experiment}/run={run}"


def checkpoint_folder(experiment: str, run: str, token: str) -> str:
    return f"{checkpoints_folder(experiment, run)}/{token}"
