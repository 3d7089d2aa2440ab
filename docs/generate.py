"""Pages that follow from the program: one for each analysis and evaluation, one for all commands, and one for Python.

`LOSSLAKE_DOCS=update pytest tests/test_docs_generated.py` writes them; the same tests fail where one is out of date.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import click
import losslake
from losslake.analysis.commands import analyze_group
from losslake.analysis.declare import SHARED, Analysis, Evaluation, Option
from losslake.analysis.evaluations.catalogue import EVALUATIONS
from losslake.analysis.scores import Finding, Scores
from losslake.analysis.scoring.catalogue import ANALYSES
from losslake.analysis.scoring.run import Outcome
from losslake.analysis.statistics.metric import Metric
from losslake.auditing import Audit, Gated
from losslake.cli import cli
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.presets import PUBLISHED
from losslake.collect.recipe import Recipe, from_json, to_json

Entry = Analysis | Evaluation
ENTRIES: tuple[Entry, ...] = (*ANALYSES, *EVALUATIONS)
MADE = "<!-- Made by docs/generate.py from the program; edit the docstring there. -->"


def pages() -> dict[str, str]:
    """Every generated page by its path under docs/."""
    return {
        "analyses/README.md": index_page(),
        **{f"analyses/{entry.name}.md": entry_page(entry) for entry in ENTRIES},
        "commands.md": commands_page(),
        "python.md": python_page(),
        "recipes.md": recipes_page(),
    }


def recipes_page() -> str:
    """Every recipe that has a name: what it sets, where it is published, and what is otherwise here."""
    defaults = to_json(Recipe())
    lines = [
        "# Recipes that have a name",
        "",
        MADE.replace("docstring there", "text in collect/presets.py"),
        "",
        "`losslake collect target --recipe NAME`; flags go on top of it, and shadow models take the target's. No figure of these pages was measured with a paper's own",
        "recipe: they call for a GPU. The tests train each of them for two epochs on a few records, which shows that it runs and no more.",
        "",
    ]
    for name, preset in PUBLISHED.items():
        set_here = {
            field: value
            for field, value in to_json(from_json(preset.fields)).items()
            if value != defaults[field] or field in preset.fields
        }
        lines += [f"## {name}", "", f"**Source:** {preset.source}.", ""]
        lines += [
            f"**Sets:** {', '.join(f'`{field}` {_said(value)}' for field, value in set_here.items())}.",
            "",
        ]
        lines += [f"**Otherwise here:** {preset.differs}.", "", f"**For:** {preset.data}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _said(value: object) -> str:
    """A field's value as a flag or a file would have it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_said(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def command_of(name: str) -> click.Command:
    """The command of an analysis or evaluation."""
    found = analyze_group.get_command(click.Context(analyze_group), name)
    assert found is not None
    return found


def index_page() -> str:
    """All analyses and evaluations in a line each, and what they have in common."""
    any_command = command_of("loss")
    shared = [param for param in _options(any_command) if _own(param, ANALYSES[0]) is None]
    lines = [
        "# Analyses and evaluations",
        "",
        MADE,
        "",
        "An analysis gives every record a score, higher = more exposed or more likely a member, and judges it by the",
        "target's membership: metrics `auc` and `tpr_at_fpr`, each with a 95% interval. Attacks claim that a record was a",
        "member; the others rank records by exposure without claiming so, and their AUC against membership says little.",
        "",
        *_table(
            ("analysis", "attack", "says"),
            [(_link(a), "yes" if a.attack else "", _prose(_summary(a))) for a in ANALYSES],
        ),
        "",
        "An evaluation looks at scores together.",
        "",
        *_table(
            ("evaluation", "without a SCORE", "says"),
            [
                (_link(e), ", ".join(e.default_scores) or "name some", _prose(_summary(e)))
                for e in EVALUATIONS
            ],
        ),
        "",
        "## Options that all analyses take",
        "",
        *_table(("option", "default", "what it is"), map(_row, shared)),
        "",
        "Evaluations take `--lake`, `--experiment`, `--target`, `--metrics`, `--engine`, `--spark-master` and their own.",
    ]
    return "\n".join(lines) + "\n"


def entry_page(entry: Entry) -> str:
    """What one analysis or evaluation computes, needs and takes."""
    summary, *paragraphs = [" ".join(part.split()) for part in entry.description.split("\n\n")]
    lines = [f"# {entry.name}", "", MADE, "", _prose(summary), ""]
    for paragraph in paragraphs:
        head, colon, rest = paragraph.partition(": ")
        if colon and head in ("Needs", "Source"):
            lines += [f"**{head}:** {_prose(rest)}", ""]
        else:
            lines += [_prose(paragraph), ""]
    command = command_of(entry.name)
    if isinstance(entry, Evaluation):
        told = "A SCORE is an analysis, `NAME` or `NAME[option=value,...]`."
        if entry.default_scores:
            told += f" Without one: {', '.join(entry.default_scores)}."
        lines += [told, ""]
    else:
        more = ", and those of its own named above" if "Metrics of its own" in entry.description else ""
        lines += [f"**Metrics:** `auc` and `tpr_at_fpr`{more}.", ""]
    own = [param for param in _options(command) if _own(param, entry) is not None]
    lines += ["## Options", ""]
    if own:
        lines += [*_table(("option", "default", "what it is"), map(_row, own)), ""]
    lines += [
        f"{'And those' if own else 'Those'} that [all {'analyses' if isinstance(entry, Analysis) else 'evaluations'} "
        "take](README.md#options-that-all-analyses-take).",
        "",
        "## Example",
        "",
        "```sh",
        *_examples(command),
        "```",
    ]
    if isinstance(entry, Analysis):
        lines += [
            "",
            "```python",
            f'outcome = losslake.open("my-lake").analyze("{entry.name}", experiment="{entry.example}")',
            "outcome.scores.frame  # sample_id, member, score and the columns named above",
            "outcome.metrics",
            "```",
        ]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its help, in the order of the command line; analyses have pages of their own."""
    lines = [
        "# Commands",
        "",
        MADE,
        "",
        "Progress goes to standard error, data to standard output. Exit codes: 0 done, 1 the work failed, 2 wrong usage.",
        "",
    ]
    for path, command in walk():
        lines += [f"## `{path}`", ""]
        entry = _entry(path)
        if entry is not None:
            lines += [
                f"{_prose(_summary(entry))} [Formula, source and options](analyses/{entry.name}.md).",
                "",
            ]
            continue
        lines += [*_help(command), ""]
        arguments = [param for param in command.params if isinstance(param, click.Argument)]
        if not isinstance(command, click.Group):
            words = [argument.make_metavar(click.Context(command)) for argument in arguments]
            lines += ["```sh", " ".join([path, "[OPTIONS]", *words]), "```", ""]
        if isinstance(command, click.Group):
            names = ", ".join(f"[`{name}`](#{_anchor(f'{path} {name}')})" for name in _names(command, path))
            lines += [f"Commands: {names}.", ""]
        if options := _options(command):
            lines += [*_table(("option", "default", "what it is"), map(_row, options)), ""]
    return "\n".join(lines).rstrip() + "\n"


def python_page() -> str:
    """What Python users call, each with its signature and its docstring."""
    lines = [
        "# Python",
        "",
        MADE,
        "",
        "What `import losslake` gives, and what its functions return. Everything else may change.",
        "",
    ]
    for title, entries in PYTHON:
        lines += [f"## {title}", ""]
        for name, entry in entries:
            lines += [f"### `{name}`", ""]
            if callable(entry) and not inspect.isclass(entry):
                lines += ["```text", _signature(name, entry), "```", ""]
            lines += _docstring(entry)
    return "\n".join(lines).rstrip() + "\n"


def _methods(cls: type, before: str) -> tuple[tuple[str, object], ...]:
    """The public methods and properties of a class, its bases' too, in the order of their source; and the class itself first."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("losslake"):
            for name, value in vars(base).items():
                if not name.startswith("_") and (
                    callable(value) or isinstance(value, property | classmethod)
                ):
                    found[name] = getattr(cls, name)
    documented = {name: value for name, value in found.items() if inspect.getdoc(value)}
    return ((before, cls), *((f"{before}.{name}", value) for name, value in documented.items()))


PYTHON: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = (
    (
        "losslake",
        tuple(
            (f"losslake.{name}", getattr(losslake, name))
            for name in (
                "open",
                "audit",
                "lightning_callback",
                "huggingface_callback",
                "per_sample_grad_norms",
            )
        ),
    ),
    ("Audit", (*_methods(Audit, "Audit"), ("Gated", Gated))),
    ("Lake", _methods(losslake.Lake, "Lake")),
    ("RecordedRun", _methods(RecordedRun, "RecordedRun")),
    (
        "What analyses return",
        (
            *_methods(Outcome, "Outcome"),
            *_methods(Scores, "Scores"),
            *_methods(Finding, "Finding"),
            *_methods(Metric, "Metric"),
        ),
    ),
)


def _signature(name: str, entry: object) -> str:
    """A call, a parameter a line where one line is too long for all."""
    signature = inspect.signature(entry)  # type: ignore[arg-type]
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    returns = (
        "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
    )
    told, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            told.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = (
            ""
            if parameter.default is parameter.empty
            else f"{' = ' if annotation else '='}{parameter.default!r}"
        )
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        told.append(f"{star}{parameter.name}{annotation}{default}")
    line = f"{name}({', '.join(told)}){returns}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in told), f"){returns}"])


def _docstring(entry: object) -> Iterator[str]:
    """Paragraphs as prose; lists of parameters and code as they stand."""
    for paragraph in (inspect.getdoc(entry) or "").split("\n\n"):
        aligned = paragraph.startswith("    ") or re.search(r"^\S+(, \S+)* {2,}\S", paragraph, re.M)
        if aligned:
            yield from ("```text", textwrap.dedent(paragraph), "```", "")
        else:
            yield from (_prose(" ".join(paragraph.split())), "")


def walk(command: click.Command = cli, path: str = "losslake") -> Iterator[tuple[str, click.Command]]:
    """Every command that is not hidden, groups included, as its words and itself."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from walk(below, f"{path} {name}")


def _names(group: click.Group, path: str) -> list[str]:
    depth = path.count(" ") + 1
    return [words.split()[-1] for words, _ in walk(group, path) if words.count(" ") == depth]


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


def _entry(path: str) -> Entry | None:
    group, _, name = path.rpartition(" ")
    return next((entry for entry in ENTRIES if (group, name) == ("losslake analyze", entry.name)), None)


def _link(entry: Entry) -> str:
    return f"[{entry.name}]({entry.name}.md)"


def _summary(entry: Entry) -> str:
    return entry.description.splitlines()[0]


def _own(param: click.Option, entry: Entry) -> Option | None:
    """The declared option that a command's option comes from; None for those that all have."""
    own = (option for option in entry.options if option not in SHARED)
    return next((option for option in own if option.keyword == param.name), None)


def _options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option) and not param.hidden]


def _row(param: click.Option) -> tuple[str, str, str]:
    flags = ", ".join(f"`{flag}`" for flag in param.opts)
    if param.secondary_opts:
        flags += " / " + ", ".join(f"`{flag}`" for flag in param.secondary_opts)
    if param.metavar and not param.is_flag:
        flags += f" {param.metavar}"
    text = _prose(param.help or "")
    if isinstance(param.type, click.Choice):
        text += f" One of {', '.join(f'`{choice}`' for choice in param.type.choices)}."
    if param.multiple:
        text += " May be given several times."
    return flags, _default(param), text


def _default(param: click.Option) -> str:
    default = param.default
    if not param.show_default or not isinstance(default, (bool, int, float, str, tuple)):
        return ""
    if isinstance(default, bool):
        return f"`{(param.opts if default else param.secondary_opts)[0]}`"
    values = default if isinstance(default, tuple) else (default,)
    return ", ".join(f"`{value}`" for value in values)


def _help(command: click.Command) -> list[str]:
    """A command's help; what follows its \\b marks stands as it is, in a block."""
    lines: list[str] = []
    for part in inspect.cleandoc(command.help or "").split("\n\n"):
        if not part.startswith("\b"):
            lines += [_prose(" ".join(part.split())), ""]
            continue
        shown = part.splitlines()[1:]
        if shown[0].endswith(":"):
            lines += [shown.pop(0), ""]
        lines += ["```text", *textwrap.dedent("\n".join(shown)).splitlines(), "```", ""]
    return lines[:-1]


def _examples(command: click.Command) -> list[str]:
    _, _, shown = (command.help or "").partition("Example:\n")
    return [line.strip() for line in shown.splitlines() if line.strip()]


def _prose(text: str) -> str:
    """Plain text as Markdown that shows it so."""
    return re.sub(r"`[^`]*`|[*<$]", lambda found: found[0] if found[0][0] == "`" else f"\\{found[0]}", text)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
    ]
