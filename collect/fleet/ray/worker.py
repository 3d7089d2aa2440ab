"""What runs on the nodes of a Ray cluster: a look at whether the lake is there, workers, and the ear that hears them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ...data.training import TrainingData

_SEEN_SECONDS = 10.0
"""How long a network disk may take to show a node what another has written."""

_HEARD_SECONDS = 5.0

Failures = list[tuple[int, str | None]]
"""For each run its number, and None or why it failed."""


def see_lake(setup: Mapping[str, Any], lease: str, version: str) -> str | None:
    """What keeps this node from training for the lake in ``setup``, or None.

    ``lease`` is a file that the driver has in the lake, ``version`` its losslake. No torch: it takes seconds
    to import.
    """
    from ....store.errors import LosslakeError
    from ....store.files import tokens
    from ....store.format import paths
    from ....store.lake import Lake
    from ....version import __version__
    from ...callables import is_callable_spec, load_callable

    _find_modules(setup)
    if __version__ != version:
        return f"it has losslake {__version__}, not {version}; install the same on every node"
    try:
        lake = Lake.open(setup["lake"])
        deadline = time.monotonic() + _SEEN_SECONDS
        while not lake.files.exists(lease):
            if time.monotonic() > deadline:
                return (
                    f"{setup['lake']} there is another lake than here; put the lake where every node sees it under the same "
                    "path, such as a network disk"
                )
            time.sleep(0.2)
        # Whether it can write there, with a name that nobody else has.
        probe = paths.lease(tokens.new_token(lake.path))
        lake.files.put(probe, b"{}")
        lake.files.delete(probe)
        if is_callable_spec(setup["recipe"]["model"]):
            load_callable(setup["recipe"]["model"])
    except LosslakeError as error:
        return f"{error} (every node has to see the lake, and a model of your own, under the same path)"
    return None


class Ear:
    """An actor that workers tell how far they are. It answers whether they shall stop."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._something = asyncio.Event()
        self._stopping = False

    async def tell(self, event: dict[str, Any]) -> bool:
        self._events.append(event)
        self._something.set()
        return self._stopping

    async def stop(self) -> None:
        """From now on workers are told to stop, and nobody waits to hear of them."""
        self._stopping = True
        self._something.set()

    async def hear(self) -> list[dict[str, Any]]:
        """What was told since the last call; waits a while for something."""
        try:
            await asyncio.wait_for(self._something.wait(), _HEARD_SECONDS)
        except TimeoutError:
            return []
        if not self._stopping:
            self._something.clear()
        events, self._events = self._events, []
        return events


class Worker:
    """An actor that trains runs, one task at a time, with the data and one model for all of them."""

    def __init__(self, setup: Mapping[str, Any], ear: Any) -> None:
        self._setup, self._ear = setup, ear
        self._told: Any = None
        self._results: Failures = []

    def start(self, data: TrainingData) -> str | None:
        """Get ready; None, or why that is not possible. ``data`` are arrays that all workers of a node share."""
        import warnings

        import torch

        from ....store.errors import LosslakeError
        from ....store.lake import Lake
        from ..runs import Runs

        os.dup2(2, 1)  # what a user's model prints goes to standard error, as with workers of this machine
        _find_modules(self._setup)
        torch.set_num_threads(self._setup["threads"])
        # Ray's arrays are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            self._runs = Runs(Lake.open(self._setup["lake"]), self._setup, data, self._tell)
        except LosslakeError as error:
            return str(error)
        return None

    def train(
        self, numbers: Sequence[int], plans: Sequence[Mapping[str, Any]], rows: Sequence[np.ndarray]
    ) -> Failures:
        """Train runs, each on its row, bool (N,), and commit them."""
        from ...train.run import RunPlan

        self._results = []
        self._runs.train(numbers, [RunPlan(**plan) for plan in plans], rows)
        return self._results

    def _tell(self, event: str, **facts: Any) -> None:
        if event == "done":
            self._results.append((facts["number"], None))
        elif event == "failed":
            self._results.append((facts["number"], facts["message"]))
        else:
            self._say({"event": event, **facts}, wait=event == "note")

    def _say(self, event: dict[str, Any], *, wait: bool) -> None:
        """Tell the driver, unless it has not heard the last yet: training waits for nobody.

        Where the driver wants workers to stop, the run ends here: the process leaves, discarding what it has of it.
        """
        import ray

        if self._told is not None:
            ready, _ = ray.wait([self._told], timeout=None if wait else 0)
            if not ready:
                return
            try:
                if ray.get(self._told):
                    raise SystemExit(0)
            except ray.exceptions.RayError:
                pass  # nobody listens at the moment; the run goes on
        self._told = self._ear.tell.remote(event)


def _find_modules(setup: Mapping[str, Any]) -> None:
    sys.path.extend(entry for entry in setup["path"] if entry not in sys.path)
