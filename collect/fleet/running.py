"""How a fleet runs and what it keeps of its models, as callers say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ..experiment.prepare import Prepared
from ..progress import Progress
from ..signals.ask import Logits, Norms
from .design import Shard
from .ray.cluster import OnRay


class Running(TypedDict, total=False):
    """How a fleet runs and what it keeps; what is left out, or None, has a default.

    prepared            the experiment with its data in memory; saves loading it again
    seed                of the fleet (default: the experiment's)
    traces              the eval trace of every audit sample (epoch 0 = before training) and the free train trace of
                        the members
    queries             see `parse_queries` (default: those of the target that the fleet is about)
    logits, features, grad_norms  see `Recording` (default: float16, no features, no norms)
    device              see `choose_device` (default: auto)
    jobs                processes that train side by side (default: one a CPU; 1 on a GPU; on Ray as many as it has room for)
    engine              the Ray cluster that trains (default: this machine does)
    compiled            see `compiles` (default: where it pays)
    stack               plain mlps trained as one (default: on a GPU; see `train_fleet`)
    shard               train, and return, this part of the runs alone; other calls train the others (default: all). The parts
                        may run at the same time anywhere: who is in which run is laid down in the lake by the first of them
    data_dir            where downloads are kept
    progress            is told how far it is
    """

    prepared: Prepared | None
    seed: int | None
    traces: bool
    queries: str | Sequence[str] | None
    logits: Logits
    features: bool
    grad_norms: Norms
    device: str
    jobs: int | None
    compiled: bool | None
    stack: int | None
    engine: OnRay | None
    shard: Shard | None
    data_dir: Path | None
    progress: Progress | None
