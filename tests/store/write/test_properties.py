"""Whatever is given is stored and read back equal, or refused with an error of losslake's; never a file elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from losslake.store.errors import LosslakeError
from losslake.store.format import manifest, paths
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.read.catalogue import results
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.verify import verify
from losslake.store.write.results import save_result

N = 7
names = (f"e{number}" for number in itertools.count())

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "../../../x",
    "/x",
    "a/b",
    "a\\b",
    "..\\x",
    "a\0b",
    "x" * 101,
    "x" * 100,
    "x" * 5000,
    "CON",
    "nul.txt",
    "com1",
    "all",
    "ALL",
    "a.",
    "a ",
    " a",
    "-a",
    ".a",
    "a\n",
    "a\u202eb",
    "zürich",
    "ａ",
    "a=b",
    "run=a",
    "%2e%2e%2f",
    "$HOME",
    "a;b",
    "'",
    '"',
    "*",
    "~",
    "a~b",
    "1e5",
    "null",
    "true",
    "2024-01-01",
    "__HIVE_DEFAULT_PARTITION__",
    "\ud800",
    "a\x1b[2J",
]

ids = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=8), st.from_regex(r"[A-Za-z0-9._-]{1,6}", fullmatch=True)
)

fast = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake.open(tmp_path_factory.mktemp("above") / "inside" / "lake", create=True)


def same(found: Any, expected: Any) -> bool:
    """Equal, and NaN to NaN."""
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    return bool(found == expected)


def files_around(lake: Lake) -> list[Path]:
    """Every file and folder near the lake and not in it."""
    above = Path(lake.path).parent.parent
    return sorted(path for path in above.rglob("*") if not path.is_relative_to(lake.path))


# --- samples -------------------------------------------------------------------------------------------------


def integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.sampled_from([low, high, 0]), st.integers(low, high))


words = st.text(st.characters(codec="utf-8"), max_size=6)
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23))
recent = st.datetimes(datetime(1700, 1, 1), datetime(2260, 1, 1))

KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int8(), integers(8)),
    (pa.int64(), integers(64)),
    (pa.uint64(), integers(64, signed=False)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.string(), words),
    (pa.large_string(), words),
    (pa.binary(), st.binary(max_size=5)),
    (pa.null(), st.none()),
    (pa.date32(), st.dates(date(1, 1, 1), date(9999, 12, 31))),
    (pa.timestamp("us"), moments),
    (pa.timestamp("ms", tz="UTC"), moments.map(lambda t: t.replace(microsecond=0, tzinfo=UTC))),
    (pa.timestamp("ns"), recent),
    (pa.duration("us"), st.timedeltas(timedelta(-1000), timedelta(1000))),
    (pa.decimal128(38, 4), st.decimals(-(10**30), 10**30, places=4).map(Decimal)),
    (pa.list_(pa.float32()), st.lists(st.one_of(st.none(), st.floats(width=32)), max_size=3)),
    (pa.list_(pa.list_(pa.string())), st.lists(st.lists(words, max_size=2), max_size=2)),
    (pa.list_(pa.int16(), 2), st.lists(integers(16), min_size=2, max_size=2)),
    (
        pa.struct([("a", pa.int32()), ("b", pa.string())]),
        st.fixed_dictionaries({"a": integers(32), "b": words}),
    ),
    (pa.dictionary(pa.int8(), pa.string()), words),
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 4))
    columns = {}
    for name in draw(
        st.lists(
            st.one_of(words, st.sampled_from(["Label", "run", "sample_id ", "*", 'a"b', "$x"])), max_size=4
        )
    ):
        kind, values = draw(st.sampled_from(KINDS))
        drawn = draw(st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows))
        columns[name] = pa.array(drawn, kind)
    labels = draw(st.lists(st.one_of(st.none(), integers(32)), min_size=rows, max_size=rows))
    if draw(st.booleans()):
        labels = [None if label is None else abs(label + 1) for label in labels]
    return pa.table({"label": pa.array(labels, pa.int64()), **columns})


@fast
@given(tables())
def test_samples_come_back(lake: Lake, table: pa.Table) -> None:
    name = next(names)
    try:
        made = lake.create_experiment(name, table)
    except LosslakeError:
        assert name not in lake.experiments()
        return
    assert made.samples == len(table) > 0
    found = lake.samples(name)
    assert same(found["label"].to_pylist(), table["label"].to_pylist())
    for column in table.column_names:
        assert same(found[column].to_pylist(), table[column].to_pylist()), column
    assert lake.create_experiment(name, table) == made
    seen = lake.sql("from samples order by sample_id", experiment=name, arrow=True)
    assert seen.column_names[7:] == found.column_names[6:]
    assert seen["label"].to_pylist() == table["label"].to_pylist()
    assert len(lake.sql("from samples", experiment=name)) == len(table)


# --- traces and signals --------------------------------------------------------------------------------------

float32 = st.one_of(
    st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, float(np.finfo(np.float32).max), 2.0**-149]),
    st.floats(width=32),
)
some_ids = st.lists(st.integers(0, N - 1), unique=True, max_size=N)


@st.composite
def epochs(draw: st.DrawFn) -> list[tuple[list[int], list[float]]]:
    found = []
    for _ in range(draw(st.integers(0, 3))):
        chosen = draw(some_ids)
        found.append((chosen, draw(st.lists(float32, min_size=len(chosen), max_size=len(chosen)))))
    return found


def rows_of(lake: Lake, experiment: str) -> tuple[list[Any], list[Any]]:
    signals = lake.sql(
        "select run, sample_id, query, loss, phi, logits from signals order by all", experiment=experiment
    )
    traces = lake.sql("select run, sample_id, source, loss from traces order by all", experiment=experiment)
    return signals.rows(), traces.rows()


@settings(fast, max_examples=10)
@given(
    st.lists(
        st.tuples(st.sampled_from(["eval", "train"]), epochs(), some_ids, st.data()), min_size=1, max_size=2
    )
)
def test_traces_and_signals_come_back_packed_or_not(lake: Lake, runs: list[Any]) -> None:
    experiment = next(names)
    lake.create_experiment(experiment, pa.table({"label": np.zeros(N, np.int32)}))
    signals: list[Any] = []
    traces: list[Any] = []
    for number, (source, given_epochs, chosen, data) in enumerate(runs):
        run = f"r{number}"
        loss = data.draw(st.lists(float32, min_size=len(chosen), max_size=len(chosen)))
        phi = data.draw(st.lists(float32, min_size=len(chosen), max_size=len(chosen)))
        width = data.draw(st.integers(0, 2))
        half = data.draw(st.lists(st.floats(width=16), min_size=width, max_size=width))
        queries = data.draw(st.sampled_from([0, 1, 32767, 32768, -1]))
        try:
            with lake.write_run(experiment, run, members=np.arange(N) < 3) as writer:
                for epoch, (where, values) in enumerate(given_epochs):
                    writer.append_epoch(source, epoch, np.array(where, int), loss=np.array(values))
                writer.append_signals(
                    np.array(chosen, int),
                    np.full(len(chosen), queries),
                    None,
                    loss=np.array(loss),
                    phi=np.array(phi),
                    logits=np.tile(np.array(half, np.float16), (len(chosen), 1)),
                )
                writer.commit(RunInfo(role="shadow"))
        except LosslakeError:
            assert not lake.has_run(experiment, run)
            continue
        signals += [(run, i, queries, a, b, half) for i, a, b in zip(chosen, loss, phi, strict=True)]
        for i in range(N):
            values = [dict(zip(*part, strict=True)).get(i) for part in given_epochs]
            if any(i in where for where, _ in given_epochs):
                traces.append((run, i, source, values))
    expected = sorted(signals, key=lambda row: row[:3]), sorted(traces, key=lambda row: row[:3])
    assert all(map(same, rows_of(lake, experiment), expected))
    compact(lake, experiment, least=2)
    assert all(map(same, rows_of(lake, experiment), expected))
    scanned = lake.scan("traces", experiment).select("run", "sample_id", "source", "loss").collect()
    assert same(sorted(scanned.rows(), key=lambda row: row[:3]), expected[1])


# --- names ---------------------------------------------------------------------------------------------------


@settings(fast, max_examples=40)
@given(ids, ids, ids)
def test_names_stay_inside_the_lake(lake: Lake, experiment: str, run: str, analysis: str) -> None:
    around = files_around(lake)
    stored = []
    try:
        lake.create_experiment(experiment, pa.table({"label": [0, 1]}))
        stored.append(experiment in lake.experiments())
        if not lake.has_run(experiment, run):
            with lake.write_run(experiment, run, members=np.array([True, False])) as writer:
                writer.append_epoch("eval", 0, np.arange(2), loss=np.ones(2))
                writer.append_signals(np.arange(2), np.zeros(2, int), None, loss=np.ones(2), phi=np.ones(2))
                writer.commit(RunInfo(role="target"))
        rows = lake.sql("select distinct run from signals", experiment=experiment)
        stored.append(run in rows["run"].to_list())
        lake.add_design(experiment, analysis, 0, {"a": 1})
        stored.append(lake.designs(experiment, analysis) == [{"a": 1}])
        scores = pa.table({"sample_id": [0], "member": [True], "score": [1.0]})
        save_result(
            lake, experiment, analysis, run, analysis, options={}, notes=[], metrics=[], scores=scores
        )
        found = lake.sql("select distinct analysis, target, variant from scores", experiment=experiment)
        stored.append((analysis, run, analysis) in found.rows())
    except LosslakeError:
        pass
    assert all(stored)
    assert files_around(lake) == around


@fast
@given(st.text(st.characters(codec="utf-8"), max_size=60), st.text(st.characters(codec="utf-8"), max_size=20))
def test_free_text_names_a_result(lake: Lake, variant: str, note: str) -> None:
    if "free" not in lake.experiments():
        lake.create_experiment("free", pa.table({"label": [0]}))
    scores = pa.table({"sample_id": [0], "member": [True], "score": [1.0], "text": [note]})
    save_result(
        lake, "free", "x", None, variant, options={"o": variant}, notes=[note], metrics=[], scores=scores
    )
    (result,) = [one for one in results(lake, "free") if one.variant == variant]
    assert (result.options, result.notes) == ({"o": variant}, (note,))
    found = lake.sql(
        "select text from scores where variant = $variant", {"variant": variant}, experiment="free"
    )
    assert found.rows() == [(note,)]


@fast
@given(
    st.sampled_from(["signals/experiment=e/run=r/", "packed/experiment=e/", ""]),
    st.one_of(
        st.sampled_from(["../../../../secret.parquet", "x/../../r.parquet", "/etc/passwd", "~", "\0"]), words
    ),
    st.booleans(),
)
def test_a_manifest_cannot_name_files_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, folder: str, name: str, shared: bool
) -> None:
    lake = made_once(tmp_path_factory)
    path = paths.run_manifest("e", "r")
    content = manifest.load(lake.files, path)
    entry = {**content["files"][0], "path": folder + name}
    if shared:
        whole = {key: entry[key] for key in ("rows", "bytes", "sha256")}
        entry["shared"] = {**whole, "first_row": 0, "first_group": 0, "groups": 1}
    lake.files.put(path, manifest.dump({**content, "files": [entry]}))
    try:
        for read in (
            lambda: lake.read_file(lake.run("e", "r").files[0]),
            lambda: lake.sql("from signals"),
            lambda: lake.scan("signals").collect(),
        ):
            if "\0" not in name and (Path(lake.path) / folder / name).resolve().is_file():
                continue
            with pytest.raises((LosslakeError, FileNotFoundError)):
                read()
        with contextlib.suppress(LosslakeError):
            assert verify(lake).damage
    finally:
        lake.files.put(path, manifest.dump(content))


_made: list[Lake] = []


def made_once(factory: pytest.TempPathFactory) -> Lake:
    if not _made:
        lake = Lake.open(factory.mktemp("elsewhere") / "lake", create=True)
        (Path(lake.path).parent / "secret.parquet").write_bytes(b"secret")
        lake.create_experiment("e", pa.table({"label": [0, 1]}))
        with lake.write_run("e", "r", members=np.array([True, False])) as writer:
            writer.append_signals(np.arange(2), np.zeros(2, int), None, loss=np.ones(2), phi=np.ones(2))
            writer.commit(RunInfo(role="target"))
        _made.append(lake)
    return _made[0]
