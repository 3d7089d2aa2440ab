"""The index of an experiment's runs: one file that says what many of their manifests say, and spares reading each.

It decides nothing. Which runs there are a listing of the manifests says; of a run the index is believed where the stamp that
it has of the manifest (`Files.stamps`) is the one that the listing shows, and every other manifest is read. So an index that
is old, damaged, of another format or gone costs time and no more. What it says is checked as a manifest is (`contents.check`).
`write.index` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CorruptLake, LosslakeError
from ..files.filesystem import Files
from ..format import contents, manifest, paths
from ..format.schema import FORMAT

LEAST = 64
"""Runs from which on an experiment has an index, and manifests that it may lack: so many are read in a few milliseconds."""


@dataclass(frozen=True)
class Indexed:
    """What an index says of a manifest: its stamp when it was read, and its content as text."""

    stamp: str
    manifest: str


def read_index(files: Files, experiment: str, forgotten: Collection[int]) -> Mapping[str, Indexed]:
    """What the index of an experiment says, by the path of a manifest; nothing where it cannot be used.

    ``forgotten`` are the samples that the experiment has forgotten: what was indexed when there were others is not looked at.
    """
    try:
        content = load_index(files, experiment)
    except LosslakeError:
        return {}
    if content["format"] != FORMAT or content["forgotten"] != sorted(forgotten):
        return {}
    return {paths.run_manifest(experiment, run): Indexed(**entry) for run, entry in content["runs"].items()}


def load_index(files: Files, experiment: str) -> dict[str, Any]:
    """The content of the file, in the format that it was written in. Raises CorruptLake for what is none."""
    path = paths.index(experiment)
    content = manifest.load_as_written(files, path)
    contents.check(content, path)
    return content


def manifest_in(entry: Indexed, path: str) -> dict[str, Any]:
    """The content of a manifest by the index, checked as by `manifest.load`. Raises CorruptLake for what is none."""
    try:
        content = json.loads(entry.manifest)
    except (ValueError, RecursionError) as error:
        raise CorruptLake(f"the index has damaged text for {path}: {error}") from error
    if not isinstance(content, dict):
        raise CorruptLake(f"the index has no manifest for {path}")
    contents.check(content, path)
    return content
