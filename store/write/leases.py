"""Leases: who is writing into a lake. One small file a process, ``writers/<process>.json``.

A process writes its lease before its first file in a lake and removes it when it ends; a killed one leaves it. So what
lies around without a manifest can be told apart: files of writers at work, and what the killed ones left. It takes no
lock and no clock where writer and reader are on the same machine.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import Any, Literal

from ..errors import CorruptLake, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest, paths

State = Literal["at work", "killed", "elsewhere"]
"""What a lease says of its writer: on this machine it runs or does not; on another one nothing can be said."""


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
        "host": host_identity(),
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "created": manifest.now(),
    }
    files.put(path, manifest.dump(content))
    _at_exit(files, path)


def states(files: Files) -> dict[str, State]:
    """What each lease of a lake says, by writer as in `tokens.writer_of`. One that cannot be read says "elsewhere"."""
    here = host_identity()
    found: dict[str, State] = {}
    for path in files.list(paths.LEASES, ".json"):
        try:
            found[writer_of_lease(path)] = _state(read_lease(files, path), here)
        except LosslakeError:
            if files.exists(path):  # else its process has ended in this moment
                found[writer_of_lease(path)] = "elsewhere"
    return found


def writer_of_lease(path: str) -> str:
    """Whose lease lies at a path."""
    return path.removeprefix(f"{paths.LEASES}/").removesuffix(".json")


def read_lease(files: Files, path: str) -> dict[str, Any]:
    """A lease. Raises CorruptLake for anything that `hold` did not write."""
    return checked_lease(manifest.load(files, path), path)


def checked_lease(content: dict[str, Any], path: str) -> dict[str, Any]:
    """The content of the manifest ``path``. Raises CorruptLake where that is no lease."""
    manifest.check_names(content, path, kind="writer", writer=writer_of_lease(path))
    types = {"host": (str,), "pid": (int,), "started": (int, type(None))}
    for name, kinds in types.items():
        if type(content.get(name)) not in kinds:
            raise CorruptLake(f"{path} is not a writer's lease: its {name} is {content.get(name)!r}")
    return content


def _state(lease: dict[str, Any], here: str) -> State:
    if lease["host"] != here:
        return "elsewhere"
    return "at work" if runs(lease["pid"], lease["started"]) else "killed"


def _at_exit(files: Files, path: str) -> None:
    pid = os.getpid()

    def remove() -> None:
        if os.getpid() != pid:  # a fork, which inherits what its parent does at exit
            return
        tokens.forget_process(files.root)
        with contextlib.suppress(LosslakeError):
            files.delete(path)

    atexit.register(remove)
    # Workers of multiprocessing leave without atexit (before Python 3.13).
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import process, util

        if process.parent_process() is not None:
            util.Finalize(None, remove, exitpriority=0)


def host_identity() -> str:
    """The same for two processes that see each other's process numbers, and for no others.

    On Linux the boot of the machine and the namespace of process numbers, which a container has of its own; elsewhere
    the network card. The host's name is part of both: copies of one virtual machine share the rest.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        where = f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        where = f"{uuid.getnode():012x}"
    return f"{socket.gethostname()}/{where}"


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where that cannot be told."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def runs(pid: int, started: int | None) -> bool:
    """Whether the process of that number and start runs on this machine.

    A number is given out again some time: only a process that started at the same moment counts. True where it cannot
    be told.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    fields = _stat(pid)
    if not fields:
        return True
    # A killed process stays as a zombie until its parent takes notice. While one of its threads is in the middle of
    # writing to a disk, it has not ended.
    if fields[0] in "ZX" and int(fields[17]) <= 1:
        return False
    return started is None or int(fields[19]) == started


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, the state; none where there is no such file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the second field is a name, which may hold blanks and brackets
