"""``losslake collect import``: which layout takes which options, and files made to break a reader."""

from __future__ import annotations

import contextlib
import random
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.data.npy import npy_file
from losslake.collect.importers.arrays import import_arrays
from losslake.collect.importers.layouts import LAYOUTS, import_layout
from losslake.store.errors import InvalidInput, InvalidOption, LosslakeError
from losslake.store.lake import Lake

N, C = 12, 3


def lira_folder(path: Path) -> Path:
    rng = np.random.default_rng(0)
    for m in range(4):
        (path / str(m)).mkdir(parents=True)
        np.save(path / str(m) / "keep.npy", rng.random(N) < 0.5)
        np.save(path / str(m) / "logits.npy", rng.normal(size=(N, 1, C)).astype(np.float32))
    np.save(path / "labels.npy", np.arange(N) % C)
    return path


def test_command(tmp_path: Path) -> None:
    path, lake = lira_folder(tmp_path / "exp"), str(tmp_path / "lake")
    given = ["collect", "import", "lira", str(path), "--lake", lake, "--experiment", "e", "--target", "2"]
    runner = CliRunner()
    done = runner.invoke(cli, [*given, "--labels", str(path / "labels.npy")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "4 runs in" in done.stdout
    roles = [run.info.role for run in Lake.open(lake).runs("e")]
    assert roles == ["shadow", "shadow", "target", "shadow"]
    scored = runner.invoke(cli, ["analyze", "lira", "--lake", lake], catch_exceptions=False)
    assert scored.exit_code == 0, scored.output


def test_help_names_every_layout_and_option() -> None:
    text = CliRunner().invoke(cli, ["collect", "import", "--help"]).output
    for layout in LAYOUTS:
        assert f"\n  {layout.name}  " in text
        assert f"losslake collect import {layout.name} " in text
        for option in layout.takes:
            assert f"--{option} " in text


def test_options_that_do_not_go_with_a_layout(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    with pytest.raises(InvalidOption, match=r"'lra'.*Did you mean 'lira'"):
        import_layout("lra", lake, "e", tmp_path)
    with pytest.raises(InvalidOption, match="--rows does not go with lira; it is for privacy-meter"):
        import_layout("lira", lake, "e", tmp_path, rows=tmp_path / "x.npy", labels=None)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_version(tmp_path: Path, version: tuple[int, int]) -> None:
    values = np.arange(6, dtype=">f4").reshape(2, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=version)
    assert np.array_equal(npy_file(tmp_path / "a.npy").open(), values)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 9999999999), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (99999999999,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<q9', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f4', 'fortran_order': 7, 'shape': 'x', }",
        "{1: 2, 'a': 3}",
        "(" * 5000,
        "__import__('os').system('false')",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, }",
        "",
    ],
)
def test_headers_that_lie(tmp_path: Path, header: str) -> None:
    text = header.encode() + b" " * (-len(header) % 64) + b"\n"
    content = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + bytes(12)
    (tmp_path / "a.npy").write_bytes(content)
    began = time.process_time()
    with pytest.raises(InvalidInput, match=r"a\.npy: "):
        npy_file(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", keep=np.zeros((2, 3), bool), loss=np.zeros((2, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("labels.npy", content)
    with pytest.raises(InvalidInput, match=r"a\.npz: array labels: "):
        import_arrays(Lake.open(tmp_path / "lake", create=True), "e", tmp_path / "a.npz")
    assert time.process_time() - began < 5  # of this process: a busy machine takes no more


def test_random_damage_is_named(tmp_path: Path) -> None:
    """Any byte may be wrong: then the import says so, or the values differ, and nothing else happens."""
    path = lira_folder(tmp_path / "exp")
    (tmp_path / "arrays").mkdir()
    np.savez_compressed(
        tmp_path / "arrays" / "a.npz",
        labels=np.arange(N) % C,
        keep=np.eye(2, N, dtype=bool),
        loss=np.ones((2, N)),
        groups=np.array(["a"] * N),
    )
    lake = Lake.open(tmp_path / "lake", create=True)
    rng = random.Random(0)
    for layout, file, labels in (
        ("lira", path / "1" / "logits.npy", path / "labels.npy"),
        ("lira", path / "1" / "keep.npy", path / "labels.npy"),
        ("arrays", tmp_path / "arrays" / "a.npz", None),
    ):
        good = file.read_bytes()
        for number in range(60):
            bad = bytearray(good)
            for _ in range(rng.randint(1, 3)):
                bad[rng.randrange(min(len(bad), 200) if rng.random() < 0.6 else len(bad))] = rng.randrange(
                    256
                )
            file.write_bytes(bad)
            source = path if layout == "lira" else file
            with contextlib.suppress(LosslakeError):
                import_layout(layout, lake, f"e{number % 4}", source, labels=labels)
        file.write_bytes(good)
