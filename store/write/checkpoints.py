"""Checkpoints: what a run that is not committed yet needs to be gone on with after its process was killed.

Each writer of a run has a folder of its own, named by its token. A checkpoint is a manifest there, written last, which
lists the files that belong to it: the state after an epoch, and the traces so far in pieces that the writer's further
checkpoints list too. No reader of the lake looks at any of it, and it goes when the run is committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import CorruptLake, ForgottenMeanwhile, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest
from ..format.paths import (
    CHECKPOINTS,
    checkpoint_folder,
    checkpoint_manifest,
    checkpoints_folder,
    run_manifest,
)
from ..format.records import forgotten_samples
from . import leases

_KEPT = 2
"""Checkpoints of a writer that are kept: should the newest turn out damaged, there is the one before."""


@dataclass(frozen=True)
class StoredFile:
    """A file that a checkpoint lists, with its SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``epoch`` epochs.

    ``key`` tells checkpoints apart that cannot be exchanged: of another recipe, other members. ``facts`` are the
    trainer's own, ``state`` its tensors, ``pieces`` the traces so far. ``forgotten`` are the samples that were forgotten when
    the run began, so that nothing here knows them; of a checkpoint that does not say so, there is none.
    """

    experiment: str
    run: str
    token: str
    epoch: int
    key: str
    created: str
    facts: Mapping[str, Any]
    state: StoredFile
    pieces: tuple[StoredFile, ...]
    forgotten: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Where its manifest is."""
        return checkpoint_manifest(self.experiment, self.run, self.token, self.epoch)


class CheckpointWriter:
    """The checkpoints of one writer of a run.

    ``token`` is the writer's, ``forgotten`` the samples that were forgotten before it was given any data, by default those
    that are now.
    """

    def __init__(
        self,
        files: Files,
        experiment: str,
        run: str,
        token: str,
        forgotten: Collection[int] | None = None,
    ) -> None:
        self._files, self._whose = files, (experiment, run, token)
        now = forgotten_samples(files, experiment) if forgotten is None else forgotten
        self._forgotten = tuple(sorted(map(int, now)))
        self._folder = checkpoint_folder(experiment, run, token)
        self._pieces: list[StoredFile] = []
        self._written: list[Checkpoint] = []

    def add_piece(self, data: bytes) -> None:
        """Store a piece of the traces, which every checkpoint from the next one on lists."""
        path = f"{self._folder}/traces-{len(self._pieces):06d}.safetensors"
        self._pieces.append(self._store(path, data))

    def write(self, epoch: int, key: str, state: bytes, facts: Mapping[str, Any]) -> bool:
        """Store the state after an epoch; the checkpoint is there, whole, when this returns.

        Answers whether the writer now has as many as it keeps; older ones of its own are removed. Raises ForgottenMeanwhile
        where a sample was forgotten since the run began, whose rows and traces in the weights would be kept: then all that
        the writer stored is removed.
        """
        self._check_remembered()
        checkpoint = Checkpoint(
            *self._whose,
            epoch=epoch,
            key=key,
            created=manifest.now(),
            facts=dict(facts),
            state=self._store(f"{self._folder}/epoch-{epoch:06d}.safetensors", state),
            pieces=tuple(self._pieces),
            forgotten=self._forgotten,
        )
        self._files.put(checkpoint.path, manifest.dump({"kind": "checkpoint", **asdict(checkpoint)}))
        self._written.append(checkpoint)
        # Whoever forgets looks for checkpoints after saying so: one of both sees the other.
        self._check_remembered()
        while len(self._written) > _KEPT:
            old = self._written.pop(0)
            _remove(self._files, [old.path, old.state.path])
        return len(self._written) == _KEPT

    def _check_remembered(self) -> None:
        experiment, run, _ = self._whose
        if set(forgotten_samples(self._files, experiment)).difference(self._forgotten):
            _remove(self._files, self._files.list(self._folder))
            raise ForgottenMeanwhile(
                f"samples of experiment {experiment!r} were forgotten since run {run!r} began, and a checkpoint would keep "
                "what it knows of them; it makes no more"
            )

    def _store(self, path: str, data: bytes) -> StoredFile:
        with self._files.create(path) as file:
            file.write(data)
        return StoredFile(path, len(data), hashlib.sha256(data).hexdigest())


def find_checkpoints(files: Files, experiment: str, run: str) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints of a run, the furthest first, and what is wrong with those whose manifests are damaged.

    Their files are checked when they are read.
    """
    found, damage = [], []
    for path in files.list(checkpoints_folder(experiment, run), ".json"):
        try:
            found.append(load_checkpoint(files, path))
        except LosslakeError as error:
            if files.exists(path):  # else its writer has removed it since it was listed
                damage.append(str(error))
    return _furthest_first(found), damage


def load_checkpoint(files: Files, path: str) -> Checkpoint:
    """A checkpoint from its manifest. Raises CorruptLake for anything that is not one."""
    content = manifest.load(files, path)
    names = ("experiment", "run", "token", "epoch", "key", "created", "facts")
    return Checkpoint(
        **{field: content[field] for field in names},
        state=StoredFile(**content["state"]),
        pieces=tuple(StoredFile(**each) for each in content["pieces"]),
        forgotten=tuple(content.get("forgotten", ())),
    )


def read_checked(files: Files, file: StoredFile) -> bytes:
    """The bytes of a file that a checkpoint lists. Raises CorruptLake where they are not those that were written."""
    data = files.read(file.path)
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptLake(f"{file.path} in {files.root} was changed after it was written (SHA-256 differs)")
    return data


def checkpoint_key(what: Mapping[str, Any]) -> str:
    """64 hex digits of what a run is: two runs with the same can go on from each other's checkpoints."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def remove_checkpoints(files: Files, experiment: str, run: str) -> None:
    """Remove every checkpoint of a run, and what unfinished ones left."""
    _remove(files, files.list(checkpoints_folder(experiment, run)))


def remove_idle(files: Files, experiment: str, run: str, writers: Collection[str] | None = None) -> None:
    """Remove the checkpoints of a run, or of those of its ``writers`` (tokens) alone, unless another process on this
    machine is at work on them.
    """
    at_work = {process for process, state in leases.states(files).items() if state == "at work"}
    at_work.discard(tokens.process_part(files.root))
    folders = [checkpoint_folder(experiment, run, token) for token in writers or ()]
    if writers is None:
        folders = [checkpoints_folder(experiment, run)]
    there = [path for folder in folders for path in files.list(folder)]
    _remove(files, [path for path in there if tokens.writer_of(path) not in at_work])


def resumable_files(files: Files) -> set[str]:
    """The files below checkpoints/ that a run can be gone on with; the others there are leftovers.

    They belong to the furthest checkpoints, as many as a writer keeps, of each run that is not committed, for each of
    its keys. What a damaged manifest lists is not known, so the rest of its folder counts as needed.
    """
    needed: set[str] = set()
    kept: dict[tuple[str, str, str], list[Checkpoint]] = {}
    for path in files.list(CHECKPOINTS, ".json"):
        place = re.fullmatch(rf"{CHECKPOINTS}/experiment=([^/]+)/run=([^/]+)/[^/]+/[^/]+", path)
        if place is None or files.exists(run_manifest(place[1], place[2])):
            continue
        try:
            each = load_checkpoint(files, path)
        except LosslakeError:
            needed.update(files.list(path.rpartition("/")[0]))
        else:
            kept.setdefault((each.experiment, each.run, each.key), []).append(each)
    for found in kept.values():
        for each in _furthest_first(found)[:_KEPT]:
            needed |= {each.path, each.state.path, *(piece.path for piece in each.pieces)}
    return needed


def _furthest_first(found: list[Checkpoint]) -> list[Checkpoint]:
    return sorted(found, key=lambda each: (each.epoch, each.created), reverse=True)


def _remove(files: Files, paths: list[str]) -> None:
    # Manifests first: a process that is killed here leaves no checkpoint that lacks its files.
    for path in sorted(paths, key=lambda path: not path.endswith(".json")):
        with contextlib.suppress(LosslakeError):  # a leftover, which 'lake verify' lists
            files.delete(path)
