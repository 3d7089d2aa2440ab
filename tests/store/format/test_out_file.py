"""Where --out leads: files whole or not at all, behind links, through pipes and devices."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from losslake.store.errors import LosslakeError
from losslake.store.format.out_file import check_out_file, out_file
from warm import HANGS


def put(path: Path, data: bytes = b"new") -> None:
    with out_file(path) as file:
        file.write(data)


def test_missing_folders_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b" / "x.csv")
    assert (tmp_path / "a" / "b" / "x.csv").read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_what_raises_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"old")

    def fail() -> None:
        with out_file(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("x.csv", b"old")]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    goal = tmp_path / "far" / "goal.csv"
    goal.parent.mkdir()
    if there:
        goal.write_bytes(b"old")
        goal.chmod(0o640)
    link = tmp_path / "link.csv"
    link.symlink_to("far/goal.csv")
    put(link)
    assert link.is_symlink()
    assert goal.read_bytes() == b"new"
    if there:
        assert goal.stat().st_mode & 0o777 == 0o640


def test_through_a_named_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    put(pipe, b"x" * 200_000)
    reader.join(HANGS)
    assert got == [b"x" * 200_000]
    assert pipe.is_fifo()


def test_devices_stay(tmp_path: Path) -> None:
    before = os.stat("/dev/null").st_rdev
    put(Path("/dev/null"))
    assert os.stat("/dev/null").st_rdev == before


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "link"])
def test_standard_output_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    if name == "link":
        name = str(tmp_path / "link")
        os.symlink("/dev/stdout", name)
    text = (
        "import sys; from pathlib import Path; from losslake.store.format.out_file import check_out_file, out_file\n"
        "print('before')\n"
        "with out_file(Path(sys.argv[1])) as file: file.write(b'new\\n')\n"
        "print('after')\n"
    )
    command = [sys.executable, "-P", "-c", text, name]
    done = subprocess.run(command, capture_output=True, check=True)  # a pipe
    assert done.stdout == b"before\nnew\nafter\n"
    with (tmp_path / "out").open("wb") as file:  # a file, as behind the shell's >
        subprocess.run(command, stdout=file, check=True)
    assert (tmp_path / "out").read_bytes() == b"before\nnew\nafter\n"


@pytest.mark.parametrize("name", ["folder", "file/x.csv", "nul\0.csv"])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(LosslakeError, match="cannot write"):
        put(tmp_path / name)
    with pytest.raises(LosslakeError, match="cannot write"):
        check_out_file(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("name", ["new.csv", "a/b/new.csv", "file", "link"])
def test_what_can_be_written_passes_beforehand_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    check_out_file(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]
    put(tmp_path / name)
