"""Declaring an analysis once: from its typed function come the Python call, the command, its help and its variants."""

from __future__ import annotations

import importlib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..store.errors import InvalidOption

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True)
class Option:
    """One keyword of an analysis; ``name`` is its spelling on the command line.

    ``choices`` lists what is allowed, empty for any value of ``kind``; ``many`` takes several values.
    """

    keyword: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False

    @property
    def name(self) -> str:
        return self.keyword.rstrip("_").replace("_", "-")


DUALS = Option(
    "duals", bool, False, "average the score over the target and its duals: the same members, other seeds"
)
MASK = Option(
    "mask",
    str,
    None,
    "hide part of every answer, as a defence would: top-k:K, round:DECIMALS, temperature:T or label-only",
)
WITHOUT = Option(
    "without", str, (), "a shadow or reference run that the target is not to be compared with", many=True
)
SHARED = (DUALS, MASK, WITHOUT)
"""What every analysis takes beside its own options."""


@dataclass(frozen=True)
class Declaration:
    """What commands, help and report know of a typed function.

    ``function`` and ``drawn_by`` say where it and its chart are, ``"module:name"`` below this wing: they are imported when they are
    asked for, so that a command loads the analysis that it runs and no other. Options are keyword parameters annotated as
    ``Annotated[type, "help"]``; ``sql`` names the texts it runs.
    """

    name: str
    function: str
    sql: tuple[str, ...]
    drawn_by: str

    @property
    def compute(self) -> Callable[..., Any]:
        """The function itself."""
        return _named(self.function)

    @property
    def chart(self) -> Callable[..., alt.TopLevelMixin]:
        """What draws its outcome."""
        return _named(self.drawn_by)

    @property
    def description(self) -> str:
        """The whole docstring."""
        return inspect.getdoc(self.compute) or ""

    @property
    def options(self) -> tuple[Option, ...]:
        """The annotated keyword-only parameters, in the order of the function."""
        hints = get_type_hints(self.compute, include_extras=True)
        found = []
        for parameter in inspect.signature(self.compute).parameters.values():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                continue
            kind, text = get_args(hints[parameter.name])
            if get_origin(kind) in (Union, types.UnionType):
                kind = next(part for part in get_args(kind) if part is not type(None))
            many = get_origin(kind) is tuple
            if many:
                kind = get_args(kind)[0]
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            kind = str if choices else kind
            found.append(Option(parameter.name, kind, parameter.default, text, choices, many))
        return tuple(found)


@dataclass(frozen=True)
class Analysis(Declaration):
    """A function from a `Source` and options to `Scores`, and the chart of these.

    ``attack`` is True where a higher score claims that the record was a member; other scores rank records by
    exposure without claiming so, and their AUC against membership says little.
    """

    attack: bool = False

    @property
    def options(self) -> tuple[Option, ...]:
        """The keyword options of the function, and `SHARED`."""
        return (*super().options, *SHARED)

    @property
    def example(self) -> str:
        """What the experiment of its examples is called."""
        return "texts" if self.function.startswith("language.") else "digits"


@dataclass(frozen=True)
class Evaluation(Declaration):
    """What is said about scores together: from a `Source`, score names and options to a `Finding`.

    ``default_scores`` are the ones it is about where none is named; without them at least one must be.
    """

    default_scores: tuple[str, ...] = ()


def _named(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f".{module}", __package__), name)
    return found


def parse_options(options: tuple[Option, ...], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Check options by name (hyphens or underscores) and turn text into their types.

    Raises InvalidOption for an unknown name, a value of the wrong type or none of the choices.
    """
    by_name = {option.name: option for option in options}
    parsed = {}
    for name, value in given.items():
        option = by_name.get(name.rstrip("_").replace("_", "-"))
        if option is None:
            raise InvalidOption(f"{what} has no option {name!r} (options: {', '.join(by_name) or 'none'})")
        if option.many:
            # In a score's name, attack-r[alpha=0.01+0.1], where the comma parts options.
            parts = value.split("+") if isinstance(value, str) else value
            parsed[option.keyword] = tuple(_parse(option, part, what) for part in parts)
        else:
            parsed[option.keyword] = _parse(option, value, what)
    return parsed


def _parse(option: Option, value: Any, what: str) -> Any:
    if option.choices:
        if value not in option.choices:
            raise InvalidOption(
                f"{option.name} of {what} must be one of {', '.join(option.choices)}, not {value!r}"
            )
        return value
    if value is None:
        return None
    try:
        if option.kind is bool and isinstance(value, str):
            return {"true": True, "false": False}[value.lower()]
        return option.kind(value)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidOption(
            f"{option.name} of {what} must be {option.kind.__name__}, not {value!r}"
        ) from error


def parse_score(text: str, find: Callable[[str], Analysis]) -> tuple[Analysis, dict[str, Any]]:
    """Read a score's name, ``lira`` or ``lira[mode=offline,variance=sample]``; ``find`` knows the analyses by name.

    Raises InvalidOption for an unknown analysis, option or value.
    """
    match = re.fullmatch(r"([a-z0-9-]+)(?:\[(.*)\])?", text.strip())
    if match is None:
        raise InvalidOption(f"{text!r} is no score; write NAME or NAME[option=value,...]")
    analysis = find(match.group(1))
    given: dict[str, str] = {}
    for part in filter(None, (match.group(2) or "").split(",")):
        name, sign, value = part.partition("=")
        if not sign:
            raise InvalidOption(f"{part!r} in {text!r} is no option; write option=value")
        given[name.strip()] = value.strip()
    return analysis, parse_options(analysis.options, given, analysis.name)


def variant_of(options: tuple[Option, ...], chosen: Mapping[str, Any]) -> str:
    """The options that differ from their defaults, as ``name=value,name=value``; empty for none."""
    asked = [(option, chosen.get(option.keyword, option.default)) for option in options]
    changed = [(option, value) for option, value in asked if value != option.default]
    return ",".join(sorted(f"{option.name}={_written(option, value)}" for option, value in changed))


def _written(option: Option, value: Any) -> Any:
    """A value as `parse_score` reads it."""
    if option.many:
        return "+".join(map(str, value))
    return str(value).lower() if option.kind is bool else value
