"""Writing a run: what goes in comes out, what is wrong is named, and nothing is visible before the commit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption, LosslakeError
from losslake.store.files.local import LocalFiles
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.write import traces as trace_rows
from losslake.store.write.run_writer import RunWriter
from losslake.store.write.traces import BLOCK
from warm import STORE, warm_python

N = 6
INFO = RunInfo(role="target")
MEMBERS = np.array([True, False, True, True, False, False])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": [0, 1, 2, 0, 1, None]}))
    return lake


def start(lake: Lake, run: str = "r") -> RunWriter:
    return lake.write_run("e", run, members=MEMBERS)


def signals(ids: Any = range(N), number: int = 0, **changed: Any) -> dict[str, Any]:
    ids = np.asarray(ids)
    given: dict[str, Any] = {
        "sample_id": ids,
        "query": np.full(len(ids), number),
        "label": ids % 3,
        "loss": ids / 7,
        "phi": ids - 2.5,
    }
    return given | changed


def files_below(lake: Lake) -> set[str]:
    root = Path(lake.path)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def folders_below(lake: Lake) -> set[str]:
    root = Path(lake.path)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_dir()}


@pytest.mark.parametrize("half", [np.float16, np.float32])
def test_signals_come_back_as_they_went_in(lake: Lake, half: type[np.floating]) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(N, 3)).astype(half)
    features = rng.normal(size=(N, 5)).astype(np.float16)
    order = rng.permutation(N)
    loss, phi = rng.random(N).astype(np.float32), rng.normal(size=N).astype(np.float32)
    with start(lake) as writer:
        writer.append_signals(
            order,
            np.zeros(N, int),
            order % 3,
            loss=loss[order],
            phi=phi[order],
            correct=order % 2 == 0,
            logits=logits[order],
            features=features[order],
        )
        writer.commit(INFO)
    rows = lake.sql("from signals order by sample_id")
    assert rows["sample_id"].to_list() == list(range(N))
    assert rows["member"].to_list() == MEMBERS.tolist()
    assert rows["label"].to_list() == [0, 1, 2, 0, 1, 2]
    assert rows["correct"].to_list() == [True, False] * 3
    np.testing.assert_array_equal(rows["loss"], loss)
    np.testing.assert_array_equal(rows["phi"], phi)
    np.testing.assert_array_equal(np.array(rows["logits"].to_list(), np.float32), logits.astype(np.float32))
    np.testing.assert_array_equal(
        np.array(rows["features"].to_list(), np.float32), features.astype(np.float32)
    )


def test_half_precision_stays_half_on_disk(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_signals(**signals(logits=np.ones((N, 2), np.float16)))
        run = writer.commit(INFO)
    assert lake.read_file(run.files[0]).schema.field("logits").type == pa.list_(pa.float16())


def test_what_is_not_given_is_null(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_signals(**signals(label=None))
        writer.commit(INFO)
    nulls = lake.sql(
        "select count(label), count(correct), count(logits), count(features), count(*) from signals"
    )
    assert nulls.row(0) == (0, 0, 0, 0, N)


def test_signals_may_come_in_many_batches_whose_arrays_are_used_again(lake: Lake) -> None:
    buffers = {"loss": np.zeros(2, np.float32), "phi": np.zeros(2, np.float32)}
    logits = np.zeros((2, 3), np.float32)
    with start(lake) as writer:
        for first in (4, 0, 2):
            ids = np.array([first, first + 1])
            buffers["loss"][:] = ids
            buffers["phi"][:] = -ids
            logits[:] = ids[:, None]
            writer.append_signals(**signals(ids, logits=logits, **buffers))
        run = writer.commit(INFO)
    rows = lake.sql("select sample_id, loss, phi, logits from signals order by sample_id").rows()
    assert rows == [(i, float(i), float(-i), [float(i)] * 3) for i in range(N)]
    assert pq.read_metadata(lake.files.location(run.files[0].path)).num_row_groups == 1


def test_traces_are_laid_out_by_sample_with_null_where_nothing_was_recorded(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_epoch("eval", 1, [3, 0], loss=[1.3, 1.0], margin=[0.5, 0.25])
        writer.append_epoch("eval", 0, [5, 0, 3], loss=[0.5, 0.0, np.nan])
        writer.append_epoch("eval", 2, np.array([], np.int64), loss=[])
        writer.append_epoch("train", 1, [2], grad_norm=[9.0])
        writer.commit(INFO)
    rows = lake.sql(
        "select sample_id, source, member, loss, grad_norm, margin from traces order by source, sample_id"
    ).rows()
    assert rows[0] == (0, "eval", True, [0.0, 1.0, None], None, [None, 0.25, None])
    assert rows[2] == (5, "eval", False, [0.5, None, None], None, [None, None, None])
    assert rows[3] == (2, "train", True, None, [None, 9.0], None)
    # A NaN is a value that the run had, and not a hole.
    assert rows[1][:3] == (3, "eval", True)
    assert np.isnan(rows[1][3][0])
    assert rows[1][3][1:] == [np.float32(1.3), None]


def test_traces_of_several_blocks_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_rows, "_LAID_OUT_BYTES", 1)  # one block a piece
    samples, epochs = 2 * BLOCK + 77, 3
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.zeros(samples, np.int32)}))
    rng = np.random.default_rng(2)
    values = rng.random((epochs, samples)).astype(np.float32)
    held = rng.random((epochs, samples)) < 0.4
    held[:, BLOCK : BLOCK + 3000] = False
    with lake.write_run("e", "r", members=np.zeros(samples, bool)) as writer:
        for epoch in range(epochs):
            ids = rng.permutation(np.flatnonzero(held[epoch]))
            writer.append_epoch("eval", epoch, ids, loss=values[epoch, ids])
        run = writer.commit(INFO)
    table = lake.read_file(run.files[0])
    ids = table["sample_id"].to_numpy()
    np.testing.assert_array_equal(ids, np.flatnonzero(held.any(axis=0)))
    flat = table["loss"].combine_chunks().flatten()
    found = flat.to_numpy(zero_copy_only=False).reshape(len(ids), epochs)
    np.testing.assert_array_equal(found, np.where(held, values, np.nan).T[ids])
    assert flat.null_count == int((~held[:, ids]).sum())


@pytest.mark.parametrize("source", ["eval", "train"])
def test_a_whole_trace_is_stored_as_its_epochs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any
) -> None:
    monkeypatch.setattr(trace_rows, "_LAID_OUT_BYTES", 1)  # one block a piece
    samples, epochs = 2 * BLOCK + 77, 3
    lake = Lake.open(tmp_path / "lake", create=True)
    for experiment in ("e", "f"):  # files say which run they are of, so the runs have one name
        lake.create_experiment(experiment, pa.table({"label": np.zeros(samples, np.int32)}))
    rng = np.random.default_rng(3)
    loss = rng.random((samples, epochs))
    loss[5, 1], loss[6, 2], loss[7, 0] = np.nan, np.inf, 1e300
    margin = np.asfortranarray(rng.random((samples, epochs)).astype(np.float32))
    np.save(tmp_path / "margin.npy", margin)
    held = rng.permutation(np.flatnonzero(rng.random(samples) < 0.7))
    members = rng.random(samples) < 0.5
    digests = {}
    for name, ids in (("every", np.arange(samples)), ("some", held)):
        with lake.write_run("e", name, members=members) as writer:
            for epoch in range(epochs):
                writer.append_epoch(source, epoch, ids, loss=loss[ids, epoch], margin=margin[ids, epoch])
            by_epoch = writer.commit(INFO)
        mapped = np.load(tmp_path / "margin.npy", mmap_mode="r")
        given = loss[ids].copy()
        with lake.write_run("f", name, members=members) as writer:
            writer.append_traces(source, ids, loss=given, margin=mapped if name == "every" else margin[ids])
            given[:] = -1  # what was given may be used again
            whole = writer.commit(INFO)
        assert whole.trace_sources() == {source}
        digests[name] = [file.sha256 for run in (by_epoch, whole) for file in run.files]
    for one, other in digests.values():
        assert one == other


def test_whole_traces_and_epochs_do_not_mix(lake: Lake) -> None:
    before = files_below(lake)
    values, ids = np.zeros((N, 2)), np.arange(N)
    with start(lake) as writer:
        writer.append_epoch("eval", 0, [0], loss=[1.0])
        with pytest.raises(InvalidInput, match="eval trace of run 'r' was given before"):
            writer.append_traces("eval", ids, loss=values)
        writer.append_traces("train", ids, loss=values)
        with pytest.raises(InvalidInput, match="train trace of run 'r' was given before"):
            writer.append_traces("train", ids, loss=values)
        with pytest.raises(InvalidInput, match="train trace of run 'r' was given as a whole"):
            writer.append_epoch("train", 2, [0], loss=[1.0])
        for wrong, named in (
            ({"loss": values[:-1]}, r"loss \(5, 2\).*\(6, epochs\)"),
            ({"loss": values[:, 0]}, r"loss \(6,\)"),
            ({"loss": values[:, :0]}, r"loss \(6, 0\)"),
            ({"loss": values, "margin": values[:, :1]}, r"margin \(6, 1\)"),
            ({"loss": values.astype(str)}, "loss of .* must be numbers"),
            ({}, "neither"),
        ):
            with start(lake, "other") as other, pytest.raises(InvalidInput, match=named):
                other.append_traces("eval", ids, **wrong)
        with start(lake, "other") as other, pytest.raises(InvalidInput, match="sample id 1 comes twice"):
            other.append_traces("eval", [0, 1, 1], loss=values[:3])
    assert files_below(lake) == before  # nothing was committed


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"sample_id": np.array([0, 1, 2, 3, 4, 6])}, "sample id 6"),
        ({"sample_id": np.array([0, 1, 2, 3, 4, -1])}, "sample id -1"),
        ({"sample_id": np.array([0, 1, 2, 3, 4, 4])}, "sample 4"),
        ({"sample_id": np.array([0.0, 1, 2, 3, 4, 5])}, "float64"),
        ({"sample_id": np.array([0, 1, 2, 3, 4, 2**64 - 1], np.uint64)}, "sample id"),
        ({"phi": [0, 1, np.nan, 3, 4, 5]}, "sample 2"),
        ({"phi": [0, 1, 2, np.inf, 4, 5]}, "sample 3"),
        ({"phi": [0, 1, 2, 1e300, 4, 5]}, "sample 3"),
        ({"loss": [0, 1, 2, 3, np.nan, 5]}, "sample 4"),
        ({"loss": ["a"] * N}, "loss"),
        ({"loss": np.zeros(N - 1)}, "loss"),
        ({"phi": np.zeros((N, 2))}, "phi"),
        ({"query": np.zeros(N - 1, int)}, "query"),
        ({"query": np.full(N, 40_000)}, "40000"),
        ({"query": np.full(N, 0.5)}, "query"),
        ({"label": np.zeros(N + 1, int)}, "label"),
        ({"label": np.full(N, 2**40)}, str(2**40)),
        ({"label": np.full(N, 0.5)}, "label"),
        ({"correct": np.zeros(N + 1, bool)}, "correct"),
        ({"logits": np.zeros((N, 2))}, "float64"),
        ({"logits": np.zeros((N - 1, 2), np.float32)}, "logits"),
        ({"logits": np.zeros((N, 0), np.float32)}, "logits"),
        ({"logits": np.array([[0, 0]] * 5 + [[0, np.nan]], np.float16)}, "sample 5"),
        ({"features": np.zeros(N, np.float32)}, "features"),
    ],
)
def test_wrong_signals_are_named_and_none_of_them_is_taken(
    lake: Lake, changed: dict[str, Any], named: str
) -> None:
    with start(lake) as writer:
        with pytest.raises(InvalidInput, match=named):
            writer.append_signals(**signals(**changed))
        writer.append_signals(**signals())  # the right ones are not taken for a repetition
        writer.commit(INFO)
    assert lake.sql("select count(*) from signals").item() == N


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"epoch": -1, "sample_id": [0], "loss": [1.0]}, "-1"),
        ({"epoch": 0, "sample_id": [0], "loss": [1.0]}, "twice"),
        ({"epoch": 1, "sample_id": [0, 2, 0], "loss": [1.0, 1.0, 1.0]}, "sample id 0 comes twice"),
        ({"epoch": 1, "sample_id": [6], "loss": [1.0]}, "sample id 6"),
        ({"epoch": 1, "sample_id": [0, 1], "loss": [1.0]}, "loss"),
        ({"epoch": 1, "sample_id": [0, 1], "loss": [1.0, 2.0], "margin": [[1.0, 2.0]]}, "margin"),
        ({"epoch": 1, "sample_id": [0]}, "neither"),
        ({"epoch": 1, "sample_id": [0], "loss": [1.0], "source": "test"}, "'test'"),
    ],
)
def test_wrong_epochs_are_named(lake: Lake, given: dict[str, Any], named: str) -> None:
    with start(lake) as writer:
        writer.append_epoch("eval", 0, [0], loss=[1.0])
        with pytest.raises(InvalidInput, match=named):
            writer.append_epoch(**({"source": "eval"} | given))


def test_a_row_given_before_is_named(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_signals(**signals([0, 1, 2]))
        writer.append_signals(**signals([0, 1, 2], number=1))
        with pytest.raises(InvalidInput, match="sample 2 and query 1"):
            writer.append_signals(**signals([2, 3], number=1))


def test_columns_may_not_change_between_batches(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_signals(**signals([0, 1]))
        with pytest.raises(InvalidInput, match="logits"):
            writer.append_signals(**signals([2, 3], logits=np.ones((2, 2), np.float16)))


def test_queries_of_unequal_sizes_do_not_commit(lake: Lake) -> None:
    before = files_below(lake)
    with start(lake) as writer:
        writer.append_signals(**signals())
        writer.append_signals(**signals([0, 1], number=3))
        with pytest.raises(InvalidInput, match=r"\{0: 6, 3: 2\}"):
            writer.commit(INFO)
    assert files_below(lake) == before


@pytest.mark.parametrize(
    ("source", "epochs", "missing"),
    [("eval", (1, 2), 0), ("eval", (0, 1, 4), 2), ("train", (1, 3), 2), ("train", (0, 2), 1)],
)
def test_missing_epochs_do_not_commit(lake: Lake, source: Any, epochs: tuple[int, ...], missing: int) -> None:
    with start(lake) as writer:
        for epoch in epochs:
            writer.append_epoch(source, epoch, [0], loss=[1.0])
        with pytest.raises(InvalidInput, match=f"lacks epoch {missing} "):
            writer.commit(INFO)
    assert not lake.has_run("e", "r")


def test_an_epoch_far_away_is_refused_at_once(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_epoch("eval", 0, [0], loss=[1.0])
        writer.append_epoch("eval", 10**12, [0], loss=[1.0])
        with pytest.raises(InvalidInput, match="lacks epoch 1 "):
            writer.commit(INFO)


def test_of_two_writers_with_one_name_the_first_to_commit_wins(lake: Lake) -> None:
    before = files_below(lake)
    with start(lake) as one, start(lake) as two:
        for writer, value in ((one, 1.0), (two, 2.0)):
            writer.append_epoch("eval", 0, [0, 1], loss=[value, value])
            writer.append_signals(**signals(loss=np.full(N, value)))
        won = two.commit(INFO)
        with pytest.raises(AlreadyExists, match="'r'"):
            one.commit(INFO)
    assert files_below(lake) == before | {"runs/experiment=e/r.json"} | {file.path for file in won.files}
    assert lake.sql("select distinct loss from signals").to_series().to_list() == [2.0]
    assert lake.sql("select distinct loss from traces").to_series().to_list() == [[2.0]]
    with pytest.raises(AlreadyExists):
        start(lake)


@pytest.mark.parametrize("how", ["discard", "leave", "raise"])
def test_without_a_commit_nothing_is_left(lake: Lake, how: str) -> None:
    files, folders = files_below(lake), folders_below(lake)

    def write() -> None:
        with start(lake) as writer:
            writer.append_epoch("train", 1, [0], loss=[1.0])
            writer.append_signals(**signals())
            assert lake.runs("e") == []
            assert files_below(lake) > files
            if how == "discard":
                writer.discard()
                writer.discard()
            if how == "raise":
                raise KeyboardInterrupt

    if how == "raise":
        with pytest.raises(KeyboardInterrupt):
            write()
    else:
        write()
    assert files_below(lake) == files
    assert folders_below(lake) == folders
    with start(lake) as again:
        again.commit(INFO)


def test_a_commit_leaves_no_staging(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_epoch("eval", 0, [0], loss=[1.0])
        run = writer.commit(INFO)
    assert not (Path(lake.path) / "staging").exists()
    assert {file.path for file in run.files} < files_below(lake)


@pytest.mark.parametrize(
    "call",
    [
        lambda writer: writer.append_epoch("eval", 0, [0], loss=[1.0]),
        lambda writer: writer.append_signals(**signals()),
        lambda writer: writer.commit(INFO),
    ],
    ids=["epoch", "signals", "commit"],
)
def test_an_ended_writer_takes_nothing(lake: Lake, call: Callable[[RunWriter], object]) -> None:
    with start(lake) as writer:
        writer.commit(INFO)
        with pytest.raises(InvalidInput, match="takes no more"):
            call(writer)


class Interrupted(LocalFiles):
    """Fails in the instant after the manifest has become visible."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        super().put_if_absent(path, data)
        raise KeyboardInterrupt


def test_an_interrupt_right_after_the_manifest_does_not_take_the_data_away(lake: Lake) -> None:
    with RunWriter(Interrupted(Path(lake.path)), "e", "r", MEMBERS, forget_late=lake.run) as writer:
        writer.append_signals(**signals())
        writer.append_epoch("eval", 0, [0], loss=[1.0])
        with pytest.raises(KeyboardInterrupt):
            writer.commit(INFO)
    assert [len(lake.read_file(file)) for file in lake.run("e", "r").files] == [N, 1]
    assert not (Path(lake.path) / "staging").exists()


@pytest.mark.parametrize(
    ("info", "error", "named"),
    [
        (RunInfo(role="oracle"), InvalidOption, "oracle"),  # type: ignore[arg-type]
        (RunInfo(role="target", seed=2**63), InvalidInput, "seed"),
        (RunInfo(role="target", recipe={(1, 2): 3}), InvalidInput, "JSON"),  # type: ignore[dict-item]
    ],
)
def test_facts_that_cannot_be_stored_leave_the_writer_open(
    lake: Lake, info: RunInfo, error: type[LosslakeError], named: str
) -> None:
    with start(lake) as writer:
        writer.append_signals(**signals())
        with pytest.raises(error, match=named):
            writer.commit(info)
        writer.commit(INFO)
    assert lake.sql("select count(*) from signals").item() == N


def test_numpy_values_among_the_facts_are_kept_as_numbers(lake: Lake) -> None:
    recipe = {"lr": np.float32(0.5), "widths": np.array([3, 4]), "path": Path("x")}
    with start(lake) as writer:
        writer.commit(RunInfo(role="target", recipe=recipe, train_accuracy=float("nan")))
    assert lake.run("e", "r").info.recipe == {"lr": 0.5, "widths": [3, 4], "path": "x"}
    assert lake.sql("select recipe::json->>'lr' from runs").item() == "0.5"


@pytest.mark.parametrize(
    ("members", "named"),
    [(np.ones(N - 1, bool), "shape"), (np.ones(N, int), "int64"), (np.ones((N, 1), bool), "shape")],
)
def test_members_that_do_not_fit_the_samples(lake: Lake, members: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        lake.write_run("e", "r", members=members)


def test_a_full_disk_is_said_and_leaves_nothing(lake: Lake) -> None:
    script = """
import resource, signal, sys
import numpy as np
from losslake.store.errors import LosslakeError
from losslake.store.lake import Lake
from losslake.store.format.records import RunInfo
lake = Lake.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for way in ("epoch", "signals"):
    try:
        with lake.write_run("big", "r", members=np.zeros(50000, bool)) as writer:
            if way == "epoch":
                writer.append_epoch("eval", 0, np.arange(50000), loss=np.random.rand(50000))
            else:
                ids = np.arange(50000)
                rows = np.random.rand(50000)
                writer.append_signals(ids, ids * 0, None, loss=rows, phi=rows)
                writer.commit(RunInfo(role="target"))
        print("no error")
    except LosslakeError as error:
        print(way, error)
"""
    lake.create_experiment("big", pa.table({"label": np.zeros(50_000, np.int32)}))
    before = files_below(lake)
    done = subprocess.run(
        [*warm_python(STORE), "-c", script, lake.path], capture_output=True, text=True, check=False
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("epoch staging/experiment=big/run=r/")
    assert second.startswith("signals signals/experiment=big/run=r/")
    assert "File too large; raise the limit" in first
    assert "File too large; raise the limit" in second
    assert files_below(lake) == before


def test_nobody_but_the_owner_may_read(lake: Lake) -> None:
    with start(lake) as writer:
        writer.append_signals(**signals())
        writer.append_epoch("eval", 0, [0], loss=[1.0])
        writer.commit(INFO)
    for where, _, names in os.walk(lake.path):
        assert os.stat(where).st_mode & 0o077 == 0
        assert all(os.stat(os.path.join(where, name)).st_mode & 0o077 == 0 for name in names)
