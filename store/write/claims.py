"""Claims: one process at a time rewrites the manifests of an experiment, without a lock.

A claim is a small file ``claims/WHAT/<token>.json``. Who lays one down and then sees no other of a process that may still
be at work, has it: of two that do so at once, the later one sees the other's. Both may, and both step back. A claim of a
killed process counts no more, so nothing has to be cleared away before the next try.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from ..errors import CorruptLake, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest, paths
from . import leases

STALE = timedelta(hours=1)
"""A claim on another machine that was not renewed for so long counts as that of a killed process."""

_TRIES = 4

_held: set[tuple[str, str]] = set()
"""The claims that this process has, by lake and path. One of its own beside them could not be removed when it ended."""


@contextlib.contextmanager
def claim(files: Files, what: str, *, any_format: bool = False) -> Iterator[Callable[[], None]]:
    """While the block lasts no other process has the claim to ``what``, such as ``experiment=E``.

    The block gets a function that renews the claim. Call it before every few changes: it raises LosslakeError where the
    claim was lost, because this process slept too long. Raises LosslakeError where another process is at work, and
    OlderFormat as `leases.hold`.
    """
    leases.hold(files, any_format=any_format)
    path = f"{paths.claims_folder(what)}/{tokens.new_token(files.root)}.json"
    data = manifest.dump({"kind": "claim", "what": what, "created": manifest.now()})
    held = (files.root, path)
    _held.add(held)
    try:
        for attempt in range(_TRIES):
            files.put(path, data)
            if not _others(files, path):
                break
            files.delete(path)
            if attempt < _TRIES - 1:
                time.sleep(random.uniform(0.05, 0.3))
        else:
            raise LosslakeError(
                f"another process compacts, migrates or forgets samples of {what} in the lake {files.root}; try again when it has ended"
            )

        def renew() -> None:
            if not files.exists(path):
                raise LosslakeError(f"the claim to {what} in the lake {files.root} was lost; start again")
            files.put(path, data)

        yield renew
    finally:
        _held.discard(held)
        with contextlib.suppress(LosslakeError):
            files.delete(path)


def _others(files: Files, own: str) -> list[str]:
    """Claims to the same thing of processes that may be at work. Those of processes known to be gone are removed."""
    found = []
    for path in files.list(own.rpartition("/")[0], ".json"):
        if path == own:
            continue
        if _may_be_at_work(files, path):
            found.append(path)
        else:
            files.delete(path)
    return found


def _may_be_at_work(files: Files, path: str) -> bool:
    if tokens.writer_of(path) == tokens.process_part(files.root):
        return (files.root, path) in _held
    state = leases.states(files).get(tokens.writer_of(path) or "")
    if state in ("at work", "killed"):
        return state == "at work"
    try:
        return time.time() - files.modified(path) < STALE.total_seconds()
    except CorruptLake:  # it has gone since
        return False
