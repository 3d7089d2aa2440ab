"""Columns as Delta Lake knows them: types, what is cast to fit them, and what a Parquet footer says of a file's values.

A type of Delta's is a word ("integer"), or an object for lists, structs and decimals, as its logs have it
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md, "Schema Serialization Format").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InvalidInput

Type = str | dict[str, Any]

_WORDS: Mapping[pa.DataType, str] = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.date32(): "date",
    pa.timestamp("us", "UTC"): "timestamp",
}
_ARROW = {word: kind for kind, word in _WORDS.items()}

NOTHING = "nothing"
"""The type of a column that is null throughout."""

_NEAREST: Mapping[pa.DataType, Type] = {
    pa.uint8(): "short",
    pa.uint16(): "integer",
    pa.uint32(): "long",
    pa.uint64(): "decimal(20,0)",
    pa.float16(): "float",
    pa.date64(): "date",
    pa.null(): NOTHING,
}
"""Where values of types that Delta lacks fit."""

_NUMBERS = ("byte", "short", "integer", "long", "float", "double")

_LONGEST = 256
"""Letters of a text that stands in a log as the least or the greatest of a file."""


class Column(NamedTuple):
    """A column of a Parquet file: its type in a Delta table, and whether the file holds it as such a table's files do."""

    name: str
    type: Type
    as_it_is: bool


def columns_of(schema: pa.Schema) -> list[Column]:
    """The columns of a Parquet file."""
    return [Column(field.name, *_type_of(field.type)) for field in schema]


def _type_of(kind: pa.DataType) -> tuple[Type, bool]:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind):
        return "string", True
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary", pa.types.is_large_binary(kind)
    if kind in _WORDS:
        return _WORDS[kind], True
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return "timestamp", kind.unit == "us"
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return f"decimal({kind.precision},{kind.scale})", True
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        of, as_it_is = _type_of(kind.value_type)
        as_it_is &= not pa.types.is_fixed_size_list(kind)  # which Polars takes for arrays
        return {"type": "array", "elementType": of, "containsNull": True}, as_it_is
    if pa.types.is_struct(kind):
        inside = columns_of(pa.schema(list(kind)))
        return schema_of({each.name: each.type for each in inside}), all(each.as_it_is for each in inside)
    return _NEAREST.get(kind, "string"), False


def schema_of(columns: Mapping[str, Type]) -> dict[str, Any]:
    """A struct of columns, as a table's schema is one."""
    return {
        "type": "struct",
        "fields": [
            {"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in columns.items()
        ],
    }


def common_type(types: Iterable[Type]) -> Type:
    """One type for a column that files have in several: the wider number, else text. A file with nothing in it goes with any."""
    found = [each for each in types if each != NOTHING] or ["string"]
    if all(each == found[0] for each in found):
        return found[0]
    if all(isinstance(each, str) and each in _NUMBERS for each in found):
        places = [_NUMBERS.index(str(each)) for each in found]
        whole = max(places) <= _NUMBERS.index("long")
        return _NUMBERS[max(places)] if whole else "double"
    return "string"


def arrow_type(kind: Type) -> pa.DataType:
    """The Arrow type of a column of a Delta table."""
    if isinstance(kind, str):
        decimal = re.fullmatch(r"decimal\((\d+),(\d+)\)", kind)
        return pa.decimal128(int(decimal[1]), int(decimal[2])) if decimal else _ARROW[kind]
    if kind["type"] == "array":
        return pa.list_(arrow_type(kind["elementType"]))
    return pa.struct([(field["name"], arrow_type(field["type"])) for field in kind["fields"]])


def cast_rows(rows: pa.Table, columns: Mapping[str, Type]) -> pa.Table:
    """Rows as a Delta table of these columns has them; those are named as in ``columns``, whatever their case was.

    What no cast turns into text becomes JSON. Raises InvalidInput for what cannot be cast.
    """
    names = {name.casefold(): name for name in columns}
    fields, found = [], []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        name = names[field.name.casefold()]
        kind = arrow_type(columns[name])
        fields.append(pa.field(name, kind))
        try:
            found.append(_cast(column, kind))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise InvalidInput(
                f"column {field.name!r} of type {field.type} cannot be written as {kind}, as its Delta table has it: {error}"
            ) from error
    return pa.Table.from_arrays(found, schema=pa.schema(fields))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == pa.string() and pa.types.is_floating(column.type):
        # As DuckDB and Python write numbers: 1.0, and not 1.
        numbers = column.to_numpy()
        known = column.is_valid().to_pylist()
        texts = [str(number) if there else None for number, there in zip(numbers, known, strict=True)]
        return pa.chunked_array([pa.array(texts, pa.string())])
    try:
        return column.cast(kind, safe=not pa.types.is_timestamp(kind))
    except pa.ArrowException:
        if kind != pa.string():
            raise
        texts = [
            None if value is None else json.dumps(value, default=str, allow_nan=False)
            for value in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, pa.string())])


def statistics(footer: pq.FileMetaData) -> dict[str, Any]:
    """What a log says of a file: its rows, and of columns whose footer tells it the least, the greatest and how many are null."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for place in range(footer.num_columns):
        chunks = [group.column(place) for group in groups]
        name = footer.schema.column(place).path
        told = [chunk.statistics for chunk in chunks]
        if "." in name or not told or any(each is None or not each.has_null_count for each in told):
            continue
        nulls[name] = sum(each.null_count for each in told)
        there = [each for each in told if each.num_values]
        if there and all(each.has_min_max for each in there):
            low, high = min(each.min for each in there), max(each.max for each in there)
            if _comparable(low) and _comparable(high):
                least[name], greatest[name] = low, high
    return {
        "numRecords": footer.num_rows,
        "minValues": least,
        "maxValues": greatest,
        "nullCount": nulls,
        "tightBounds": True,
    }


def _comparable(value: Any) -> bool:
    """Whether a log says a least or greatest value: a whole number, or a text that is short. Engines take the rest to be unknown."""
    return type(value) is int or (type(value) is str and len(value) <= _LONGEST)
