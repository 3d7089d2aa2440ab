"""Trainings that make checkpoints, in the lake of `protocol.Protocol`, and what must hold of their checkpoints at any time.

A checkpoint's state says whose it is, after which epoch, and which samples it knows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from acts import Broken, N, rows_to
from losslake.store.errors import AlreadyExists, ForgottenMeanwhile, LosslakeError
from losslake.store.lake import Lake
from losslake.store.write.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_key,
    find_checkpoints,
    read_checked,
    remove_checkpoints,
)

if TYPE_CHECKING:
    from protocol import Protocol, Work

EPOCHS = 3


def train(lake: Lake, run: str, mark: int, told: list[int]) -> int:
    """A run of some epochs with a checkpoint after each but the last, as the built-in trainer makes them.

    Where another one of the same members was stopped it goes on from its furthest checkpoint; the epoch of that, else 0. ``told``
    gets the epochs after which there is a checkpoint, as soon as it is told so.
    """
    ids = np.arange(N)
    members = ids % 2 == 0
    members[list(lake.experiment("e").forgotten)] = False
    try:
        with lake.write_run("e", run, members=members) as writer:
            knows = np.flatnonzero(~writer.forgotten).tolist()
            key = checkpoint_key({"members": knows})
            begun = 0
            for each in find_checkpoints(lake.files, "e", run)[0]:
                if each.key != key:
                    continue
                try:
                    state = _read(lake, each)
                except LosslakeError:
                    continue
                if state["knows"] != knows:
                    raise Broken(f"{run} would go on from what knows {state['knows']}, and may know {knows}")
                begun = each.epoch
                break
            out = CheckpointWriter(
                lake.files, "e", run, writer.token, np.flatnonzero(writer.forgotten).tolist()
            )
            for epoch in range(begun + 1, EPOCHS):
                if lake.has_run("e", run):
                    raise AlreadyExists(f"run {run!r} was committed by another process in the meantime")
                state = {"mark": mark, "epoch": epoch, "knows": knows}
                try:
                    piece = {f"train-{epoch}/sample_id": np.array(knows)}
                    out.add_piece(safetensors.numpy.save(piece))
                    out.write(epoch, key, json.dumps(state).encode(), {})
                except ForgottenMeanwhile:
                    break
                except LosslakeError:  # another one has committed the run, and removes what is there
                    continue
                told.append(epoch)
            rows_to(writer, mark)
    except AlreadyExists:
        remove_checkpoints(lake.files, "e", run)
        raise
    remove_checkpoints(lake.files, "e", run)
    return begun


def check_checkpoints(protocol: Protocol, runs: tuple[str, ...]) -> None:
    """Each is whole, says what it is and knows nothing that was forgotten; none that a killed training was told of is lost. Raises Broken."""
    lake = Lake.open(protocol.path)
    trainings = {each.mark: each for each in protocol._of("train")}
    slept = any(each.process.slept for each in trainings.values())
    for run in runs if trainings else ():
        found, damage = find_checkpoints(lake.files, "e", run)
        if damage:
            raise Broken(f"damaged checkpoints: {damage}")
        for each in found:
            try:
                state = _read(lake, each)
            except LosslakeError as error:
                if slept:  # what it had written was removed as that of one that is gone
                    continue
                raise Broken(f"a checkpoint of {run} lacks what it lists: {error}") from error
            who = trainings[state["mark"]]
            if (who.what, state["epoch"]) != (run, each.epoch):
                raise Broken(f"{each} is of {who}, after epoch {state['epoch']}")
            _check_forgotten(protocol, who, state)
        for who in trainings.values():
            told = protocol.checkpointed[who.mark]
            needed = who.what == run and who.process.killed and told and not lake.has_run("e", run)
            if needed and not _may_be_gone(protocol, who):
                furthest = max((each.epoch for each in found), default=0)
                if furthest < told[-1]:
                    raise Broken(f"{who} had a checkpoint after epoch {told[-1]}; there is one of {furthest}")


def _read(lake: Lake, checkpoint: Checkpoint) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(read_checked(lake.files, checkpoint.state))
    for piece in checkpoint.pieces:
        read_checked(lake.files, piece)
    return state


def _check_forgotten(protocol: Protocol, who: Work, state: dict[str, Any]) -> None:
    for each in protocol._of("forget"):
        if not each.done or int(each.what) not in state["knows"]:
            continue
        ended = who.process.ended if not who.process.at_work else float("inf")
        # One at work meanwhile takes its checkpoint back; where it was killed before it could, `verify` names that.
        if who.process.began > each.end or ended < each.process.began:
            raise Broken(f"a checkpoint of {who} knows a sample after {each}")


def _may_be_gone(protocol: Protocol, who: Work) -> bool:
    """Whether others may have removed its checkpoints: who forgot, removed the run, committed it or went on from them."""
    others = [each for each in protocol.work if each is not who and each.end > who.process.began]
    return who.process.slept or any(
        each.kind == "forget" or (each.kind in ("write", "train", "remove") and each.what == who.what)
        for each in others
    )
