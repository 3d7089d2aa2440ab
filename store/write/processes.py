"""Which processes run on this machine: what a lease or a claim says of its own is held against it."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path


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
