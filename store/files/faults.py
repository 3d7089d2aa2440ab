"""What an error of the operating system or an answer of an object store means: the file it is about, and what to do."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from typing import Any

from ..errors import CorruptLake, LosslakeError, NotFound

_DISK = {
    errno.ENOSPC: "; free some space and run the same command again",
    errno.EDQUOT: "; free some space and run the same command again",
    errno.EACCES: "; a lake belongs to the user who made it",
    errno.EROFS: "; copy the lake to a place that can be written to",
    errno.EIO: "; the disk failed: run 'losslake lake verify' to learn what is affected",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.EFBIG: "; raise the limit of a file's size (ulimit -f)",
}

_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY, to ones that may read and write there"
)

_STORE = {
    "InvalidAccessKeyId": "it does not know the access key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "SignatureDoesNotMatch": "the secret key is not that of the access key; set AWS_SECRET_ACCESS_KEY",
    "AccessDenied": f"the credentials may not do this there; {_CREDENTIALS}",
    "ExpiredToken": "the credentials have expired; renew them",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION",
    "AuthenticationFailed": "the key or token is not the account's, or has expired; set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "AuthorizationFailure": f"the credentials may not do this there; {_CREDENTIALS}",
    "AuthorizationPermissionMismatch": "the credentials may not do this there (it takes the role Storage Blob Data Contributor)",
}
"""What the codes of S3's and Azure's answers mean for who asked."""

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")


class NoCondition(LosslakeError):
    """The store does not know how to do what it was asked to do."""


class NoAnswer(LosslakeError):
    """The store could not be reached, or was not there for a while."""


class disk_explained:  # noqa: N801  # called as those below, and no generator, which takes four times as long: runs are many
    """Turns an error of the operating system into one that names ``path`` in the lake at ``root``: CorruptLake where it is
    missing, else LosslakeError."""

    __slots__ = ("_path", "_root")

    def __init__(self, root: str, path: str) -> None:
        self._root, self._path = root, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise missing(self._root, self._path) from error
        if isinstance(error, OSError):
            advice = _DISK.get(error.errno or 0, "")
            raise LosslakeError(
                f"{self._path} in the lake {self._root}: {error.strerror or error}{advice}"
            ) from error


class NewFile(io.FileIO):
    """A new private file whose write errors (a full disk) name it, whoever does the writing."""

    def __init__(self, target: str, root: str, path: str) -> None:
        super().__init__(target, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))
        self._named = (root, path)

    def write(self, data: Any) -> int:
        with disk_explained(*self._named):
            return super().write(data)


class FileToRead(io.FileIO):
    """A file to read whose errors (a failing disk) name it, whoever does the reading."""

    def __init__(self, target: str, root: str, path: str) -> None:
        super().__init__(target, "rb", opener=lambda name, flags: os.open(name, flags))
        self._named = (root, path)

    def readinto(self, buffer: Any) -> int | None:
        with disk_explained(*self._named):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with disk_explained(*self._named):
            return super().readall()


@contextlib.contextmanager
def temporary_disk_explained(root: str, path: str) -> Iterator[None]:
    """The same for what lies on the local disk on its way to an object store; only a full disk needs a word."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise LosslakeError(
            f"{path} of the lake {root}: the disk of temporary files is full; set TMPDIR to a larger one"
        ) from error


@contextlib.contextmanager
def store_explained(root: str, path: str) -> Iterator[None]:
    """Turns what obstore raises into losslake's errors.

    CorruptLake for an object that is missing, NotFound for a bucket that is, LosslakeError for all else: no answer, refused
    credentials.
    """
    import obstore

    try:
        yield
    except (FileNotFoundError, obstore.exceptions.BaseError) as error:
        raise _meaning(root, path, error) from error


def missing(root: str, path: str) -> CorruptLake:
    """That a file of a lake is not there."""
    return CorruptLake(f"{path} is missing from the lake {root}; run 'losslake lake verify'")


def removed_at_work(root: str, path: str) -> CorruptLake:
    """That a file which this process has written, and goes on with, is not there."""
    return CorruptLake(
        f"{path} in the lake {root} is missing or not whole; something removed what a writer at work had written, such as "
        "'losslake lake gc' on a machine that could not see this one; do it again"
    )


def _meaning(root: str, path: str, error: Exception) -> LosslakeError:
    text = str(error).partition("\n\nDebug source")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    message = re.search(r"<Message>([^<]*)</Message>", text)
    if code and code[1] in _NO_BUCKET:
        return NotFound(
            f"there is no bucket or container for {root}{_endpoint(text)}; make it first, losslake makes none"
        )
    if isinstance(error, FileNotFoundError):
        return missing(root, path)
    if "NotImplemented" in text or "501 Not Implemented" in text:
        return NoCondition(f"{root}: the store cannot do this: {_short(text)}")
    if code:
        said = _STORE.get(code[1]) or f"{code[1]}: {_short(message[1] if message else '')}"
        return LosslakeError(f"{path} in the lake {root}: the store refuses: {said}")
    if "169.254." in text or "metadata" in text:
        return LosslakeError(
            f"{root}: no credentials are set, and this machine has none of its own; {_CREDENTIALS}"
        )
    if "403 Forbidden" in text or "401 Unauthorized" in text:
        return LosslakeError(f"{path} in the lake {root}: the store refuses the credentials; {_CREDENTIALS}")
    return NoAnswer(f"{path} in the lake {root}: the store{_endpoint(text)} gives no answer: {_short(text)}")


def _endpoint(text: str) -> str:
    found = re.search(r"https?://[^/\s?]+", text)
    return f" at {found[0]}" if found else ""


def _short(text: str) -> str:
    """The last of a chain of reasons, on one line."""
    line = " ".join(text.split())
    return line.rpartition(" - ")[2].rstrip(": ")[:200]
