"""The seam between the lake and where it lies: every byte of a lake is read and written through `Files`.

Paths are relative to the lake's root, with forward slashes. A backend for an object store implements the
same few calls; nothing here assumes rename, locks or a consistent listing beyond what the docstrings say.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from .errors import CorruptLake, InvalidInput, InvalidOption, LosslakeError
from .tokens import TEMPORARY, new_token

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
R = TypeVar("R")

_TRIES = 100
"""How often what others keep removing, a folder or a temporary file, is made again before giving up."""

_ADVICE = {
    errno.ENOSPC: "; free some space and run the same command again",
    errno.EDQUOT: "; free some space and run the same command again",
    errno.EACCES: "; a lake belongs to the user who made it",
    errno.EROFS: "; copy the lake to a place that can be written to",
    errno.EIO: "; the disk failed: run 'losslake lake verify' to learn what is affected",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.EFBIG: "; raise the limit of a file's size (ulimit -f)",
}


class Files(Protocol):
    """Where a lake lies."""

    @property
    def root(self) -> str:
        """What a person calls this place: a folder or a URL."""

    def location(self, path: str) -> str:
        """What a query engine opens to read ``path``."""

    def exists(self, path: str) -> bool:
        """Whether there is a file, or what is none in its place, which cannot be read then."""

    def size(self, path: str) -> int:
        """Bytes of a file; CorruptLake when it is missing."""

    def modified(self, path: str) -> float:
        """When a file was last written, in seconds since 1970; CorruptLake when it is missing."""

    def read(self, path: str) -> bytes: ...

    def open_input(self, path: str) -> BinaryIO:
        """A file to read from any position."""

    def create(self, path: str, *, durable: bool = True) -> contextlib.AbstractContextManager[BinaryIO]:
        """A new file, on stable storage when the block ends, removed when the block raises.

        Not ``durable``: a power failure may lose it, for what is thrown away then anyhow.
        """

    def put(self, path: str, data: bytes) -> None:
        """Write or replace a small file in one atomic step."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a small file in one atomic step unless it exists; say whether this call wrote it."""

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Files below ``folder``, sorted, temporary ones left out; empty when there is no such folder."""

    def holds_anything(self) -> bool:
        """Whether something lies in this place already. What a killed attempt to make a lake left does not count."""

    def temporaries(self) -> Sequence[str]:
        """Files of atomic steps that are going on, or never ended because their process was killed."""

    def delete(self, path: str) -> None:
        """Remove a file; no error when it is gone already."""

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        """What ``work``, which reads, gives for each item, in order; many at once where every answer takes its time."""

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Enable DuckDB to open what `location` says, to read it."""

    @property
    def storage_options(self) -> dict[str, str]:
        """What Polars has to be told to open what `location` says."""


def files_at(path: str | Path) -> Files:
    """The backend for a lake at ``path``: a folder, or a URL s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.

    Raises InvalidOption for a place it cannot be, MissingExtra where what an object store needs is not installed.
    """
    text = str(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        from .object_store import ObjectFiles

        return ObjectFiles(text)
    if re.match(r"(s3|gs):/", text):
        raise InvalidOption(
            f"{text}: give a URL with two slashes, as text and not as a Path, which drops one"
        )
    if not text or "\0" in text:
        raise InvalidOption(f"{text!r} is not the name of a folder")
    try:
        root = Path(text).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise InvalidOption(f"{text[:200]!r} is not the name of a folder: {error}") from error
    # Query engines read partitions off the whole path, so a folder above the lake would be taken for one.
    for part in root.parts:
        if "=" in part.strip("="):
            raise InvalidOption(
                f"the folder {part!r} above or at the lake {root} looks like a partition (name=value) to query "
                "engines; choose a path without '='"
            )
    return LocalFiles(root)


class LocalFiles:
    """A lake in a folder of a local or network disk."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.expanduser().resolve())
        self._own = {self._root}  # folders that are known to lie in the lake

    @property
    def root(self) -> str:
        return self._root

    def _path(self, path: str) -> str:
        if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise InvalidInput(f"{path[:300]!r} is not a path inside the lake")
        return f"{self._root}/{path}"

    def _readable(self, path: str) -> str:
        """The same for a file to read. Raises CorruptLake for one that is a link out of the lake, a pipe or a device.

        A lake that somebody gave one must not have its reader open files of the reader's own.
        """
        target = self._path(path)
        self._refuse_foreign(os.path.dirname(target), path)
        with _explained(self.root, path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = os.lstat(target).st_mode
            if stat.S_ISLNK(mode):
                self._refuse_link(target, path)
                mode = os.stat(target).st_mode
            if not stat.S_ISREG(mode):
                raise CorruptLake(f"{path} in the lake {self.root} is no file; run 'losslake lake verify'")
        return target

    @property
    def storage_options(self) -> dict[str, str]:
        return {}

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        pass  # DuckDB opens local files by itself

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        return [work(item) for item in items]

    def _refuse_foreign(self, folder: str, path: str) -> None:
        """Raises CorruptLake where a folder of the lake, or one above it there, is a link that leads out."""
        while folder not in self._own and folder.startswith(self._root):
            if os.path.islink(folder):
                self._refuse_link(folder, path)
            self._own.add(folder)
            folder = os.path.dirname(folder)

    def _refuse_link(self, link: str, path: str) -> None:
        if not os.path.realpath(link).startswith(f"{self._root}/"):
            raise CorruptLake(
                f"{path} in the lake {self.root} is, or lies behind, a link that leads out of the lake; put there what it "
                "points to if you trust it"
            )

    def location(self, path: str) -> str:
        return self._readable(path)

    def exists(self, path: str) -> bool:
        with _explained(self.root, path):
            try:
                os.stat(self._path(path))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def size(self, path: str) -> int:
        with _explained(self.root, path):
            return os.stat(self._readable(path)).st_size

    def modified(self, path: str) -> float:
        with _explained(self.root, path):
            return os.stat(self._path(path)).st_mtime

    def read(self, path: str) -> bytes:
        with self.open_input(path) as file:
            return file.read()

    def open_input(self, path: str) -> BinaryIO:
        with _explained(self.root, path):
            return io.BufferedReader(_ExplainedReader(self._readable(path), self.root, path))

    @contextlib.contextmanager
    def create(self, path: str, *, durable: bool = True) -> Iterator[BinaryIO]:
        file = self._new(self._path(path), path, durable)
        try:
            yield file
            with _explained(self.root, path):
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                file.close()
                if durable:
                    _sync_folder(os.path.dirname(self._path(path)))
        except BaseException:
            with contextlib.suppress(
                OSError, LosslakeError
            ):  # what could not be written is not wanted any more
                file.close()
            with contextlib.suppress(LosslakeError):
                self.delete(path)
            raise

    def put(self, path: str, data: bytes) -> None:
        self._in_one_step(path, data, lambda temporary: os.replace(temporary, self._path(path)))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        def claim(temporary: str) -> bool:
            try:
                # A hard link appears whole or not at all, and fails where the name is taken; NFS keeps both promises.
                os.link(temporary, self._path(path))
            except FileExistsError:
                # NFS may answer so to the repetition of a request that it has carried out before.
                return os.stat(temporary).st_nlink > 1
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise LosslakeError(
                        f"the file system of the lake {self.root} has no hard links, which claim a run's name "
                        "safely; put the lake on another disk"
                    ) from error
                raise
            return True

        return not self.exists(path) and self._in_one_step(path, data, claim)

    def _in_one_step(self, path: str, data: bytes, step: Callable[[str], T]) -> T:
        """Do a step with a file of ``data`` beside ``path``. Where somebody removes that file first, once more."""
        for _ in range(_TRIES):
            with contextlib.suppress(_Vanished), self._temporary(path, data) as temporary:
                try:
                    return step(temporary)
                except FileNotFoundError as error:
                    if os.path.exists(temporary):
                        raise
                    raise _Vanished from error
        raise LosslakeError(f"{path} in the lake {self.root}: others remove it again and again half-written")

    @contextlib.contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[str]:
        """A file with ``data`` beside where ``path`` is to be; the step done in the block outlasts a power failure."""
        folder = os.path.dirname(self._path(path))
        temporary = f"{folder}/{TEMPORARY}{new_token(self._root)}"
        with _explained(self.root, path):
            try:
                with self._new(temporary, path, durable=True) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
                _sync_folder(folder)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def _new(self, target: str, path: str, durable: bool) -> BinaryIO:
        self._refuse_foreign(os.path.dirname(target), path)
        with _explained(self.root, path):
            for _ in range(_TRIES):
                with contextlib.suppress(
                    FileNotFoundError
                ):  # another writer removed the folder while it was empty
                    self._make_folder(os.path.dirname(target), durable)
                    return io.BufferedWriter(_ExplainedFile(target, self.root, path))
        raise LosslakeError(
            f"{path} in the lake {self.root}: its folder is removed again and again by others"
        )

    def _make_folder(self, folder: str, durable: bool) -> None:
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for new in reversed(missing):
            with contextlib.suppress(FileExistsError):
                # The lake says which records a model exposes: nobody but its owner may look.
                os.mkdir(new, 0o700 if f"{new}/".startswith(f"{self._root}/") else 0o777)
            if durable:
                _sync_folder(os.path.dirname(new))

    def list(self, folder: str, suffix: str = "") -> list[str]:
        names = self._walk(self._path(folder))
        return sorted(
            f"{where}/{name}" for where, name in names if name.endswith(suffix) and not _is_temporary(name)
        )

    def holds_anything(self) -> bool:
        try:
            with os.scandir(self._root) as entries:
                return any(not _is_temporary(entry.name) for entry in entries)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return True
        except OSError as error:
            raise InvalidInput(
                f"{self.root} cannot be looked at: {error.strerror}; choose another folder"
            ) from error

    def temporaries(self) -> Sequence[str]:
        return sorted(
            f"{where}/{name}".lstrip("/") for where, name in self._walk(self._root) if _is_temporary(name)
        )

    def _walk(self, base: str) -> Iterator[tuple[str, str]]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # gone since its parent was listed, or never there
                raise error

        with _explained(self.root, os.path.relpath(base, self._root)):
            for where, folders, names in os.walk(base, onerror=fail):
                inside = where[len(self._root) + 1 :]
                # A folder in the place of a manifest: were it left out, a run would be gone without a word.
                for name in (
                    *names,
                    *(each for each in folders if each.endswith(".json") and "=" not in each),
                ):
                    yield inside, name

    def delete(self, path: str) -> None:
        target = self._path(path)
        self._refuse_foreign(os.path.dirname(target), path)
        with _explained(self.root, path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(target)
        folder = os.path.dirname(target)
        with contextlib.suppress(OSError):  # a folder goes with its last file, never before
            while folder != self._root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)


class _Vanished(Exception):
    """Somebody removed a temporary file before it was put in its place."""


class _ExplainedFile(io.FileIO):
    """A new private file whose write errors (a full disk) name it, whoever does the writing."""

    def __init__(self, target: str, root: str, path: str) -> None:
        super().__init__(target, "xb", opener=_private)
        self._named = (root, path)

    def write(self, data: Any) -> int:
        with _explained(*self._named):
            return super().write(data)


class _ExplainedReader(io.FileIO):
    """A file to read whose errors (a failing disk) name it, whoever does the reading."""

    def __init__(self, target: str, root: str, path: str) -> None:
        super().__init__(target, "rb", opener=_to_read)
        self._named = (root, path)

    def readinto(self, buffer: Any) -> int | None:
        with _explained(*self._named):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with _explained(*self._named):
            return super().readall()


def _to_read(path: str, flags: int) -> int:
    return os.open(path, flags)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_temporary(name: str) -> bool:
    return name.startswith(TEMPORARY)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some network file systems sync folders by themselves
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(root: str, path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptLake(f"{path} is missing from the lake {root}; run 'losslake lake verify'") from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "")
        raise LosslakeError(f"{path} in the lake {root}: {error.strerror or error}{advice}") from error
