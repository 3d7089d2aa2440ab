"""Pictures decoded once: arrays kept as .npy files that every process maps instead of decoding again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from ...store.errors import InvalidInput, InvalidOption

_ABANDONED_SECONDS = 24 * 3600

DECODED = "decoded"
"""The folder of decoded pictures in that of caches."""

_DEFAULT_GB = 20.0
_ENTRY = re.compile(r"[0-9a-f]{64}\.npy")


def data_directory(data_dir: Path | None = None) -> Path:
    """Where downloads and decoded pictures are kept: `data_dir`, $LOSSLAKE_DATA or the user's folder of caches.

    The last is ~/.cache/losslake on Linux, unless $XDG_CACHE_HOME says otherwise.
    """
    chosen = data_dir or os.environ.get("LOSSLAKE_DATA") or user_cache_path("losslake", appauthor=False)
    return Path(chosen).expanduser()


def bound() -> float:
    """How many bytes of decoded pictures are kept: LOSSLAKE_CACHE_GB, 20 GB by default. Raises InvalidOption for no such number."""
    text = os.environ.get("LOSSLAKE_CACHE_GB")
    try:
        size = _DEFAULT_GB if not text else float(text)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise InvalidOption(f"LOSSLAKE_CACHE_GB is {text!r}; give a number of gigabytes, 0 or more")
    return size * 1e9


def entries(folder: Path) -> list[tuple[Path, int, float]]:
    """The arrays kept in a folder, with bytes and when they were last used, the longest unused first."""
    found = []
    for path in folder.glob("*.npy"):
        with contextlib.suppress(OSError):  # another process removed it
            if _ENTRY.fullmatch(path.name):
                status = path.stat()
                found.append((path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: entry[2])


def remove_entries(folder: Path, *, down_to: float = 0, keep: Path | None = None) -> tuple[int, int]:
    """Remove arrays, the longest unused first, until no more than ``down_to`` bytes are left; how many went, and their bytes.

    Processes that use one keep what they have mapped. Nothing else in the folder is touched, nor ``keep``.
    """
    there = entries(folder)
    total = sum(size for _, size, _ in there)
    count, removed = 0, 0
    for path, size, _ in there:
        if total - removed <= down_to:
            break
        if path != keep:
            with contextlib.suppress(OSError):
                path.unlink()
                count, removed = count + 1, removed + size
    return count, removed


def source_digest(files: Sequence[Path], options: object) -> str:
    """A name for what `files` hold now: sha256 hex over their absolute paths, sizes and mtimes, and `options`."""
    facts = []
    for file in files:
        status = file.stat()
        facts.append([str(file.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps([facts, options], sort_keys=True).encode()).hexdigest()


def cached_array(
    folder: Path, digest: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The uint8 array of `shape` kept in `folder` under `digest`; made by `fill(out)` where it is not there yet.

    The result maps the file privately: pages are shared between processes, and writes stay in the process. An
    entry that is damaged or of another shape is made again. Entries appear whole (temporary name, then rename),
    so two processes may make the same one at a time. Where the folder cannot be written, the array is made in
    memory, with a warning.

    Entries that were not used for the longest time go where all together take more than `bound`.

    Raises InvalidInput where the disk has no room for the array, and whatever `fill` raises.
    """
    path = folder / f"{digest}.npy"
    limit = bound()
    found = _map(path, shape)
    if found is not None:
        with contextlib.suppress(OSError):
            os.utime(path)  # it has been used
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=digest[:16] + "-", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        warnings.warn(f"decoded pictures are not kept: {folder}: {error.strerror}", stacklevel=2)
        out = np.empty(shape, dtype=np.uint8)
        fill(out)
        return out
    temporary = Path(name)
    try:
        need, free = math.prod(shape), shutil.disk_usage(folder).free
        if need > free:
            raise InvalidInput(
                f"{folder}: {need / 1e9:.1f} GB are needed for decoded pictures, {free / 1e9:.1f} GB are free; "
                "set LOSSLAKE_DATA to a larger disk"
            )
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        fill(mapped)
        mapped.flush()
        del mapped
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # a crash after the rename must not leave a hollow entry
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sweep(folder)
    remove_entries(folder, down_to=limit, keep=path)
    made = _map(path, shape)
    if made is None:
        raise InvalidInput(f"{path}: cannot be read back after writing; is the disk full?")
    return made


def _map(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        mapped = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(mapped, np.memmap) or mapped.shape != shape or mapped.dtype != np.uint8:
        return None
    # Fortran order or a longer file: not what this module writes.
    whole = mapped.flags.c_contiguous and path.stat().st_size == mapped.offset + mapped.nbytes
    return np.asarray(mapped) if whole else None


def _sweep(folder: Path) -> None:
    """Remove the temporary files of processes that were killed long ago."""
    for left in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
