"""The prompt of the SQL shell: editing over several lines, history, completion."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output

from .. import interrupted
from ..query.views import VIEWS

Arguments = Callable[[str, list[str]], Iterable[str]]
"""From a command and the words behind it to what may follow."""


@dataclass(frozen=True)
class Vocabulary:
    """What can be completed: the columns of each view with their types, macros with what they take, and keywords."""

    columns: Mapping[str, Sequence[Sequence[str]]]
    macros: Sequence[tuple[str, Sequence[str]]]
    keywords: Sequence[str]


def vocabulary(connection: duckdb.DuckDBPyConnection) -> Vocabulary:
    """What the queries of a connection may name."""
    return Vocabulary(_columns(connection), _macros(connection), _keywords(connection))


def prompted(
    known: Vocabulary,
    whole: Callable[[str], bool],
    commands: tuple[str, ...],
    arguments: Arguments,
    *,
    given: Input | None = None,
    output: Output | None = None,
) -> Iterator[str]:
    """The queries and commands that a person types. Enter ends a ``whole`` one, Alt-Enter any; Ctrl-C empties the line."""
    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=_Words(known, commands, arguments),
        complete_while_typing=False,
        multiline=True,
        prompt_continuation="     ...> ",
        key_bindings=_keys(whole),
        input=given,
        # What the queries answer may be piped on: the prompt is for the terminal alone.
        output=output or create_output(always_prefer_tty=True),
    )
    while True:
        try:
            text = session.prompt("losslake> ")
        except KeyboardInterrupt:
            interrupted.answered()
            continue
        except EOFError:
            return
        if text.strip():
            yield text


def _keys(whole: Callable[[str], bool]) -> KeyBindings:
    bindings = KeyBindings()

    @Condition
    def sent() -> bool:
        text = get_app().current_buffer.text
        return not text.strip() or whole(text)

    @bindings.add("enter", filter=sent)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return bindings


def history_file() -> Path:
    """Where what was typed is kept: the user's state folder (XDG_STATE_HOME), and not the lake."""
    return user_state_path("losslake") / "sql_history"


def _history() -> History:
    """The history file, which its owner alone may read: queries name records. In memory where there can be none."""
    try:
        path = history_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except (OSError, RuntimeError):  # a RuntimeError: this user has no home
        return InMemoryHistory()
    return _Kept(str(path))


class _Kept(FileHistory):
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError, UnicodeError):  # a full disk must not end the shell
            super().store_string(string)


class _Words(Completer):
    """Views, columns, macros and keywords; behind a dot at the start commands and what they take."""

    def __init__(self, known: Vocabulary, commands: tuple[str, ...], arguments: Arguments) -> None:
        self._commands, self._arguments = commands, arguments
        self._columns, self._macros, self._keywords = known.columns, known.macros, known.keywords

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if before.lstrip().startswith("."):
            yield from self._of_command(before.lstrip())
            return
        found = re.search(r"(?:(\w+)\.)?(\w*)$", before)
        assert found is not None
        view, begun = found[1], found[2]
        if not begun and not view:
            return
        for word, kind in self._words(view):
            if word.casefold().startswith(begun.casefold()) and word != begun:
                yield Completion(word, -len(begun), display_meta=kind)

    def _words(self, view: str | None) -> Iterator[tuple[str, str]]:
        if view is not None and view in self._columns:
            yield from ((name, kind.lower()) for name, kind in self._columns[view])
            return
        columns = dict.fromkeys(name for of_view in self._columns.values() for name, _ in of_view)
        if view is None:
            yield from ((name, "view") for name in VIEWS)
        yield from ((name, "column") for name in columns)
        if view is None:
            yield from ((name, f"macro ({', '.join(taken)})") for name, taken in self._macros)
            yield from ((name, "keyword") for name in self._keywords)

    def _of_command(self, text: str) -> Iterator[Completion]:
        words = text.split()
        begun = "" if text[-1:].isspace() else words.pop()
        choices = self._arguments(words[0], words[1:]) if words else self._commands
        for word in choices:
            if word.startswith(begun) and word != begun:
                yield Completion(word, -len(begun))


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[list[str]]]:
    rows = connection.execute(
        "select table_name, column_name, data_type from duckdb_columns() where not internal order by all"
    ).fetchall()
    return {view: [[name, kind] for of, name, kind in rows if of == view] for view in VIEWS}


def _macros(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, list[str]]]:
    return connection.execute(
        "select function_name, parameters from duckdb_functions() "
        "where function_type = 'macro' and not internal order by function_name"
    ).fetchall()


def _keywords(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "select keyword_name from duckdb_keywords() where keyword_category = 'reserved' order by 1"
    ).fetchall()
    return [name for (name,) in rows]
