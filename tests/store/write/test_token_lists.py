"""Token losses of language models: they come back as they went in, beside runs that have none, and wrong ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.store.errors import InvalidInput
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.query.scan import rows_of_each
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.verify import verify
from polars.testing import assert_frame_equal

N = 6
NAMES = ("token_losses", "token_z", "lower_loss")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"zlib_bytes": [40 + i for i in range(N)]}))
    return lake


def tokens(seed: int, ids: Any = range(N)) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    losses = [rng.exponential(2, 1 + i % 4).astype(np.float32) for i in ids]
    z = [rng.normal(size=len(row)).astype(np.float32) for row in losses]
    return {"token_losses": losses, "token_z": z, "lower_loss": rng.random(len(losses), np.float32)}


def write(lake: Lake, run: str, given: dict[str, Any], order: Any = range(N)) -> None:
    with lake.write_run("e", run, members=np.arange(N) % 2 == 0) as writer:
        ids = np.array(order)
        rows = {name: [values[i] for i in ids] for name, values in given.items()}
        writer.append_signals(ids, ids * 0, None, loss=ids / 3, phi=None, **rows)
        writer.commit(RunInfo(role="shadow"))


def check(frame: pl.DataFrame, run: str, given: dict[str, Any], gone: tuple[int, ...] = ()) -> None:
    rows = frame.filter(pl.col("run") == run).sort("sample_id")
    assert rows["sample_id"].to_list() == [i for i in range(N) if i not in gone]
    for name in NAMES:
        expected = [np.asarray(given[name][i]).tolist() if given else None for i in rows["sample_id"]]
        assert rows[name].to_list() == expected


def test_lists_come_back_beside_runs_that_have_none(lake: Lake, tmp_path: Path) -> None:
    known = {"a": {}, "b": tokens(1), "c": {}, "d": tokens(2)}
    for run, given in known.items():
        write(lake, run, given, np.random.default_rng(3).permutation(N))
    schemas = {run.run: lake.read_file(run.files[0]).schema.names for run in lake.runs("e")}
    assert not set(schemas["a"]) & set(NAMES)
    assert schemas["b"][-3:] == list(NAMES)

    def look(gone: tuple[int, ...] = ()) -> None:
        frames = lake.sql("from signals"), lake.scan("signals", "e").collect()
        for run, given in known.items():
            for frame in frames:
                check(frame, run, given, gone)
        for order in ("abcd", "badc"):  # whichever file comes first
            read = rows_of_each(lake, [lake.run("e", run) for run in order], "signals", ["sample_id", "loss"])
            assert [sorted(frame["sample_id"]) for frame in read] == [
                [i for i in range(N) if i not in gone]
            ] * 4
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.duckdb"
        for views in (False, True):
            export(lake, out, views=views, force=True)
            with duckdb.connect(str(out)) as connection:
                found = connection.sql("from signals order by run, sample_id").pl()
            assert_frame_equal(found, frames[0].sort("run", "sample_id"), check_column_order=False)

    look()
    assert compact(lake, "e", least=2).files_after == 2  # of each kind one
    look()
    forget(lake, "e", [1])
    look((1,))
    found = verify(lake)
    assert (found.damage, found.remembered) == ((), ())
    assert lake.sql("select zlib_bytes from samples order by sample_id")["zlib_bytes"].to_list() == [
        *(40, None, 42, 43, 44, 45)
    ]


def test_samples_forgotten_before_have_no_lists(lake: Lake) -> None:
    forget(lake, "e", [1])
    write(lake, "a", tokens(1))
    check(lake.sql("from signals"), "a", tokens(1), (1,))


def test_lists_are_the_lakes_own(lake: Lake) -> None:
    with lake.write_run("e", "a", members=np.ones(N, bool)) as writer:
        buffer = np.zeros((2, 3), np.float32)
        for first in (4, 0, 2):
            buffer[:] = first
            ids = np.array([first, first + 1])
            writer.append_signals(ids, ids * 0, None, loss=ids, phi=None, token_losses=buffer)
        writer.commit(RunInfo(role="target"))
    rows = lake.sql("select token_losses from signals order by sample_id")["token_losses"].to_list()
    assert rows == [[i // 2 * 2] * 3 for i in range(N)]


def test_what_rounding_makes_negative_is_zero(lake: Lake) -> None:
    write(lake, "a", {"token_losses": [[-1e-7, 1.0]] * N, "lower_loss": [-1e-7] * N})
    assert lake.sql("select distinct token_losses, lower_loss from signals").rows() == [([0.0, 1.0], 0.0)]


def with_row(name: str, row: Any) -> dict[str, Any]:
    given = tokens(1)
    given[name] = [*given[name][:3], row, *given[name][4:]]
    return given


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (with_row("token_losses", [1.0, np.nan, 0, 0]), "sample 3, token 1, is nan"),
        (with_row("token_losses", [1.0, 0, np.inf, 0]), "sample 3, token 2, is inf"),
        (with_row("token_losses", [1e39, 0, 0, 0]), "sample 3, token 0, is inf"),
        (with_row("token_losses", [1, 2, 3, -0.1]), r"sample 3, token 3, is -0\.1.*log-prob"),
        (with_row("token_losses", [1.0, 2.0]), "sample 3 has 4 token_z and 2 token_losses"),
        (with_row("token_losses", []), "sample 3"),
        (with_row("token_losses", None), "sample 3"),
        (with_row("token_losses", 1.0), "sample 3"),
        (with_row("token_losses", [[1.0, 2.0], [3.0, 4.0]]), "sample 3"),
        (with_row("token_losses", ["a"]), "sample 3 are not numbers"),
        (with_row("token_z", [0, 0, np.inf, 0]), "token_z of sample 3, token 2"),
        (with_row("lower_loss", -1.0), r"lower_loss of sample 3 is -1\.0"),
        (with_row("lower_loss", np.nan), "lower_loss of sample 3"),
        (with_row("lower_loss", "b"), "not numbers"),
        ({"token_z": tokens(1)["token_z"]}, "without token_losses"),
        ({"token_losses": tokens(1)["token_losses"][1:]}, "6 lists.*5 were given"),
        ({"token_losses": "abcdef"}, "6 lists"),
        ({"token_losses": iter([])}, "6 lists.*not list_iterator"),
        ({"lower_loss": tokens(1)["lower_loss"]}, "without token_losses"),
        ({**tokens(1), "lower_loss": [1.0]}, "shape"),
    ],
)
def test_wrong_tokens_are_named_and_none_of_them_is_taken(
    lake: Lake, given: dict[str, Any], named: str
) -> None:
    ids = np.arange(N)
    with lake.write_run("e", "a", members=ids < 3) as writer:
        with pytest.raises(InvalidInput, match=named):
            writer.append_signals(ids, ids * 0, None, loss=ids, phi=None, **given)
        writer.append_signals(ids, ids * 0, None, loss=ids, phi=None, **tokens(1))
        writer.commit(RunInfo(role="target"))
    check(lake.sql("from signals"), "a", tokens(1))


def test_every_batch_brings_the_same_columns(lake: Lake) -> None:
    with lake.write_run("e", "a", members=np.ones(N, bool)) as writer:
        ids = np.arange(3)
        writer.append_signals(ids, ids * 0, None, loss=ids, phi=None, **tokens(1, ids))
        for given in ({}, {"token_losses": tokens(1, ids)["token_losses"]}):
            with pytest.raises(InvalidInput, match="columns of the signals changed"):
                writer.append_signals(ids + 3, ids * 0, None, loss=ids, phi=None, **given)


@pytest.mark.parametrize("given", [[1.5] * 2, [0, 3], [-1, 3], ["a", "b"], [True, False]])
def test_zlib_bytes_are_whole_numbers_above_0(tmp_path: Path, given: list[Any]) -> None:
    lake = Lake.open(tmp_path / "other", create=True)
    with pytest.raises(InvalidInput, match="zlib_bytes"):
        lake.create_experiment("e", pa.table({"zlib_bytes": given}))
    lake.create_experiment("e", pa.table({"zlib_bytes": [None, 3]}))
