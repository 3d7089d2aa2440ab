"""The views: their columns, their grain, and that SQL, Polars and Arrow say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.store.errors import CorruptLake, InvalidOption, LimitReached, NotFound, QueryRefused
from losslake.store.format.manifest import DataFile
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.query.views import VIEWS
from losslake.store.write.results import save_result
from scipy.special import log_softmax, logsumexp
from scipy.stats import iqr

COLUMNS = {
    "samples": ["experiment", "sample_id", "label", "pool", "split", "group", "key"],
    "classes": ["experiment", "label", "label_name"],
    "runs": [
        *(
            "experiment",
            "run",
            "role",
            "seed",
            "dataset",
            "model",
            "recipe",
            "epochs",
            "members",
            "train_accuracy",
        ),
        *("test_accuracy", "seconds", "device", "created", "versions", "parent", "extra"),
    ],
    "signals": [
        *(
            "experiment",
            "run",
            "sample_id",
            "query",
            "member",
            "label",
            "loss",
            "phi",
            "correct",
            "logits",
            "features",
            "token_losses",
            "token_z",
            "lower_loss",
        )
    ],
    "traces": ["experiment", "run", "sample_id", "source", "member", "loss", "grad_norm", "margin"],
    "trace_points": [
        "experiment",
        "run",
        "sample_id",
        "source",
        "member",
        "epoch",
        "loss",
        "grad_norm",
        "margin",
    ],
    "scores": ["experiment", "analysis", "target", "variant", "sample_id", "member", "score"],
    "risk": [
        *(
            "experiment",
            "target",
            "analysis",
            "sample_id",
            "key",
            "label",
            "label_name",
            "group",
            "member",
            "score",
        ),
    ],
    "metrics": [
        *(
            "experiment",
            "analysis",
            "target",
            "variant",
            "metric",
            "parameters",
            "value",
            "ci_low",
            "ci_high",
            "n",
        )
    ],
}
N = 5
MEMBERS = np.array([True, False, True, False, True])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.arange(N)}), dataset={"classes": list("abcd")})
    return lake


def write(
    lake: Lake,
    run: str,
    *,
    experiment: str = "e",
    signals: bool = True,
    traces: bool = True,
    logits: type[np.floating] | None = None,
    **info: Any,
) -> None:
    rng = np.random.default_rng(len(run))
    with lake.write_run(experiment, run, members=MEMBERS) as writer:
        ids = rng.permutation(N)
        if signals:
            for query in (0, 1):
                writer.append_signals(
                    ids,
                    np.full(N, query),
                    ids,
                    loss=rng.random(N),
                    phi=rng.normal(size=N),
                    logits=None if logits is None else (rng.normal(size=(N, 3))).astype(logits),
                )
        if traces:
            for epoch in range(3):
                writer.append_epoch("eval", epoch, ids, loss=rng.random(N), margin=rng.random(N))
            for epoch in (1, 2):
                writer.append_epoch("train", epoch, np.flatnonzero(MEMBERS), loss=rng.random(3))
        writer.commit(RunInfo(**({"role": "target"} | info)))


def keep(lake: Lake, analysis: str = "lira", variant: str = "", scale: float = 1.0, **own: Any) -> None:
    ids = np.arange(N)
    scores = pa.table({"sample_id": ids, "member": MEMBERS, "score": ids * scale} | own)
    metrics = [
        {"metric": "auc", "value": 0.5 * scale, "ci_low": 0.4, "ci_high": 0.6, "n": N},
        {"metric": "tpr_at_fpr", "fpr": 0.01, "value": float("nan"), "ci_low": None, "ci_high": None, "n": N},
    ]
    save_result(lake, "e", analysis, "r", variant, options={}, notes=[], metrics=metrics, scores=scores)


def whole(lake: Lake, view: str) -> pl.DataFrame:
    return lake.sql(f"from {view} order by all")


# --- columns and grain -------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_columns_of_a_full_and_of_an_empty_lake_are_the_same(lake: Lake, tmp_path: Path, view: str) -> None:
    write(lake, "r")
    keep(lake)
    empty = Lake.open(tmp_path / "empty", create=True)
    full_schema = lake.sql(f"from {view}").schema
    assert full_schema.names() == COLUMNS[view]
    assert empty.sql(f"from {view}").schema == full_schema
    assert empty.sql(f"from {view}").height == 0
    assert lake.sql(f"from {view}").height > 0


@pytest.mark.parametrize(
    "classes", [["blue", "green"], {"0": "blue", "1": "green"}, [None, "green"], {"1": "green"}, None]
)
def test_labels_have_the_names_of_their_classes(tmp_path: Path, classes: Any) -> None:
    """Where there are names; as reports call them elsewhere, by number. By experiment, whose labels are others'."""
    lake = Lake.open(tmp_path / "lake", create=True)
    known = {} if classes is None else {"classes": classes}
    lake.create_experiment("e", pa.table({"label": [0, 1, 2, None]}), dataset=known)
    lake.create_experiment("other", pa.table({"label": [0]}), dataset={"classes": ["red"]})
    scores = pa.table({"sample_id": range(4), "member": [True, False] * 2, "score": [1.0] * 4})
    save_result(lake, "e", "x", None, "", options={}, notes=[], metrics=[], scores=scores)
    names = list(classes.values()) if isinstance(classes, dict) else classes or []
    there = [name for name in names if name is not None]
    found = lake.sql("select label_name from classes where experiment = 'e' order by label")
    assert found["label_name"].to_list() == there
    called = ["blue" if "blue" in there else "0", "green" if there else "1", "2", None]
    assert lake.sql("select label_name from risk order by sample_id")["label_name"].to_list() == called
    joined = lake.sql(
        "from samples left join classes using (experiment, label) order by experiment, sample_id"
    )
    assert joined["label_name"].to_list()[-1] == "red"
    assert len(joined) == 5


@pytest.mark.parametrize(("signals", "traces"), [(True, False), (False, True), (False, False)])
def test_lakes_with_some_tables_only(lake: Lake, signals: bool, traces: bool) -> None:
    write(lake, "r", signals=signals, traces=traces)
    assert lake.sql("select count(*) from signals").item() == signals * 2 * N
    assert lake.sql("select count(*) from traces").item() == traces * (N + 3)
    assert lake.sql("select count(*) from trace_points").item() == traces * (N + 3) * 3
    assert lake.sql("select run from runs").to_series().to_list() == ["r"]
    for view in ("signals", "traces", "trace_points"):
        assert lake.sql(f"from {view}").columns == COLUMNS[view]
        assert lake.scan(view).collect().columns == COLUMNS[view]


def test_trace_points_are_the_elements_of_traces(lake: Lake) -> None:
    write(lake, "r")
    points = lake.sql(
        "select source, sample_id, epoch, loss, grad_norm, margin from trace_points order by all"
    ).rows()
    expected = []
    for source, sample, loss, margin in lake.sql("select source, sample_id, loss, margin from traces").rows():
        for epoch in range(3):
            expected.append((source, sample, epoch, loss[epoch], None, margin[epoch] if margin else None))
    assert sorted(points, key=lambda row: row[:3]) == sorted(expected, key=lambda row: row[:3])
    # The train trace has no value before training.
    assert lake.sql("select count(loss) from trace_points where source = 'train' and epoch = 0").item() == 0


def test_runs_tell_what_the_collector_said(lake: Lake) -> None:
    write(
        lake,
        "r",
        seed=3,
        dataset="digits",
        model="mlp",
        recipe={"lr": 0.1, "bad": float("inf")},
        epochs=3,
        train_accuracy=0.9,
        seconds=1.5,
        device="cpu",
        versions={"torch": "2"},
        parent="p",
        extra={"note": "ü"},
    )
    row = lake.sql("from runs").row(0, named=True)
    assert (row["role"], row["seed"], row["members"], row["epochs"], row["parent"]) == (
        "target",
        3,
        3,
        3,
        "p",
    )
    assert (row["train_accuracy"], row["test_accuracy"], row["seconds"]) == (0.9, None, 1.5)
    assert row["created"].tzinfo is not None
    assert lake.sql(
        "select (recipe::json->>'lr')::double, recipe::json->>'bad', extra::json->>'note' from runs"
    ).row(0) == (
        0.1,
        None,
        "ü",
    )


def test_one_experiment_or_all(lake: Lake) -> None:
    lake.create_experiment("f", pa.table({"label": np.arange(N), "age": np.arange(N)}))
    write(lake, "r")
    write(lake, "s", experiment="f")
    keep(lake)
    for view in ("samples", "runs", "signals", "traces", "trace_points"):
        seen = {
            name: set(lake.sql(f"from {view}", experiment=name)["experiment"]) for name in ("e", "f", None)
        }
        assert seen == {"e": {"e"}, "f": {"f"}, None: {"e", "f"}}
        assert set(lake.scan(view, "f").collect()["experiment"]) == {"f"}
        assert set(lake.arrow(view, "f")["experiment"].to_pylist()) == {"f"}
    assert lake.sql("from scores", experiment="f").height == 0
    assert "age" not in lake.sql("from samples", experiment="e").columns
    with pytest.raises(NotFound, match="'g'"):
        lake.sql("from runs", experiment="g")


def test_a_connection_shows_what_was_committed_when_it_was_made(lake: Lake) -> None:
    write(lake, "r")
    with lake.connect() as connection:
        write(lake, "s")
        assert connection.sql("select count(distinct run) from signals").fetchall() == [(1,)]
    assert lake.sql("select count(distinct run) from signals").item() == 2


# --- user columns -------------------------------------------------------------------------------------------


def test_experiments_may_have_different_columns(lake: Lake) -> None:
    lake.create_experiment("f", pa.table({"label": [0, 1], "age": [30, 40], "site": ["a", "b"]}))
    lake.create_experiment("g", pa.table({"label": [0], "age": ["old"]}))
    rows = lake.sql("select experiment, sample_id, age, site from samples order by all").rows()
    assert ("f", 1, "40", "b") in rows
    assert ("g", 0, "old", None) in rows
    assert ("e", 0, None, None) in rows
    assert lake.sql("select age + 1 from samples", experiment="f").to_series().to_list() == [31, 41]


def test_types_that_do_not_go_together_are_said(lake: Lake) -> None:
    lake.create_experiment("f", pa.table({"label": [0], "age": [30]}))
    lake.create_experiment("g", pa.table({"label": [0], "age": [[30]]}))
    with pytest.raises(QueryRefused, match=r"'age'.*--experiment"):
        lake.sql("from samples")
    assert lake.sql("select count(label) from samples").item() == N + 2
    assert lake.sql("select age from samples", experiment="g").to_series().to_list() == [[30]]


# --- scores and metrics -------------------------------------------------------------------------------------


def test_results_show_in_scores_and_metrics(lake: Lake) -> None:
    write(lake, "r")
    keep(lake, own=np.arange(N) * 10)
    keep(lake, variant="mode=offline")
    rows = lake.sql("select target, variant, sample_id, member, score, own from scores order by all").rows()
    assert rows[0] == ("r", "", 0, True, 0.0, 0)
    assert len(rows) == 2 * N
    metrics = lake.sql(
        "select variant, metric, parameters::json->>'fpr' as fpr, value, ci_low, n from metrics order by all"
    )
    assert metrics.row(0) == ("", "auc", None, 0.5, 0.4, N)
    assert metrics.row(1)[:3] == ("", "tpr_at_fpr", "0.01")
    assert np.isnan(metrics.row(1)[3])


def test_risk_is_the_targets_default_scores_with_what_the_samples_are(lake: Lake) -> None:
    lake.create_experiment("f", pa.table({"label": np.arange(N) + 10, "group": ["a"] * N}))
    for experiment in ("e", "f"):
        write(lake, "r", experiment=experiment)
        write(lake, "dual", experiment=experiment, parent="r")
        write(lake, "shadow", experiment=experiment, role="shadow")
    keep(lake)
    first = lake.sql("from risk order by sample_id")
    assert first.rows()[1] == ("e", "r", "lira", 1, "1", 1, "b", None, False, 1.0)
    assert first.height == N
    # What else is scored, of other runs, with other options or in another experiment, changes nothing in it.
    scores = pa.table({"sample_id": np.arange(N), "member": ~MEMBERS, "score": np.full(N, 99.0)})
    asked: dict[str, Any] = {"options": {}, "notes": [], "metrics": [], "scores": scores}
    for experiment, target, variant in (
        *(("e", run, "") for run in ("dual", "shadow", None)),
        ("e", "r", "mode=offline"),
        *(("f", run, "") for run in ("r", "dual")),
    ):
        save_result(lake, experiment, "lira", target, variant, **asked)
    assert lake.sql("from risk where experiment = 'e' order by sample_id").equals(first)
    assert lake.sql("select label from risk where experiment = 'f' order by all")["label"].to_list() == [
        10,
        11,
        12,
        13,
        14,
    ]
    assert lake.sql("from risk", experiment="e").sort("sample_id").equals(first)
    # Without a target there are scores that are about no run.
    lake.create_experiment("g", pa.table({"label": np.arange(N)}))
    write(lake, "shadow", experiment="g", role="shadow")
    save_result(lake, "g", "memorization", None, "", **asked)
    assert lake.sql("select distinct target from risk where experiment = 'g'").rows() == [("all",)]


def test_a_result_written_again_replaces_the_old_one(lake: Lake) -> None:
    write(lake, "r")
    keep(lake)
    before = lake.connect()
    keep(lake, scale=3.0)
    assert lake.sql("select max(score) from scores").item() == 3.0 * (N - 1)
    assert lake.sql("select value from metrics where metric = 'auc'").to_series().to_list() == [1.5]
    assert lake.sql("select count(*) from scores").item() == N
    assert before.sql("select max(score) from scores").fetchall() == [
        (N - 1,)
    ]  # a reader in between is not disturbed


# --- NaN ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [np.arange(200.0), np.full(200, 2.0), np.full(200, -np.inf)])
def test_nan_is_found_in_every_column(tmp_path: Path, rest: np.ndarray) -> None:
    values = np.where(np.arange(200) % 7 == 0, np.nan, rest)
    kinds = {"half": np.float16, "single": np.float32, "double": np.float64}
    own = {name: pa.array(values.astype(kind)) for name, kind in kinds.items()}
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.zeros(200, int), **own}))
    with lake.write_run("e", "r", members=np.arange(200) < 100) as writer:
        writer.append_epoch("eval", 0, np.arange(200), loss=values)
        writer.commit(RunInfo(role="target"))
    scores = {"sample_id": np.arange(200), "member": np.zeros(200, bool), "score": values, **own}
    save_result(lake, "e", "lira", "r", "", options={}, notes=[], metrics=[], scores=pa.table(scores))
    columns = [("samples", name) for name in kinds] + [("scores", name) for name in (*kinds, "score")]
    opened = lake.connect()
    for view, column in [*columns, ("trace_points", "loss")]:
        rows = opened.sql(f"select {column} as x from {view}")  # noqa: S608
        held = rows.pl()["x"].to_numpy().astype(float)
        assert np.isnan(held).any()
        # DuckDB and Polars alike take NaN for greater than any number.
        beyond = np.isnan(held) | (held > 1000)
        for asked, found in (
            ("isnan(x)", np.isnan(held)),
            ("not isnan(x)", ~np.isnan(held)),
            ("x <= 1000", ~beyond),
            ("x > 1000", beyond),
            ("x = 'nan'::float", np.isnan(held)),
        ):
            text = f"select count(*) from (select {column} as x from {view}) where {asked}"  # noqa: S608
            assert opened.sql(text).fetchall() == [(np.count_nonzero(found),)], (view, column, asked)
        scanned = lake.scan(view).filter(pl.col(column).cast(pl.Float64) > 1000).collect()
        assert scanned.height == np.count_nonzero(beyond), (view, column)


# --- three ways to the same rows ----------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_polars_arrow_and_sql_agree(lake: Lake, view: str) -> None:
    write(lake, "a", logits=np.float16)
    write(lake, "bb", logits=np.float32)
    write(lake, "ccc", traces=False)
    keep(lake)
    expected = whole(lake, view)
    scanned = lake.scan(view).collect()
    arrow = pl.from_arrow(lake.arrow(view))
    assert isinstance(arrow, pl.DataFrame)
    assert scanned.schema == expected.schema == arrow.schema
    keys = [name for name in expected.columns if not expected.schema[name].is_nested()]
    for other in (scanned, arrow):
        assert other.sort(keys, nulls_last=True).equals(expected.sort(keys, nulls_last=True))


def test_polars_reads_only_what_it_is_asked_for(lake: Lake) -> None:
    write(lake, "a")
    write(lake, "b")
    plan = lake.scan("signals").filter(pl.col("run") == "a").select("phi").explain()
    assert "PROJECT 1/" in plan or "PROJECT 2/" in plan
    assert lake.scan("trace_points").filter(pl.col("epoch") == 2).collect().height == 2 * (N + 3)


def test_unknown_views_are_named(lake: Lake) -> None:
    for read in (lake.scan, lake.arrow):
        with pytest.raises(InvalidOption, match=r"'nothing'.*samples"):
            read("nothing")


# --- damage -------------------------------------------------------------------------------------------------


def _missing(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def _footer(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-200] + b"\xff" * 150 + data[-50:])


def _page(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:30] + b"\xff" * 300 + data[330:])


@pytest.mark.parametrize("damage", [_missing, _cut, _other, _footer, _page])
@pytest.mark.parametrize("table", ["samples", "signals", "traces", "scores"])
def test_a_damaged_file_is_named_by_every_reader(
    lake: Lake, damage: Callable[[Path], None], table: str
) -> None:
    write(lake, "r", logits=np.float32)
    keep(lake)
    listed: list[DataFile] = [*lake.experiment("e").files, *lake.run("e", "r").files]
    paths = (
        lake.files.list("scores")
        if table == "scores"
        else [file.path for file in listed if file.table == table]
    )
    for path in paths:
        damage(Path(lake.path) / path)
    for read in (lambda: lake.sql(f"from {table}"), lambda: lake.arrow(table)):
        with pytest.raises(CorruptLake, match="parquet"):
            read()
    for file in listed:
        if file.table == table:
            with pytest.raises(CorruptLake, match=file.path):
                lake.read_file(file)


def test_errors_of_a_query_stay_its_own(lake: Lake) -> None:
    write(lake, "r")
    for query in ("select nothing from runs", "selec 1", "select 'a'::int", "from nothing", "select 1 +", ""):
        with pytest.raises(QueryRefused):
            lake.sql(query)


def test_a_memory_limit_holds_and_is_said(lake: Lake) -> None:
    with pytest.raises(InvalidOption, match="4GB"):
        lake.connect(memory="plenty")
    with lake.connect(memory="60MB", threads=1) as connection, pytest.raises(LimitReached, match="--memory"):
        connection.sql("select list(i) from range(100000000) t(i)").arrow()


# --- macros -------------------------------------------------------------------------------------------------


def _phi(logits: np.ndarray, label: int) -> float:
    return float(logits[label] - logsumexp(np.delete(logits, label)))


AWKWARD = [
    [0.0, 0.0],
    [1e4, -1e4, 0.0],
    [-1e4, 1e4, 0.0],
    [1e4, 1e4],
    [-1e4, -1e4, -1e4],
    [700.0, -700.0, 3.0],
    [1e-30, -1e-30],
    [40.0, 0.0, 0.0],
    [-745.0, 0.0],
]


@pytest.mark.parametrize("label", [0, 1])
def test_phi_and_cross_entropy_are_those_of_scipy(lake: Lake, label: int) -> None:
    rng = np.random.default_rng(3)
    rows = AWKWARD + [
        (rng.normal(size=size) * scale).tolist() for size in (2, 3, 10, 100) for scale in (0.1, 5.0, 1e3)
    ]
    for logits in rows:
        single = np.array(logits, np.float32)
        found = lake.sql(
            "select phi($z::float[], $y) as phi, cross_entropy($z::float[], $y) as loss",
            {"z": logits, "y": label},
        ).row(0)
        exact = single.astype(np.float64)
        assert found[0] == pytest.approx(_phi(exact, label), rel=1e-9, abs=1e-9)
        assert found[1] == pytest.approx(-log_softmax(exact)[label], rel=1e-9, abs=1e-9)


def test_a_single_class_has_no_odds(lake: Lake) -> None:
    # p = 1, so log p - log(1 - p) has no value; the loss is 0.
    assert lake.sql("select phi([3.0], 0), cross_entropy([3.0], 0)").row(0) == (None, 0.0)


def test_quantile_ranges_are_those_of_scipy(lake: Lake) -> None:
    rng = np.random.default_rng(4)
    for trace in (
        [1.0],
        [1.0, 1.0],
        [3.0, 1.0, 2.0],
        rng.exponential(size=101).tolist(),
        (rng.normal(size=50) * 1e6).tolist(),
    ):
        single = np.array(trace, np.float32).astype(np.float64)
        found = lake.sql(
            "select lt_iqr($t::float[]), quantile_range($t::float[], 0.1, 0.9)", {"t": trace}
        ).row(0)
        assert found[0] == pytest.approx(iqr(single), rel=1e-9, abs=1e-12)
        assert found[1] == pytest.approx(
            np.quantile(single, 0.9) - np.quantile(single, 0.1), rel=1e-9, abs=1e-12
        )
    assert lake.sql("select lt_iqr([1.0, null, 3.0, null, 5.0]::float[])").item() == 2.0
    assert (
        lake.sql("select lt_iqr([null]::float[]), lt_iqr([]::float[]), lt_iqr(null::float[])").row(0)
        == (None,) * 3
    )
