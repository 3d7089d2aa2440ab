"""A Ray cluster that trains a fleet: how a run is to be placed, connecting, and which nodes can be used."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from ....store.errors import InvalidInput, InvalidOption, MissingExtra, NotEnoughData, NotFound
from ....store.files import tokens
from ....store.format import paths
from ....store.lake import Lake
from ....store.write import leases
from ....version import __version__
from ...run_facts import available_cpus
from .worker import see_lake

_CHECK_SECONDS = 120.0
"""How long a node may take to say that it sees the lake, starting a process included."""


@dataclass(frozen=True)
class OnRay:
    """A fleet on a Ray cluster.

    address       of the cluster: "auto" (the one this machine is part of, or RAY_ADDRESS), ray://HOST:10001, HOST:6379,
                  or "local" for one of this machine alone, which ends with the fleet
    cpus_per_run  what Ray sets aside for a run; torch takes so many threads, rounded down, at least one
    gpus_per_run  0 to 1: at 0.25 four runs share a GPU; 0 trains on CPUs
    retries       how often a run whose node or process was lost is trained again
    """

    address: str = "auto"
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        if not (0 < self.cpus_per_run < math.inf):
            raise InvalidOption(f"cpus_per_run is {self.cpus_per_run}; it must be above 0")
        if not (0 <= self.gpus_per_run <= 1):
            raise InvalidOption(
                f"gpus_per_run is {self.gpus_per_run}; a run trains on one GPU or a part of it: give 0 to 1"
            )
        if self.retries < 0:
            raise InvalidOption(f"retries is {self.retries}; it must be 0 or more")

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus_per_run))

    def device(self, name: str) -> torch.device:
        """What runs train on. This machine's own GPUs do not matter. Raises InvalidOption for another device."""
        kind = "cuda" if self.gpus_per_run else "cpu"
        if name == "cuda" and kind == "cpu":
            raise InvalidOption("on Ray a run has a GPU where you give it one, with --gpus-per-run 1 or less")
        if name not in ("auto", kind):
            raise InvalidOption(
                f"device {name!r} does not go with {self.gpus_per_run:g} GPUs a run on Ray, which chooses the device; leave "
                "it out"
            )
        return torch.device(kind)


@dataclass(frozen=True)
class Node:
    """A node of the cluster, and how many runs it can train at a time."""

    id: str
    name: str
    slots: int


def import_ray() -> ModuleType:
    """Ray. Raises MissingExtra where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(
            "fleets on Ray need Ray, which is not installed; get it with pip install 'losslake[ray]'"
        ) from error
    return ray


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at ``address``, or to the one that the program is connected to already.

    Raises MissingExtra, NotFound where there is no cluster, InvalidInput for one of other versions of Ray or Python.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {}
    if address == "local":
        # Nothing is told to anybody about a cluster of our own making.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"num_cpus": available_cpus(), "include_dashboard": False}
    try:
        ray.init(address=address, logging_level="WARNING", **options)
    except ImportError as error:
        raise MissingExtra(
            f"addresses such as {address} need Ray's client, which is not installed; get it with pip install 'ray[client]'"
        ) from error
    except ConnectionError as error:
        raise NotFound(
            f"there is no Ray cluster at {address!r}; start one with 'ray start --head', give its --address, or 'local' for "
            "one of this machine"
        ) from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise InvalidInput(f"cannot use the Ray cluster at {address!r}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def nodes_for(ray: ModuleType, on: OnRay) -> list[Node]:
    """The nodes that are alive and have room for a run, whatever else they are doing now."""
    found = []
    for each in ray.nodes():
        slots = _slots(each["Resources"], on) if each["Alive"] else 0
        if slots:
            found.append(Node(each["NodeID"], f"{each['NodeManagerHostname']} ({each['NodeID'][:6]})", slots))
    return found


def ask_nodes(
    ray: ModuleType, nodes: Sequence[Node], lake: Lake, setup: Mapping[str, Any]
) -> dict[Any, Node]:
    """Ask nodes whether they can train for the lake: the references of their answers (see `answer_of`).

    A node has to see the lease of this process, so that a folder of the same name on a disk of its own is told from the
    lake, to be able to write there, to run the same losslake, and to have the recipe's model.
    """
    leases.hold(lake.files)
    lease = paths.lease(tokens.process_part(lake.path))
    look = ray.remote(see_lake)
    return {
        look.options(num_cpus=0, max_retries=2, scheduling_strategy=pinned(ray, node.id)).remote(
            setup, lease, __version__
        ): node
        for node in nodes
    }


def answer_of(ray: ModuleType, node: Node, ref: Any) -> str | None:
    """What keeps a node that was asked from training, in a sentence; None: nothing.

    Raises Ray's TaskUnschedulableError for a node that is gone, or that the scheduler has not heard of yet.
    """
    try:
        said = ray.get(ref)
    except ray.exceptions.TaskUnschedulableError:
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().rpartition("\n")[2][:300]
        said = f"it cannot run losslake; is {__version__} installed there? ({reason})"
    return None if said is None else f"node {node.name}: {said}"


def usable_nodes(ray: ModuleType, on: OnRay, lake: Lake, setup: Mapping[str, Any]) -> list[Node]:
    """The nodes to begin with; others may join. Raises NotEnoughData where none has room, InvalidInput where one cannot train for the lake."""
    nodes = nodes_for(ray, on)
    if not nodes:
        there = ray.cluster_resources()
        raise NotEnoughData(
            f"no node of the Ray cluster has {on.cpus_per_run:g} CPUs and {on.gpus_per_run:g} GPUs for a run; it has "
            f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs in all: give fewer with --cpus-per-run and "
            "--gpus-per-run"
        )
    asked = ask_nodes(ray, nodes, lake, setup)
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_CHECK_SECONDS)
    usable, wrong = [], []
    for ref in ready:
        with suppress(ray.exceptions.TaskUnschedulableError):
            if (said := answer_of(ray, asked[ref], ref)) is None:
                usable.append(asked[ref])
            else:
                wrong.append(said)
    wrong += [f"node {asked[ref].name} did not answer within {_CHECK_SECONDS:.0f} s" for ref in late]
    if wrong:
        more = f"; and {len(wrong) - 3} more nodes" if len(wrong) > 3 else ""
        raise InvalidInput(f"{'; '.join(wrong[:3])}{more}")
    return usable


def pinned(ray: ModuleType, node: str) -> Any:
    """Says that something runs on that node or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _slots(resources: Mapping[str, float], on: OnRay) -> int:
    # A hair more than there is: ten times 0.1 is a whole GPU.
    slots = math.floor(resources.get("CPU", 0.0) / on.cpus_per_run + 1e-6)
    if on.gpus_per_run:
        # A run needs its part of one GPU: with 0.4 two fit on each.
        slots = min(slots, int(resources.get("GPU", 0.0)) * math.floor(1 / on.gpus_per_run + 1e-6))
    return slots
