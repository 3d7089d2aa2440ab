"""Second names of the lake's files, as symbolic links: what a table names without a copy."""

from __future__ import annotations

import contextlib
import os

from ..errors import LosslakeError
from ..files.faults import disk_explained
from ..files.local import TRIES, LocalFiles


def link(files: LocalFiles, path: str, target: str) -> None:
    """Another name for the file ``target`` of the lake, in place of any link of that name; no power failure is waited for.

    It says where the file lies from there, so a lake that is moved or copied keeps it.
    """
    folder = os.path.dirname(path)
    where = f"{files.root}/{path}"
    to = os.path.relpath(f"{files.root}/{target}", os.path.dirname(where))
    with disk_explained(files.root, path):
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):  # others remove the folder while it is empty
                files.make_folder(folder)
                try:
                    os.symlink(to, where)
                except FileExistsError:
                    if os.path.islink(where) and os.readlink(where) == to:
                        return
                    os.unlink(where)
                    continue
                return
    raise LosslakeError(f"{path} in the lake {files.root}: others remove it again and again")


def linked(files: LocalFiles, path: str) -> str | None:
    """The file of the lake that a link leads to, there or not; None for what is no link, and for one that leads out."""
    where = f"{files.root}/{path}"
    try:
        to = os.path.normpath(os.path.join(os.path.dirname(where), os.readlink(where)))
    except OSError:
        return None
    return to.removeprefix(f"{files.root}/") if to.startswith(f"{files.root}/") else None
