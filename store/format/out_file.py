"""Files that commands write for people: reports, tables, metrics. Every ``--out`` goes this way."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import LosslakeError


@contextlib.contextmanager
def out_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written in the block: it is there, whole, when that ends well, and as it was before where it raises.

    Missing folders are made. A link is followed: what it points to is replaced and keeps its permissions. What is no file, a pipe
    or a device such as /dev/stdout, is written through when the block has ended. Raises LosslakeError where it cannot be written.
    """
    with _explained(path):
        goal = goal_of(path)
    if goal is None:
        whole = io.BytesIO()
        yield whole
        with _explained(path):
            _write_through(path, whole.getbuffer())
        return
    # Beside the goal, so that replacing it is one step of the same file system.
    temporary = goal.with_name(f".{goal.name}.{secrets.token_hex(4)}")
    try:
        with _explained(path):
            with temporary.open("xb") as file:
                yield file
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(stat.S_IMODE(goal.stat().st_mode))
            os.replace(temporary, goal)
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def check_out_file(path: Path) -> None:
    """Raises LosslakeError where `out_file` could not write ``path``, before any work is done for it; nothing is made or changed."""
    with _explained(path):
        if is_stream(path):
            return
        goal = Path(os.path.realpath(path))
        if goal.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = goal.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def goal_of(path: Path) -> Path | None:
    """The file that ``path`` means, behind links, in a folder that is there by now; None for what has to be written through."""
    with contextlib.suppress(FileNotFoundError):
        if is_stream(path):
            return None
    goal = Path(os.path.realpath(path))
    goal.parent.mkdir(parents=True, exist_ok=True)
    return goal


def is_stream(path: Path) -> bool:
    """Whether ``path`` is a pipe, a socket or a device, or the very file that standard output goes into."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or _is_stdout(found)


def _is_stdout(found: os.stat_result) -> bool:
    try:
        return os.path.samestat(found, os.fstat(sys.stdout.fileno()))
    except (AttributeError, OSError, ValueError):
        return False


def _write_through(path: Path, data: memoryview) -> None:
    # Opened anew, standard output would be written from its beginning again.
    if _is_stdout(path.stat()):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as file:
        file.write(data)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # its reader has had enough, which is no failure
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise LosslakeError(f"cannot write {path}: {reason}") from error
