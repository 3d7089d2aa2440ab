"""A lake in a folder of a disk: files appear whole or not at all, nobody else may read them, errors say what to do."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from ..errors import CorruptLake, InvalidInput, LosslakeError
from .faults import FileToRead, NewFile, disk_explained, missing, removed_at_work
from .stable import at_once, sync_if_there, sync_path
from .tokens import TEMPORARY, is_temporary, new_token

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
R = TypeVar("R")

_NOWHERE = frozenset(("", ".", ".."))

TRIES = 100
"""How often to try again where others keep removing a folder or a temporary file, or changing a folder that is listed."""

_SETTLED = 50_000_000
"""Nanoseconds after which a folder's time tells a change: clocks of file systems tick every few milliseconds."""


class LocalFiles:
    """A lake in a folder of a local or network disk; what each call promises is said in `Files`."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self.storage_options: dict[str, str] = {}
        self._own = {self.root}  # folders that are known to lie in the lake
        self._synced: dict[
            str, tuple[int, int, int]
        ] = {}  # and those whose entries were synced, as they were then

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        pass  # DuckDB opens local files by itself

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        return [work(item) for item in items]

    def location(self, path: str) -> str:
        """Raises CorruptLake for what is a link out of the lake, a pipe or a device.

        A lake that somebody gave one must not have its reader open files of the reader's own.
        """
        target = self._path(path)
        self._refuse_foreign(target.rpartition("/")[0], path)
        with disk_explained(self.root, path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = os.lstat(target).st_mode
            if stat.S_ISLNK(mode):
                self._refuse_link(target, path)
                mode = os.stat(target).st_mode
            if not stat.S_ISREG(mode):
                raise CorruptLake(f"{path} in the lake {self.root} is no file; run 'losslake lake verify'")
        return target

    def exists(self, path: str) -> bool:
        with disk_explained(self.root, path):
            try:
                os.stat(self._path(path))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def size(self, path: str) -> int:
        with disk_explained(self.root, path):
            return os.stat(self.location(path)).st_size

    def modified(self, path: str) -> float:
        with disk_explained(self.root, path):
            return os.stat(self._path(path)).st_mtime

    def size_and_time(self, path: str) -> tuple[int, float]:
        """What `size` and `modified` say, with one question to the disk."""
        target = self._path(path)
        self._refuse_foreign(target.rpartition("/")[0], path)
        with disk_explained(self.root, path):
            seen = os.lstat(target)
        if stat.S_ISREG(seen.st_mode):
            return seen.st_size, seen.st_mtime
        return self.size(path), self.modified(path)

    def read(self, path: str) -> bytes:
        with self.open_input(path) as file:
            return file.read()

    def open_input(self, path: str) -> BinaryIO:
        with disk_explained(self.root, path):
            try:
                return io.BufferedReader(FileToRead(self.location(path), self.root, path))
            except NotADirectoryError as error:  # as `exists` has it
                raise missing(self.root, path) from error

    @contextlib.contextmanager
    def create(self, path: str, *, durable: bool = True, later: bool = False) -> Iterator[BinaryIO]:
        file = self._new(self._path(path), path, durable)
        durable = durable and not later
        try:
            yield file
            with disk_explained(self.root, path):
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                file.close()
                if durable:
                    try:
                        self._sync_way_to(os.path.dirname(self._path(path)))
                    except FileNotFoundError as error:
                        raise removed_at_work(self.root, path) from error
        except BaseException:
            # What could not be written is not wanted any more.
            with contextlib.suppress(OSError, LosslakeError):
                file.close()
            with contextlib.suppress(LosslakeError):
                self.delete(path)
            raise

    def sync(self, paths: Iterable[str]) -> None:
        listed = list(paths)
        gone = self._sync_each({path: self._path(path) for path in listed})
        if gone:
            raise removed_at_work(self.root, gone[0])
        self._sync_ways_of(listed)

    def put_all(self, contents: Mapping[str, bytes], *, before: Callable[[], object] | None = None) -> None:
        temporaries: dict[str, str] = {}
        try:
            for path, data in contents.items():
                temporaries[path] = self._write_temporary(path, data, synced=False)
            gone = set(self._sync_each(temporaries))
            for path, temporary in temporaries.items():
                with disk_explained(self.root, path):
                    if before is not None:
                        before()
                    try:
                        os.replace(temporary, self._path(path))
                    except FileNotFoundError:  # somebody took it for one that a killed process had left
                        gone.add(path)
            self._sync_ways_of([path for path in temporaries if path not in gone])
        finally:
            for path, temporary in temporaries.items():
                with disk_explained(self.root, path), contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
        for path in sorted(gone):
            self.put(path, contents[path], before=before)

    def put(self, path: str, data: bytes, *, before: Callable[[], object] | None = None) -> None:
        def replace(temporary: str) -> None:
            if before is not None:
                before()
            os.replace(temporary, self._path(path))

        self._in_one_step(path, data, replace)

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

    def make_folder(self, folder: str) -> None:
        """A folder of the lake, where it is not there. Raises CorruptLake where it lies behind a link that leads out."""
        self._refuse_foreign(self._path(folder), folder)
        self._make_folder(self._path(folder), durable=True)

    def list(self, folder: str, suffix: str = "") -> list[str]:
        names = self._walk(self._path(folder))
        return sorted(
            f"{where}/{name}" for where, name in names if name.endswith(suffix) and not is_temporary(name)
        )

    def stamps(self, folder: str, suffix: str = "") -> dict[str, str]:
        found = {}
        for path in self.list(folder, suffix):
            with disk_explained(self.root, path):
                try:
                    seen = os.lstat(f"{self.root}/{path}")  # a link tells nothing of what it leads to
                except (FileNotFoundError, NotADirectoryError):
                    continue
                found[path] = f"{seen.st_size} {seen.st_mtime_ns}" if stat.S_ISREG(seen.st_mode) else ""
        return found

    def holds_anything(self) -> bool:
        try:
            with os.scandir(self.root) as entries:
                return any(not is_temporary(entry.name) for entry in entries)
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
            f"{where}/{name}".lstrip("/") for where, name in self._walk(self.root) if is_temporary(name)
        )

    def delete(self, path: str) -> None:
        target = self._path(path)
        self._refuse_foreign(os.path.dirname(target), path)
        with disk_explained(self.root, path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(target)
        folder = os.path.dirname(target)
        with contextlib.suppress(OSError):  # a folder goes with its last file, never before
            while folder != self.root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def settle(self, folder: str) -> None:
        top = self._path(folder)
        while not os.path.isdir(top) and top != self.root:  # it went with its last file
            top = os.path.dirname(top)
        below = [top] if os.path.relpath(top, self.root) != folder else _folders_below(top)
        with disk_explained(self.root, folder):
            at_once(sync_if_there, below)  # one that has gone since went with its parent's entry
            if top != self.root:
                sync_path(os.path.dirname(top))

    def _path(self, path: str) -> str:
        if "\0" in path or "\\" in path or not _NOWHERE.isdisjoint(path.split("/")):
            raise InvalidInput(f"{path[:300]!r} is not a path inside the lake")
        return f"{self.root}/{path}"

    def _refuse_foreign(self, folder: str, path: str) -> None:
        """Raises CorruptLake where a folder of the lake, or one above it there, is a link that leads out."""
        while folder not in self._own and folder.startswith(self.root):
            if os.path.islink(folder):
                self._refuse_link(folder, path)
            self._own.add(folder)
            folder = os.path.dirname(folder)

    def _refuse_link(self, link: str, path: str) -> None:
        if not os.path.realpath(link).startswith(f"{self.root}/"):
            raise CorruptLake(
                f"{path} in the lake {self.root} is, or lies behind, a link that leads out of the lake; put there what it "
                "points to if you trust it"
            )

    def _in_one_step(self, path: str, data: bytes, step: Callable[[str], T]) -> T:
        """Do a step with a file of ``data`` beside ``path``. Where somebody removes that file first, once more."""
        for _ in range(TRIES):
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
        temporary = self._write_temporary(path, data, synced=True)
        with disk_explained(self.root, path):
            try:
                yield temporary
                self._sync_way_to(os.path.dirname(temporary))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def _write_temporary(self, path: str, data: bytes, *, synced: bool) -> str:
        """A file with ``data`` beside where ``path`` is to be; nothing stays where it cannot be written."""
        temporary = f"{os.path.dirname(self._path(path))}/{TEMPORARY}{new_token(self.root)}"
        with disk_explained(self.root, path):
            try:
                with self._new(temporary, path, durable=True) as file:
                    file.write(data)
                    file.flush()
                    if synced:
                        os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        return temporary

    def _new(self, target: str, path: str, durable: bool) -> BinaryIO:
        self._refuse_foreign(os.path.dirname(target), path)
        with disk_explained(self.root, path):
            for _ in range(TRIES):
                # Another writer may remove the folder while it is empty.
                with contextlib.suppress(FileNotFoundError):
                    self._make_folder(os.path.dirname(target), durable)
                    return io.BufferedWriter(NewFile(target, self.root, path))
        raise LosslakeError(
            f"{path} in the lake {self.root}: its folder is removed again and again by others"
        )

    def _sync_way_to(self, folder: str) -> None:
        """Put a folder's entries on stable storage, and its own in each folder up to the one that holds the lake.

        Whoever made them: who made one may have been killed before it was synced. A folder above that has not changed since
        this process synced it is left alone.
        """
        self._sync_ways([folder])

    def _sync_ways(self, folders: Sequence[str]) -> None:
        """The same of many folders, those above them once."""
        at_once(sync_path, folders)
        above = set[str]()
        for folder in folders:
            while folder.startswith(self.root) and folder != "/" and os.path.dirname(folder) not in above:
                folder = os.path.dirname(folder)
                above.add(folder)
        for folder in sorted(above, key=len, reverse=True):
            try:
                self._sync_changed(folder)
            except PermissionError:
                # The lake's own folder may lie in one that its owner may not read, and so cannot have made it there.
                if folder.startswith(self.root):
                    raise

    def _sync_each(self, files: Mapping[str, str]) -> Sequence[str]:
        """Sync files, by what errors call them; those that are gone."""

        def sync_one(path: str) -> bool:
            with disk_explained(self.root, path):
                return sync_if_there(files[path])

        there = at_once(sync_one, files)
        return [path for path, found in zip(files, there, strict=True) if not found]

    def _sync_ways_of(self, paths: Iterable[str]) -> None:
        with disk_explained(self.root, "."):
            self._sync_ways(sorted({os.path.dirname(self._path(path)) for path in paths}))

    def _sync_changed(self, folder: str) -> None:
        described = os.stat(folder)
        now = (described.st_ino, described.st_mtime_ns, described.st_ctime_ns)
        if self._synced.get(folder) == now:
            return
        sync_path(folder)
        # What is made in the same tick of the file system's clock does not show in the folder's time.
        if abs(time.time_ns() - max(now[1:])) > _SETTLED:
            self._synced[folder] = now

    def _make_folder(self, folder: str, durable: bool) -> None:
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for new in reversed(missing):
            with contextlib.suppress(FileExistsError):
                # The lake says which records a model exposes: nobody but its owner may look.
                os.mkdir(new, 0o700 if f"{new}/".startswith(f"{self.root}/") else 0o777)
            if durable and len(new) < len(self.root):  # of all others `_sync_way_to` takes care
                sync_path(os.path.dirname(new))

    def _walk(self, base: str) -> Iterator[tuple[str, str]]:
        with disk_explained(self.root, os.path.relpath(base, self.root)):
            waiting = [base]
            while waiting:
                where = waiting.pop()
                inside = where[len(self.root) + 1 :]
                for name, is_folder in _entries(where).items():
                    # A folder in the place of a manifest: were it left out, a run would be gone without a word.
                    if not is_folder or (name.endswith(".json") and "=" not in name):
                        yield inside, name
                    if is_folder and not os.path.islink(f"{where}/{name}"):
                        waiting.append(f"{where}/{name}")


class _Vanished(Exception):
    """Somebody removed a temporary file before it was put in its place."""


def _entries(folder: str) -> dict[str, bool]:
    """What lies in a folder, and whether it is one itself; nothing where it is gone.

    A file system may pass over a file that is replaced while it lists: tmpfs does in folders of some thousand files. Such
    a file is found the next time, so what changed meanwhile, or a moment ago, is listed until that finds nothing new.
    """
    found: dict[str, bool] = {}
    for tried in range(TRIES):
        try:
            before = os.stat(folder).st_mtime_ns
            with os.scandir(folder) as entries:
                listed = {entry.name: entry.is_dir() for entry in entries}
            changed = os.stat(folder).st_mtime_ns
        except FileNotFoundError:  # gone since its parent was listed, or never there
            return {}
        nothing_new = tried > 0 and listed.keys() <= found.keys()
        gone = [name for name in found if name not in listed and not os.path.lexists(f"{folder}/{name}")]
        found = {name: kind for name, kind in {**found, **listed}.items() if name not in gone}
        if nothing_new or (changed == before and abs(time.time_ns() - changed) > _SETTLED):
            break
    return found


def _folders_below(top: str) -> list[str]:
    """A folder and those below it, the deepest first; links are not followed."""
    return [where for where, _, _ in os.walk(top, topdown=False)]
