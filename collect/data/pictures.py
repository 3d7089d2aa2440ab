"""Pictures: those of Parquet files (PNG, JPEG, ...) decoded to one uint8 array, and samples as small PNGs for reports."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ...store.errors import InvalidInput
from .bounds import column_batches
from .cache import DECODED, cached_array, data_directory, source_digest
from .npy import brief
from .room import check_room

MAX_PIXELS = 64_000_000
MAX_SIDE = 96

# Formats that Pillow decodes itself. Left out on purpose: those that start another program (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_GREY_MODES = ("1", "L")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "LA", "CMYK", "YCbCr", "LAB", "HSV")
_BATCH_ROWS = 4096
_TASK_ROWS = 256
# Under this many pixels a picture decodes so fast that threads only fight over the interpreter lock:
# measured on 2 cores, 2 threads take 1.5 times as long as 1 at 32 x 32, and 0.6 times at 64 x 64 and above.
_PIXELS_WORTH_A_THREAD = 64 * 64


def read_pictures(files: Sequence[Path], column: str, *, data_dir: Path | None) -> np.ndarray:
    """All pictures of `column` in Parquet `files`, in order: uint8 (N, C, H, W), C = 1 for grey, else 3.

    The column holds encoded pictures, as binary or as struct{bytes, path}. Decoded once: the array is kept in
    data_directory(data_dir)/decoded and mapped from there.

    Raises InvalidInput, with file and row, for a missing, damaged, 16-bit or oversized picture, and where a
    picture has another size or another number of channels than the first.
    """
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    blob, where = next(
        ((blobs[0], f"{name}, row 0") for name, _, blobs in _batches(files, column) if blobs), (None, "")
    )
    if rows == 0:
        raise InvalidInput(f"{files[0]}: no rows")
    shape = decode_picture(blob, where).shape
    check_room(rows * math.prod(shape), *files)
    # Decoders differ between versions in the last bit of a JPEG.
    digest = source_digest(files, ["pictures", 1, column, PIL.__version__])
    return cached_array(
        data_directory(data_dir) / DECODED, digest, (rows, *shape), partial(_decode_all, files, column)
    )


def decode_picture(blob: bytes | None, where: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """One encoded picture as uint8 (C, H, W). `where` names it in errors.

    Size and mode are checked, against `shape` where given, before any pixel is decoded. Raises InvalidInput.
    """
    if blob is None:
        raise InvalidInput(f"{where}: no picture (null, or only a path: the file must hold the bytes)")
    try:
        with Image.open(io.BytesIO(blob), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InvalidInput(
                    f"{where}: a picture of {width} x {height} pixels is refused; the limit is {MAX_PIXELS:,}"
                )
            grey = image.mode in _GREY_MODES
            if not grey and image.mode not in _COLOUR_MODES:
                raise InvalidInput(
                    f"{where}: a picture of mode {image.mode}; convert it to 8-bit grey or RGB"
                )
            found = (1 if grey else 3, height, width)
            if shape is not None and found != shape:
                raise InvalidInput(
                    f"{where}: {_describe(found)}, but the first picture is {_describe(shape)}; "
                    "all must have one size and mode"
                )
            mode = "L" if grey else "RGB"
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"{where}: the picture is refused: {error}") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise InvalidInput(f"{where}: the picture cannot be decoded ({brief(error)})") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def encode_png(x: np.ndarray) -> list[bytes]:
    """Each picture of x, uint8 (N, C, H, W) with C = 1 or 3, as the bytes of a PNG file.

    Pictures with a side above MAX_SIDE pixels are scaled down to it, in proportion; smaller ones are kept
    exactly. Raises InvalidInput for arrays of another shape or type.
    """
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] not in (1, 3) or 0 in x.shape[2:]:
        raise InvalidInput(
            f"pictures are {x.dtype} {x.shape}; expected uint8 (N, C, H, W) with 1 or 3 channels"
        )

    def encode(start: int) -> list[bytes]:
        return [_png(picture) for picture in x[start : start + _TASK_ROWS]]

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        return [data for part in pool.map(encode, range(0, len(x), _TASK_ROWS)) for data in part]


def _png(picture: np.ndarray) -> bytes:
    pixels = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > MAX_SIDE:
        scale = MAX_SIDE / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} {'grey' if shape[0] == 1 else 'colour'}"


def _decode_all(files: Sequence[Path], column: str, out: np.ndarray) -> None:
    shape = out.shape[1:]

    def decode(task: tuple[str, int, int, list[bytes | None]]) -> None:
        name, row, position, blobs = task
        for offset, blob in enumerate(blobs):
            out[position + offset] = decode_picture(blob, f"{name}, row {row + offset}", shape)

    position = 0
    threads = min(os.cpu_count() or 1, 8) if shape[1] * shape[2] >= _PIXELS_WORTH_A_THREAD else 1
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for name, row, blobs in _batches(files, column):
            cuts = range(0, len(blobs), _TASK_ROWS)
            tasks = [(name, row + cut, position + cut, blobs[cut : cut + _TASK_ROWS]) for cut in cuts]
            # Batch by batch, so that the encoded pictures of a large file are never all in memory. list()
            # raises the first error in row order.
            list(pool.map(decode, tasks))
            position += len(blobs)


def _batches(files: Sequence[Path], column: str) -> Iterator[tuple[str, int, list[bytes | None]]]:
    """(file name, number of the first row in the file, encoded pictures) in order."""
    for file in files:
        row = 0
        try:
            for values in column_batches(file, column, _BATCH_ROWS):
                pictures = pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values
                yield file.name, row, pictures.to_pylist()
                row += len(values)
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise InvalidInput(f"{file}: cannot be read after row {row}: {brief(error)}") from error
