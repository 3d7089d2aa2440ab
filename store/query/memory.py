"""A hard limit of the memory that a query may take from the system, for what DuckDB's own limit does not count.

DuckDB counts the blocks of its operators, not the values that one expression builds: `lpad('x', 2000000000, 'y')` takes
gigabytes under a limit of a hundred megabytes. So while a query of the command line runs, the process as a whole may
grow by the limit and a margin and no further; what is over it fails as if memory had run out, and the query ends.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

_MARGIN = 1 << 30
"""Bytes beside the limit: stacks of threads, copies of the answer."""

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@contextlib.contextmanager
def memory_ceiling(bytes_in_all: int | None) -> Iterator[None]:
    """In the block the process may hold so many bytes of data at most; None: as many as it may anyway."""
    if bytes_in_all is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = [limit for limit in (bytes_in_all, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def ceiling_for(connection: duckdb.DuckDBPyConnection) -> int | None:
    """The `memory_ceiling` that goes with a connection's own memory limit; None where the system knows no such thing."""
    held = _data_bytes()
    text = connection.execute("select current_setting('memory_limit')").fetchall()[0][0]
    limit = re.fullmatch(r"([\d.]+) (\w+)", text)
    if held is None or limit is None or limit[2] not in _UNITS:
        return None
    return held + int(float(limit[1]) * _UNITS[limit[2]]) + _MARGIN


def _data_bytes() -> int | None:
    """What RLIMIT_DATA counts of this process now, on Linux."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmData:\s+(\d+) kB$", text, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None
