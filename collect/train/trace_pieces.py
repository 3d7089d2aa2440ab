"""The epochs that a run has recorded so far as pieces of safetensors, for its checkpoints, and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import safetensors.numpy

from ...store.write.run_writer import RunWriter, Source

Epoch = tuple[Source, int]

_PIECE_BYTES = 64 << 20
"""Recorded values that are held at once; an epoch is never parted."""


def new_pieces(writer: RunWriter, taken: set[Epoch]) -> Iterator[bytes]:
    """The epochs that the writer was given and that are not among those ``taken``; they are added when a piece is used."""
    held: dict[str, np.ndarray] = {}
    epochs: set[Epoch] = set()
    for source, epoch in sorted(set(writer.staged_epochs()) - taken):
        values = writer.staged_epoch(source, epoch)
        held |= {f"{source}/{epoch}/{name}": value for name, value in values.items()}
        epochs.add((source, epoch))
        if sum(value.nbytes for value in held.values()) >= _PIECE_BYTES:
            yield safetensors.numpy.save(held)
            taken |= epochs
            held, epochs = {}, set()
    if held:
        yield safetensors.numpy.save(held)
        taken |= epochs


def give_piece(writer: RunWriter, piece: bytes) -> None:
    """Give a writer the epochs in a piece."""
    found: dict[Epoch, dict[str, np.ndarray]] = {}
    for full, values in safetensors.numpy.load(piece).items():
        source, epoch, name = full.split("/")
        found.setdefault((source, int(epoch)), {})[name] = values  # type: ignore[arg-type]
    for (source, number), columns in found.items():
        writer.append_epoch(source, number, columns.pop("sample_id"), **columns)
