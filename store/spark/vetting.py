"""What an ad-hoc query on Spark may do: read the lake's views and compute. All else is refused before Spark sees it.

Spark has no lock such as DuckDB's: whoever may run a text may read files, run methods of Java and write tables. So a
text is parsed here, and every part of it must be one that is known to do no more than compute: a kind of expression, a
function, or the name of a view. What is not listed is refused, however harmless. Spark is given what is written anew from
the parts, never the text itself.

What a user can rely on is less than on DuckDB (see `store.read_only`): this rests on two parsers that understand a text
alike, and on nothing inside Spark. SQL of people one does not trust belongs on DuckDB, or on a cluster whose user may read
nothing but the lake.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlglot import exp
from sqlglot.optimizer.scope import traverse_scope

from ..errors import QueryRefused

_PARTS: frozenset[type[exp.Expr]] = frozenset(
    [
        # queries
        *(
            exp.Select,
            exp.Subquery,
            exp.Union,
            exp.Except,
            exp.Intersect,
            exp.With,
            exp.CTE,
            exp.From,
            exp.Join,
        ),
        *(
            exp.Where,
            exp.Group,
            exp.Having,
            exp.Order,
            exp.Ordered,
            exp.Limit,
            exp.Offset,
            exp.Distinct,
            exp.Qualify,
        ),
        *(exp.Table, exp.TableAlias, exp.Values, exp.Tuple),
        # names and values
        *(exp.Column, exp.Identifier, exp.Alias, exp.Star, exp.Literal, exp.Boolean, exp.Null, exp.Parameter),
        *(exp.Placeholder, exp.Var, exp.Interval, exp.Dot, exp.Bracket, exp.Slice, exp.Lambda, exp.Paren),
        # operators
        *(
            exp.Add,
            exp.Sub,
            exp.Mul,
            exp.Div,
            exp.IntDiv,
            exp.Mod,
            exp.Neg,
            exp.And,
            exp.Or,
            exp.Not,
            exp.EQ,
            exp.NEQ,
        ),
        *(
            exp.GT,
            exp.GTE,
            exp.LT,
            exp.LTE,
            exp.NullSafeEQ,
            exp.NullSafeNEQ,
            exp.Is,
            exp.Like,
            exp.ILike,
            exp.Escape,
        ),
        *(exp.DPipe, exp.Between, exp.In, exp.Exists, exp.Case, exp.If, exp.Cast, exp.TryCast, exp.DataType),
        # windows and aggregates
        *(exp.Window, exp.WindowSpec, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls),
    ]
)

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


def check_query(query: exp.Query, views: Collection[str], macros: Collection[str]) -> None:
    """Raises QueryRefused unless every part of a query is known to only read ``views`` and compute."""
    there = {view.casefold() for view in views}
    named = {cte.alias.casefold() for cte in query.find_all(exp.CTE)}
    for part in query.walk():
        if isinstance(part, exp.Table):
            _check_table(part, there | named)
        elif type(part) in _PARTS:
            _check_part(part)
        elif isinstance(part, exp.Func):
            _check_function(part, macros)
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


def _check_function(function: exp.Func, macros: Collection[str]) -> None:
    names = [function.name] if isinstance(function, exp.Anonymous) else function.sql_names()
    if not {name.casefold() for name in names} & (_FUNCTIONS | set(macros)):
        raise QueryRefused(f"{names[0].lower()}() is not among the functions that queries on Spark may use")
