"""A set of samples as a short text, for facts that a run tells in its manifest: a bit a sample, in base64."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import numpy.typing as npt

from ..errors import CorruptLake


def pack_samples(chosen: npt.NDArray[np.bool_]) -> str:
    """The set of samples that ``chosen``, bool (N,), marks. 50,000 samples take 8 KB of text."""
    return base64.b64encode(np.packbits(chosen).tobytes()).decode("ascii")


def unpack_samples(text: str, samples: int) -> npt.NDArray[np.bool_]:
    """What `pack_samples` made of bool (samples,). Raises CorruptLake for anything that is not one."""
    try:
        bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError, TypeError) as error:
        raise CorruptLake(f"a set of samples in a run's manifest cannot be read: {error}") from error
    if len(bits) != -(-samples // 8):
        raise CorruptLake(
            f"a set of samples in a run's manifest is of {len(bits)} bytes; {samples} samples need {-(-samples // 8)}"
        )
    return np.unpackbits(bits, count=samples).astype(np.bool_)
