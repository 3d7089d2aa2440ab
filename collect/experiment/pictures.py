"""Pictures as small PNGs, for reports and for looking at single samples."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from ...store.errors import InvalidInput

MAX_SIDE = 96

_TASK_ROWS = 256


def encode_png(x: np.ndarray, *, max_side: int = MAX_SIDE) -> list[bytes]:
    """Each picture of x, uint8 (N, C, H, W) with C = 1 or 3, as the bytes of a PNG file.

    Pictures with a side above `max_side` pixels are scaled down to it, in proportion; smaller ones are kept
    exactly. Raises InvalidInput for arrays of another shape or type.
    """
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] not in (1, 3) or 0 in x.shape[2:]:
        raise InvalidInput(
            f"pictures are {x.dtype} {x.shape}; expected uint8 (N, C, H, W) with 1 or 3 channels"
        )
    if max_side < 1:
        raise InvalidInput(f"max_side is {max_side}; it must be 1 or more")

    def encode(start: int) -> list[bytes]:
        return [_encode(picture, max_side) for picture in x[start : start + _TASK_ROWS]]

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        return [data for part in pool.map(encode, range(0, len(x), _TASK_ROWS)) for data in part]


def _encode(picture: np.ndarray, max_side: int) -> bytes:
    channels, height, width = picture.shape
    pixels = picture[0] if channels == 1 else picture.transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
