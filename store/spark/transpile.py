"""One text for two engines: a query in DuckDB's SQL, written out for Spark with the macros of sql/macros_spark.sql.

A user's query is looked at before: it may read the lake's views and compute. Spark has no lock such as DuckDB's: whoever
may run a text may read files, run methods of Java and write tables. So every part of the parsed text must be one that is
known to do no more than compute: a kind of expression, a function, or the name of a view. What is not listed is refused,
however harmless. Spark is given what is written anew from the parts, never the text itself.

What a user can rely on is less than on DuckDB (see `query.read_only`): this rests on two parsers that understand a text
alike, and on nothing inside Spark. SQL of people one does not trust belongs on DuckDB, or on a cluster whose user may read
nothing but the lake.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sqlglot import ErrorLevel, exp, parse, parse_one
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

from ...sql import read_sql
from ..errors import QueryRefused

_MACRO = re.compile(r"create macro (\w+)\(([^)]*)\) as\s+(.*?);", flags=re.DOTALL)

_PART_NAMES = """
Select Subquery Union Except Intersect With CTE From Join
Where Group Having Order Ordered Limit Offset Distinct Qualify
Table TableAlias Values Tuple
Column Identifier Alias Star Literal Boolean Null Parameter
Placeholder Var Interval Dot Bracket Slice Lambda Paren
Add Sub Mul Div IntDiv Mod Neg And Or Not EQ NEQ
GT GTE LT LTE NullSafeEQ NullSafeNEQ Is Like ILike Escape
DPipe Between In Exists Case If Cast TryCast DataType
Window WindowSpec Filter WithinGroup IgnoreNulls RespectNulls
"""
_PARTS: frozenset[type[exp.Expr]] = frozenset(getattr(exp, name) for name in _PART_NAMES.split())
"""Kinds of expressions: queries, names and values, operators, windows and aggregates."""

_FUNCTION_NAMES = """
abs ceil ceiling floor round sign sqrt cbrt exp ln pow power pi greatest least coalesce nullif ifnull
isnan isfinite is_nan is_inf isinf sin cos tan asin acos atan atan2 degrees radians
lower upper length trim ltrim rtrim concat concat_ws substring substr replace left right starts_with startswith
ends_with endswith contains str_position split_part reverse
year month day hour minute second date_trunc timestamp_trunc
array array_size array_length array_max array_min array_contains array_position array_sort sort_array array_filter
filter transform array_transform array_distinct flatten
count count_if sum avg min max any_value first last arg_max arg_min max_by min_by
bool_and bool_or logical_and logical_or stddev stddev_pop stddev_samp variance variance_samp var_samp var_pop
variance_pop corr covar_pop covar_samp median mode percentile_cont
row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
"""Functions that compute a value and do nothing else; beside them the macros of sql/macros_spark.sql."""


class _Text(DuckDB):
    """DuckDB's dialect as it is read here."""

    INDEX_OFFSET = 0
    """Places in a list stay as they are written: Spark's try_element_at counts from 1 as well."""

    class Tokenizer(DuckDB.Tokenizer):
        # $low:$high are two parameters; sqlglot would take $low:$ for the opening of a string.
        HEREDOC_STRINGS: ClassVar[list[str | tuple[str, str]]] = []


@dataclass(frozen=True)
class Macro:
    """The names of a macro's parameters, and its body, in which other macros have been written out."""

    parameters: tuple[str, ...]
    body: exp.Expr


def parse_query(text: str) -> exp.Query:
    """The one query that a text holds, without comments. Raises QueryRefused for several, none, or another statement."""
    try:
        found = [tree for tree in parse(text, read=_Text) if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise QueryRefused(f"the query cannot be read: {_plain(error)}") from error
    if len(found) != 1:
        raise QueryRefused(f"one statement at a time, not {len(found)}")
    if not isinstance(found[0], exp.Query):
        raise QueryRefused(f"only queries run here, this is a {found[0].key.upper()} statement")
    for part in found[0].walk():
        part.comments = None
    return found[0]


def check_query(query: exp.Query, views: Collection[str]) -> None:
    """Raises QueryRefused unless every part of a query is known to only read ``views`` and compute."""
    there = {view.casefold() for view in views}
    named = {cte.alias.casefold() for cte in query.find_all(exp.CTE)}
    for part in query.walk():
        if isinstance(part, exp.Table):
            _check_table(part, there | named)
        elif type(part) in _PARTS:
            _check_part(part)
        elif isinstance(part, exp.Func):
            _check_function(part)
        else:
            raise QueryRefused(f"{part.key.upper()} is not for queries on Spark")
    # A name may be that of a CTE in one place only; elsewhere Spark would look for a table of its own.
    for scope in traverse_scope(query):
        for source in scope.sources.values():
            if isinstance(source, exp.Table):
                _check_table(source, there)


def _check_table(table: exp.Table, readable: Collection[str]) -> None:
    beside = [name for name, value in table.args.items() if value and name not in ("this", "alias", "joins")]
    if not isinstance(table.this, exp.Identifier) or beside or table.name.casefold() not in readable:
        raise QueryRefused(f"queries on Spark read the lake's views, not {table.sql('duckdb')[:100]!r}")


def _check_part(part: exp.Expr) -> None:
    if isinstance(part, exp.DataType) and (
        not isinstance(part.this, exp.DataType.Type) or part.this == exp.DataType.Type.USERDEFINED
    ):
        raise QueryRefused(f"Spark has no type {part.sql('duckdb')[:100]!r}")


def _check_function(function: exp.Func) -> None:
    names = [function.name] if isinstance(function, exp.Anonymous) else function.sql_names()
    if not {name.casefold() for name in names} & (_FUNCTIONS | macros().keys()):
        raise QueryRefused(f"{names[0].lower()}() is not among the functions that queries on Spark may use")


def for_spark(query: exp.Query) -> str:
    """A query from `parse_query` in Spark's dialect; ``$name`` becomes ``:name``. The tree given is used up."""
    try:
        _write_out(query, macros())
        return query.sql("spark", unsupported_level=ErrorLevel.RAISE)
    except (SqlglotError, RecursionError) as error:
        raise QueryRefused(f"the query cannot be put for Spark: {_plain(error)}") from error


def written_out(text: str) -> str:
    """An expression in Spark's dialect with the macros that it calls written out."""
    holder = exp.Paren(this=parse_one(text, read="spark"))
    _write_out(holder, macros(), spark=True)
    return holder.sql("spark")


def reads_lists(query: exp.Query) -> bool:
    """Whether a query may read logits or features: it names one of them, or takes all columns."""
    names = (column.name.casefold() for column in query.find_all(exp.Column))
    stars = (star for star in query.find_all(exp.Star) if not isinstance(star.parent, exp.Count))
    return any(name in ("logits", "features") for name in names) or next(stars, None) is not None


@functools.cache
def macros() -> Mapping[str, Macro]:
    """Every macro of sql/macros_spark.sql by its name."""
    text = "\n".join(line for line in read_sql("macros_spark").splitlines() if not line.startswith("--"))
    found: dict[str, Macro] = {}
    for name, parameters, body in _MACRO.findall(text):
        holder = exp.Paren(this=parse_one(body, read="spark"))
        # A macro may call the function of Spark's that it stands for.
        _write_out(holder, found, spark=True)
        found[name] = Macro(tuple(part.strip() for part in parameters.split(",")), holder)
    return found


def _write_out(tree: exp.Expr, known: Mapping[str, Macro], *, spark: bool = False) -> None:
    """Replace what Spark lacks or means otherwise, inner parts first. ``spark`` is a text in Spark's own dialect."""
    for part in reversed(list(tree.dfs())):
        new = _called(part, known) or (None if spark else _adapted(part, known))
        if new is not None:
            part.replace(new)


def _called(part: exp.Expr, known: Mapping[str, Macro]) -> exp.Expr | None:
    """The body of the macro that ``part`` calls, if it calls one."""
    if not isinstance(part, exp.Func):
        return None
    if isinstance(part, exp.Anonymous):
        return _filled(known, part.name.casefold(), part.expressions)
    name = next((name.casefold() for name in part.sql_names() if name.casefold() in known), None)
    if name is None:
        return None
    return _filled(known, name, [value for value in part.args.values() if isinstance(value, exp.Expr)])


def _filled(known: Mapping[str, Macro], name: str, arguments: list[exp.Expr]) -> exp.Expr | None:
    macro = known.get(name)
    if macro is None:
        return None
    if len(arguments) != len(macro.parameters):
        raise QueryRefused(f"{name}() takes {len(macro.parameters)} values, not {len(arguments)}")
    given = dict(zip(macro.parameters, arguments, strict=True))
    body = macro.body.copy()
    for column in list(body.find_all(exp.Column)):
        if not column.table and column.name in given:
            column.replace(_enclosed(given[column.name].copy()))
    return body


def _enclosed(part: exp.Expr) -> exp.Expr:
    """In parentheses where an operator beside it could take a part of it."""
    return exp.Paren(this=part) if isinstance(part, exp.Binary | exp.Unary | exp.Between | exp.In) else part


def _adapted(part: exp.Expr, known: Mapping[str, Macro]) -> exp.Expr | None:
    """What a part of DuckDB's SQL becomes, None for one that stays."""
    if isinstance(part, exp.Literal) and not part.is_string and "." in part.this:
        return exp.cast(part.copy(), "double")  # Spark would take it for a decimal of so many digits
    if isinstance(part, exp.Div) and not _never_zero(part.expression):
        return _filled(known, "divided", [part.this, part.expression])
    if isinstance(part, exp.Bracket) and len(part.expressions) == 1:
        return _element(part, known)
    if isinstance(part, exp.WithinGroup) and isinstance(part.this, exp.PercentileCont):
        (ordered,) = part.expression.expressions
        return _percentile(ordered.this, part.this.this, falling=bool(ordered.args.get("desc")))
    if isinstance(part, exp.PercentileCont) and not isinstance(part.parent, exp.WithinGroup):
        return _percentile(part.this, part.expression)
    if isinstance(part, exp.Star) and part.args.get("replace"):
        raise QueryRefused("Spark has no * REPLACE (...); name the columns")
    return None


def _percentile(values: exp.Expr, share: exp.Expr, *, falling: bool = False) -> exp.Expr:
    """The exact quantile; sqlglot would have Spark estimate it."""
    if falling:
        raise QueryRefused("percentile_cont on Spark goes by rising values; take 1 - q")
    return exp.Anonymous(this="percentile", expressions=[values.copy(), share.copy()])


def _element(part: exp.Bracket, known: Mapping[str, Macro]) -> exp.Expr | None:
    place = part.expressions[0]
    if isinstance(place, exp.Slice):
        low = place.this or exp.Literal.number(1)
        high = place.expression or exp.Literal.number(-1)
        return _filled(known, "sliced", [part.this, low, high])
    if isinstance(place, exp.Literal) and place.is_string:
        return None  # a field of a struct
    return _filled(known, "element", [part.this, place])


def _never_zero(divisor: exp.Expr) -> bool:
    """Whether a divisor is a number beside 0, or NULL in its place."""
    inner = divisor.unnest()
    if isinstance(inner, exp.Cast):
        inner = inner.this
    if isinstance(inner, exp.Nullif):
        return inner.expression.sql() == "0"
    return isinstance(inner, exp.Literal) and not inner.is_string and float(inner.this) != 0


def _plain(error: BaseException) -> str:
    """A message of sqlglot's in one line, without what underlines it on a terminal."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
    return lines[0] if lines else type(error).__name__
