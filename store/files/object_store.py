"""A lake in an object store: s3:// (AWS and whatever speaks its protocol), gs:// and az://.

The requests go through obstore, because it is the one client that offers a conditional put for every store behind one
small interface: the claim of a run's name is `put_if_absent`, one request that the store decides. PyArrow's file systems
have no such put, and fsspec's differ from store to store. A store that takes the condition and ignores it would let two
writers have one run, so each process asks it once before its first claim (`_check_condition`) and refuses to write where it
does.

Nothing is renamed and nothing is locked. Files that stay are written to a private temporary file first and sent when they
are whole, in parts where they are large: a killed writer leaves no half of one, and a network that fails for a minute
during hours of training costs nothing. Files that are thrown away anyhow (not ``durable``) stay on the local disk.

Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS
and so on), and nothing of them is stored.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from ..errors import CorruptLake, InvalidInput, LosslakeError
from .object_errors import NoAnswer, NoCondition, explained
from .object_urls import check_prefix, plain_http, split_url, store_at
from .tokens import TEMPORARY, new_token

if TYPE_CHECKING:
    import duckdb

    from .object_reader import Explain, ObjectEnd, ObjectReader

T = TypeVar("T")
R = TypeVar("R")

_PART = 8 << 20
"""Bytes of a part of a large file; smaller ones are sent in one request, and kept in memory until then."""

_PARTS_AT_ONCE = 4

_REQUESTS_AT_ONCE = 16

_FIRST = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
"""Patience before the store has answered for the first time: a wrong endpoint shows within seconds."""

_LATER = {
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"max_backoff": timedelta(seconds=15)},
}

_WAITS = (0.2, 1.0, 5.0, None)
"""Seconds between attempts to claim a name: obstore does not repeat a conditional put whose answer was lost."""


class ObjectFiles:
    """The files of a lake below a prefix of a bucket. See `Files`."""

    def __init__(self, url: str) -> None:
        scheme, bucket, prefix = split_url(url)
        self._prefix = "/".join(part for part in prefix.split("/") if part)
        check_prefix(self._prefix)
        self._scheme, self._bucket = scheme, bucket
        self._root = f"{scheme}://{bucket}/{self._prefix}".rstrip("/")
        self._stores = [store_at(scheme, bucket, patience) for patience in (_FIRST, _LATER)]
        self._answered = False
        self._conditional = False
        self._local: dict[str, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def root(self) -> str:
        return self._root

    @property
    def storage_options(self) -> dict[str, str]:
        # As obstore, Polars takes the rest from the environment.
        return {"allow_http": "true"} if plain_http() else {}

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        from .object_reader import ReadingFileSystem

        connection.register_filesystem(ReadingFileSystem(self._scheme, self._end, self._reader))

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            return list(pool.map(work, items))

    def location(self, path: str) -> str:
        return f"{self._scheme}://{self._bucket}/{self._key(path)}"

    def exists(self, path: str) -> bool:
        return path in self._local or self._head(path) is not None

    def size(self, path: str) -> int:
        return int(self._there(path)["size"])

    def modified(self, path: str) -> float:
        return float(self._there(path)["last_modified"].timestamp())

    def read(self, path: str) -> bytes:
        import obstore

        key = self._key(path)
        with self._explained(path):
            return bytes(obstore.get(self._store, key).bytes())

    def open_input(self, path: str) -> BinaryIO:
        if path in self._local:
            return open(self._local[path], "rb")
        location = self.location(path)
        return cast(BinaryIO, self._reader(location, self._end(location)))

    @contextlib.contextmanager
    def create(self, path: str, *, durable: bool = True) -> Iterator[BinaryIO]:
        import obstore

        key = self._key(path)
        if not durable:
            with self._create_local(path) as local:
                yield local
            return
        with _disk_explained(path, self._root), tempfile.SpooledTemporaryFile(max_size=_PART) as file:
            yield cast(BinaryIO, file)
            size = file.tell()
            file.seek(0)
            with self._explained(path):
                if size <= _PART:
                    obstore.put(self._store, key, file.read(), use_multipart=False)
                else:
                    # What fails here is aborted: the store drops the parts that it has already.
                    obstore.put(
                        self._store,
                        key,
                        iter(lambda: file.read(_PART), b""),
                        chunk_size=_PART,
                        max_concurrency=_PARTS_AT_ONCE,
                    )

    @contextlib.contextmanager
    def _create_local(self, path: str) -> Iterator[BinaryIO]:
        with _disk_explained(path, self._root):
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="losslake-")
            target = Path(self._folder.name) / new_token(self._root)
            self._local[path] = target
            try:
                with open(target, "xb") as file:
                    yield file
            except BaseException:
                self.delete(path)
                raise

    def put(self, path: str, data: bytes) -> None:
        import obstore

        key = self._key(path)
        with self._explained(path):
            obstore.put(self._store, key, data, use_multipart=False)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        if not self._conditional:
            self._check_condition()
            self._conditional = True
        for wait in _WAITS:
            try:
                # A request whose answer was lost is repeated, and then finds what it has written itself.
                return self._put_new(path, data) or self.read(path) == data
            except NoAnswer:
                if wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _put_new(self, path: str, data: bytes) -> bool:
        import obstore

        key = self._key(path)
        with self._explained(path):
            try:
                obstore.put(self._store, key, data, mode="create")
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                return False
            return True

    def _check_condition(self) -> None:
        """Raises LosslakeError where the store writes over an object although it was asked not to."""
        probe = f"{TEMPORARY}{new_token(self._root)}"
        try:
            self.put(probe, b"1")
            try:
                written_over = self._put_new(probe, b"2")
            except NoCondition:
                written_over = True
            if written_over:
                raise LosslakeError(
                    f"the store of {self._root} has no conditional put (If-None-Match), which claims a run's name safely; "
                    "write the lake to a local folder and copy it there"
                )
        finally:
            with contextlib.suppress(LosslakeError):
                self.delete(probe)

    def list(self, folder: str, suffix: str = "") -> list[str]:
        found = self._below(folder)
        return sorted(path for path in found if path.endswith(suffix) and not _is_temporary(path))

    def holds_anything(self) -> bool:
        return any(not _is_temporary(path) for path in self._below(""))

    def temporaries(self) -> Sequence[str]:
        return sorted(path for path in self._below("") if _is_temporary(path))

    def delete(self, path: str) -> None:
        import obstore

        local = self._local.pop(path, None)
        if local is not None:
            local.unlink(missing_ok=True)
            return
        key = self._key(path)
        with self._explained(path), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    @property
    def _store(self) -> Any:
        return self._stores[self._answered]

    def _key(self, path: str) -> str:
        if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise InvalidInput(f"{path[:300]!r} is not a path inside the lake")
        return f"{self._prefix}/{path}" if self._prefix else path

    def _head(self, path: str) -> Any:
        import obstore

        key = self._key(path)
        with self._explained(path):
            try:
                return obstore.head(self._store, key)
            except FileNotFoundError:
                return None

    def _there(self, path: str) -> Any:
        found = self._head(path)
        if found is None:
            raise CorruptLake(f"{path} is missing from the lake {self._root}; run 'losslake lake verify'")
        return found

    def _below(self, folder: str) -> Iterator[str]:
        import obstore

        base = self._key(folder) if folder else self._prefix
        start = f"{base}/" if base else ""
        within = f"{self._prefix}/" if self._prefix else ""
        with self._explained(folder or "."):
            for chunk in obstore.list(self._store, prefix=base or None):
                # The object that some tools keep for a folder itself is none of the lake's.
                yield from (each["path"][len(within) :] for each in chunk if each["path"].startswith(start))

    def _end(self, location: str) -> ObjectEnd:
        from .object_reader import ObjectEnd

        return ObjectEnd(self._store, *self._at(location))

    def _reader(self, location: str, end: ObjectEnd) -> ObjectReader:
        from .object_reader import ObjectReader

        return ObjectReader(self._store, *self._at(location), end)

    def _at(self, location: str) -> tuple[str, Explain]:
        """The key of an object, and what explains the store's answers about it."""
        path = location.removeprefix(f"{self._root}/")
        return self._key(path), lambda: self._explained(path)

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        with explained(self._root, path):
            yield
        self._answered = True


def read_url(location: str) -> BinaryIO:
    """An object to read, by what `Files.location` says of it."""
    scheme, bucket, key = split_url(location)
    return ObjectFiles(f"{scheme}://{bucket}").open_input(key)


def _is_temporary(path: str) -> bool:
    return path.rpartition("/")[2].startswith(TEMPORARY)


@contextlib.contextmanager
def _disk_explained(path: str, root: str) -> Iterator[None]:
    """For what is written to the local disk on its way."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise LosslakeError(
            f"{path} of the lake {root}: the disk of temporary files is full; set TMPDIR to a larger one"
        ) from error
