"""Vega, Vega-Lite and vega-embed as one script, put together once a version and kept among the user's caches."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path


def kept_bundle(call: str) -> str:
    """The script that runs ``call`` with the three of them. Putting it together takes longer than all charts of a report.

    It is kept where the user's caches are (~/.cache/losslake on Linux) under a name that tells the library's version, with its SHA-256,
    so that one that was cut off is none. Where nothing can be kept it is put together each time.
    """
    asked = hashlib.sha256(f"{version('vl-convert-python')} {call}".encode()).hexdigest()[:16]
    path = user_cache_path("losslake", appauthor=False) / f"vega-{asked}.js"
    found = _whole(path) if path.is_absolute() else None
    if found is None:
        import vl_convert

        found = str(vl_convert.javascript_bundle(call))
        # Without a home the folder's name is relative, and would be made wherever this runs.
        if path.is_absolute():
            with contextlib.suppress(OSError):
                _keep(path, found)
    return found


def _whole(path: Path) -> str | None:
    """The script in a file, without the line at its head that says which it is; None where it is not whole, or others could have written it."""
    try:
        # Asked of what was opened, which nobody can put another file in the place of; a pipe is not waited for.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(number, "rb") as file:
            if not _own(os.fstat(number)):
                return None
            head, _, script = file.read().decode("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return script if head == _head(script) else None


def _own(about: os.stat_result) -> bool:
    """Whether it is a file of this user's that nobody else may write to."""
    if not stat.S_ISREG(about.st_mode):
        return False
    return not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)


def _keep(path: Path, script: str) -> None:
    """In one step: another process finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".vega-")
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
            file.write(f"{_head(script)}\n{script}")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _head(script: str) -> str:
    return f"// {hashlib.sha256(script.encode()).hexdigest()}"
