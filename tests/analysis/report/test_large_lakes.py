"""A report of many runs and many records: how often files are opened, and what is held of all records; counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from losslake.analysis.report.gather import gather
from losslake.analysis.report.records import read_traces
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.scoring.stored import SCORE, keep_scores
from losslake.store.files.local import LocalFiles
from losslake.store.format.manifest import DataFile
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

N = 60


def lake_of(place: Path, runs: int) -> Lake:
    """A lake of a target with traces and so many shadow runs."""
    rng = np.random.default_rng(0)
    lake = Lake.open(place, create=True)
    lake.create_experiment("e", pa.table({"label": np.arange(N) % 3}))
    ids = np.arange(N)
    for number in range(runs + 1):
        member = rng.random(N) < 0.5
        with lake.write_run("e", f"shadow-{number}" if number else "target", members=member) as writer:
            phi = rng.normal(size=N) + member
            loss = np.logaddexp(0, -phi)
            writer.append_signals(ids, ids * 0, ids % 3, loss=loss, phi=phi, correct=phi > 0)
            for epoch in range(0 if number else 4):
                writer.append_epoch("eval", epoch, ids, loss=(loss / (1 + epoch)).astype(np.float32))
            writer.commit(RunInfo(role="shadow" if number else "target"))
    return lake


def counted(patch: pytest.MonkeyPatch, lake: Lake, act: Callable[[], object]) -> Counter[str]:
    """How often the lake's files are listed, looked at, named to an engine, and read."""
    done: Counter[str] = Counter()
    with patch.context() as inside:
        for name in ("list", "exists", "location", "modified", "size_and_time", "open_input"):
            real = getattr(LocalFiles, name)

            def call(files: LocalFiles, *given: Any, real: Any = real, name: str = name, **named: Any) -> Any:
                if files.root == lake.files.root:  # or another lake's lease is renewed meanwhile
                    done[name] += 1
                return real(files, *given, **named)

            inside.setattr(LocalFiles, name, call)
        act()
    return done


def test_twice_the_runs_are_at_most_twice_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for runs in (8, 16, 32):
        lake = lake_of(tmp_path / f"{runs}", runs)
        found.append(counted(monkeypatch, lake, lambda: gather(lake, "e")))  # noqa: B023
    for name in found[0]:
        less, more = found[1][name] - found[0][name], found[2][name] - found[1][name]
        assert more <= 2 * less + 8, (name, found)


def test_of_kept_scores_nothing_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An analysis keeps many columns of its own; a report that holds them all of millions of records does not fit into memory."""
    lake = lake_of(tmp_path / "lake", 8)
    first = gather(lake, "e", pictures=False)
    asked: list[tuple[str, ...]] = []
    real = Lake.read_file

    def read_file(self: Lake, file: DataFile, **named: Any) -> pa.Table:
        if file.table == "scores":
            asked.append(tuple(named["columns"] or ("all",)))
        return real(self, file, **named)

    monkeypatch.setattr(Lake, "read_file", read_file)
    again = gather(lake, "e", pictures=False)
    assert asked
    assert set(asked) <= {SCORE, (*SCORE, "p_value")}
    assert [one.scored.name for one in again.attacks] == [one.scored.name for one in first.attacks]
    for one, other in zip(first.attacks, again.attacks, strict=True):
        assert one.scored.scores.frame.equals(other.scored.scores.frame)
        assert one.metrics == other.metrics


@pytest.mark.parametrize("name", ["lira", "loss", "memorization"])
def test_the_columns_asked_for_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    """Computed just now, or read."""
    lake = lake_of(tmp_path / "lake", 8)
    with open_source(lake, "e", None) as source:
        computed = keep_scores(source, [name], SCORE)[name].scores
        read = keep_scores(source, [name], SCORE)[name].scores
        whole = keep_scores(source, [name])[name].scores
    assert tuple(computed.frame.columns) == tuple(read.frame.columns) == SCORE
    assert computed.frame.equals(read.frame)
    assert read.frame.equals(whole.frame.select(SCORE))
    assert read.notes == whole.notes
    assert read.metrics == whole.metrics


def test_what_a_query_was_given_goes_with_it(tmp_path: Path) -> None:
    with open_source(lake_of(tmp_path / "lake", 8), "e", None) as source:
        keep_scores(source, ["memorization"])
        assert "given_sides" not in source._queries.provided
        with pytest.raises(duckdb.CatalogException):
            source.connection.execute("select * from given_sides")
        again = source.query(
            "memorization", {"target": "target", "of": "correct"}
        )  # by the query's own sums, of the rows
        assert again["score"].is_not_null().any()


def test_traces_are_held_as_they_are_stored(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", 1)
    with open_source(lake, "e", None) as source:
        traces = read_traces(source, "loss")
        assert traces is not None
        assert traces.values.dtype == np.float32
        assert traces.values.shape == (N, 4)
        rows = source.rows(source.need_target(), "traces", ["sample_id", "member", "loss"]).sort("sample_id")
    values, member = np.array(rows["loss"].to_list()), rows["member"].to_numpy()
    np.testing.assert_array_equal(traces.of(7), values[7])
    assert traces.summary.band.records == member.sum()
    np.testing.assert_array_equal(traces.summary.band.median, np.quantile(values[member], 0.5, axis=0))
