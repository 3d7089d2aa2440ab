"""`losslake sql` and `losslake lake` from outside: formats, files, the shell, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.shell.output import write_frame
from warm import OF_SQL, warm_losslake

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    lake = Lake.open(tmp_path_factory.mktemp("lakes") / "lake", create=True)
    for experiment in ("e", "f"):
        lake.create_experiment(experiment, pa.table({"label": [0, 1, 1]}))
        with lake.write_run(experiment, "r", members=np.array([True, False, True])) as writer:
            ids = np.arange(3)
            writer.append_signals(
                ids, ids * 0, ids % 2, loss=ids / 4, phi=ids - 1, logits=np.ones((3, 2), np.float16)
            )
            writer.commit(RunInfo(role="target", model="mlp", seconds=1.5))
    return lake.path


@pytest.fixture(scope="module")
def losslake(path: str) -> Run:
    command = warm_losslake(OF_SQL)

    def run(
        *arguments: str, stdin: str | None = None, columns: int = 100
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"LOSSLAKE_LAKE": path, "COLUMNS": str(columns)},
        )

    return run


def test_a_query_prints_a_table_that_fits(losslake: Run) -> None:
    for columns in (40, 80, 200):
        done = losslake("sql", "from signals order by all", columns=columns)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[-1] == "6 rows"
        assert len(lines) == 6 + 4 + 1
        assert {len(line) for line in lines[:-1]} == {len(lines[0])}
        assert len(lines[0]) <= columns
        assert done.stdout.isprintable() or "\x1b" not in done.stdout
    assert "[1, 1]" in done.stdout
    assert "NULL" in done.stdout


def test_long_answers_show_both_ends_and_say_so(losslake: Run) -> None:
    done = losslake("sql", "select i as number from range(1000) t(i)")
    lines = done.stdout.splitlines()
    assert lines[-1] == "1000 rows, 40 shown"
    assert len(lines) == 46
    assert "999" in lines[-3]
    done = losslake("sql", "select i as number from range(300000) t(i)")
    assert "more than 100000 rows" in done.stdout.splitlines()[-1]
    assert len(done.stdout.splitlines()) == 46


def test_what_is_in_a_cell_cannot_drive_the_terminal(losslake: Run) -> None:
    done = losslake(
        "sql", "select chr(27) || '[31m' || chr(10) || 'x' || repeat('y', 500) as text, '汉字' as wide"
    )
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 6


def test_formats_on_standard_output(losslake: Run) -> None:
    query = "select experiment, sample_id, phi, logits from signals order by all limit 2"
    found = list(csv.DictReader(io.StringIO(losslake("sql", query, "--format", "csv").stdout)))
    assert found[0] == {"experiment": "e", "sample_id": "0", "phi": "-1.0", "logits": "[1.0,1.0]"}
    rows = json.loads(losslake("sql", query, "--format", "json").stdout)
    assert rows[1] == {"experiment": "e", "sample_id": 1, "phi": 0.0, "logits": [1.0, 1.0]}


def test_results_go_to_files_by_their_extension(losslake: Run, tmp_path: Path) -> None:
    for name in ("a.csv", "b.json", "deep/er/c.parquet"):
        done = losslake(
            "sql",
            "select sample_id, phi from signals where experiment = 'e' order by 1",
            "--out",
            str(tmp_path / name),
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = {"sample_id": [0, 1, 2], "phi": [-1.0, 0.0, 1.0]}
    assert pl.read_csv(tmp_path / "a.csv").to_dict(as_series=False) == expected
    assert pl.read_json(tmp_path / "b.json").to_dict(as_series=False) == expected
    assert pl.read_parquet(tmp_path / "deep/er/c.parquet").to_dict(as_series=False) == expected
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.csv", "b.json", "deep"]


def test_a_query_from_a_file_or_from_standard_input(losslake: Run, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("-- how many\nselect count(*) as n\nfrom signals;\n", encoding="utf-8")
    by_file = losslake("sql", "-f", str(tmp_path / "q.sql"), "--format", "csv")
    by_pipe = losslake("sql", "--file", "-", "--format", "csv", stdin="select count(*) as n from signals")
    assert by_file.stdout == by_pipe.stdout == "n\n6\n"
    scoped = losslake("sql", "select count(*) as n from signals", "--experiment", "e", "--format", "csv")
    assert scoped.stdout == "n\n3\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sql", "selec 1"], 1, "syntax error"),
        (["sql", "select nothing from runs"], 1, "nothing"),
        (["sql", "copy runs to 'x'"], 1, "--out"),
        (["sql", "from runs", "--lake", "/nowhere"], 1, "no lake at /nowhere"),
        (["sql", "from runs", "--experiment", "g"], 1, "experiments: e, f"),
        (["sql", "from runs", "--experiment", "../e"], 2, "not usable"),
        (["sql", "from runs", "-f", "q.sql"], 2, "not both"),
        (["sql", "-f", "/nowhere.sql"], 2, "/nowhere.sql"),
        (["sql", "from runs", "--out", "x.txt"], 2, "--format"),
        (["sql", "from runs", "--out", "x.csv", "--format", "table"], 2, "--format"),
        (["sql", "from runs", "--format", "xml"], 2, "xml"),
        (["sql", "from runs", "--memory", "lots"], 2, "4GB"),
        (["sql", "from runs", "--nothing"], 2, "--nothing"),
        (["sql", "from runs", "--out", "/proc/none/x.csv"], 1, "/proc/none/x.csv"),
        (["sql", "select ['a'::blob]", "--format", "csv"], 2, "bytes"),
        (["lake", "runs", "--experiment", "g"], 1, "experiments: e, f"),
    ],
)
def test_what_goes_wrong_is_said_on_standard_error(
    losslake: Run, arguments: list[str], code: int, said: str
) -> None:
    done = losslake(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_lake_named_is_wrong_usage(path: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LOSSLAKE_LAKE"}
    command = [sys.executable, "-m", "losslake.cli", "sql", "from runs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "--lake" in done.stderr


def test_a_shell_through_a_pipe(losslake: Run) -> None:
    script = ".views\n.schema runs\nselect count(*)\n  as six from signals;\n\nselect 'last' as word"
    done = losslake("sql", stdin=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("samples\nclasses\nruns\nsignals\n")
    assert "runs(experiment VARCHAR, run VARCHAR" in done.stdout
    assert "│ six │" in done.stdout
    assert done.stdout.rstrip().endswith("1 row")
    assert "last" in done.stdout


def test_a_shell_goes_on_after_an_error_and_fails_at_the_end(losslake: Run) -> None:
    done = losslake(
        "sql",
        stdin="from nothing;\n.schema nothing\n.what\nselect 41 + 1 as answer;\n.quit\nselect 'never';\n",
    )
    assert done.returncode == 1
    assert "42" in done.stdout
    assert "never" not in done.stdout
    assert done.stderr.count("error: ") == 3
    assert ".schema [VIEW]" in done.stderr


@pytest.mark.parametrize("word", ["exit", "quit", "QUIT;", ".exit"])
def test_a_shell_ends_with_the_words_of_other_shells(losslake: Run, word: str) -> None:
    done = losslake("sql", stdin=f"select 41 + 1 as answer;\n{word}\nselect 'never';\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "42" in done.stdout
    assert "never" not in done.stdout


def test_out_writes_through_what_is_no_file(losslake: Run) -> None:
    done = losslake("sql", "select 41 + 1 as answer", "--out", "/dev/stdout")
    assert (done.returncode, done.stdout) == (0, "answer\n42\n")
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet"])
def test_a_closed_pipe_is_no_error(path: str, form: str) -> None:
    command = f"{sys.executable} -m losslake.cli sql --lake '{path}' --format {form} 'from range(600000)' | head -c 10 >/dev/null"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_lake_info_and_runs(losslake: Run) -> None:
    done = losslake("lake", "info")
    assert done.returncode == 0
    assert "e: 3 samples; 1 target" in done.stdout
    rows = json.loads(losslake("lake", "runs", "--experiment", "f", "--format", "json").stdout)
    assert [
        (row["experiment"], row["run"], row["model"], row["members"], row["seconds"]) for row in rows
    ] == [("f", "r", "mlp", 2, 1.5)]
    assert losslake("lake", "runs", columns=60).stdout.splitlines()[-1] == "2 rows"


def test_awkward_values_in_every_format(tmp_path: Path) -> None:
    from datetime import UTC, date, datetime, timedelta

    frame = pl.DataFrame(
        {
            "number": [float("nan"), float("-inf")],
            "list": [[1.0, float("nan"), None], None],
            "nested": [{"a": [1, 2], "b": 'q"\n'}, None],
            "when": [datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC), None],
            "day": [date(2026, 1, 2), None],
            "took": [timedelta(seconds=90), None],
            "raw": [b"\x00\xff", None],
            "money": pl.Series([Decimal("0.50"), None], dtype=pl.Decimal(38, 2)),
            "sum": pl.Series([Decimal(10**37 + 1), None], dtype=pl.Decimal(38, 0)),
            "sums": pl.Series(
                [[{"a": Decimal(3)}], None], dtype=pl.List(pl.Struct({"a": pl.Decimal(38, 0)}))
            ),
            "text": ['comma, "quote"\nline', "ü"],
        }
    )
    for name in ("x.csv", "x.json", "x.parquet"):
        write_frame(frame, tmp_path / name, name[2:])  # type: ignore[arg-type]

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    rows = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert rows[0]["number"] is None
    assert rows[0]["list"] == [1.0, None, None]
    assert rows[0]["nested"] == {"a": [1, 2], "b": 'q"\n'}
    assert rows[0]["raw"] == "00ff"
    assert rows[0]["took"] == "PT1M30S"
    assert (rows[0]["money"], rows[0]["sum"], rows[0]["sums"]) == (0.5, 10**37 + 1, [{"a": 3}])
    assert datetime.fromisoformat(rows[0]["when"]) == frame["when"][0]
    assert rows[1] == dict.fromkeys(frame.columns) | {"text": "ü"}
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert json.loads(lines[0]["nested"]) == {"a": [1, 2], "b": 'q"\n'}
    assert json.loads(lines[0]["list"]) == [1.0, None, None]
    assert (lines[0]["number"], lines[1]["number"]) == ("NaN", "-inf")
    assert (lines[0]["money"], lines[0]["sum"]) == ("0.50", str(10**37 + 1))
    assert json.loads(lines[0]["sums"]) == [{"a": 3}]
    assert (lines[0]["took"], lines[0]["raw"], lines[0]["text"]) == (
        "PT1M30S",
        "00ff",
        'comma, "quote"\nline',
    )
    assert (lines[1]["list"], lines[1]["nested"]) == ("", "")
    assert pl.read_parquet(tmp_path / "x.parquet").equals(frame)


def test_what_sql_computes_is_a_number_in_json(losslake: Run) -> None:
    query = """
      select sum(label) as whole, 0.5 as half, avg(label) as mean, list(0.25 * label order by label) as parts,
             map {'a': sum(label)} as named, sum(label) + 1e30::hugeint as huge,
             timestamp '2026-01-03 01:00' - timestamp '2026-01-01' as took
      from samples"""
    (row,) = json.loads(losslake("sql", query, "--experiment", "e", "--format", "json").stdout)
    assert row == {
        "whole": 2,
        "half": 0.5,
        "mean": 2 / 3,
        "parts": [0.0, 0.25, 0.25],
        "named": {"a": 2},
        "huge": int(1e30) + 2,
        "took": "P2DT1H",
    }
    assert "2 days, 1:00:00" in losslake("sql", query, "--experiment", "e", columns=200).stdout
    months = losslake("sql", "select interval 1 month as due", "--format", "json")
    assert months.returncode == 1
    assert "'due' is an interval of months" in months.stderr
    assert "1 month" in losslake("sql", "select interval 1 month as due").stdout


def test_nan_in_a_parquet_file_is_found_by_whoever_reads_it(tmp_path: Path) -> None:
    import duckdb

    column = np.where(np.arange(2000) % 7 == 0, np.nan, 1.0)
    frame = pl.DataFrame({"x": column, "half": column.astype(np.float32)})
    write_frame(frame, tmp_path / "x.parquet", "parquet")
    rows = duckdb.read_parquet(str(tmp_path / "x.parquet"))
    for asked in ("isnan(x)", "x > 1", "isnan(half)", "half > 1"):
        assert len(rows.filter(asked).fetchall()) == 286


def test_a_file_that_cannot_be_written_whole_is_not_there_at_all(tmp_path: Path) -> None:
    from losslake.store.errors import InvalidOption

    kept = tmp_path / "x.csv"
    kept.write_text("before")
    with pytest.raises(InvalidOption):
        write_frame(pl.DataFrame({"x": [[b"1"]]}), kept, "csv")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("x.csv", "before")]
