"""Who is at work in a lake: leases say who writes into it, claims who rewrites the manifests of an experiment.

A lease is one small file a process, ``writers/<process>.json``. A process writes it before its first file in a lake and
removes it when it ends; a killed one leaves it. So what lies around without a manifest can be told apart: files of writers
at work, and what the killed ones left. It takes no lock and no clock where writer and reader are on the same machine.

A claim is a small file ``claims/WHAT/<token>.json``. Who lays one down and then sees no other of a process that may still
be at work, has it: of two that do so at once, the later one sees the other's. Both may, and both step back. A claim of a
killed process counts no more, so nothing has to be cleared away before the next try.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from ..errors import CorruptLake, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest, paths
from .processes import host_identity, runs, start_time

State = Literal["at work", "killed", "elsewhere"]
"""What a lease says of its writer: on this machine it runs or does not; on another one nothing can be said."""

STALE = timedelta(hours=1)
"""A claim on another machine that was not renewed for so long counts as that of a killed process."""

RENEWED = timedelta(minutes=5)
"""How often a process renews its lease, whatever it does meanwhile."""

RETRIED = timedelta(seconds=30)
"""How often a process tries again to remove a claim of its own that has ended."""

SILENT = 6 * RENEWED
"""A writer on another machine whose lease was not renewed for so long may be gone; before that it is not."""

SHOWN = timedelta(minutes=2)
"""A lease is written before its process's first claim, and another machine sees it no later than this after it."""

_TRIES = 4

_OFTEN = 30.0
"""Seconds after which a claim is renewed, where it is asked for: each time is a file on stable storage."""

_renewed: set[tuple[str, str]] = set()
"""The leases that this process renews, by lake and path."""

_renewing = threading.RLock()
"""Held while a lease joins or leaves `_renewed`; by one thread twice, where the lake of another lease is given up meanwhile."""

_endings: dict[tuple[str, str], Callable[[], None]] = {}
"""What ends each lease of this process, when the process does or before."""

_seen_to_by: int | None = None
"""The process that ends its leases when it ends itself."""

_held: set[tuple[str, str]] = set()
"""The claims that this process has, by lake and path. One of its own beside them could not be removed when it ended."""

_ended: set[tuple[str, str]] = set()
"""Claims of this process that have ended and could not be removed yet: to others it is still at work on them."""


def token(files: Files) -> str:
    """A token for a file that this process is about to write into a lake. The process holds a lease from then on.

    Raises OlderFormat as `hold`.
    """
    hold(files)
    return tokens.new_token(files.root)


def hold(files: Files, *, any_format: bool = False) -> None:
    """See to it that this process has its lease, until it ends.

    Raises OlderFormat for a lake that has to be migrated before anything is written to it, unless ``any_format``.
    """
    if not any_format:
        manifest.check_current(files)
    process = tokens.process_part(files.root)
    path = paths.lease(process)
    if files.exists(path):
        return
    content = {
        "kind": "writer",
        "writer": process,
        **_whereabouts(),
        "created": manifest.now(),
    }
    data = manifest.dump(content)
    files.put(path, data)
    with _renewing:
        if (files.root, path) in _renewed:
            return
        _renewed.add((files.root, path))
        ended, step = threading.Event(), threading.RLock()
        _endings[files.root, path] = partial(_end, files, path, ended, step)
        _end_all_at_exit()
        threading.Thread(
            target=_renew, args=(files, path, data, ended, step, _renewed), name="losslake-lease", daemon=True
        ).start()


def give_back(files: Files) -> None:
    """End the lease of this process on a lake that it is about to remove as a whole: no thread renews it, and nothing is left to do at exit."""
    path = paths.lease(tokens.process_part(files.root))
    with _renewing:
        end = _endings.pop((files.root, path), None)
        _renewed.discard((files.root, path))
    if end is not None:
        end()
    tokens.forget_process(files.root)


def _renew(
    files: Files,
    path: str,
    data: bytes,
    ended: threading.Event,
    step: threading.RLock,
    renewed: set[tuple[str, str]],
) -> None:
    """Renew a lease until its process ends, or its lake has gone: a training that writes nothing for days is at work all the same."""
    last = time.monotonic()
    while not ended.wait(min(RENEWED, RETRIED).total_seconds()):
        remove_ended(files)
        # A failure now may be none the next time.
        with contextlib.suppress(LosslakeError, OSError):
            if _has_gone(files, path, renewed):
                return
            if time.monotonic() - last >= RENEWED.total_seconds():
                last = time.monotonic()
                with step:  # that a lease that has ended is not put anew
                    if ended.is_set():
                        return
                    files.put(path, data)


def _has_gone(files: Files, path: str, renewed: set[tuple[str, str]]) -> bool:
    """Whether a lease was removed, perhaps with its lake: no longer ``renewed`` then, and written again by the next `hold` alone."""
    if files.exists(path):
        return False
    with _renewing:  # it may be written again in this moment
        if files.exists(path):
            return False
        renewed.discard((files.root, path))
        if not any(root == files.root for root, _ in _ended):
            _endings.pop((files.root, path), None)
        return True


def _end(files: Files, path: str, ended: threading.Event, step: threading.RLock) -> None:
    ended.set()
    remove_ended(files)
    tokens.forget_process(files.root)
    with step, contextlib.suppress(LosslakeError):
        files.delete(path)


def _end_all_at_exit() -> None:
    """See to it, once a process and not once a lake, that its leases end with it."""
    global _seen_to_by
    if os.getpid() == _seen_to_by:
        return
    _seen_to_by = os.getpid()
    atexit.unregister(release)  # a fork inherits what its parent does at exit, or does not
    atexit.register(release)
    # Workers of multiprocessing leave without atexit (before Python 3.13).
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import process, util

        if process.parent_process() is not None:
            util.Finalize(None, release, exitpriority=0)


def release() -> None:
    """Remove the leases of this process, as its end does: for one that is done and ends by `os._exit`, without what Python does then."""
    if os.getpid() == _seen_to_by:
        for key in list(_endings):
            end = _endings.pop(key, None)
            if end is not None:
                end()


def _after_fork() -> None:
    """A fork has leases of its own, and none of its parent's threads: whatever lock one of these held stays locked."""
    global _renewing
    _renewing = threading.RLock()
    _renewed.clear()
    _endings.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def states(files: Files) -> dict[str, State]:
    """What each lease of a lake says, by writer as in `tokens.writer_of`. One that cannot be read says "elsewhere"."""
    here = host_identity()
    found: dict[str, State] = {}
    for path in files.list(paths.LEASES, ".json"):
        state: State = "elsewhere"
        try:
            lease = manifest.load(files, path)
            if lease["host"] == here:
                state = "at work" if runs(lease["pid"], lease["started"]) else "killed"
        except LosslakeError:
            if not files.exists(path):  # its process has ended in this moment
                continue
        found[writer_of_lease(path)] = state
    return found


def writer_of_lease(path: str) -> str:
    """Whose lease lies at a path."""
    return path.removeprefix(f"{paths.LEASES}/").removesuffix(".json")


def _whereabouts() -> dict[str, Any]:
    """By what others find out whether this process runs."""
    return {"host": host_identity(), "pid": os.getpid(), "started": start_time(os.getpid())}


@dataclass(frozen=True)
class Claim:
    """What the holder of a claim calls; both raise LosslakeError where it was lost, because the holder's machine slept too long.

    ``renew`` before every few changes. ``check`` as late as can be before each of them, and after the last one: whoever took the
    claim over may have changed the same, and a manifest that is put over theirs would list what is not there any more, or what
    they have forgotten.
    """

    renew: Callable[[], None]
    check: Callable[[], None]


@contextlib.contextmanager
def claim(files: Files, what: str, *, any_format: bool = False) -> Iterator[Claim]:
    """While the block lasts no other process has the claim to ``what``, such as ``experiment=E``.

    Raises LosslakeError where another process is at work, and OlderFormat as `hold`.
    """
    hold(files, any_format=any_format)
    remove_ended(files)
    path = f"{paths.claims_folder(what)}/{tokens.new_token(files.root)}.json"
    data = manifest.dump({"kind": "claim", "what": what, **_whereabouts(), "created": manifest.now()})
    held = (files.root, path)
    _held.add(held)
    try:
        for attempt in range(_TRIES):
            files.put(path, data)
            if not _others(files, path):
                break
            _remove_claim(files, path)
            if attempt < _TRIES - 1:
                time.sleep(random.uniform(0.05, 0.3))
        else:
            raise LosslakeError(
                f"another process compacts, migrates or forgets samples of {what}, or removes from it, in the lake {files.root}; try again when it has ended"
            )

        last = _seconds()

        def check() -> None:
            if not files.exists(path):
                raise LosslakeError(
                    f"the claim to {what} in the lake {files.root} was lost: this machine slept, or did not reach the lake, for "
                    "longer than others wait; start again"
                )

        def renew() -> None:
            nonlocal last
            check()
            if not 0 <= _seconds() - last < _OFTEN:
                files.put(path, data)
                last = _seconds()

        yield Claim(renew, check)
    finally:
        _held.discard(held)
        _remove_claim(files, path)


def claimed(files: Files, what: str) -> bool:
    """Whether a process that may be at work has the claim to ``what``."""
    return any(_may_be_at_work(files, path) for path in files.list(paths.claims_folder(what), ".json"))


def _seconds() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


def _remove_claim(files: Files, path: str) -> None:
    """Remove a claim of this process; where that fails, `remove_ended` tries again."""
    try:
        files.delete(path)
    except LosslakeError:
        _ended.add((files.root, path))
    else:
        _ended.discard((files.root, path))


def remove_ended(files: Files) -> None:
    """Remove the claims of this process that have ended and are there all the same: before each new one, with each renewal of
    its lease, and when the process ends."""
    for each in [each for each in _ended if each[0] == files.root and each not in _held]:
        _remove_claim(files, each[1])


def _others(files: Files, own: str) -> bool:
    """Whether other processes that may be at work claim the same. Claims of processes known to be gone are removed."""
    others = [path for path in files.list(own.rpartition("/")[0], ".json") if path != own]
    at_work = [path for path in others if _may_be_at_work(files, path)]
    for path in set(others).difference(at_work):
        with contextlib.suppress(LosslakeError):  # it counts no more, whether it is there or not
            files.delete(path)
    return bool(at_work)


def _may_be_at_work(files: Files, path: str) -> bool:
    if tokens.writer_of(path) == tokens.process_part(files.root):
        return (files.root, path) in _held
    writer = tokens.writer_of(path)
    state = _state_of_claim(files, path) or states(files).get(writer or "")
    if state in ("at work", "killed"):
        return state == "at work"
    try:
        last = files.modified(path)
        if state is None and tokens.may_have_lease(path):
            # Its process has ended, and could not remove it: no process claims anything without a lease.
            return lake_time(files) - last < SHOWN.total_seconds()
        if state is not None and writer is not None:
            last = max(last, files.modified(paths.lease(writer)))
    except CorruptLake:  # it has gone since
        return False
    return lake_time(files) - last < STALE.total_seconds()


def _state_of_claim(files: Files, path: str) -> State | None:
    """What a claim itself says of its process; None where it is of another machine, or says nothing.

    A process that could not remove its claim when it ended has removed its lease all the same, or nobody knows by that.
    """
    try:
        told = manifest.load(files, path)
    except LosslakeError:
        return None
    if told.get("host") != host_identity() or "pid" not in told or "started" not in told:
        return None
    return "at work" if runs(told["pid"], told["started"]) else "killed"


def lake_time(files: Files) -> float:
    """The time by the clock that dates the files of a lake, in seconds since 1970.

    That of this machine may differ from it, and ages of others' files are told by the former alone.
    """
    path = f"{paths.claims_folder('clock')}/{tokens.new_token(files.root)}.json"
    files.put(path, manifest.dump({"kind": "clock"}))
    try:
        return files.modified(path)
    finally:
        with contextlib.suppress(LosslakeError):
            files.delete(path)
