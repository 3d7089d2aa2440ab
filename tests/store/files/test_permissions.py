"""Nobody but its owner may look into a lake, whatever the umask; pictures are in it only where they are wanted."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from losslake.analysis.report.write import write_report
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.cli import cli
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.recipe import Recipe
from losslake.store.delta.publish import publish
from losslake.store.files.local import LocalFiles
from losslake.store.format import paths
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.migrate import migrate
from losslake.store.write import index
from losslake.store.write.index import write_index
from places import ROOT

WRITTEN = {
    "checkpoints",
    "claims",
    "delta",
    "designs",
    "experiments",
    "index",
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


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """The folders of a lake that files are made in; each file must be its owner's alone.

    Among them are those that are gone when the audit has ended: staging, checkpoints, claims, leases, temporary files.
    """
    made, seen = LocalFiles._new, set[str]()

    def watched(self: LocalFiles, target: str, path: str, durable: bool) -> Any:
        file = made(self, target, path, durable)
        if not target.startswith(str(tmp_path.resolve())):  # of another lake, whose lease is renewed
            return file
        assert (mode(Path(target)), mode(Path(target).parent)) == (0o600, 0o700), path
        seen.add(path.split("/")[0])
        return file

    monkeypatch.setattr(LocalFiles, "_new", watched)
    return seen


def audit(place: Path, *, report: bool) -> None:
    """Everything that writes into a lake, and what is written beside it."""
    lake = Lake.open(place / "new" / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=60)
    recipe = Recipe(model="mlp", model_options={"widths": (4,)}, epochs=2, batch_size=32, lr=0.05)
    here: dict[str, Any] = {"prepared": prepared, "device": "cpu", "jobs": 1}
    collect_target(lake, "e", recipe=recipe, checkpoint_every=1, **here)
    collect_shadows(lake, "e", count=2, **here)
    with open_source(lake, "e") as source:
        run_analysis(source, find("lira"))
    compact(lake, "e", least=2)
    forget(lake, "e", [3])
    migrate(lake)
    collect_garbage(lake)
    with open_source(lake, "e") as source:
        run_analysis(source, find("lira"))
    export(lake, place / "copy.duckdb")
    export(lake, place / "views.duckdb", views=True)
    publish(lake, keep=True)
    write_index(lake.files, "e", wait=True)
    assert lake.files.exists(paths.index("e"))
    if report:
        write_report(lake, "e", place / "report.json")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_every_file_of_a_whole_audit_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: set[str], mask: int
) -> None:
    monkeypatch.setattr(
        index, "LEAST", 2
    )  # few runs are enough for an index, and it need not wait for the disk's clock
    monkeypatch.setattr(index, "SETTLED", -0.1)
    with umask(mask):
        audit(tmp_path, report=mask == 0)
    assert written >= WRITTEN
    lake = tmp_path / "new" / "lake"
    found = [lake, *lake.rglob("*")]
    assert len(found) > 30
    assert {(path.is_dir(), mode(path)) for path in found} == {(True, 0o700), (False, 0o600)}
    assert {mode(tmp_path / name) for name in ("copy.duckdb", "views.duckdb")} == {0o600}
    # What a person asks for in a place of his own is as that person's files are.
    if mask == 0:
        assert mode(tmp_path / "report.json") == 0o666
    assert mode(tmp_path / "new") == 0o777 & ~mask


def test_a_lake_in_a_folder_that_others_may_look_into(tmp_path: Path) -> None:
    with umask(0):
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
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 15
    for file, test in named:
        functions = re.findall(r"^def (test_\w+)\(", (ROOT / file).read_text(), re.M)
        assert test in functions or (functions and not test), (file, test)


def test_every_threat_says_who_what_stops_them_and_by_which_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    who = ""
    for row in rows:
        actor, act, stop, test = (cell.strip() for cell in row.strip("|").split(" | "))
        who = actor or who
        assert who, row
        assert act, row
        assert stop, row
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`(, `tests/[\w/]+\.py::test_\w+`)*", test), row
