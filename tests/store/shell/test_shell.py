"""The SQL shell as a person meets it: editing, completion, commands, named queries, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import duckdb
import numpy as np
import pyarrow as pa
import pytest
from losslake.analysis.attacks.lira import lira
from losslake.analysis.measures.trace import lt_iqr, trace
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.cli import _run
from losslake.store.errors import InvalidOption, QueryRefused
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.query.connection import connect
from losslake.store.shell import interactive as shell
from losslake.store.shell import prompt as shell_prompt
from losslake.store.shell.answers import Limits, answer_to
from losslake.store.shell.named_queries import find_query, parse_parameters, query_names, ready
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from warm import HANGS

MakeLake = Callable[..., Lake]
SLOW = "select count(*) from range(60000) a, range(60000) b, range(60000) c where a.range + b.range + c.range = 7"


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    rng = np.random.default_rng(0)
    keep = np.arange(20) % 2 == np.arange(6)[:, None] % 2
    traces = {"loss": rng.random((20, 5)), "margin": rng.normal(size=(20, 5))}
    return lake_of(
        keep, rng.normal(size=keep.shape), traces=traces, names=["target", *(f"s{m}" for m in range(5))]
    )


@pytest.fixture
def connection(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(lake) as opened:
        yield opened


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


# --- what is typed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("select 1;", True),
        ("select 1; -- and so on\n", True),
        ("select 1", False),
        ("select ';'", False),
        ("select 1 -- ;", False),
        ("select /* ; */ 1", False),
        ("select 'é' as \"ü\";", True),
        ("select 'open;\n", False),
        (";", True),
        ("", False),
    ],
)
def test_a_semicolon_ends_a_query_unless_it_is_part_of_it(text: str, ended: bool) -> None:
    assert shell.whole(text) is ended


def typed(connection: duckdb.DuckDBPyConnection, keys: str) -> list[str]:
    with create_pipe_input() as given:
        given.send_text(keys)
        inputs = shell_prompt.prompted(
            shell_prompt.vocabulary(connection),
            shell.whole,
            (".views", ".run"),
            shell._arguments,
            given=given,
            output=DummyOutput(),
        )
        return list(inputs)


def test_enter_goes_on_until_a_query_is_whole(connection: duckdb.DuckDBPyConnection) -> None:
    assert typed(connection, "select\r1;\r.views\r\r\x04") == ["select\n1;", ".views"]


def test_ctrl_c_empties_the_prompt_and_alt_enter_runs_as_it_is(connection: duckdb.DuckDBPyConnection) -> None:
    assert typed(connection, "select nonsense\x03select 2\x1b\r\x04") == ["select 2"]


def test_history_is_kept_for_its_owner_alone(connection: duckdb.DuckDBPyConnection, state: Path) -> None:
    typed(connection, "select 'first';\r\x04")
    kept = state / "losslake" / "sql_history"
    assert shell_prompt.history_file() == kept
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert typed(connection, "\x1b[A\r\x04") == ["select 'first';"]  # the up arrow brings it back


def test_a_home_that_cannot_be_written_costs_only_the_history(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    assert typed(connection, "select 1;\r\x04") == ["select 1;"]


@pytest.mark.parametrize(
    ("text", "expected", "absent"),
    [
        ("select * from sig", {"signals"}, {"runs"}),
        ("select sam", {"samples", "sample_id"}, {"phi"}),
        ("select lt_", {"lt_iqr"}, set()),
        ("sel", {"select"}, set()),
        ("select signals.lo", {"loss", "logits"}, {"log_normal_tail"}),
        ("select s.ph", {"phi"}, set()),
        ("select Tra", {"traces", "trace_points", "train_accuracy"}, set()),
        (".v", {".views"}, {".run"}),
        (".run li", {"lira"}, {"loss"}),
        (".run lira target=t mo", {"mode="}, {"target="}),
        (".schema tra", {"traces", "trace_points"}, {"runs"}),
        (".format ", {"table", "csv", "json"}, set()),
        (".timer o", {"on", "off"}, set()),
        (".run nonsense ", set(), {"target="}),
        ("", set(), {"samples"}),
        ("select (", set(), {"samples"}),
    ],
)
def test_completion(
    connection: duckdb.DuckDBPyConnection, text: str, expected: set[str], absent: set[str]
) -> None:
    completer = shell_prompt._Words(shell_prompt.vocabulary(connection), (".views", ".run"), shell._arguments)
    found = {one.text for one in completer.get_completions(Document(text), CompleteEvent())}
    assert expected <= found
    assert not absent & found


# --- named queries ----------------------------------------------------------------------------------------

VALUES = {"target": "target", "first": "lira", "second": "lira", "first_query": 0, "last_query": 0, "most": 3}
VALUES |= {"share": 0.5, "prime": 101, "spread": 7, "drawn": 3}
PROVIDED = {"rmia": "compared_runs", "attack_same_sample": "reference_runs", "some_answers": "compared"}


def test_every_query_runs_by_name_or_says_what_it_needs(connection: duckdb.DuckDBPyConnection) -> None:
    assert {"lira", "rmia", "trace", "memorization"} <= set(query_names())
    for name in query_names():
        query = find_query(name)
        assert query.parameters or "$" not in query.text
        assert 10 < len(query.purpose) < 400
        assert "Parameters" not in query.purpose
        given = {each.name: VALUES[each.name] for each in query.takes if each.default is None}
        if name in PROVIDED:
            with pytest.raises(QueryRefused, match=PROVIDED[name]), ready(connection, query, given):
                pass
        elif name == "zlib":  # a column that only samples with texts have
            with ready(connection, query, given) as bound, pytest.raises(QueryRefused, match="zlib_bytes"):
                answer_to(connection, query.text, bound)
        elif query.reads and name != "lira":
            continue
        else:
            with ready(connection, query, given) as bound:
                assert tuple(bound) == query.parameters
                assert len(answer_to(connection, query.text, bound)) >= 0


@pytest.mark.parametrize("name", query_names())
def test_each_parameter_takes_what_its_header_says(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    query = find_query(name)
    assert set(query.parameters) == set(re.findall(r"\$(\w+)", re.sub(r"--.*", "", query.text)))
    needed = {each.name: VALUES[each.name] for each in query.takes if each.default is None}
    for each in query.takes:
        if each.takes == ("text",):
            continue
        for wrong in ("bananas", -7, 0.3333, None, "true", 1e300):
            if each.takes in (("share",), ("percentage",)) and wrong == 0.3333:
                continue
            with pytest.raises(InvalidOption, match=f"takes no {each.name}={re.escape(str(wrong))}; it is "):
                ready(connection, query, needed | {each.name: wrong}).__enter__()


def test_what_a_query_takes_is_what_its_analysis_takes() -> None:
    of = {"lira": "lira", "calibrated": "calibrated", "memorization": "memorization", "trace": "trace"}
    compared = []
    for name, analysis in of.items():
        options = {option.name: option for option in find(analysis).options}
        for each in find_query(name).takes:
            if each.name not in options:
                continue
            option = options[each.name]
            if option.choices:
                assert set(each.takes) | {"'auto'"} == {*map(repr, option.choices), "'auto'"}
            if option.default not in ("auto", None):
                assert each.default in (repr(option.default), str(option.default)), (name, each.name)
            compared.append(each.name)
    assert {"mode", "variance", "center", "tau", "of", "source", "signal", "aggregate", "low"} <= set(
        compared
    )


def test_left_out_parameters_are_the_analysiss(lake: Lake, connection: duckdb.DuckDBPyConnection) -> None:
    with open_source(lake, "tests") as source:
        asked = [
            ("lira", {}, lira(source)),
            ("lira", {"mode": "offline"}, lira(source, mode="offline")),
            ("trace", {}, lt_iqr(source)),
            *(
                ("trace", {"signal": signal, "aggregate": how}, trace(source, signal=signal, aggregate=how))
                for signal in ("loss", "margin")
                for how in ("iqr", "final", "slope")
            ),
        ]
    for name, given, expected in asked:
        query = find_query(name)
        with ready(connection, query, {"target": "target", **given}) as bound:
            found = answer_to(connection, query.text, bound)
        np.testing.assert_allclose(found["score"], expected.frame["score"], rtol=1e-9, atol=1e-10)


def test_a_named_query_does_not_mix_experiments(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    for experiment in ("e", "f"):
        lake.create_experiment(experiment, pa.table({"label": [0, 1]}))
    with lake.write_run("e", "0", members=np.array([True, False])) as writer:
        ids = np.arange(2)
        writer.append_signals(ids, ids * 0, ids, loss=ids / 4, phi=ids - 1)
        writer.commit(RunInfo(role="target"))
    query = find_query("loss")
    with connect(lake) as both, pytest.raises(InvalidOption, match=r"has e, f; choose one with --experiment"):
        ready(both, query, {"target": "0"}).__enter__()
    with connect(lake, "e") as one, ready(one, query, {"target": 0}) as bound:  # a run may be called 0
        assert len(answer_to(one, query.text, bound)) == 2


def test_lira_by_name_is_lira(lake: Lake, connection: duckdb.DuckDBPyConnection) -> None:
    with open_source(lake, "tests") as source:
        expected = lira(source, variance="sample").frame
    query = find_query("lira")
    given = {"target": "target", "mode": "online", "variance": "sample", "center": "mean"}
    with ready(connection, query, given) as bound:
        found = answer_to(connection, query.text, bound)
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-9)
    with pytest.raises(QueryRefused, match=r"phi_medians.*unless center=mean"):
        ready(connection, query, given | {"center": "median"}).__enter__()
    with pytest.raises(InvalidOption, match=r"needs target; .*target=\.\.\. \[mode="):
        ready(connection, query, {"center": "mean", "variance": "sample"}).__enter__()
    with pytest.raises(InvalidOption, match="takes no tagret"):
        ready(connection, query, given | {"tagret": "x"}).__enter__()


def test_parameters_are_json_where_they_read_so() -> None:
    texts = ["a=1", "b=0.5", "c=true", "d=text", 'e="1"', "f=0007", "g=a=b", "h=", "i=null", "j=NaN", "k=[1]"]
    assert parse_parameters(texts) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "text",
        "e": "1",
        "f": "0007",
        "g": "a=b",
        "h": "",
        "i": None,
        "j": "NaN",
        "k": "[1]",
    }
    for wrong in (["a"], ["=1"], ["a b=1"], ["a=1", "a=2"]):
        with pytest.raises(InvalidOption):
            parse_parameters(wrong)


def sql(lake: Lake, *arguments: str) -> int:
    return _run(["sql", "--lake", lake.path, *arguments], debug=False)


def test_named_queries_from_the_command_line(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert sql(lake, "--query", "loss", "--param", "target=target", "--format", "csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 21
    assert sql(lake, "select $x + 1 as y", "--param", "x=41", "--format", "csv") == 0
    assert capsys.readouterr().out == "y\n42\n"
    for arguments, code, said in (
        (["--query", "lyra"], 2, "queries: "),
        (["--query", "views"], 2, "no query 'views'"),
        (["--query", "loss"], 2, "needs target"),
        (["--query", "rmia", "--param", "target=x"], 2, "stand_in=..."),
        (["--query", "loss", "from runs"], 2, "not both"),
        (["--param", "x=1"], 2, "single query"),
        (["--format", "parquet"], 2, "single query"),
    ):
        assert sql(lake, *arguments) == code, arguments
        assert said in capsys.readouterr().err


# --- the shell --------------------------------------------------------------------------------------------


def converse(lake: Lake, *lines: str) -> tuple[bool, ...]:
    with connect(lake) as connection:
        at = shell._Shell(connection, "table", True, Limits())
        return tuple(shell._done(at, line) for line in lines)


def test_commands(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(converse(lake, ".views", ".schema runs samples", ".queries", ".queries lira", ".help"))
    shown = capsys.readouterr().out
    assert (
        "lira target=... [mode=...] [center=...] [variance=...]\n    LiRA (Carlini et al. 2022): how much"
        in shown
    )
    assert "(needs phi_medians)" in shown
    assert "runs(experiment VARCHAR" in shown
    assert "select sample_id" in shown
    assert all(command in shown for command in shell._COMMANDS)
    assert all(converse(lake, ".format csv", ".timer off", "select 1 as one;", ".format", ".timer"))
    said = capsys.readouterr()
    assert (said.out, said.err) == ("one\n1\ncsv\noff\n", "")
    assert all(converse(lake, ".format json", "select 1 as one; select 2 as two;"))
    said = capsys.readouterr()
    assert said.out == '[{"one":1}]\n[{"two":2}]\n'
    assert re.fullmatch(r"(\d+\.\d\d s\n){2}", said.err)
    assert all(
        converse(lake, ".format csv", ".run lira target=target mode=online center=mean variance=pooled")
    )
    assert len(capsys.readouterr().out.splitlines()) == 21


def test_errors_do_not_end_the_shell(
    lake: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (
        "selec 1;",
        "select nothing from runs;",
        "create table x as from runs;",
        "copy runs to 'x.csv';",
        "select 1; drop view runs;",
        ".schema nothing",
        ".what",
        ".run",
        ".run nothing",
        ".run loss",
        ".run loss target",
        ".run rmia target=target stand_in= first_query=0 last_query=0",
        ".format parquet",
        ".timer maybe",
        ".views now",
        ".queries 'open",
        ".queries nothing",
    )
    assert not any(converse(lake, *wrong))
    assert capsys.readouterr().err.count("error: ") == len(wrong)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(shell, "print_answer", fail)
    assert converse(lake, "select 1;") == (False,)
    assert "unexpected ZeroDivisionError: a bug" in capsys.readouterr().err


def test_ctrl_c_cancels_a_query_and_the_connection_goes_on(connection: duckdb.DuckDBPyConnection) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    started = time.process_time()

    def interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        answer_to(connection, SLOW, {})

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.process_time() - started < 20
    assert answer_to(connection, "select 1 as one", {})["one"].to_list() == [1]


def test_what_a_query_raises_comes_out_of_waiting(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(QueryRefused):
        answer_to(connection, "from nothing", {})


def test_a_session_on_a_terminal(lake: Lake, state: Path) -> None:
    """Progress of a long query, Ctrl-C, an error, an answer, Ctrl-D: one session on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "losslake.cli", "sql", "--lake", lake.path],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
        env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(state)},
    )
    os.close(theirs)
    session = _Session(ours)
    try:
        session.until("losslake>")
        session.type(f"{SLOW};\r")
        session.until(r"\d s  \(Ctrl-C cancels the query\)")
        session.type("\x03")
        session.until("cancelled")
        session.until("losslake>")
        session.type("from nowhere;\r")
        session.until("error: .*nowhere")
        session.until("losslake>")
        session.type("select 40 + 2 as answer;\r")
        session.until(" 42 ")
        session.until(r"\d s\r")
        session.until("losslake>")
        session.type("\x04")
        assert process.wait(HANGS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class _Session:
    """Our end of a pseudo-terminal; what was read and not waited for yet is kept."""

    def __init__(self, handle: int) -> None:
        self.handle, self.seen = handle, ""

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def until(self, pattern: str, seconds: float = HANGS) -> None:
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            readable, _, _ = select.select([self.handle], [], [], max(0, end - time.monotonic()))
            assert readable, f"no {pattern!r} in {self.seen[-500:]!r}"
            self.seen += os.read(self.handle, 65536).decode(errors="replace")
        self.seen = self.seen[found.end() :]


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_help_names_the_options() -> None:
    from losslake.store.shell.command import sql as command

    text = command.get_help(click.Context(command, info_name="losslake sql"))
    assert "--query" in text
    assert "--param" in text
