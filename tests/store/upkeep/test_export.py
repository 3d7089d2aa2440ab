"""The lake as a database file, its scores from Python, and its runs as a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import losslake
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.cli import _run
from losslake.store.errors import AlreadyExists, InvalidOption, LosslakeError, NotFound
from losslake.store.lake import Lake
from losslake.store.query.views import VIEWS
from losslake.store.upkeep.export import export
from losslake.store.upkeep.runs import for_reading, run_table, running
from polars.testing import assert_frame_equal

MakeLake = Callable[..., Lake]


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two experiments in a folder whose name must be quoted; one has half-precision logits and traces."""
    rng = np.random.default_rng(0)
    keep = np.arange(30) % 2 == np.arange(6)[:, None] % 2
    made = Lake.open(tmp_path_factory.mktemp("it's a") / "lake", create=True)
    lake_of(
        keep,
        logits=rng.normal(size=(6, 30, 3)).astype(np.float16),
        traces={"loss": rng.random((30, 4))},
        columns={"note": ["a'b"] * 30},
        names=["target", *(f"000{m}" for m in range(5))],
        lake=made,
    )
    lake_of(keep, rng.normal(size=keep.shape), experiment="other", lake=made)
    assert _run(["analyze", "lira", "--lake", made.path, "--experiment", "tests"], debug=False) == 0
    return made


@pytest.mark.parametrize("views", [False, True])
def test_a_database_holds_what_the_lake_shows(lake: Lake, tmp_path: Path, views: bool) -> None:
    path = tmp_path / "new" / "lake.duckdb"
    counts = export(lake, path, views=views)
    assert [entry.name for entry in path.parent.iterdir()] == ["lake.duckdb"]
    assert path.stat().st_mode & 0o777 == 0o600
    with duckdb.connect(str(path), read_only=True) as connection:
        kinds = dict(
            connection.sql("select table_name, table_type from information_schema.tables").fetchall()
        )
        for view in VIEWS:
            found = connection.table(view).pl() if kinds[view] != "VIEW" else connection.view(view).pl()
            expected = lake.sql(f"from {view}")
            assert counts[view] == len(expected)
            keys = [
                name
                for name in (
                    "experiment",
                    "run",
                    "analysis",
                    "metric",
                    "sample_id",
                    "epoch",
                    "parameters",
                    "label",
                )
                if name in expected.columns
            ]
            assert_frame_equal(found.sort(keys), expected.sort(keys))
        assert len(connection.sql("select lt_iqr(loss) from traces").fetchall()) == 30
    linked = {"samples", "signals", "traces", "scores"} if views else set()
    assert {name for name, kind in kinds.items() if kind == "VIEW"} == linked | {"trace_points", "risk"}


def test_copies_outlive_the_lake(lake_of: MakeLake, tmp_path: Path) -> None:
    import shutil

    made = lake_of(np.arange(8)[None] % 2 == 0, np.zeros((1, 8)))
    export(made, tmp_path / "copy.duckdb")
    shutil.rmtree(made.path)
    with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as connection:
        assert connection.sql("select count(*) from signals").fetchall() == [(8,)]
        assert connection.sql("select count(*) from trace_points").fetchall() == [(0,)]


@pytest.mark.parametrize("views", [False, True])
def test_an_empty_lake_and_one_experiment(lake: Lake, tmp_path: Path, views: bool) -> None:
    empty = Lake.open(tmp_path / "empty", create=True)
    assert set(export(empty, tmp_path / "none.duckdb", views=views).values()) == {0}
    counts = export(lake, tmp_path / "one.duckdb", "other", views=views)
    assert (counts["runs"], counts["signals"], counts["scores"]) == (6, 180, 0)


def test_nothing_is_overwritten_by_accident(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "lake.duckdb"
    path.write_text("precious")
    with pytest.raises(AlreadyExists, match="--force"):
        export(lake, path)
    assert path.read_text() == "precious"
    export(lake, path, force=True)
    assert path.read_bytes()[8:12] == b"DUCK"
    inside = Path(lake.path) / "runs" / "x.duckdb"
    with pytest.raises(InvalidOption, match="inside the lake"):
        export(lake, inside, force=True)
    with pytest.raises(NotFound):
        export(lake, tmp_path / "y.duckdb", "nothing")
    with pytest.raises(LosslakeError, match="cannot write"):
        export(lake, Path("/proc/none/x.duckdb"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["lake.duckdb"]


def test_a_failed_export_leaves_the_old_file(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lake.duckdb"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("losslake.store.upkeep.export._count", fail)
    with pytest.raises(KeyboardInterrupt):
        export(lake, path, force=True)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("lake.duckdb", "before")]


def test_the_command(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "a.duckdb")
    command = ["lake", "export", path, "--lake", lake.path]
    assert _run(command, debug=False) == 0
    said = capsys.readouterr()
    assert "signals 360" in said.out
    assert said.err == ""
    assert _run(command, debug=False) == 1
    assert "--force" in capsys.readouterr().err
    assert _run([*command, "--force", "--views"], debug=False) == 0
    assert "what is committed now" in capsys.readouterr().err


# --- from Python ------------------------------------------------------------------------------------------


def test_scores_are_read_or_computed(lake: Lake) -> None:
    opened = losslake.open(lake.path, create=False)
    frame = opened.scores("lira", experiment="tests")
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns[:3] == ["sample_id", "member", "score"]
    kept = opened.sql(
        "select sample_id, score from scores where analysis = $name and variant = ''", {"name": "lira"}
    )
    assert_frame_equal(frame.select("sample_id", "score"), kept.sort("sample_id"))
    offline = opened.scores("lira[mode=offline]", experiment="tests", target="0002", arrow=True)
    assert isinstance(offline, pa.Table)
    assert offline.num_rows == 30
    with pytest.raises(InvalidOption, match="several experiments"):
        opened.scores("lira")
    with pytest.raises(InvalidOption, match="nothing"):
        opened.scores("nothing", experiment="tests")


def test_sql_answers_in_arrow_too(lake: Lake) -> None:
    table = lake.sql("select $x + 1 as y", {"x": 1}, arrow=True)
    assert isinstance(table, pa.Table)
    assert table.to_pydict() == {"y": [2]}


# --- runs in the making -----------------------------------------------------------------------------------


def test_runs_in_the_making_are_listed(lake_of: MakeLake, capsys: pytest.CaptureFixture[str]) -> None:
    made = lake_of(np.arange(8)[None] % 2 == 0, np.zeros((1, 8)), names=["done"])
    writers = [made.write_run("tests", name, members=np.ones(8, bool)) for name in ("a", "b", "c")]
    for epoch in range(3):
        writers[0].append_epoch("eval", epoch, np.arange(8), loss=np.zeros(8))
    writers[1].append_signals(np.arange(8), np.zeros(8, int), None, loss=np.zeros(8), phi=np.zeros(8))
    old = time.time() - 7300
    for file in Path(made.path).glob("staging/*/run=a/*/*"):
        os.utime(file, (old, old))
    found = running(made, ["tests"])
    assert [(one.run, one.state) for one in found] == [
        ("a", "collecting, epoch 2"),
        ("b", "collecting, signals"),
    ]
    frame = run_table(made)
    assert frame["run"].to_list() == ["done", "a", "b"]
    assert frame["state"].to_list() == ["committed", "collecting, epoch 2", "collecting, signals"]
    shown = for_reading(frame, datetime.now(UTC))
    assert shown["age"][1] == "2 h"
    assert "experiment" not in shown.columns
    command = ["lake", "runs", "--lake", made.path, "--format", "json"]
    assert _run(command, debug=False) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == frame["state"].to_list()
    assert rows[1]["members"] is None
    for writer in writers:
        writer.discard()
    assert running(made, ["tests"]) == []
    assert run_table(made)["run"].to_list() == ["done"]


def test_leftovers_of_a_committed_run_are_no_run_in_the_making(lake_of: MakeLake) -> None:
    made = lake_of(np.arange(8)[None] % 2 == 0, np.zeros((1, 8)), names=["done"])
    left = Path(made.path) / "staging" / "experiment=tests" / "run=done" / "0123" / "eval-000001.arrow"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"")
    (Path(made.path) / "staging" / "experiment=tests" / "stray").write_bytes(b"")
    assert running(made, ["tests"]) == []


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from losslake.cli import main; main()"],
        env=os.environ
        | {"_LOSSLAKE_COMPLETE": "bash_complete", "COMP_WORDS": "losslake l", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,lake"]
