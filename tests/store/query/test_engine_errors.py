from __future__ import annotations

import duckdb
import pytest
from losslake.store.errors import LimitReached, QueryRefused
from losslake.store.query.engine_errors import engine_errors

LATE = "select case when i > 190000 then {} else null end as late from range(200000) t(i)"
FAILING = {
    "raised": (LATE.format("error('boom')"), QueryRefused, "boom"),
    "cast": (LATE.format("('a' || i)::int"), QueryRefused, "Could not convert string"),
    "range": (LATE.format("(i * 4000)::utinyint"), QueryRefused, "out of range"),
    "overflow": (LATE.format("9223372036854775807 + i"), QueryRefused, "Overflow"),
    "memory": ("select list(range) from range(100000000)", LimitReached, "--memory"),
    "memory, late": (LATE.format("range(20000 + i % 2)"), LimitReached, "--memory"),
}


def taken(
    connection: duckdb.DuckDBPyConnection, query: str, streamed: bool, interrupted: bool = False
) -> None:
    with engine_errors(connection):
        answer = connection.sql(query)
        for _ in answer.to_arrow_reader(1000) if streamed else answer.fetchall():
            if interrupted:
                connection.interrupt()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", FAILING)
def test_an_error_while_rows_stream_is_the_one_that_it_is_without(kind: str, streamed: bool) -> None:
    query, expected, said = FAILING[kind]
    with duckdb.connect() as connection:
        connection.sql("set memory_limit = '20MB'; set threads = 1; set max_temp_directory_size = '0MB'")
        with pytest.raises(expected, match=said):
            taken(connection, query, streamed)


def test_a_cancelled_stream_is_cancelled() -> None:
    with duckdb.connect() as connection, pytest.raises(KeyboardInterrupt):
        taken(connection, "select * from range(10000000)", streamed=True, interrupted=True)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "x"), OSError("disk quota")])
def test_what_the_system_raises_stays_what_it_is(error: OSError) -> None:
    with duckdb.connect() as connection, pytest.raises(type(error)) as caught, engine_errors(connection):
        raise error
    assert caught.value is error
