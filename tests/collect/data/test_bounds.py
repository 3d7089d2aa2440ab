"""Files that unpack to more than they may are refused while they are read, and a limit that is raised lets them in."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.data.bounds import read_csv, read_parquet
from losslake.collect.data.load import load_dataset
from losslake.collect.data.npy import NpzArrays
from losslake.collect.data.pictures import read_pictures
from losslake.collect.data.room import check_room, room_for
from losslake.collect.experiment.selection import read_keys, read_sample_ids
from losslake.collect.importers.files import read_labels
from losslake.collect.importers.loss_traces import _epoch_table, _read_scores
from losslake.store.errors import InvalidInput, InvalidOption
from PIL import Image

ROWS = 1_500_000


def zipped(path: Path, head: bytes, line: bytes, times: int = ROWS) -> Path:
    with gzip.open(path, "wb", 9) as out:
        out.write(head + b"\n")
        for _ in range(10):
            out.write((line + b"\n") * (times // 10))
    return path


def parquet(path: Path, **columns: pa.Array | np.ndarray) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def one_text(rows: int, size: int) -> pa.Array:
    """A column in which every row repeats a text that stands once in the file; it says nothing of dictionaries."""
    indices = pa.array(np.zeros(rows, np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array(["x" * size])).cast(pa.string())


def picture_file(path: Path) -> Path:
    Image.new("L", (2000, 2000)).save(path.with_suffix(".png"))
    blob = path.with_suffix(".png").read_bytes()
    return parquet(path, label=np.zeros(20, int), image=pa.array([blob] * 20))


BOMBS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "a data set, csv": (lambda at: zipped(at / "d.csv.gz", b"a,label", b"0,0"), lambda file: load_dataset(str(file))),
    "a data set, rows": (
        lambda at: parquet(at / "d.parquet", a=np.zeros(ROWS), label=np.zeros(ROWS, int)),
        lambda file: load_dataset(str(file)),
    ),
    "a data set, text": (
        lambda at: parquet(at / "d.parquet", a=one_text(2000, 20_000), label=np.arange(2000) % 2),
        lambda file: load_dataset(str(file)),
    ),
    "a data set, a long key": (
        lambda at: parquet(
            at / "d.parquet", a=np.arange(2000) % 3, label=np.arange(2000) % 2, k=pa.array(["x" * 9000, *map(str, range(1999))])
        ),
        lambda file: load_dataset(str(file), key="k"),
    ),
    "a data set, categories": (
        lambda at: parquet(
            at / "d.parquet", a=pa.array([f"c{i % 1000}" for i in range(9000)]), label=np.arange(9000) % 2
        ),
        lambda file: load_dataset(str(file)),
    ),
    "a data set, lists": (
        lambda at: parquet(at / "d.parquet", a=pa.array([np.zeros(4_000_000)]), label=np.zeros(1, int)),
        lambda file: load_dataset(str(file)),
    ),
    "pictures": (
        lambda at: picture_file(at / "d.parquet"),
        lambda file: read_pictures([file], "image", data_dir=file.parent),
    ),
    "labels, csv": (lambda at: zipped(at / "y.csv.gz", b"label,a", b"1,5"), read_labels),
    "labels, parquet": (lambda at: parquet(at / "y.parquet", label=np.ones(ROWS, int)), read_labels),
    "ids": (lambda at: parquet(at / "i.parquet", sample_id=np.ones(ROWS, int)), read_sample_ids),
    "keys": (lambda at: parquet(at / "k.parquet", key=one_text(2000, 20_000)), read_keys),
    "traces": (
        lambda at: parquet(at / "t.parquet", **{str(i): np.zeros(ROWS // 2) for i in range(8)}),
        lambda file: _epoch_table(file).read(),
    ),
    "scores": (
        lambda at: zipped(at / "s.csv.gz", b"og_idx,target_trained_on", b"0,True"),
        lambda file: _read_scores(file, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_more_than_it_may_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, read = BOMBS[name]
    file = make(tmp_path)
    assert file.stat().st_size < 1_000_000
    monkeypatch.setenv("LOSSLAKE_INPUT_GB", "0.02")
    with pytest.raises(InvalidInput, match=r"more than 0\.02 GB once it is unpacked.*--input-gb"):
        read(file)
    monkeypatch.setenv("LOSSLAKE_INPUT_GB", "4")
    told = ""
    try:
        read(file)
    except InvalidInput as error:  # it is no use, but that is another matter
        told = str(error)
    assert "--input-gb" not in told


def test_arrays_of_archives_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((3000, 1000)))
    monkeypatch.setenv("LOSSLAKE_INPUT_GB", "0.02")
    with NpzArrays(tmp_path / "a.npz") as arrays:
        with pytest.raises(InvalidInput, match="--input-gb"):
            arrays.whole("x")
        with pytest.raises(InvalidInput, match="--input-gb"):
            next(arrays.rows("x"))
        monkeypatch.setenv("LOSSLAKE_INPUT_GB", "0.03")
        assert arrays.whole("x").shape == (3000, 1000)


def test_the_memory_is_bounded_while_it_is_read(tmp_path: Path) -> None:
    """40 million rows in 160 kB: 160 MB of text, 640 MB in a table."""
    file = zipped(tmp_path / "d.csv.gz", b"a,label", b"0,0", 40_000_000)
    code = """
import resource, sys
from pathlib import Path
from losslake.collect.data.bounds import read_csv
from losslake.store.errors import InvalidInput
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_csv(Path(sys.argv[1]))
except InvalidInput:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LOSSLAKE_INPUT_GB": "0.05"},
    )
    assert int(done.stdout) * 1024 < 150_000_000


def test_what_keeps_within_bounds_is_read_as_before(tmp_path: Path) -> None:
    rows = 70_000
    table = pa.table(
        {
            "a.b": np.arange(rows),
            "text": [f"x{i % 7}" for i in range(rows)],
            "large": pa.array([None if i % 5 == 0 else f"y{i}" for i in range(rows)], pa.large_string()),
            "view": pa.array(["zz", None] * (rows // 2), pa.string_view()),
            "list": pa.array([[1.5, None]] * rows),
            "said": pa.array(["q", "r"] * (rows // 2)).dictionary_encode(),
            "flag": pa.array([None, True] * (rows // 2)),
            "blob": pa.array([b"a", None] * (rows // 2)),
            "struct": pa.array([{"bytes": b"x", "path": "p"}] * rows),
        }
    ).replace_schema_metadata({"huggingface": "{}"})
    file = tmp_path / "a.parquet"
    pq.write_table(table, file, row_group_size=30_000)
    with pq.ParquetFile(file) as whole:
        expected = whole.read()
    read = read_parquet(file)
    assert read.schema.equals(expected.schema, check_metadata=True)
    assert [read[name].to_pylist() == expected[name].to_pylist() for name in read.column_names] == [True] * 9
    assert read_parquet(file, ["list", "a.b"]).column_names == ["list", "a.b"]
    pq.write_table(table.slice(0, 0), file)
    assert read_parquet(file).schema.names == table.schema.names
    for name in ("b.csv", "b.csv.gz"):
        text = b"a,b\n" + b"".join(b"%d,x%d\n" % (i, i) for i in range(200_000)) + b"last,\n"
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        assert read_csv(tmp_path / name).equals(pyarrow.csv.read_csv(tmp_path / name))


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LOSSLAKE_INPUT_GB", value)
    with pytest.raises(InvalidOption, match="gigabytes above 0"):
        room_for(tmp_path)


def test_a_file_may_take_a_hundred_times_its_size_and_a_gigabyte_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOSSLAKE_INPUT_GB", raising=False)
    file = tmp_path / "a"
    for size, room in ((0, 1e9), (5, 1e9), (20_000_000, 2e9), (10**12, 32e9)):
        with file.open("wb") as stream:
            stream.truncate(size)
        assert room_for(file) == room
        check_room(room, file)
        with pytest.raises(InvalidInput, match="where you trust it"):
            check_room(room + 1, file)


def test_the_option_raises_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSLAKE_INPUT_GB", "0.02")
    file = BOMBS["a data set, categories"][0](tmp_path)
    words = [
        "collect",
        "target",
        "--lake",
        str(tmp_path / "lake"),
        "--experiment",
        "e",
        "--dataset",
        str(file),
    ]
    words += ["--epochs", "1", "--model", "mlp", "--widths", "4"]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 1
    assert "--input-gb" in str(refused.exception)
    done = CliRunner().invoke(cli, [*words, "--input-gb", "1", "--samples", "60"])
    assert done.exit_code == 0, done.output
