"""Files of strangers: each ends in one of losslake's errors, soon, in bounded memory, and runs nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import re
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from losslake.analysis.gate.rules import load_rules
from losslake.cli import cli
from losslake.collect.data.load import load_dataset
from losslake.collect.data.npy import NpzArrays, npy_file
from losslake.collect.importers.arrays import import_arrays
from losslake.collect.importers.files import read_labels
from losslake.collect.importers.layouts import LAYOUTS
from losslake.collect.importers.lira import import_lira
from losslake.collect.importers.loss_traces import import_loss_traces
from losslake.collect.importers.privacy_meter import import_privacy_meter
from losslake.collect.recipe import load_recipe
from losslake.store.errors import CorruptLake, InvalidOption, LosslakeError
from losslake.store.format import manifest
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.verify import verify
from places import ROOT

ROUNDS = 60
ALLOWED = 1 << 30
"""Bytes that a hostile file may make the process grow by, at most."""


@contextmanager
def guarded(place: Path, seconds: float = 10.0, allowed: int = ALLOWED) -> Iterator[None]:
    """The block takes little time and memory, and makes no file in ``place`` called ``ran``."""
    held = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    assert held is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(held[1]) * 1024 + allowed, hard))
    started = time.process_time()  # a busy machine takes no more of it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert time.process_time() - started < seconds
    assert not (place / "ran").exists()


def refused(place: Path, work: Callable[[], Any], allowed: int = ALLOWED) -> str:
    """What the error says that ``work`` ends in."""
    with guarded(place, allowed=allowed), pytest.raises(LosslakeError) as caught:
        work()
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def tolerated(place: Path, work: Callable[[], Any]) -> None:
    """A file changed at random may still be a good one; if not, the error is losslake's."""
    with guarded(place), suppress(LosslakeError, click.ClickException):
        work()


class Runs:
    """Unpickling one makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def npy(
    header: str, body: bytes = b"", *, version: tuple[int, int] = (1, 0), length: int | None = None
) -> bytes:
    text = header.encode("latin1")
    size = len(text) if length is None else length
    return (
        b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + text + body
    )


def plain(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


HEADERS = {
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}\n", pickle.dumps([1, 2])),
    "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}\n", b"\0" * 16),
    "huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n", b"\0" * 16),
    "over 64 bits": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70},)}}\n", b"\0" * 16),
    "product wraps": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**32}, {2**32})}}\n", b""),
    "many axes": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 500})}}\n", b"\0" * 4),
    "floats": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,)}\n", b"\0" * 8),
    "booleans": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}\n", b"\0" * 4),
    "code": npy("{'descr': __import__('os').mkdir('ran'), 'fortran_order': False, 'shape': (1,)}\n"),
    "deep": npy("(" * 3000 + ")" * 3000 + "\n"),
    "deeper, long": npy("[" * 60000 + "\n"),
    "cut header": npy("{'descr': '<f4', 'fort", length=500),
    "long header": npy("{'descr': '<f4'}", length=2**32 - 1, version=(2, 0)),
    "version 9": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", b"\0" * 4, version=(9, 9)),
    "nothing in it": b"",
    "magic alone": b"\x93NUMPY",
    "not utf-8": npy("\xff\xfe{'descr'", version=(3, 0)),
    "record": npy(
        "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,)}\n", b"\0" * 12
    ),
    "sub-arrays": npy("{'descr': [('a', '<f4', (100000, 100000))], 'fortran_order': False, 'shape': (9,)}\n"),
    "text": plain(np.array(["a", "b"])),
    "times": plain(np.array(["2020-01-01"], dtype="M8[D]")),
    "no size": npy("{'descr': '|V0', 'fortran_order': False, 'shape': (5,)}\n"),
    "scalar": npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}\n", b"\0" * 3),
    "one byte short": plain(np.ones((4, 4), np.float32))[:-1],
    "one byte long": plain(np.ones((4, 4), np.float32)) + b"\0",
    "pickle": pickle.dumps([1, 2, 3], protocol=2),
    "zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("name", HEADERS)
def test_npy_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.npy"
    file.write_bytes(HEADERS[name])
    refused(tmp_path, lambda: npy_file(file).open())
    refused(tmp_path, lambda: read_labels(file))
    inside = tmp_path / "a.npz"
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("x.npy", HEADERS[name])
        archive.writestr("y.npy", plain(np.zeros(2, int)))
    tolerated(tmp_path, lambda: [list(NpzArrays(inside).rows("x"))])
    refused(tmp_path, lambda: load_dataset(str(inside)))


def test_fortran_order_is_read_as_it_is(tmp_path: Path) -> None:
    matrix = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.save(tmp_path / "a.npy", matrix)
    np.testing.assert_array_equal(npy_file(tmp_path / "a.npy").open(), matrix)
    np.savez(tmp_path / "a.npz", x=matrix)
    with NpzArrays(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(np.stack(list(arrays.rows("x"))), matrix)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    harmful = pickle.dumps(Runs(marker))
    objects = plain(np.array([Runs(marker)], dtype=object))
    for name, data in {
        "a.npy": objects,
        "b.npy": harmful,
        "c.pkl": harmful,
        "d.pt": harmful,
        "e.npz": harmful,
        "f.csv": harmful,
        "g.parquet": harmful,
        "h.joblib": harmful,
    }.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path, lambda name=name: read_labels(tmp_path / name))
        refused(tmp_path, lambda name=name: load_dataset(str(tmp_path / name)))
        for layout in LAYOUTS:
            lake = Lake.open(tmp_path / "lake", create=True)
            refused(
                tmp_path,
                lambda layout=layout, lake=lake, name=name: layout.read(lake, "e", tmp_path / name),
            )
    assert not marker.exists()


def test_no_module_unpickles() -> None:
    """Every np.load says allow_pickle=False; torch.load and pickle are not used at all."""
    wings = [
        file for floor in ("store", "collect", "analysis", "sql") for file in (ROOT / floor).rglob("*.py")
    ]
    assert len(wings) > 100
    for file in [*ROOT.glob("*.py"), *wings]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|shelve|marshal)\b", text, re.M
        ), file
        assert not re.search(r"(?<!safetensors\.)torch\.load\(|read_pickle|[^.\w](eval|exec)\(", text), file
        for call in re.finditer(r"np\.load\((.*)", text):
            assert "allow_pickle=False" in call[1], file


# --- zip ----------------------------------------------------------------------------------------------------


def archive(path: Path, entries: list[tuple[str, bytes]], compress: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as made:
        for name, data in entries:
            made.writestr(name, data)
    return path


def bomb(path: Path, shape: tuple[int, ...]) -> Path:
    """x of zeros, a thousand times as large as the file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        with made.open("x.npy", "w", force_zip64=True) as stream:
            stream.write(npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n"))
            zeros = bytes(1 << 24)
            left = int(np.prod(shape)) * 4
            while left > 0:
                stream.write(zeros[: min(left, len(zeros))])
                left -= len(zeros)
        made.writestr("y.npy", plain(np.zeros(shape[0], np.int64)))
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_archives(tmp_path: Path) -> None:
    one, two = plain(np.ones((2, 2), np.float32)), plain(np.zeros(2, np.int64))
    inner = archive(tmp_path / "inner.npz", [("x.npy", one)]).read_bytes()
    hostile = {
        "nested": [("x.npy", inner), ("y.npy", two)],
        "absolute": [("/etc/x.npy", one), ("/tmp/y.npy", two)],
        "above": [("../../x.npy", one), ("../y.npy", two)],
        "no entries": [],
        "other entries": [("readme.txt", b"hello")],
        "twice": [("x.npy", one), ("x.npy", HEADERS["objects"]), ("y.npy", two)],
        "a thousand entries": [(f"x{number}.npy", b"") for number in range(1000)],
    }
    for name, entries in hostile.items():
        file = archive(tmp_path / f"{name.replace(' ', '-')}.npz", entries)
        refused(tmp_path, lambda file=file: load_dataset(str(file)))
        lake = Lake.open(tmp_path / "lake", create=True)
        refused(tmp_path, lambda file=file, lake=lake: import_arrays(lake, "e", file))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".npz") == ["lake"]
    encrypted = bytearray(archive(tmp_path / "secret.npz", [("x.npy", one), ("y.npy", two)]).read_bytes())
    for place in re.finditer(rb"PK\x01\x02", bytes(encrypted)):
        encrypted[place.start() + 8] |= 1
    (tmp_path / "secret.npz").write_bytes(encrypted)
    refused(tmp_path, lambda: load_dataset(str(tmp_path / "secret.npz")))
    refused(tmp_path, lambda: NpzArrays(tmp_path / "secret.npz"))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = bomb(tmp_path / "bomb.npz", (2_000, 20_000))  # 160 MB in 160 kB
    assert file.stat().st_size < 5e5
    assert "memory" in refused(tmp_path, lambda: load_dataset(str(file)), allowed=100_000_000)
    lake = Lake.open(tmp_path / "lake", create=True)
    refused(tmp_path, lambda: import_arrays(lake, "e", file), allowed=100_000_000)


# --- Parquet, CSV, pictures ---------------------------------------------------------------------------------


def png(width: int, height: int, *, rows: int | None = None) -> bytes:
    """A grey PNG, its pixels all 0; with fewer ``rows`` than it says it is cut short."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(width + 1)) for _ in range(height if rows is None else rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", lines + packer.flush())
        + chunk(b"IEND", b"")
    )


PICTURES = {
    "50,000 x 50,000": png(50_000, 50_000, rows=1),
    "2,000,000,000 wide": png(2_000_000_000, 1, rows=0),
    "cut short": png(64, 64, rows=3)[:-30],
    "no picture": b"hello",
    "nothing": b"",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file closefile\n",
    "PDF": b"%PDF-1.4\n",
    "text of 100 MB": png(8, 8)[:33]
    + (
        lambda data: (
            struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
        )
    )(b"a\0\0" + zlib.compress(bytes(100_000_000), 9))
    + png(8, 8)[33:],
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path: Path, name: str) -> None:
    file = tmp_path / "train-0.parquet"
    good = png(8, 8)
    pq.write_table(pa.table({"image": pa.array([good, PICTURES[name]], pa.binary()), "label": [0, 1]}), file)
    (tolerated if name.startswith("text") else refused)(
        tmp_path, lambda: load_dataset(str(tmp_path), data_dir=tmp_path / "cache")
    )


def parquet(path: Path, rows: int = 50) -> bytes:
    rng = np.random.default_rng(0)
    pq.write_table(
        pa.table(
            {
                "label": rng.integers(0, 2, rows),
                "a": rng.normal(size=rows),
                "b": rng.integers(0, 3, rows).astype(str),
            }
        ),
        path,
        row_group_size=20,
    )
    return path.read_bytes()


def bent(rng: random.Random, data: bytes) -> bytes:
    """Cut, or with a few bytes changed, doubled or left out."""
    way = rng.randrange(5)
    at = rng.randrange(len(data))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + data[at + rng.randrange(1, 20) :]
    if way == 2:
        return data[:at] + data[max(0, at - 30) :]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(data)) if way == 3 else max(0, len(data) - 1 - rng.randrange(400))
        changed[place] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def test_bent_data_files(tmp_path: Path) -> None:
    rng = random.Random(7)
    file, flat, table = tmp_path / "a.parquet", tmp_path / "b.npz", tmp_path / "c.csv"
    whole = parquet(file)
    np.savez(flat, x=np.ones((20, 3), np.float32), y=np.arange(20) % 2)
    arrays = flat.read_bytes()
    text = "label,a,b\n" + "".join(f"{row % 2},{row / 7},x{row % 3}\n" for row in range(40))
    for _ in range(ROUNDS):
        file.write_bytes(bent(rng, whole))
        tolerated(tmp_path, lambda: load_dataset(str(file)))
        tolerated(tmp_path, lambda: read_labels(file))
        flat.write_bytes(bent(rng, arrays))
        tolerated(tmp_path, lambda: load_dataset(str(flat)))
        table.write_bytes(bent(rng, text.encode()))
        tolerated(tmp_path, lambda: load_dataset(str(table)))


def test_a_nested_bomb_in_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    # One value in a dictionary, two hundred million rows of it: a few hundred bytes on the disk.
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int8)), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"label": np.zeros(1000, int), "a": column}), file, compression="zstd")
    assert file.stat().st_size < 1e6
    tolerated(tmp_path, lambda: load_dataset(str(file)))
    kind: pa.DataType = pa.int8()
    for _ in range(200):
        kind = pa.list_(kind)
    pq.write_table(pa.table({"label": pa.array([0, 1]), "a": pa.nulls(2, kind)}), file)
    refused(tmp_path, lambda: load_dataset(str(file)))


CSV = {
    "one endless line": b"label,a\n0," + b"9" * 50_000_000,
    "a million columns": b",".join(b"c%d" % number for number in range(200_000))
    + b"\n"
    + b"1," * 199_999
    + b"1\n",
    "NUL": b"label,a\n0,\0\n1,2\n",
    "UTF-16": "label,a\n0,1\n".encode("utf-16"),
    "latin-1": b"label,a\n0,caf\xe9\n1,x\n",
    "quotes": b'label,a\n0,"' + b"x" * 1000,
    "ragged": b"label,a\n0,1,2,3\n",
    "nothing": b"",
    "a heading": b"label,a\n",
    "twice": b"label,label\n0,1\n",
}


@pytest.mark.parametrize("name", CSV)
def test_csv(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(CSV[name])
    tolerated(tmp_path, lambda: load_dataset(str(file)))
    tolerated(tmp_path, lambda: read_labels(file))


def test_a_gzip_bomb(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    with gzip.open(file, "wb", compresslevel=9) as stream:
        stream.write(b"label,a\n")
        for _ in range(10):
            stream.write(b"0,1\n" * (1 << 20))  # 40 MB, of which a table takes four times as much
    refused(tmp_path, lambda: load_dataset(str(file)), allowed=60_000_000)


# --- folders of other projects ------------------------------------------------------------------------------


def lira_folder(place: Path) -> Path:
    for model in ("0", "1"):
        (place / model).mkdir(parents=True)
        np.save(place / model / "keep.npy", np.array([True, False, True, False]))
        np.save(place / model / "scores.npy", np.zeros((4, 1)))
    return place


def test_folders_with_links_to_nowhere_and_everywhere(tmp_path: Path) -> None:
    folder = lira_folder(tmp_path / "lira")
    for number, aim in enumerate(
        ("/", "/proc/self", "/etc/passwd", "/dev/zero", "nothing", ".", "/proc/self/fd")
    ):
        link = folder / f"2{number}"
        link.mkdir()
        (link / "keep.npy").symlink_to(aim)
        lake = Lake.open(tmp_path / "lake", create=True)
        # A link to nothing is no model, and its folder left out.
        check = tolerated if aim == "nothing" else refused
        assert "/bin" not in str(check(tmp_path, lambda lake=lake: import_lira(lake, "e", folder)))
        (link / "keep.npy").unlink()
        link.rmdir()
    (folder / "2").symlink_to(folder)
    tolerated(tmp_path, lambda: import_lira(Lake.open(tmp_path / "lake"), "f", folder))
    for importer, link in (
        (import_loss_traces, tmp_path / "traces" / "losses" / "a.pq"),
        (import_privacy_meter, tmp_path / "meter" / "models" / "memberships.npy"),
    ):
        link.parent.mkdir(parents=True)
        for aim in ("/dev/zero", "/etc/passwd", "nothing", "/"):
            link.symlink_to(aim)
            importing = partial(importer, Lake.open(tmp_path / "lake"), "g", link.parent.parent)
            refused(tmp_path, importing)
            link.unlink()


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/mem", "/", "."])
def test_devices_are_no_data(tmp_path: Path, path: str) -> None:
    for end in (".npy", ".npz", ".csv", ".parquet", ".toml"):
        link = tmp_path / f"a{end}"
        link.symlink_to(path)
        refused(tmp_path, lambda link=link: load_dataset(str(link)))
        refused(tmp_path, lambda link=link: read_labels(link))
        tolerated(tmp_path, lambda link=link: load_recipe(link, {}))  # of an empty file: the defaults
        refused(tmp_path, lambda link=link: load_rules(link, "upper"))


# --- TOML ---------------------------------------------------------------------------------------------------

TOML = {
    "deep": "a = " + "[" * 5000 + "]" * 5000,
    "deep tables": "a = " + "{a = " * 5000 + "1" + "}" * 5000,
    "dotted": ".".join("a" * 1000) + " = 1",
    "not TOML": "model = = 1",
    "huge number": "epochs = " + "9" * 10_000,
    "infinite": "lr = inf",
    "nan": "lr = nan",
    "negative": "epochs = -5",
    "text": 'epochs = "many"',
    "list": "epochs = [1, 2]",
    "unknown": "colour = 1",
    "beside": "lr = 1\n[recipe]\nlr = 2",
    "NUL": "model = '\0'",
    "date": "epochs = 2020-01-01",
    "table": "[model]\na = 1",
    "options": "[model_options]\na = {b = 1}",
}


@pytest.mark.parametrize("name", TOML)
def test_recipes_and_rules(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(TOML[name], encoding="utf-8")
    refused(tmp_path, lambda: load_recipe(file, {}))
    refused(tmp_path, lambda: load_rules(file, "upper"))
    file.write_text(f"[[rule]]\nmetric = 'auc'\nscore = 'lira'\nmax = 1\n{TOML[name]}", encoding="utf-8")
    refused(tmp_path, lambda: load_rules(file, "upper"))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xff\xfe\0\x80")
    refused(tmp_path, lambda: load_recipe(file, {}))
    refused(tmp_path, lambda: load_rules(file, "upper"))


# --- manifests ----------------------------------------------------------------------------------------------


def make_lake(place: Path) -> Lake:
    lake = Lake.open(place / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": [0, 1, 0, 1]}), dataset={"spec": "digits"})
    for name, role in (("t", "target"), ("s", "shadow")):
        with lake.write_run("e", name, members=np.array([True, False, True, False])) as writer:
            writer.append_signals(np.arange(4), np.zeros(4, int), None, loss=np.ones(4), phi=np.ones(4))
            writer.commit(RunInfo(role=role, recipe={"model": "mlp"}))
    return lake


def rewrite(lake: Lake, path: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Put a changed manifest in a manifest's place, with a checksum that fits: what a hostile lake holds."""
    file = Path(lake.path) / path
    content = json.loads(file.read_bytes())
    content.pop("checksum")
    format_version = content.pop("format")
    changed = change(content)
    content = content if changed is None else changed
    file.chmod(0o600)
    file.write_bytes(manifest.dump({**content, "format": format_version}))


def read_all(lake: Lake) -> None:
    """What a user does with a lake that somebody gave them."""
    opened = Lake.open(lake.path)
    for name in opened.experiments():
        opened.runs(name)
        opened.samples(name)
        opened.pictures(name, [0])
    opened.sql("select * from runs")
    opened.sql("select sum(loss) from signals")
    verify(opened)


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e400, float("nan"), "", "x", "\0", "../../etc/passwd", "/etc/passwd", "~/x", "a" * 100_000,
    [], {}, [None], {"a": 1}, [[[]]], "NUL", "e\ud800", "a\nb", "{}", "e/../../f",
)  # fmt: skip


def places_in(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield (*at, key)
            yield from places_in(content[key], (*at, key))


def test_manifests_with_any_value_anywhere(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    rng = random.Random(3)
    for path in ("experiments/e.json", "runs/experiment=e/t.json", "lake.json"):
        good = (Path(lake.path) / path).read_bytes()
        spots = list(places_in(json.loads(good)))
        for spot in spots:
            for value in rng.sample(VALUES, 2):

                def change(content: dict[str, Any], spot: tuple[Any, ...] = spot, value: Any = value) -> None:
                    inside: Any = content
                    for key in spot[:-1]:
                        inside = inside[key]
                    inside[spot[-1]] = value

                if spot[0] in ("checksum", "format"):
                    continue
                rewrite(lake, path, change)
                tolerated(tmp_path, lambda: read_all(lake))
                (Path(lake.path) / path).write_bytes(good)
    read_all(lake)


def test_what_a_lake_says_of_its_data_set(tmp_path: Path) -> None:
    from losslake.collect.experiment.prepare import DEFAULTS, prepare_experiment

    lake = Lake.open(tmp_path / "lake", create=True)
    prepare_experiment(lake, "e", dataset="digits", samples=40, pictures=False)
    good = (Path(lake.path) / "experiments/e.json").read_bytes()
    rng = random.Random(5)
    for name in ("spec", *DEFAULTS):
        for value in rng.sample(VALUES, 3):
            rewrite(lake, "experiments/e.json", lambda content: content["dataset"].update({name: value}))  # noqa: B023
            tolerated(tmp_path, lambda: prepare_experiment(lake, "e"))
            (Path(lake.path) / "experiments/e.json").write_bytes(good)


RAW = {
    "nothing": b"",
    "not JSON": b"{",
    "deep": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "list": b"[]",
    "number": b"1",
    "null": b"null",
    "NaN": b'{"format": NaN}',
    "format": b'{"format": "1"}',
    "newer": b'{"format": 99}',
    "bool": b'{"format": true}',
    "not UTF-8": b"\xff\xfe\xfa",
    "long number": b'{"format": ' + b"9" * 10_000 + b"}",
    "same key twice": b'{"format": 1, "format": 1, "kind": "run"}',
}


@pytest.mark.parametrize("name", RAW)
def test_manifests_that_are_none(tmp_path: Path, name: str) -> None:
    lake = make_lake(tmp_path)
    for path in ("runs/experiment=e/t.json", "experiments/e.json", "lake.json"):
        file = Path(lake.path) / path
        good = file.read_bytes()
        file.chmod(0o600)
        file.write_bytes(RAW[name])
        refused(tmp_path, lambda: read_all(lake))
        done = CliRunner().invoke(cli, ["lake", "verify", "--lake", lake.path])
        assert done.exit_code == 1
        file.write_bytes(good)


def test_bent_manifests_and_data_of_a_lake(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    rng = random.Random(11)
    files = [
        path for path in Path(lake.path).rglob("*") if path.is_file() and path.suffix in (".json", ".parquet")
    ]
    for _ in range(ROUNDS // 2):
        file = rng.choice(files)
        good = file.read_bytes()
        file.chmod(0o600)
        file.write_bytes(bent(rng, good))
        tolerated(tmp_path, lambda: read_all(lake))
        file.write_bytes(good)
    read_all(lake)


@pytest.mark.parametrize(
    "aim",
    ["../../secret.parquet", "/{place}/secret.parquet", "signals/experiment=e/run=t/../../../../../secret.parquet",
     "signals/experiment=e/run=s/x.parquet", "signals\\x.parquet", "signals/experiment=e/run=t/\0", "", ".", "file:///etc/x"],
)  # fmt: skip
def test_a_manifest_cannot_list_a_file_elsewhere(tmp_path: Path, aim: str) -> None:
    lake = make_lake(tmp_path)
    pq.write_table(pa.table({"a": ["xyzzy"]}), tmp_path / "secret.parquet")

    def change(content: dict[str, Any]) -> None:
        content["files"][0]["path"] = aim.format(place=tmp_path)

    rewrite(lake, "runs/experiment=e/t.json", change)
    said = refused(tmp_path, lambda: read_all(lake))
    assert "xyzzy" not in said
    with pytest.raises(CorruptLake):
        lake.run("e", "t")


def test_links_inside_a_lake_lead_nowhere(tmp_path: Path) -> None:
    """A lake that somebody gave one: its files are its own, and not ones that it points at."""
    lake = make_lake(tmp_path)
    secret = tmp_path / "secret.parquet"
    pq.write_table(pa.table({"sample_id": pa.array([4711], pa.int32())}), secret)
    file = Path(lake.path) / lake.run("e", "t").files[0].path
    file.unlink()
    file.symlink_to(secret)
    for work in (
        lambda: lake.sql("from signals"),
        lambda: lake.read_file(lake.run("e", "t").files[0]),
    ):
        assert "4711" not in refused(tmp_path, work)
    folder = Path(lake.path) / "runs" / "experiment=e"
    (tmp_path / "elsewhere").mkdir()
    (folder / "t.json").rename(tmp_path / "elsewhere" / "t.json")
    (folder / "t.json").symlink_to(tmp_path / "elsewhere" / "t.json")
    refused(tmp_path, lambda: lake.run("e", "t"))


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "/etc/x", "a/b", "a\\b", "\0", "a\0b", "", ".", ".x", "x" * 101, "CON", "nul", "com1.x", "a b", "a=b", "a\n",
     "é", "-x", "x.", "*", "a:b", "\ud800"],
)  # fmt: skip
def test_names_cannot_leave_the_lake(tmp_path: Path, name: str) -> None:
    lake = make_lake(tmp_path)
    members = np.zeros(4, bool)
    for work in (
        lambda: lake.experiment(name),
        lambda: lake.run("e", name),
        lambda: lake.runs(name),
        lambda: lake.write_run("e", name, members=members),
        lambda: lake.create_experiment(name, pa.table({"label": [0]})),
        lambda: lake.sql("from runs", experiment=name),
    ):
        refused(tmp_path, work)


# --- code -----------------------------------------------------------------------------------------------------


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that is there to be imported, and leaves a mark when it is."""
    (tmp_path / "evilmodule.py").write_text(
        "import os\nos.mkdir('ran')\ndef make(*a, **k): os.mkdir('ran')\n"
    )
    monkeypatch.chdir(tmp_path)
    return "evilmodule:make"


def collected(lake: Lake, what: str, *words: str) -> BaseException | None:
    done = CliRunner().invoke(
        cli,
        ["collect", what, "--lake", lake.path, "--experiment", "e", "--device", "cpu", "--jobs", "1", *words],
    )
    assert done.exit_code != 0
    return done.exception


FLEETS = [
    ("shadows", "--count", "2"),
    ("references", "--count", "2"),
    ("distilled", "--count", "2"),
    ("leave-one-out", "--sample", "0"),
]


@pytest.mark.parametrize("words", [*FLEETS, ("target",)], ids=lambda words: words[0])
def test_a_data_set_that_a_lake_names_runs_no_code(tmp_path: Path, evil: str, words: tuple[str, ...]) -> None:
    lake = make_lake(tmp_path)
    rewrite(lake, "experiments/e.json", lambda content: content["dataset"].update(spec=evil))
    error = collected(lake, *words)
    assert isinstance(error, InvalidOption), error
    assert f"--dataset {evil}" in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("words", FLEETS, ids=lambda words: words[0])
@pytest.mark.parametrize("flags", [(), ("--epochs", "1")], ids=["as it is", "with flags"])
def test_a_model_that_a_lake_names_runs_no_code(
    tmp_path: Path, evil: str, words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    from losslake.collect.experiment.prepare import prepare_experiment

    lake = Lake.open(tmp_path / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=40, pictures=False)
    rows = np.arange(40)
    with lake.write_run("e", "t", members=rows < 20) as writer:
        logits = np.zeros((40, len(prepared.options["classes"])), np.float32)
        writer.append_signals(rows, np.zeros(40, int), None, logits=logits, loss=np.ones(40), phi=np.ones(40))
        writer.commit(RunInfo(role="target", recipe={"model": evil, "epochs": 2}))
    error = collected(lake, *words, *flags)
    assert isinstance(error, InvalidOption), error
    assert f"--model {evil}" in str(error)
    assert not (tmp_path / "ran").exists()


def test_a_function_that_the_user_names_runs(tmp_path: Path, evil: str) -> None:
    lake = make_lake(tmp_path)
    rewrite(lake, "experiments/e.json", lambda content: content["dataset"].update(spec="digits"))
    collected(lake, "shadows", "--count", "2", "--dataset", evil)
    assert (tmp_path / "ran").exists()
