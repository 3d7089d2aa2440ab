"""Processes of two machines on one: each says that it is on the machine, and has the clock, that it is given.

The seam is what losslake asks of the system about its machine: its identity in leases and claims, and the time. What others wait
for by time (a lease that is silent for half an hour, a claim of an hour) is shortened alike for all, as are the renewals.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from losslake.store.files import local, tokens
from losslake.store.format import manifest, paths
from losslake.store.upkeep import gc
from losslake.store.write import leases

CLOCKS = {"north": 0.0, "south": 3600.0}
"""Machines, and by how many seconds their clocks are ahead of the disk's."""

_TIMES = ((leases, "STALE"), (leases, "RENEWED"), (leases, "RETRIED"), (leases, "SILENT"), (leases, "SHOWN"))
_REALLY = {name: getattr(module, name) for module, name in _TIMES}


_silence = [0.0]


class _Clock:
    """The module time, ahead."""

    def __init__(self, ahead: float) -> None:
        self._ahead = ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return time.time() + self._ahead

    def time_ns(self) -> int:
        return time.time_ns() + int(self._ahead * 1e9)


def be_on(machine: str, shorter: float) -> None:
    """From now on this process is on that machine, and all that is waited for by time is so many times shorter."""
    ahead = CLOCKS[machine]
    leases.host_identity = lambda: machine
    for module in (leases, local, gc):
        module.time = _Clock(ahead)  # type: ignore[attr-defined]
    manifest.now = lambda: (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat(timespec="milliseconds")
    for module, name in _TIMES:
        setattr(module, name, _REALLY[name] / shorter)
    leases._OFTEN = 30.0 / shorter
    gc.GRACE = timedelta(minutes=10) / shorter


def act(machine: str, shorter: float, call: str, arguments: Sequence[Any]) -> None:
    """Call ``module:function`` on a machine."""
    be_on(machine, shorter)
    threading.Thread(target=_watch, args=(Path(arguments[0]),), daemon=True).start()
    module, _, name = call.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)


def longest_silence() -> float:
    """Seconds for which this process has not renewed its lease, at most: it was stopped, or had no turn."""
    return _silence[0]


def _watch(lake: Path) -> None:
    before, age = time.monotonic(), 0.0
    while True:
        time.sleep(0.2)
        now = time.monotonic()
        _silence[0] = max(_silence[0], age + now - before)
        before = now
        with contextlib.suppress(OSError):
            lease = lake / paths.lease(tokens.process_part(str(lake.resolve())))
            age = time.time() - lease.stat().st_mtime
            _silence[0] = max(_silence[0], age)


def any_machine(chance: random.Random) -> str:
    """One of them."""
    return chance.choice([*CLOCKS])
