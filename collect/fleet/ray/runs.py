"""The runs of a fleet as tasks on a Ray cluster, whose workers write straight to the lake.

A worker is an actor that stays on its node with its part of a GPU, so that the data lies on the device and a model is
compiled once. Who trains what is decided here: what a lost node was training goes to another worker.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ....store.errors import TrainingFailed
from ..work import FleetWork
from .cluster import (
    Node,
    OnRay,
    answer_of,
    ask_nodes,
    connected,
    nodes_for,
    pinned,
    usable_nodes,
)
from .worker import Ear, Worker

_LOOK_SECONDS = 5.0
"""Between two looks at which nodes there are."""

_PATIENCE_SECONDS = 600.0
"""How long a fleet that has lost all its nodes waits for others."""

_STOP_SECONDS = 15.0
"""How long workers may take to discard their runs when a fleet is stopped."""


@dataclass(eq=False)
class _Task:
    numbers: list[int]
    lost: int = 0
    """How many workers were lost with it."""


@dataclass(eq=False)
class _Hand:
    """A worker, where it is, and what it does; None: it starts."""

    actor: Any
    node: Node
    task: _Task | None = None


def train_on_ray(work: FleetWork, on: OnRay, *, jobs: int | None) -> None:
    """Train on as many workers as the cluster has room for, ``jobs`` at most.

    Nodes that join are used, once they see the lake. A run whose worker is lost is trained again, ``on.retries`` times at
    most, unless it was committed. Leaving by an exception stops the workers.

    Raises MissingExtra, NotFound without a cluster, NotEnoughData for one without room for a run, InvalidInput where a
    node does not see the lake, TrainingFailed where no worker can start.
    """
    with connected(on.address) as ray:
        setup = {
            **work.setup(),
            "threads": on.threads,
            # Where this process finds modules: a model of the user's is looked for there on nodes that share the folders.
            "path": [*(entry for entry in sys.path if entry), os.getcwd()],
        }
        nodes = usable_nodes(ray, on, work.prepared.lake, setup)
        foreman = _Foreman(ray, work, on, setup, nodes, jobs)
        try:
            foreman.see_it_done()
        finally:
            foreman.stop()


class _Foreman:
    """Gives runs to workers until there is none left."""

    def __init__(
        self,
        ray: ModuleType,
        work: FleetWork,
        on: OnRay,
        setup: Mapping[str, Any],
        nodes: list[Node],
        jobs: int | None,
    ) -> None:
        self._ray, self._work, self._on, self._setup = ray, work, on, setup
        self._nodes, self._unfit = nodes, set[str]()
        self._asked: dict[Any, Node] = {}
        self._failed_starts = Counter[str]()
        self._waiting = deque(_Task(part) for part in work.parts())
        self._open = set(work.todo)
        self._most = len(self._waiting) if jobs is None else jobs
        self._looked = self._alive = time.monotonic()
        # Once for every node that needs it; the workers there share its pages.
        self._data = ray.put(work.prepared.data)
        self._worker = ray.remote(Worker)
        self._hands: dict[Any, _Hand] = {}
        self._leaving: list[Any] = []
        self._ear = ray.remote(Ear).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        self._heard = self._ear.hear.remote()
        slots = sum(node.slots for node in nodes)
        work.watch.say(f"{min(slots, self._most)} workers on {len(nodes)} nodes of Ray")

    def see_it_done(self) -> None:
        while self._open:
            self._hire()
            awaited = [*self._hands, *self._asked, self._heard]
            ready, _ = self._ray.wait(awaited, timeout=_LOOK_SECONDS)
            for ref in ready:
                if ref == self._heard:
                    self._hear()
                elif ref in self._asked:
                    self._joined(self._asked.pop(ref), ref)
                else:
                    self._answered(self._hands.pop(ref), ref)
            if time.monotonic() - self._looked > _LOOK_SECONDS:
                self._look_at_nodes()

    def _hire(self) -> None:
        """Start workers for what is waiting, on the nodes with most room."""
        starting = sum(hand.task is None for hand in self._hands.values())
        for _ in range(min(len(self._waiting) - starting, self._most - len(self._hands))):
            room = {node.id: node.slots for node in self._nodes}
            for hand in self._hands.values():
                room[hand.node.id] = room.get(hand.node.id, 0) - 1
            node = max(self._nodes, key=lambda node: room[node.id], default=None)
            if node is None or room[node.id] < 1:
                return
            actor = self._worker.options(
                num_cpus=self._on.cpus_per_run,
                num_gpus=self._on.gpus_per_run,
                max_restarts=0,
                scheduling_strategy=pinned(self._ray, node.id),
            ).remote(self._setup, self._ear)
            self._hands[actor.start.remote(self._data)] = _Hand(actor, node)

    def stop(self) -> None:
        """Have the workers that are left discard their runs, at their next epoch, and end them."""
        ray = self._ray
        with suppress(ray.exceptions.RayError):
            self._ear.stop.remote()
            training = [ref for ref, hand in self._hands.items() if hand.task is not None]
            busy = [*self._leaving, *training, self._heard]
            ray.wait(busy, num_returns=len(busy), timeout=_STOP_SECONDS)
        for actor in (*(hand.actor for hand in self._hands.values()), self._ear):
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def _answered(self, hand: _Hand, ref: Any) -> None:
        errors = self._ray.exceptions
        try:
            said = self._ray.get(ref)
        except errors.RayTaskError as error:  # the worker is well, what it did is not
            message = f"{type(error.cause).__name__}: {error.cause}"
            said = message if hand.task is None else [(number, message) for number in hand.task.numbers]
        except errors.RayError as error:
            self._lost(hand, error)
            return
        if hand.task is not None:
            for number, failure in said:
                self._close(number, failure)
        elif said is not None:
            self._ray.kill(hand.actor)
            self._set_aside(hand.node, said)
            return
        self._give(hand)

    def _give(self, hand: _Hand) -> None:
        if not self._waiting:
            # Its place is free for others, and it leaves nothing behind in the lake.
            self._leaving.append(hand.actor.__ray_terminate__.remote())
            return
        task = hand.task = self._waiting.popleft()
        plans = [self._work.plans[number] for number in task.numbers]
        ref = hand.actor.train.options(name=plans[0].run).remote(
            task.numbers,
            [dataclasses.asdict(plan) for plan in plans],
            [self._work.records(number) for number in task.numbers],
        )
        self._hands[ref] = hand

    def _lost(self, hand: _Hand, error: Exception) -> None:
        """A worker, its process or its node is gone, or cannot be reached."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(hand.actor)
        self._look_at_nodes()
        task, lake = hand.task, self._work.prepared.lake
        if task is None:
            if hand.node in self._nodes:  # the node is there, and still it did not start
                self._failed_starts[hand.node.id] += 1
                if self._failed_starts[hand.node.id] > self._on.retries:
                    self._set_aside(hand.node, f"workers end before they can start ({_reason(error)})")
            return
        task.lost += 1
        for number in task.numbers:
            plan = self._work.plans[number]
            if lake.has_run(self._work.prepared.experiment.name, plan.run):
                self._close(number, None)  # it was committed before its worker could say so
            elif task.lost > self._on.retries:
                self._close(
                    number,
                    f"its worker was lost {task.lost} times, at last on {hand.node.name} ({_reason(error)})",
                )
            else:
                self._work.watch.note(
                    f"{plan.run}: its worker on node {hand.node.name} was lost; it is trained again ({task.lost} of "
                    f"{self._on.retries})"
                )
        task.numbers = [number for number in task.numbers if number in self._open]
        if task.numbers:
            self._waiting.appendleft(task)

    def _close(self, number: int, failure: str | None) -> None:
        self._open.discard(number)
        if failure is None:
            self._work.watch.done(number)
        else:
            self._work.watch.fail(number, failure)

    def _hear(self) -> None:
        # Lost with its node, the ear is started again elsewhere by Ray; what it had heard matters to nobody.
        with suppress(self._ray.exceptions.RayError):
            for event in self._ray.get(self._heard):
                if event["number"] in self._open:  # not told late of one that has ended
                    self._work.watch.tell(**event)
        self._heard = self._ear.hear.remote()

    def _joined(self, node: Node, ref: Any) -> None:
        """A node that has joined has answered."""
        try:
            wrong = answer_of(self._ray, node, ref)
        except self._ray.exceptions.TaskUnschedulableError:
            return  # it is asked again, if it is still there
        if wrong is None:
            self._nodes.append(node)
        else:
            self._unfit.add(node.id)
            self._work.watch.note(f"not used: {wrong}")

    def _set_aside(self, node: Node, why: str) -> None:
        if node.id not in self._unfit:
            self._work.watch.note(f"node {node.name} is not used: {why}")
        self._unfit.add(node.id)
        self._nodes = [each for each in self._nodes if each.id != node.id]
        if not self._nodes and not self._hands:
            raise TrainingFailed(f"no worker could start on any node: {why}")

    def _look_at_nodes(self) -> None:
        """Drop nodes that are gone, and ask those that have joined whether they see the lake."""
        now = self._looked = time.monotonic()
        found = {node.id: node for node in nodes_for(self._ray, self._on)}
        self._nodes = [node for node in self._nodes if node.id in found]
        known = {node.id for node in (*self._nodes, *self._asked.values())} | self._unfit
        joined = [node for node in found.values() if node.id not in known]
        if joined:
            self._asked |= ask_nodes(self._ray, joined, self._work.prepared.lake, self._setup)
        if self._nodes:
            self._alive = now
        elif now - self._alive > _PATIENCE_SECONDS:
            raise TrainingFailed(
                f"the Ray cluster has had no node to train on for {_PATIENCE_SECONDS / 60:.0f} minutes; the runs that "
                "are in the lake stay, and the same command goes on with the rest"
            )


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
