"""Faults of disks, permissions and clocks: a clear error, nothing half there, nothing damaged, and a repetition completes.

Small versions of ``benchmarks/faults.py``, which has every case.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import corruptions
import fault_lake
import faults
import faulty_os
import numpy as np
import pytest
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import AlreadyExists, CorruptLake, LosslakeError
from losslake.store.lake import Lake
from losslake.store.read import changes
from losslake.store.upkeep.verify import verify
from losslake.store.write.leases import claim

ROWS = "select run, sum(loss) as total from signals group by run order by run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "lake"
    corruptions.whole_lake(root)
    return root


@pytest.fixture
def lake(whole: Path, tmp_path: Path) -> Lake:
    return Lake.open(fault_lake.copy(whole, tmp_path / "lake"))


def own_signals(lake: Lake) -> Path:
    (found,) = Path(lake.path).glob("signals/experiment=e/run=target/*.parquet")
    return found


def change(path: Path, *, keep_time: bool = False) -> None:
    """Change a byte of the first page, which neither query engine notices."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", faults.INSIDE)
def test_calls_that_fail(tmp_path: Path, name: str) -> None:
    outcome = faults.sweep(tmp_path, name, step=797, first=sum(map(ord, name)) % 397)
    assert outcome.broken == []
    assert outcome.cases >= 2


@pytest.mark.parametrize("name", ["collect", "export"])
def test_files_that_may_not_grow(tmp_path: Path, name: str) -> None:
    outcome = faults.full(tmp_path, name, [0, 2048])
    assert outcome.broken == []
    assert outcome.errors >= 1


def test_a_lake_of_somebody_elses(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    # Folders above have to be open to everybody.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    outcome = faults.forbidden(tmp_path, "result")
    assert outcome.broken == []
    assert outcome.errors >= 2


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    assert faults.clock(tmp_path, "collect", moments=2).broken == []


def test_random_corruptions(whole: Path, tmp_path: Path) -> None:
    found = corruptions.corrupt(whole, tmp_path / "lake", 12, 5)
    assert (found.found, found.missed, found.silent) == (12, [], [])


def test_a_changed_byte_is_an_error_for_every_reader(lake: Lake) -> None:
    change(own_signals(lake))
    for read in (
        lambda: lake.sql(ROWS),
        lambda: lake.scan("signals").collect(),
        lambda: lake.run_rows(lake.run("e", "target")),
        lambda: open_source(lake, "e"),
    ):
        with pytest.raises(CorruptLake, match=r"run=target/.*lake verify"):
            read()


def test_files_that_were_only_copied_are_read(lake: Lake) -> None:
    wanted = lake.sql(ROWS)
    changes._found_whole.clear()
    for path in Path(lake.path).rglob("*.parquet"):
        os.utime(path, None)
    assert lake.sql(ROWS).equals(wanted)
    assert len(changes._found_whole) >= 4


def test_what_leaves_no_time_is_found_by_verify(lake: Lake) -> None:
    change(own_signals(lake), keep_time=True)
    assert len(verify(lake).damage) == 1
    with pytest.raises(CorruptLake, match="run=target"):
        lake.run_rows(lake.run("e", "target"))


def test_another_files_rows_are_not_taken_for_its_own(lake: Lake) -> None:
    (samples,) = Path(lake.path).glob("samples/**/*.parquet")
    (pictures,) = Path(lake.path).glob("pictures/**/*.parquet")
    data = samples.read_bytes()
    samples.write_bytes(pictures.read_bytes())
    pictures.write_bytes(data)
    for read in (lambda: lake.samples("e"), lambda: lake.pictures("e", [1])):
        with pytest.raises(CorruptLake, match="its manifest says"):
            read()


def test_a_folder_in_the_place_of_a_run_is_damage(lake: Lake) -> None:
    place = Path(lake.path) / "runs/experiment=e/shadow.json"
    place.unlink()
    place.mkdir()
    assert ["shadow.json" in sentence for sentence in verify(lake).damage] == [True]
    with pytest.raises(CorruptLake, match=r"shadow\.json"):
        lake.runs("e")
    with (
        pytest.raises((AlreadyExists, CorruptLake)),
        lake.write_run("e", "shadow", members=np.zeros(24, bool)),
    ):
        pass


def test_a_missing_file_is_an_error_for_polars_too(lake: Lake) -> None:
    own_signals(lake).unlink()
    with pytest.raises(CorruptLake, match="run=target"):
        lake.scan("signals")


def test_a_claim_that_could_not_be_removed_is_no_obstacle_in_the_same_process(lake: Lake) -> None:
    broken = faulty_os.Faults(0, errno.EIO, lasting=True)
    held = claim(lake.files, "experiment=e")
    held.__enter__()
    with faulty_os.faulty(broken):
        held.__exit__(None, None, None)
    assert len(lake.files.list("claims")) == 1
    with (
        claim(lake.files, "experiment=e"),
        pytest.raises(LosslakeError, match="another process"),
        claim(lake.files, "experiment=e"),
    ):
        pass
