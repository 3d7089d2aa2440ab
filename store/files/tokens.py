"""Tokens: the part of a file's name that says which process wrote it.

A token is a random part for the process and a counted part for the file, so no two writers ever take the same name,
on however many machines. `leases` tells whether the process of a token is still there.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Iterator

TEMPORARY = ".tmp-"

_TOKEN = re.compile(
    r"(?:^|/)(?:" + re.escape(TEMPORARY) + r")?([0-9a-f]{16})([0-9a-f]{8})?(?=[-./]|$)(?!.*=)"
)
"""A token in a path. Before there were leases one had 16 digits: it names a writer of its own, without a lease."""

_processes: dict[str, tuple[str, Iterator[int]]] = {}


def process_part(root: str) -> str:
    """The part of this process in the tokens of the lake at ``root``: 16 hexadecimal digits."""
    return _of_this_process(root)[0]


def new_token(root: str) -> str:
    """A token that nobody else has. Take `leases.token` for files that stay: it sees to the lease as well."""
    process, count = _of_this_process(root)
    return f"{process}{next(count):08x}"


def forget_process(root: str) -> None:
    """The next token will be that of another process."""
    _processes.pop(root, None)


def writer_of(path: str) -> str | None:
    """Who wrote a file, by the token in its name; None for a name that losslake does not give."""
    match = _TOKEN.search(path)
    return match[1] if match else None


def is_temporary(path: str) -> bool:
    """Whether a file is one of an atomic step that goes on, or never ended."""
    return path.rpartition("/")[2].startswith(TEMPORARY)


def may_have_lease(path: str) -> bool:
    """Whether the token in a path is of a kind whose writers have leases."""
    match = _TOKEN.search(path)
    return match is not None and match[2] is not None


def _of_this_process(root: str) -> tuple[str, Iterator[int]]:
    # setdefault: of two threads that ask at once, both get the same.
    return _processes.get(root) or _processes.setdefault(root, (secrets.token_hex(8), itertools.count()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_processes.clear)
