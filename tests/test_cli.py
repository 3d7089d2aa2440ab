"""The command line as a whole: fast help, help for everything, exit codes, one-line errors."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake import cli as cli_module
from losslake.cli import _run, cli
from losslake.store.format.records import Role, RunInfo
from losslake.store.lake import Lake


def _commands(
    command: click.Command, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from _commands(found, (*words, name))
    else:
        yield words, command


def test_help_answers_without_the_heavy_modules() -> None:
    script = (
        "import json, sys\n"
        "from losslake.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    code = end.code\n"
        "print(json.dumps([code, sorted(set(sys.modules) & set(sys.argv[1:]))]))"
    )
    heavy = [
        "torch",
        "torchvision",
        "duckdb",
        "polars",
        "pyarrow",
        "numpy",
        "sklearn",
        "scipy",
        "altair",
        "PIL",
        "rich",
    ]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert json.loads(last) == [0, []]
    for name in ("demo", "audit", "collect", "analyze", "sql", "report", "lake"):
        assert any(line.split()[:1] == [name] for line in shown)


HEAVY = (
    *("torch", "torchvision", "sklearn", "altair", "vl_convert", "PIL", "jinja2", "pyspark", "pandas"),
    *(
        "pyarrow.dataset",
        "pyarrow.compute",
        "duckdb",
        "polars",
        "rich",
        "scipy.special",
        "scipy.optimize",
        "scipy.stats",
    ),
)
ENGINES = {"duckdb", "polars", "rich"}


@pytest.fixture(scope="module")
def lake_of_four(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake of a target with a trace and three shadow runs."""
    lake = Lake.open(tmp_path_factory.mktemp("start") / "lake", create=True)
    rng, ids = np.random.default_rng(0), np.arange(40)
    lake.create_experiment("e", pa.table({"label": ids % 2}))
    for name in ("target", "a", "b", "c"):
        members = rng.permutation(40) < 20
        phi = (rng.normal(size=40) + members).astype(np.float32)
        role: Role = "target" if name == "target" else "shadow"
        with lake.write_run("e", name, members=members) as writer:
            writer.append_signals(
                ids, np.zeros(40, np.int16), ids % 2, loss=np.logaddexp(0, -phi), phi=phi, correct=phi > 0
            )
            if name == "target":
                for epoch in range(4):
                    writer.append_epoch("eval", epoch, ids, loss=rng.random(40, np.float32))
            writer.commit(RunInfo(role=role))
    return str(lake.path)


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        ("lake runs", {"polars", "rich"}),
        ("lake info", set()),
        ("sql 'from runs'", {"duckdb", "rich"}),
        ("analyze lira", ENGINES),
        ("analyze lt-iqr", ENGINES),
        ("analyze loss", ENGINES),
        ("analyze memorization", ENGINES),
    ],
)
def test_a_command_loads_only_what_it_uses(
    command: str, allowed: set[str], lake_of_four: str, loaded_by_an_array: set[str]
) -> None:
    script = (
        "import json, sys\n"
        "from losslake.cli import main\n"
        "heavy, words = json.loads(sys.argv[1])\n"
        "try:\n    main(words)\nexcept SystemExit as end:\n    code = end.code\n"
        "print()\nprint(json.dumps([code, sorted(set(sys.modules) & set(heavy))]))"
    )
    words = [*shlex.split(command), "--lake", lake_of_four]
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([HEAVY, words])], capture_output=True, text=True, check=True
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert set(loaded) <= allowed | loaded_by_an_array


@pytest.fixture(scope="module")
def loaded_by_an_array() -> set[str]:
    """What the installed PyArrow loads to make any array: nothing today, pandas and its own compute until some version after 22."""
    script = "import json, sys, pyarrow\npyarrow.array([1])\nprint(json.dumps(sorted({*sys.modules} & {*sys.argv[1:]})))"
    done = subprocess.run([sys.executable, "-c", script, *HEAVY], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_opening_a_lake_loads_no_engine_that_pyarrow_brings_along() -> None:
    script = (
        "import sys, losslake.store.lake; sys.exit(not {'pandas', 'pyarrow.dataset'}.isdisjoint(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_imports_of_runs_do_without_pytorch_and_rich() -> None:
    script = "import sys, losslake.collect.importers.layouts; sys.exit(not {'torch', 'rich'}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_command_has_help_with_an_example() -> None:
    every = list(_commands(cli, ()))
    assert {words[0] for words, _ in every} == {
        "demo",
        "audit",
        "collect",
        "analyze",
        "sql",
        "report",
        "lake",
    }
    lacking = [" ".join(words) for words, command in every if "Example" not in (command.help or "")]
    assert lacking == []
    for words, command in every:
        text = command.get_help(click.Context(command, info_name=" ".join(("losslake", *words))))
        assert f"losslake {' '.join(words)}" in text


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{' '.join(words)} {parameter.opts[0]}"
        for words, command in _commands(cli, ())
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["lake", "nonsense"], ["--nonsense"], ["lake", "runs", "--nonsense"]]
)
def test_unknown_words_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(arguments, debug=False) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "nonsense" in shown.err


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("losslake.store.lake.Lake.open", fail)


@pytest.mark.usefixtures("broken")
def test_the_unexpected_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["lake", "info", "--lake", "x"], ["sql", "--lake", "x", "--", "--debug"]):
        with pytest.raises(SystemExit) as end:
            cli_module.main(arguments)
        assert end.value.code == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.splitlines() == [
            "losslake: unexpected ZeroDivisionError: first line; 'losslake --debug ...' shows where"
        ]


@pytest.mark.usefixtures("broken")
def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli_module.main(["--debug", "lake", "info", "--lake", "x"])
    assert end.value.code == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_counts_only_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli_module.main(["lake", "info", "--lake", "/nowhere", "--debug"])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_went_wrong_on_purpose_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["lake", "info", "--lake", "/nowhere"], debug=False) == 1
    assert _run(["lake", "info", "--lake", "ftp://host/lake"], debug=False) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("losslake: ") for line in lines)


def test_a_stop_by_the_user_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("losslake.store.lake.Lake.open", stop)
    assert _run(["lake", "info", "--lake", "x"], debug=True) == 130
    assert capsys.readouterr().err.strip() == "losslake: stopped"


@pytest.mark.parametrize("group", ["collect", "lake", "analyze"])
def test_lists_of_commands_hold_whole_sentences(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(cli, [group, "--help"], prog_name="losslake").output
    listed = told.partition("Commands:")[2]
    assert listed
    assert "..." not in listed
    assert max(map(len, listed.splitlines())) <= 80
