"""Pictures as PNG: exact where small, in proportion where large."""

from __future__ import annotations

import io

import numpy as np
import pytest
from losslake.collect.data import pictures
from losslake.collect.data.pictures import encode_png
from losslake.store.errors import InvalidInput
from PIL import Image


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_exact_and_in_order(channels: int) -> None:
    # More than one task's worth, so that order across threads is tested.
    x = np.random.default_rng(0).integers(0, 256, (600, channels, 5, 8), dtype=np.uint8)
    encoded = encode_png(x)
    assert len(encoded) == 600
    for row in (0, 255, 256, 599):
        pixels = np.asarray(opened(encoded[row]))
        np.testing.assert_array_equal(pixels, x[row, 0] if channels == 1 else x[row].transpose(1, 2, 0))


def test_large_pictures_shrink_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((1, 3, 100, 200), dtype=np.uint8)
    x[:, 0, :, :100] = 200
    image = opened(encode_png(x)[0])
    assert image.size == (96, 48)
    assert image.getpixel((10, 20)) == (200, 0, 0)
    assert image.getpixel((85, 20)) == (0, 0, 0)
    monkeypatch.setattr(pictures, "MAX_SIDE", 20)
    assert opened(encode_png(x[:, :, :1])[0]).size == (20, 1)


def test_refusals_and_nothing() -> None:
    assert encode_png(np.zeros((0, 3, 8, 8), dtype=np.uint8)) == []
    for wrong in (
        np.zeros((1, 8, 8), np.uint8),
        np.zeros((1, 2, 8, 8), np.uint8),
        np.zeros((1, 3, 8, 8), np.float32),
    ):
        with pytest.raises(InvalidInput, match="expected uint8"):
            encode_png(wrong)
