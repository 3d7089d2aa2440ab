"""Nobody but its owner may look into a lake, whatever the umask; pictures are in it only where they are wanted."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.experiment import prepare_experiment
from losslake.store.lake import Lake

AUDIT = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    os.umask(int(sys.argv[2], 8))
    place = Path(sys.argv[1])
    import torch
    torch.set_num_threads(1)
    from losslake.store import local_files
    made = local_files.LocalFiles._new
    seen = set()
    def watched(self, target, path, durable):
        # What is gone again when the audit has ended: staging, checkpoints, claims, leases, temporary files.
        file = made(self, target, path, durable)
        mode, folder = os.stat(target).st_mode & 0o777, os.stat(os.path.dirname(target)).st_mode & 0o777
        assert (mode, folder) == (0o600, 0o700), (path, oct(mode), oct(folder))
        seen.add(path.split("/")[0])
        return file
    local_files.LocalFiles._new = watched
    from losslake.analysis.report import write_report
    from losslake.analysis.catalogue import find
    from losslake.analysis.run import run_analysis
    from losslake.analysis.source import Source
    from losslake.collect.experiment import prepare_experiment
    from losslake.collect.fleet import collect_shadows, collect_target
    from losslake.collect.recipe import Recipe
    from losslake.store.compact import compact
    from losslake.store.export import export
    from losslake.store.forget import forget
    from losslake.store.gc import collect_garbage
    from losslake.store.lake import Lake
    from losslake.store.migrate import migrate
    lake = Lake.open(place / "new" / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=60)
    recipe = Recipe(model="mlp", model_options={"widths": (4,)}, epochs=2, batch_size=32, lr=0.05)
    here = {"prepared": prepared, "device": "cpu", "jobs": 1}
    collect_target(lake, "e", recipe=recipe, checkpoint_every=1, **here)
    collect_shadows(lake, "e", count=2, **here)
    with Source.open(lake, "e") as source:
        run_analysis(source, find("lira"))
    compact(lake, "e", least=2)
    forget(lake, "e", [3])
    migrate(lake)
    collect_garbage(lake)
    with Source.open(lake, "e") as source:
        run_analysis(source, find("lira"))
    export(lake, place / "copy.duckdb")
    export(lake, place / "views.duckdb", views=True)
    if sys.argv[2] == "000":
        write_report(lake, "e", place / "report.json")
    print(*sorted(seen))
""")

WRITTEN = {
    "checkpoints",
    "claims",
    "designs",
    "experiments",
    "lake.json",
    "packed",
    "pictures",
    "results",
    "runs",
    "samples",
    "scores",
    "signals",
    "staging",
    "traces",
    "writers",
}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("mask", ["000", "077"])
def test_every_file_of_a_whole_audit_is_its_owners_alone(tmp_path: Path, mask: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(tmp_path), mask], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) >= WRITTEN
    lake = tmp_path / "new" / "lake"
    found = [lake, *lake.rglob("*")]
    assert len(found) > 30
    assert {(path.is_dir(), mode(path)) for path in found} == {(True, 0o700), (False, 0o600)}
    assert {mode(tmp_path / name) for name in ("copy.duckdb", "views.duckdb")} == {0o600}
    # What a person asks for in a place of his own is as that person's files are.
    if mask == "000":
        assert mode(tmp_path / "report.json") == 0o666
    assert mode(tmp_path / "new") == 0o777 & ~int(mask, 8)


@pytest.mark.usefixtures("umask")
def test_a_lake_in_a_folder_that_others_may_look_into(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir(mode=0o777)
    lake = Lake.open(tmp_path / "lake", create=True)
    prepare_experiment(lake, "e", dataset="digits", samples=20)
    assert mode(tmp_path / "lake") == 0o777  # it is not losslake's
    inside = list((tmp_path / "lake").rglob("*"))
    assert {(path.is_dir(), mode(path)) for path in inside} == {(True, 0o700), (False, 0o600)}


# --- pictures ----------------------------------------------------------------------------------------------


def test_pictures_stay_out_of_a_lake_where_asked(tmp_path: Path) -> None:
    place = str(tmp_path / "lake")
    shown = (
        f"collect target --lake {place} --experiment e --dataset digits --samples 60 --no-pictures "
        "--model mlp --widths 4 --epochs 1 --device cpu --jobs 1"
    )
    done = CliRunner().invoke(cli, shown.split())
    assert done.exit_code == 0, done.output
    lake = Lake.open(place)
    assert {file.table for file in lake.experiment("e").files} == {"samples"}
    assert lake.pictures("e", list(range(60))) == {}
    assert lake.files.list("pictures") == []


def test_exports_have_no_pictures(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    prepare_experiment(lake, "e", dataset="digits", samples=20)
    assert len(lake.pictures("e", list(range(20)))) == 20
    for more in ([], ["--views"]):
        out = tmp_path / f"copy{len(more)}.duckdb"
        done = CliRunner().invoke(cli, ["lake", "export", str(out), "--lake", lake.path, *more])
        assert done.exit_code == 0, done.output
        with duckdb.connect(str(out), read_only=True) as opened:
            columns = opened.execute("select data_type from duckdb_columns() where not internal").fetchall()
        assert ("BLOB",) not in columns
        assert b"\x89PNG" not in out.read_bytes()


# --- what SECURITY.md says ---------------------------------------------------------------------------------


def test_every_promise_names_a_test_that_is_there() -> None:
    root = Path(__file__).parent.parent
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", (root / "SECURITY.md").read_text())
    assert len(named) > 15
    for file, test in named:
        assert f"def {test or 'test_'}" in (root / file).read_text(), (file, test)
