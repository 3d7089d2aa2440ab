"""The SQL shell: queries over several lines, ended by a semicolon, and commands that begin with a dot."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
import duckdb

from .. import interrupted
from ..errors import InvalidInput, InvalidOption, LimitReached, LosslakeError
from ..query.connection import remove_private_folder
from ..query.engine_errors import engine_errors
from ..query.limits import StillRunning
from ..query.read_only import parsed
from ..query.views import VIEWS
from . import apart
from .answers import SHELL_FORMATS, Limits, ShellFormat, print_answer
from .named_queries import find_query, parse_parameters, query_names, ready

if TYPE_CHECKING:
    from .prompt import Vocabulary


@dataclass
class _Shell:
    connection: duckdb.DuckDBPyConnection
    form: ShellFormat
    talking: bool
    limits: Limits
    timer: bool = True


def run_shell(connection: duckdb.DuckDBPyConnection, form: ShellFormat, limits: Limits) -> None:
    """Read queries from the terminal, or from a pipe, and print their answers until the input ends.

    Errors are told and the shell goes on, StillRunning alone ends it; through a pipe the exit code is 1 in the end.
    """
    from .prompt import vocabulary

    talking = sys.stdin.isatty()
    shell = _Shell(connection, form, talking, limits, timer=talking)
    _read_and_do(vocabulary(connection) if talking else None, lambda text: _done(shell, text))


def _read_and_do(known: Vocabulary | None, do: Callable[[str], bool]) -> None:
    """``do`` every query and command, typed where there is a vocabulary to complete, until the input ends."""
    failed = False
    for text in _piped() if known is None else _typed(known):
        if _ends(text):
            break
        failed |= not do(text)
    if failed and known is None:
        raise SystemExit(1)


# --- in a process of its own ------------------------------------------------------------------------------


def serve_shell(connection: duckdb.DuckDBPyConnection, form: ShellFormat, limits: Limits) -> None:
    """In a child, carry out what the parent's `run_shell_apart` reads, and print it."""
    from .prompt import vocabulary

    talking = sys.stdin.isatty()
    known = asdict(vocabulary(connection)) if talking else None
    apart.tell({"ready": known})
    for asked in apart.told():
        shell = _Shell(connection, asked["form"] or form, talking, limits, timer=asked["timer"])
        ended = False
        try:
            done = _done(shell, asked["text"])
        except StillRunning as error:
            click.echo(f"error: {error}", err=True)
            done, ended = False, True
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        apart.tell({"done": done, "form": shell.form, "timer": shell.timer, "ended": ended})
        if ended:  # by nothing but this
            remove_private_folder()
            os._exit(0)


def run_shell_apart(child: apart.Child, another: Callable[[], apart.Child]) -> None:
    """The same as `run_shell` with the queries in a child, which may die; then ``another`` one goes on.

    A child that ends by itself, as it cannot open the lake or its reader is gone, ends the shell.
    """
    from .prompt import Vocabulary

    talking = sys.stdin.isatty()
    state: dict[str, Any] = {"form": None, "timer": talking}
    now = child

    def ready(child: apart.Child) -> Any:
        said = child.hear()
        if said is None:
            raise SystemExit(child.result())
        return said["ready"]

    def do(text: str) -> bool:
        nonlocal now
        now.say({"text": text, **state})
        try:
            said = now.hear()
            if said is not None:
                state.update(form=said["form"], timer=said["timer"])
                if not said["ended"]:
                    return bool(said["done"])
                now.end()
            else:
                raise SystemExit(now.result())
        except (LimitReached, apart.QueryDied) as error:
            click.echo(f"error: {error}", err=True)
        now = another()
        ready(now)
        return False

    known = ready(child)
    try:
        _read_and_do(Vocabulary(**known) if known is not None else None, do)
    finally:
        now.end()


# --- what comes in ----------------------------------------------------------------------------------------


def _typed(known: Vocabulary) -> Iterator[str]:
    from .prompt import prompted

    click.echo("losslake SQL. '.help' for help, a query ends with ';', Tab completes", err=True)
    commands = (*_COMMANDS, ".quit")
    return prompted(known, whole, commands, _arguments)


def _piped() -> Iterator[str]:
    """The queries and commands on standard input; the last query needs no semicolon."""
    pending = ""
    try:
        for line in sys.stdin:
            if not pending and (_is_command(line) or _ends(line)):
                yield line
                continue
            if pending or line.strip():
                pending += line
            if ";" in line and whole(pending):
                yield pending
                pending = ""
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the input is not UTF-8 text: {error}") from error
    if pending.strip():
        yield pending


def whole(text: str) -> bool:
    """Whether this is a command, or a query that has ended: by a semicolon that stands in no string and no comment."""
    if _is_command(text) or _ends(text):
        return True
    if ";" not in text:
        return False
    try:
        tokens = [place for place, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
        return bool(tokens) and text.encode()[tokens[-1] : tokens[-1] + 1] == b";"
    except (duckdb.Error, UnicodeError):
        return text.rstrip().endswith(";")


def _is_command(text: str) -> bool:
    return text.lstrip().startswith(".")


def _ends(text: str) -> bool:
    """Whether the shell is to end: .quit, or what other shells take, alone on a line."""
    if _is_command(text):
        return text.split()[0] in (".quit", ".exit")
    return text.strip().rstrip(";").rstrip().casefold() in ("exit", "quit")


# --- what is done -----------------------------------------------------------------------------------------


def _done(shell: _Shell, text: str) -> bool:
    """Whether a query or command could be carried out; what went wrong is printed."""
    try:
        if _is_command(text):
            _obey(shell, text)
        else:
            for query in _statements(shell.connection, text):
                _answer(shell, query, {})
        return True
    except (StillRunning, BrokenPipeError):
        raise
    except LosslakeError as error:
        said = f"error: {error}"
    except KeyboardInterrupt:
        if not shell.talking:
            raise
        interrupted.answered()
        said = "cancelled"
    except Exception as error:  # a person's session must not end by what one query met
        if not shell.talking:
            raise
        said = f"error: unexpected {type(error).__name__}: {error}"
    click.echo(said, err=True)
    return False


def _statements(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    """The statements of a line that holds several; a text that cannot be read is left for the query to complain of."""
    try:
        with apart.query_at_work():
            found = [statement.query for statement in parsed(connection, text)]
    except (LosslakeError, duckdb.Error, UnicodeError, ValueError):
        found = []
    return found if len(found) > 1 else [text]


def _answer(shell: _Shell, query: str, parameters: Mapping[str, Any]) -> None:
    started = time.perf_counter()
    print_answer(shell.connection, query, parameters, shell.form, shell.limits)
    if shell.timer:
        click.echo(f"{time.perf_counter() - started:.2f} s", err=True)


# --- commands ---------------------------------------------------------------------------------------------


def _obey(shell: _Shell, text: str) -> None:
    try:
        name, *words = shlex.split(text)
    except ValueError as error:
        raise InvalidOption(f"{text.strip()!r} cannot be read: {error}") from error
    if name not in _COMMANDS:
        raise InvalidOption(f"unknown command {name!r}\n{_help_text()}")
    usage, _, most, obey = _COMMANDS[name]
    if len(words) > most:
        raise InvalidOption(f"{name} takes {usage or 'nothing'}, not {' '.join(words)!r}")
    obey(shell, words)


def _help_text() -> str:
    rows = [(f"{name} {usage}".strip(), text) for name, (usage, text, *_) in _COMMANDS.items()]
    rows.append((".quit", "leave (also Ctrl-D)"))
    width = max(len(left) for left, _ in rows) + 3
    lines = [f"{left:<{width}}{right}" for left, right in rows]
    return "\n".join([*lines, "A query ends with a semicolon and may span lines."])


def _schema(shell: _Shell, words: list[str]) -> None:
    for view in words or VIEWS:
        if view not in VIEWS:
            raise InvalidOption(f"there is no view {view!r} (views: {', '.join(VIEWS)})")
        with engine_errors(shell.connection):
            relation = shell.connection.view(view)
            pairs = zip(relation.columns, relation.types, strict=True)
            click.echo(f"{view}({', '.join(f'{name} {kind}' for name, kind in pairs)})")


def _queries(shell: _Shell, words: list[str]) -> None:
    if words:
        click.echo(find_query(words[0]).text.rstrip())
        return
    for name in query_names():
        query = find_query(name)
        click.echo(f"{name} {query.usage}")
        needed = f" (needs {', '.join(query.reads)})" if query.reads else ""
        click.echo(f"    {query.purpose}{needed}")


def _run_named(shell: _Shell, words: list[str]) -> None:
    if not words:
        raise InvalidOption("name the query to run: .run NAME name=value ...; '.queries' lists them")
    query, parameters = find_query(words[0]), parse_parameters(words[1:])
    with ready(shell.connection, query, parameters) as bound:
        _answer(shell, query.text, bound)


def _format(shell: _Shell, words: list[str]) -> None:
    if not words:
        click.echo(shell.form)
    elif words[0] in SHELL_FORMATS:
        shell.form = words[0]
    else:
        raise InvalidOption(f"there is no format {words[0]!r} (formats: {', '.join(SHELL_FORMATS)})")


def _timer(shell: _Shell, words: list[str]) -> None:
    if not words:
        click.echo("on" if shell.timer else "off")
    elif words[0] in ("on", "off"):
        shell.timer = words[0] == "on"
    else:
        raise InvalidOption(f"the timer is on or off, not {words[0]!r}")


_Command = tuple[str, str, int, Callable[[_Shell, list[str]], None]]
_COMMANDS: dict[str, _Command] = {
    ".views": ("", "the views of the lake", 0, lambda *_: click.echo("\n".join(VIEWS))),
    ".schema": ("[VIEW]", "columns of a view, or of all", len(VIEWS), _schema),
    ".queries": ("[NAME]", "the named queries with their parameters, or the text of one", 1, _queries),
    ".run": ("NAME name=value ...", "run a named query, as in: .run loss target=target", 99, _run_named),
    ".format": (f"[{'|'.join(SHELL_FORMATS)}]", "how answers are printed", 1, _format),
    ".timer": ("[on|off]", "say after each query how long it took", 1, _timer),
    ".help": ("", "this", 0, lambda *_: click.echo(_help_text())),
}
"""Usage, what it does, how many words it takes at most, and the function."""


def _arguments(command: str, words: list[str]) -> Iterable[str]:
    """What may follow a command and the words behind it."""
    if command == ".run" and words:
        given = {word.partition("=")[0] for word in words[1:]}
        if words[0] not in query_names():
            return ()
        return [f"{name}=" for name in find_query(words[0]).parameters if name not in given]
    first = {
        ".schema": VIEWS,
        ".queries": query_names(),
        ".run": query_names(),
        ".format": SHELL_FORMATS,
        ".timer": ("on", "off"),
    }
    return () if words else first.get(command, ())
