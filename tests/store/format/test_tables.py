"""Tables of Python values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from losslake.store.format.tables import constant_column, table_of_rows

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("whole", pa.int64()),
        ("small", pa.int32()),
        ("number", pa.float64()),
        ("moment", pa.timestamp("ms", tz="UTC")),
    ]
)

_zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
_moments = st.datetimes(timezones=_zones).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "whole": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
            "small": st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
            "number": st.none() | st.floats(allow_nan=False) | st.integers(-1000, 1000),
            "moment": st.none() | _moments,
            "other": st.integers(),
        },
    )
)


@settings(deadline=None)
@given(ROWS)
def test_they_are_those_that_pyarrow_makes(rows: list[dict[str, Any]]) -> None:
    made = table_of_rows(rows, SCHEMA)
    made.validate(full=True)
    assert made.equals(pa.Table.from_pylist(rows, schema=SCHEMA))


def test_not_a_number_stays_one() -> None:
    (value,) = table_of_rows([{"number": float("nan")}], SCHEMA)["number"].to_pylist()
    assert value != value


@pytest.mark.parametrize(
    "row",
    [
        {"text": 1},
        {"text": b"a"},
        {"text": "\ud800"},
        {"whole": 1 << 63},
        {"whole": 1.5},
        {"whole": "1"},
        {"whole": True},
        {"small": 1 << 31},
        {"number": "1"},
        {"moment": datetime(2026, 1, 1)},
        {"moment": 7},
    ],
)
def test_other_values_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        table_of_rows([{"text": "a"}, row], SCHEMA)


@pytest.mark.parametrize("text", ["", "a", "é𝄞"])
@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_the_same_text_in_every_row(text: str, rows: int) -> None:
    made = constant_column(text, rows)
    made.validate(full=True)
    assert made.equals(pa.array(np.full(rows, text, dtype=object), pa.string()))
