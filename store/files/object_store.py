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
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from ..errors import InvalidInput, InvalidOption, LosslakeError
from .faults import NoAnswer, NoCondition, missing, store_explained, temporary_disk_explained
from .object_reader import ObjectEnd, ObjectReader, ReadingFileSystem
from .tokens import TEMPORARY, is_temporary, new_token

if TYPE_CHECKING:
    import duckdb

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

_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "AZURITE_BLOB_STORAGE_URL",
)


class ObjectFiles:
    """The files of a lake below a prefix of a bucket. See `Files`."""

    def __init__(self, scheme: str, bucket: str, prefix: str) -> None:
        self._scheme, self._bucket, self._prefix = scheme, bucket, prefix
        self.root = f"{scheme}://{bucket}/{self._prefix}".rstrip("/")
        # As obstore, Polars takes the rest from the environment.
        self.storage_options = {"allow_http": "true"} if _plain_http() else {}
        self._stores = [_store_at(scheme, bucket, patience) for patience in (_FIRST, _LATER)]
        self._answered = False
        self._conditional = False
        self._local: dict[str, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.register_filesystem(ReadingFileSystem(self._scheme, self._end))

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
        key = self._key(path)
        with self._explained(path):
            return bytes(obstore.get(self._store, key).bytes())

    def open_input(self, path: str) -> BinaryIO:
        if path in self._local:
            return open(self._local[path], "rb")
        return cast(BinaryIO, ObjectReader(self._end(self.location(path))))

    @contextlib.contextmanager
    def create(self, path: str, *, durable: bool = True, later: bool = False) -> Iterator[BinaryIO]:
        key = self._key(path)
        if not durable:
            with self._create_local(path) as local:
                yield local
            return
        with temporary_disk_explained(self.root, path), tempfile.SpooledTemporaryFile(max_size=_PART) as file:
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
        with temporary_disk_explained(self.root, path):
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="losslake-")
            target = Path(self._folder.name) / new_token(self.root)
            self._local[path] = target
            try:
                with open(target, "xb") as file:
                    yield file
            except BaseException:
                self.delete(path)
                raise

    def sync(self, paths: Iterable[str]) -> None:
        pass  # what a store has answered for is done

    def put_all(self, contents: Mapping[str, bytes], *, before: Callable[[], object] | None = None) -> None:
        for path, data in contents.items():
            self.put(path, data, before=before)

    def put(self, path: str, data: bytes, *, before: Callable[[], object] | None = None) -> None:
        key = self._key(path)
        if before is not None:
            before()
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
        key = self._key(path)
        with self._explained(path):
            try:
                obstore.put(self._store, key, data, mode="create")
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                return False
            return True

    def _check_condition(self) -> None:
        """Raises LosslakeError where the store writes over an object although it was asked not to."""
        probe = f"{TEMPORARY}{new_token(self.root)}"
        try:
            self.put(probe, b"1")
            try:
                written_over = self._put_new(probe, b"2")
            except NoCondition:
                written_over = True
            if written_over:
                raise LosslakeError(
                    f"the store of {self.root} has no conditional put (If-None-Match), which claims a run's name safely; "
                    "write the lake to a local folder and copy it there"
                )
        finally:
            with contextlib.suppress(LosslakeError):
                self.delete(probe)

    def list(self, folder: str, suffix: str = "") -> list[str]:
        found = self._below(folder)
        return sorted(path for path in found if path.endswith(suffix) and not is_temporary(path))

    def stamps(self, folder: str, suffix: str = "") -> dict[str, str]:
        found = {
            path: f"{each['size']} {each['e_tag']}" if each.get("e_tag") else ""
            for path, each in self._objects_below(folder)
        }
        return {
            path: found[path] for path in sorted(found) if path.endswith(suffix) and not is_temporary(path)
        }

    def holds_anything(self) -> bool:
        return any(not is_temporary(path) for path in self._below(""))

    def temporaries(self) -> Sequence[str]:
        return sorted(path for path in self._below("") if is_temporary(path))

    def delete(self, path: str) -> None:
        local = self._local.pop(path, None)
        if local is not None:
            local.unlink(missing_ok=True)
            return
        key = self._key(path)
        with self._explained(path), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def settle(self, folder: str) -> None:
        pass  # what a store has answered for is done

    @property
    def _store(self) -> Any:
        return self._stores[self._answered]

    def _key(self, path: str) -> str:
        if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise InvalidInput(f"{path[:300]!r} is not a path inside the lake")
        return f"{self._prefix}/{path}" if self._prefix else path

    def _head(self, path: str) -> Any:
        key = self._key(path)
        with self._explained(path):
            try:
                return obstore.head(self._store, key)
            except FileNotFoundError:
                return None

    def _there(self, path: str) -> Any:
        found = self._head(path)
        if found is None:
            raise missing(self.root, path)
        return found

    def _below(self, folder: str) -> Iterator[str]:
        return (path for path, _ in self._objects_below(folder))

    def _objects_below(self, folder: str) -> Iterator[tuple[str, Any]]:
        base = self._key(folder) if folder else self._prefix
        start = f"{base}/" if base else ""
        within = f"{self._prefix}/" if self._prefix else ""
        with self._explained(folder or "."):
            for chunk in obstore.list(self._store, prefix=base or None):
                # The object that some tools keep for a folder itself is none of the lake's.
                for each in chunk:
                    if each["path"].startswith(start):
                        yield each["path"][len(within) :], each

    def _end(self, location: str) -> ObjectEnd:
        path = location.removeprefix(f"{self.root}/")
        return ObjectEnd(self._store, self._key(path), lambda: self._explained(path))

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        with store_explained(self.root, path):
            yield
        self._answered = True


def _store_at(scheme: str, bucket: str, patience: dict[str, Any]) -> Any:
    """obstore's client of a bucket, by what the environment says of credentials and endpoint; else InvalidOption."""
    options: Any = {
        "client_options": {
            "connect_timeout": "4s",
            "timeout": "5min",
            "read_timeout": "30s",
            "allow_http": _plain_http(),
        },
        "retry_config": patience,
    }
    try:
        if scheme == "gs":
            return GCSStore(bucket, **options)
        if scheme == "az":
            return AzureStore(bucket, **options)
        # One request an object: it is repeated where its answer is lost, the one for many is not.
        return S3Store(bucket, config={"disable_bulk_delete": True}, **options)
    except Exception as error:  # of many kinds: a damaged file of credentials, a setting in the environment
        told = str(error).partition("\n")[0]
        if scheme == "az" and "Account must be specified" in told:
            told = "AZURE_STORAGE_ACCOUNT_NAME says whose container it is, and is not set"
        raise InvalidOption(
            f"{scheme}://{bucket}: the settings in the environment do not do: {told}"
        ) from error


def _plain_http() -> bool:
    """Whether the endpoint that the user has set is one without encryption, as a server of one's own may be."""
    return any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
