"""The seam between the lake and where it lies: every byte of a lake is read and written through `Files`.

Paths are relative to the lake's root, with forward slashes. A backend for an object store implements the
same few calls; nothing here assumes rename, locks or a consistent listing beyond what the docstrings say.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from ..errors import InvalidOption, MissingExtra
from .local import LocalFiles

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
R = TypeVar("R")

_SCHEMES = ("s3", "gs", "az")

_OTHER_NAMES = ("s3a", "s3n", "gcs", "abfs", "abfss", "adl", "azure")
"""What other programs call the same stores."""

_PLACE = re.compile(
    r"(?P<scheme>[A-Za-z0-9+.-]+)://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?:/(?P<prefix>.*))?", re.DOTALL
)


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

    def create(
        self, path: str, *, durable: bool = True, later: bool = False
    ) -> contextlib.AbstractContextManager[BinaryIO]:
        """A new file, on stable storage when the block ends, removed when the block raises.

        Not ``durable``: a power failure may lose it, for what is thrown away then anyhow. ``later``: not before `sync` is told of it.
        """

    def sync(self, paths: Iterable[str]) -> None:
        """Files that were created for ``later``, and the way to them, are on stable storage then; CorruptLake where one is missing.

        Many take the time of few.
        """

    def put(self, path: str, data: bytes, *, before: Callable[[], object] | None = None) -> None:
        """Write or replace a small file in one atomic step. ``before`` is called as late before it as can be; it may raise."""

    def put_all(self, contents: Mapping[str, bytes], *, before: Callable[[], object] | None = None) -> None:
        """`put` many, each in a step of its own, in this order, in the time of few. ``before`` is called before each of the steps.

        All are on stable storage when it ends; where it raises, those that were put may not be.
        """

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a small file in one atomic step unless it exists; say whether this call wrote it."""

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Files below ``folder``, sorted, temporary ones left out; empty when there is no such folder."""

    def stamps(self, folder: str, suffix: str = "") -> dict[str, str]:
        """The files of `list`, in its order, each with what is another text whenever it was replaced; "" where nothing tells.

        On a disk size and time: of two files that were put within a tick of the disk's clock it may be the same.
        """

    def holds_anything(self) -> bool:
        """Whether something lies in this place already. What a killed attempt to make a lake left does not count."""

    def temporaries(self) -> Sequence[str]:
        """Files of atomic steps that are going on, or never ended because their process was killed."""

    def delete(self, path: str) -> None:
        """Remove a file; no error when it is gone already. A power failure may bring it back until `settle`."""

    def settle(self, folder: str) -> None:
        """See to it that what was put or removed anywhere below ``folder``, by whomever, outlasts a power failure."""

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        """What ``work``, which reads, gives for each item, in order; many at once where every answer takes its time."""

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Enable DuckDB to open what `location` says, to read it."""

    @property
    def storage_options(self) -> dict[str, str]:
        """What Polars has to be told to open what `location` says."""


def files_at(path: str | Path) -> Files:
    """The backend for a lake at ``path``: a folder, or a URL s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.

    Raises InvalidOption for a place it cannot be, MissingExtra where what an object store needs is not installed.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidOption(f"{path!r} is no place of a lake: give a folder or a URL, as text or a Path")
    text = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.:-]+://", text):  # fsspec chains them by two colons
        scheme, bucket, prefix = _split_url(text)
        _check_prefix(prefix)
        return _in_store(scheme, bucket, prefix)
    if re.match(r"(s3|gs|az):/", text):
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


def read_url(location: str) -> BinaryIO:
    """An object to read, by what `Files.location` says of it."""
    scheme, bucket, key = _split_url(location)
    return _in_store(scheme, bucket, "").open_input(key)


def _in_store(scheme: str, bucket: str, prefix: str) -> Files:
    try:
        from .object_store import ObjectFiles
    except ImportError as error:
        raise MissingExtra(
            "lakes in object stores need the package obstore; 'pip install losslake[object-store]'"
        ) from error
    return ObjectFiles(scheme, bucket, prefix)


def _split_url(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix of a lake's URL. Raises InvalidOption for what is none."""
    place = _PLACE.fullmatch(url)
    if place is not None and place["scheme"] in _SCHEMES:
        parts = (place["prefix"] or "").split("/")
        return place["scheme"], place["bucket"], "/".join(filter(None, parts))
    scheme = url.partition("://")[0].lower()
    if scheme == "file":
        raise InvalidOption(f"{url}: give the folder itself, without file://")
    known = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    if scheme in (*_SCHEMES, *_OTHER_NAMES):
        raise InvalidOption(f"{url[:300]} is no place for a lake; write {known}")
    raise InvalidOption(
        f"a lake lies in a folder, or at {known}; what {scheme[:50]}:// reaches has no put that losslake knows to fail where "
        "a name is taken, and could give one run to two writers"
    )


def _check_prefix(prefix: str) -> None:
    """Raises InvalidOption for a prefix that does not mean itself everywhere."""
    for part in prefix.split("/"):
        # Query engines read partitions off the whole key, and take the others for patterns or parts of a URL.
        if part in (".", "..") or re.search(r"[=*?\[\]{}#\\\x00-\x1f\x7f]", part):
            raise InvalidOption(
                f"{part[:100]!r} in the place of the lake means something else to query engines; choose a prefix without "
                "any of = * ? [ ] { } # and backslash"
            )
