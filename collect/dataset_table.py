"""Tables as features: numeric columns standardised, categories one-hot."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..store.errors import InvalidInput

MAX_CATEGORIES = 1_000
MIN_IDENTIFIERS = 21
"""From so many rows on a text that differs in each of them is taken for an identifier."""


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
            "this looks like text or an identifier; drop it or encode it as numbers"
        )
    if len(categories) == len(column) >= MIN_IDENTIFIERS:
        raise InvalidInput(
            f"{where}: column {name!r} has another value in every row, as an identifier has, and each record would be told "
            "by it; leave it out, or give the data by a function package.module:function that returns it as key"
        )
    order = np.asarray(pc.sort_indices(categories))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    features = np.zeros((len(column), len(order)), dtype=np.float32)
    features[np.arange(len(column)), place[np.asarray(encoded.indices)]] = 1.0
    return features
