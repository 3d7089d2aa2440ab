"""Pictures in Parquet files: what is decoded, what is refused, and that it is decoded once."""

from __future__ import annotations

import io
import json
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.data import cache as decoded_cache
from losslake.collect.data import pictures as dataset_pictures
from losslake.collect.data.load import load_dataset
from losslake.store.errors import InvalidInput, InvalidOption
from PIL import Image
from places import SHARED_DATA


def png(pixels: np.ndarray, mode: str | None = None, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(out, format=form)
    return out.getvalue()


def write(
    path: Path, blobs: Sequence[bytes | None], *, struct: bool = True, column: str = "image", **more: object
) -> None:
    values = [{"bytes": blob, "path": None} for blob in blobs] if struct else blobs
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    fields = {column: pa.array(values, kind), "label": [i % 3 for i in range(len(blobs))], **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(fields), path)


def random_pictures(count: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 9, 12), dtype=np.uint8)


def as_pillow(picture: np.ndarray) -> np.ndarray:
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("column", ["image", "img"])
def test_pictures_come_back_exactly(tmp_path: Path, channels: int, struct: bool, column: str) -> None:
    x = random_pictures(7, channels)
    blobs = [png(as_pillow(picture)) for picture in x]
    write(tmp_path / "d/test-00000-of-00001.parquet", blobs[5:], struct=struct, column=column)
    write(tmp_path / "d/train-00000-of-00002.parquet", blobs[:3], struct=struct, column=column)
    write(tmp_path / "d/train-00001-of-00002.parquet", blobs[3:5], struct=struct, column=column)
    data = load_dataset(str(tmp_path / "d"), data_dir=tmp_path / "cache")
    assert data.pictures
    assert data.x.shape == (7, channels, 9, 12)
    np.testing.assert_array_equal(data.x, x)
    assert data.y.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert data.y.dtype == np.int64
    assert data.split.tolist() == ["train"] * 5 + ["test"] * 2
    assert data.key.tolist() == ["train/0", "train/1", "train/2", "train/3", "train/4", "test/0", "test/1"]
    assert data.columns is None


def test_other_splits_are_test_and_keep_their_names_in_keys(tmp_path: Path) -> None:
    x = random_pictures(4, 1)
    for row, split in enumerate(("validation", "train", "test", "train_extra")):
        write(tmp_path / f"data/{split}-00000-of-00001.parquet", [png(x[row, 0])])
    data = load_dataset(str(tmp_path), data_dir=tmp_path / "cache")
    assert data.key.tolist() == ["train/0", "test/0", "train_extra/0", "validation/0"]
    assert data.split.tolist() == ["train", "test", "test", "test"]
    np.testing.assert_array_equal(data.x, x[[1, 2, 3, 0]])


def test_class_names_and_scalar_columns(tmp_path: Path) -> None:
    x = random_pictures(3, 3)
    write(
        tmp_path / "a.parquet",
        [png(as_pillow(p)) for p in x],
        coarse=[5, 6, 7],
        box=[[1], [2], [3]],
        who=["a", "b", "a"],
    )
    table = pq.read_table(tmp_path / "a.parquet")
    meta = {"info": {"features": {"label": {"names": ["cat", "dog", "eel", "fox"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(meta)}), tmp_path / "a.parquet")
    data = load_dataset(str(tmp_path / "a.parquet"), group="who", data_dir=tmp_path / "cache")
    assert data.classes == ("cat", "dog", "eel", "fox")
    assert data.group is not None
    assert data.group.tolist() == ["a", "b", "a"]
    assert data.columns is not None
    assert data.columns.to_pydict() == {"coarse": [5, 6, 7]}
    coarse = load_dataset(str(tmp_path / "a.parquet"), label="coarse", data_dir=tmp_path / "cache")
    assert coarse.y.tolist() == [5, 6, 7]
    assert len(coarse.classes) == 8


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    flat = np.full((9, 12, 3), (204, 51, 102), dtype=np.uint8)
    blob = png(flat, mode, "TIFF" if mode == "CMYK" else "PNG")
    write(tmp_path / "a.parquet", [blob])
    data = load_dataset(str(tmp_path / "a.parquet"), data_dir=tmp_path / "cache")
    assert data.x.shape == (1, 3, 9, 12)
    assert np.abs(data.x[0].astype(int) - flat.transpose(2, 0, 1)).max() <= 4


GREY = np.zeros((9, 12), dtype=np.uint8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (png(np.zeros((9, 13), dtype=np.uint8)), r"row 2: 13 x 9 grey, but the first picture is 12 x 9 grey"),
        (png(np.zeros((9, 12, 3), dtype=np.uint8)), r"row 2: 12 x 9 colour, but the first"),
        (png(GREY)[:40], r"row 2: the picture cannot be decoded"),
        (b"not a picture", r"row 2: the picture cannot be decoded"),
        (None, r"row 2: no picture"),
        (png(np.zeros((9, 12), dtype=np.uint16)), r"row 2: a picture of mode I;16"),
    ],
)
def test_refusals_name_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bytes | None, message: str
) -> None:
    monkeypatch.setattr(dataset_pictures, "_BATCH_ROWS", 2)  # the bad row is the first of a later batch
    write(tmp_path / "a.parquet", [png(GREY), png(GREY), bad, png(GREY)])
    with pytest.raises(InvalidInput, match=r"a\.parquet, " + message):
        load_dataset(str(tmp_path / "a.parquet"), data_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.*")), "nothing half-made is left behind"


def test_a_file_damaged_inside_is_refused(tmp_path: Path) -> None:
    x = random_pictures(300, 3)
    write(tmp_path / "a.parquet", [png(as_pillow(p)) for p in x])
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[:3000] = b"\xff" * 3000  # the pictures' pages; the footer with the schema stays whole
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(InvalidInput, match=r"a\.parquet"):
        load_dataset(str(tmp_path / "a.parquet"), data_dir=tmp_path / "cache")


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    # A header that promises side x side pixels and no data: decoding it would fail in another way.
    header = bytearray(png(GREY))
    header[16:24] = side.to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    write(tmp_path / "a.parquet", [bytes(header)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidInput, match=r"row 0: (a|the) picture .*refused"):
            load_dataset(str(tmp_path / "a.parquet"), data_dir=tmp_path / "cache")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of all pictures decoded while filling the cache."""
    places: list[str] = []
    real = dataset_pictures.decode_picture

    def decode(blob: bytes | None, where: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        if shape is not None:
            places.append(where)
        return real(blob, where, shape)

    monkeypatch.setattr(dataset_pictures, "decode_picture", decode)
    return places


def mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return type(base).__name__ == "mmap"


def test_decoded_once_then_mapped(tmp_path: Path, counted: list[str]) -> None:
    x = random_pictures(5, 3)
    path, cache = tmp_path / "a.parquet", tmp_path / "cache"
    write(path, [png(as_pillow(p)) for p in x])
    first = load_dataset(str(path), data_dir=cache)
    again = load_dataset(str(path), data_dir=cache)
    assert len(counted) == 5
    assert mapped(first.x)
    assert mapped(again.x)
    np.testing.assert_array_equal(again.x, x)
    again.x[:] = 0  # a private map: the file and other readers keep what they had
    np.testing.assert_array_equal(load_dataset(str(path), data_dir=cache).x, x)
    other = random_pictures(5, 3, seed=1)
    write(path, [png(as_pillow(p)) for p in other])
    np.testing.assert_array_equal(load_dataset(str(path), data_dir=cache).x, other)
    assert len(counted) == 10


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "pickle", "other shape", "longer"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, counted: list[str], damage: str) -> None:
    x = random_pictures(5, 1)
    path, cache = tmp_path / "a.parquet", tmp_path / "cache"
    write(path, [png(p[0]) for p in x])
    load_dataset(str(path), data_dir=cache)
    (entry,) = cache.rglob("*.npy")
    whole = entry.read_bytes()
    if damage == "pickle":
        np.save(entry, np.array([{}], dtype=object))
    elif damage == "other shape":
        np.save(entry, x[:4])
    else:
        entry.write_bytes(
            {"truncated": whole[:-7], "garbage": b"x" * 900, "empty": b"", "longer": whole + b"1"}[damage]
        )
    np.testing.assert_array_equal(load_dataset(str(path), data_dir=cache).x, x)
    assert len(counted) == 10
    assert entry.read_bytes() == whole
    assert [file.name for file in cache.rglob("*.*")] == [entry.name]


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    write(tmp_path / "a.parquet", [png(GREY + 3)])
    with pytest.warns(UserWarning, match="not kept"):
        data = load_dataset(str(tmp_path / "a.parquet"), data_dir=tmp_path / "cache")
    assert (data.x == 3).all()


def test_abandoned_temporary_files_are_swept(tmp_path: Path) -> None:
    old, young = tmp_path / "old.tmp", tmp_path / "young.tmp"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    decoded_cache.cached_array(tmp_path, "d" * 64, (2, 1, 8, 8), lambda out: out.fill(7))
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_is_told_before_decoding(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="GB are needed"):
        decoded_cache.cached_array(tmp_path, "d" * 64, (1 << 40, 3, 1000, 1000), lambda out: None)
    assert not list(tmp_path.iterdir())


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSLAKE_DATA", str(tmp_path / "elsewhere"))
    assert decoded_cache.data_directory() == tmp_path / "elsewhere"
    assert decoded_cache.data_directory(tmp_path) == tmp_path
    monkeypatch.delenv("LOSSLAKE_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert decoded_cache.data_directory() == Path.home() / ".cache" / "losslake"


@pytest.mark.parametrize(("folder", "column", "channels"), [("cifar10", "img", 3), ("mnist", "image", 1)])
def test_real_pictures(tmp_path: Path, folder: str, column: str, channels: int) -> None:
    source = SHARED_DATA / folder / "test-00000-of-00001.parquet"
    if not source.exists():
        pytest.skip(f"no shared data at {source}")
    part = pq.read_table(source).slice(0, 300)
    pq.write_table(part, tmp_path / "a.parquet")
    data = load_dataset(str(tmp_path / "a.parquet"), data_dir=tmp_path)
    assert data.x.shape[:2] == (300, channels)
    assert data.y.tolist() == part.column("label").to_pylist()
    for row in (0, 299):
        with Image.open(io.BytesIO(part.column(column)[row].as_py()["bytes"])) as image:
            np.testing.assert_array_equal(as_pillow(data.x[row]), np.asarray(image))


def test_the_cache_is_bounded_and_can_be_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not used for the longest time go; what is no entry stays."""
    folder = tmp_path / "decoded"
    folder.mkdir()
    (folder / "mine.npy").write_bytes(b"x" * 10_000)
    size = 100_128  # with its header
    monkeypatch.setenv("LOSSLAKE_CACHE_GB", str(2.5 * size / 1e9))

    def get(name: str) -> None:
        made = decoded_cache.cached_array(folder, name * 64, (100_000,), lambda out: out.fill(ord(name)))
        assert (made == ord(name)).all()
        for path, _, used in decoded_cache.entries(folder):  # the clock of a disk may be coarse
            os.utime(path, (used - 10, used - 10))

    def held() -> set[str]:
        return {path.name[0] for path, _, _ in decoded_cache.entries(folder)}

    for name in ("a", "b", "a", "c"):
        get(name)
    assert held() == {"a", "c"}  # a was used after b
    monkeypatch.setenv("LOSSLAKE_CACHE_GB", "0")
    get("d")
    assert held() == {"d"}
    told = CliRunner().invoke(cli, ["collect", "cache", "--data-dir", str(tmp_path)])
    assert told.output == f"{tmp_path}: 1 decoded data sets, 0.0 of 0 GB\n"
    told = CliRunner().invoke(cli, ["collect", "cache", "--data-dir", str(tmp_path), "--clear"])
    assert told.output == f"{tmp_path}: removed 1 decoded data sets, 0.0 GB\n"
    assert held() == set()
    assert (folder / "mine.npy").exists()
    monkeypatch.setenv("LOSSLAKE_CACHE_GB", "lots")
    with pytest.raises(InvalidOption, match="LOSSLAKE_CACHE_GB is 'lots'"):
        get("e")
