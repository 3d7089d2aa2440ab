"""The command line. Commands live beside what they command and are loaded when called."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import sys
import traceback
from typing import Any

import click
from click.shell_completion import CompletionItem

from .store import interrupted
from .store.errors import LosslakeError
from .store.format.outgoing import guarded_terminal
from .version import __version__

_COMMANDS = {
    "demo": ("losslake.demo:demo", "Everything, end to end, on data that ships with the install."),
    "audit": ("losslake.audit_command:command", "Judge a finished model in one call."),
    "collect": (
        "losslake.collect.commands:collect_group",
        "Train or import models, and keep what they say of every record.",
    ),
    "analyze": ("losslake.analysis.commands:analyze_group", "Score every record, and judge the scores."),
    "sql": ("losslake.store.shell.command:sql", "Ask the lake in SQL."),
    "report": (
        "losslake.analysis.report.command:report",
        "One file that says which records the model exposes.",
    ),
    "lake": (
        "losslake.store.commands:lake_group",
        "Look after a lake: what it holds, whether it is whole; remove, forget, publish.",
    ),
}


_TRAINING = ("demo", "audit", "collect")


class _LazyGroup(click.Group):
    """Knows its commands by name and imports one only to run it, so that help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _list_whole_sentences(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in _COMMANDS if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=_COMMANDS[name][1]) for name in names), *options]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of a pipe went away, as head does: no failure, though click would call it one. What is
            # left in the buffer goes nowhere, so that the interpreter's own flush at exit is quiet, too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _list_whole_sentences(command: click.Command) -> None:
    """A group lists the first line of each command's help, which click by itself cuts off at the screen's width."""
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        if each.short_help is None and each.help:
            each.short_help = each.help.strip().splitlines()[0]
        _list_whole_sentences(each)


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="losslake")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def cli(debug: bool) -> None:
    """Which of my training records does this model expose?

    \b
    Try it:
      losslake demo

    \b
    Completion by Tab, in the start-up file of bash (or zsh, fish):
      eval "$(_LOSSLAKE_COMPLETE=bash_source losslake)"
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 1 the work failed, 2 wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    # Only before the command: after it the word may belong to a query.
    words = [word for word in given if not word.startswith("-")]
    if words and words[0] not in _TRAINING:
        # What is imported and listed makes many objects and drops few: looking for circles among them takes a tenth of a short command.
        gc.set_threshold(1_000_000, *gc.get_threshold()[1:])
    debug = "--debug" in itertools.takewhile(lambda word: word.startswith("-"), given)
    interrupted.listen()
    with guarded_terminal():
        code = _run(given, debug)
    sys.exit(code)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="losslake", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _stopped()
    except LosslakeError as error:
        if debug:
            traceback.print_exc()
        if interrupted.pressed():
            return _stopped()
        click.echo(f"losslake: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        if interrupted.pressed():
            return _stopped()
        text = str(error).strip().splitlines()
        click.echo(
            f"losslake: unexpected {type(error).__name__}{f': {text[0]}' if text else ''}; "
            "'losslake --debug ...' shows where",
            err=True,
        )
        return 1


def _stopped() -> int:
    click.echo("losslake: stopped", err=True)
    return 130


if __name__ == "__main__":
    main()
