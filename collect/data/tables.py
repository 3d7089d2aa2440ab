"""Tables as features: numeric columns standardised, categories one-hot."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...store.errors import InvalidInput

MAX_CATEGORIES = 1_000
MIN_IDENTIFIERS = 21
"""From so many rows on a text that differs in each of them is taken for an identifier."""

_NAMED_LIKE_AN_IDENTIFIER = re.compile(
    r"(?i:(.*[\W_])?id|key|index|idx|uuid|)|.*[a-z]I[dD]|Unnamed: \d+|__index_level_\d+__"
)
"""id, patient_id, patientId, key, ...; and what pandas calls an index that it writes: nothing, Unnamed: 0, __index_level_0__."""


def encode_features(table: pa.Table, *, where: str) -> np.ndarray:
    """Every column of `table` as features: float32 (N, F), in column order.

    Numbers are standardised with the mean and standard deviation of the whole column (a constant column
    becomes zeros). Strings, booleans and categories become one 0/1 column for each value, in sorted order.

    Raises InvalidInput, with column (and row), for a null, NaN or infinity, for types that are neither (dates,
    lists, binary, ...), for a column of more than MAX_CATEGORIES different strings, and for one of identifiers, by which
    a model could tell every record from all others.
    """
    if table.num_columns == 0:
        raise InvalidInput(f"{where}: no feature columns beside the label")
    blocks = [_encode(table.column(name), name, where) for name in table.column_names]
    return np.concatenate(blocks, axis=1)


def encoded_bytes(table: pa.Table) -> int:
    """How many bytes `encode_features` takes for a table, at most."""
    wide = [column for column in table.columns if is_category(column.type)]
    values = sum(min(_different(column), MAX_CATEGORIES) for column in wide)
    return 4 * table.num_rows * (values + 5 * (table.num_columns - len(wide)))


def _different(column: pa.ChunkedArray) -> int:
    """How many different values a column of categories has, at most."""
    if pa.types.is_dictionary(column.type):
        return sum(len(chunk.dictionary) for chunk in column.chunks)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return int(pc.count_distinct(column).as_py())


def text_bytes(column: pa.ChunkedArray) -> int:
    """How many bytes a column of text takes as an array of NumPy's, in which each value is as long as the longest."""
    if pa.types.is_dictionary(column.type):
        values = [chunk.dictionary for chunk in column.chunks]
        kind = column.type.value_type
    else:
        values, kind = column.chunks, column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return 0
    longest = max((pc.max(pc.utf8_length(chunk)).as_py() or 0 for chunk in values), default=0)
    return 4 * int(longest) * len(column)


def refuse_identifiers(tables: Sequence[pa.Table], *, where: str) -> None:
    """Raise InvalidInput where a column of whole numbers, named like an identifier, has another value in every row.

    ``tables`` are the files of one data set, which may each count anew. As a feature it would tell a model every record
    from all others. Other columns may well have another number in every row, and are features.
    """
    if sum(table.num_rows for table in tables) < MIN_IDENTIFIERS:
        return
    for name in tables[0].column_names:
        columns = [table.column(name) for table in tables]
        if not (
            _NAMED_LIKE_AN_IDENTIFIER.fullmatch(name) and all(pa.types.is_integer(c.type) for c in columns)
        ):
            continue
        if all(pc.count_distinct(column).as_py() == len(column) for column in columns):
            raise _identifier(name, where, "; if it is a measurement, give it another name")


def encode_keys(column: pa.ChunkedArray, *, where: str, name: str) -> np.ndarray:
    """The column that names the records: str (N,), whole numbers in decimal.

    Raises InvalidInput for one that holds neither text nor whole numbers, for a row without a name, and for two rows of one
    name, with rows.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (pa.types.is_integer(kind) or (is_category(kind) and not pa.types.is_boolean(kind))):
        raise InvalidInput(
            f"{where}: key column {name!r} is {kind}; names of records are text or whole numbers"
        )
    keys = column.cast(pa.large_string()).combine_chunks()
    unnamed = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(keys), ""), True)
    if pc.any(unnamed).as_py():
        row = int(pc.index(unnamed, True).as_py())
        raise InvalidInput(
            f"{where}: key column {name!r} has no value in row {row}; every record needs a name"
        )
    named = np.array(keys.to_pylist(), dtype=np.str_)
    distinct, first, number = np.unique(named, return_index=True, return_inverse=True)
    if len(distinct) < len(named):
        row = int(np.flatnonzero(first[number] != np.arange(len(named)))[0])
        raise InvalidInput(
            f"{where}: key column {name!r} has {str(named[row])!r} in row {first[number[row]]} and in row {row}; every record "
            "needs a name of its own"
        )
    return named


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type is used as a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_category(kind: pa.DataType) -> bool:
    """Whether a column of this type is one-hot encoded."""
    if pa.types.is_dictionary(kind):
        return is_category(kind.value_type) or pa.types.is_integer(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_boolean(kind)
    )


def _encode(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    number = is_number(column.type)
    if not number and not is_category(column.type):
        raise InvalidInput(
            f"{where}: column {name!r} is {column.type}; features are numbers, strings or booleans: "
            "drop or convert it"
        )
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise InvalidInput(f"{where}: column {name!r} has no value in row {row}; fill or drop it")
    return _standardise(column, name, where) if number else _one_hot(column, name, where)


def _standardise(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    # By way of NumPy, not Arrow's cast, which refuses integers above 2^53 rather than round them.
    values = np.asarray(column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column.to_numpy())
    values = values.astype(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidInput(f"{where}: column {name!r} is {values[row]} in row {row}; features must be finite")
    with np.errstate(over="ignore", invalid="ignore"):
        spread = values.std()
        centred = values - values.mean()
    if not np.isfinite(spread):
        raise InvalidInput(f"{where}: column {name!r} holds numbers too large to standardise; scale it down")
    # Equal values can have a standard deviation of a rounding error; it must not be blown up to 1.
    if values.min() == values.max():
        return np.zeros((len(values), 1), dtype=np.float32)
    # Differences below the smallest float64 square: the deviation underflows although the values differ.
    scale = spread if spread > 0 else np.abs(centred).max()
    return (centred / scale).astype(np.float32)[:, None]


def _one_hot(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    categories = encoded.dictionary
    if len(categories) > MAX_CATEGORIES:
        raise InvalidInput(
            f"{where}: column {name!r} has {len(categories):,} different values (limit {MAX_CATEGORIES:,}): "
            "this looks like text or an identifier; drop it, encode it as numbers, or, if it names the records, say so with "
            f"--key {shlex.quote(name)}"
        )
    if len(categories) == len(column) >= MIN_IDENTIFIERS:
        raise _identifier(name, where)
    place = np.argsort(pc.sort_indices(categories))  # of each among the sorted ones
    features = np.zeros((len(column), len(categories)), dtype=np.float32)
    features[np.arange(len(column)), place[np.asarray(encoded.indices)]] = 1.0
    return features


def _identifier(name: str, where: str, otherwise: str = "") -> InvalidInput:
    return InvalidInput(
        f"{where}: column {name!r} has another value in every row, as an identifier has, and each record would be told by it; "
        f"name the records by it (--key {shlex.quote(name)}), or leave it out of the file{otherwise}"
    )
