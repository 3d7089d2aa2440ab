"""Lakes of every format there ever was open, answer, and migrate. Their bytes lie in lakes/, as they were written then.

format-1.tar was made by the losslake of format 1 (version 0.1.0) with this script, put into a USTAR archive:

    N = 24
    lake = Lake.open("format-1", create=True)
    ids = np.arange(N)
    samples = pa.table({
        "label": pa.array([i % 3 if i % 7 else None for i in range(N)], pa.int32()),
        "pool": ["population" if i >= 18 else "audit" for i in range(N)],
        "group": [None if i % 5 else "o'\\"\\u202ezürich;--" for i in range(N)],
        "key": [f"../{i}\\t\\u2028" for i in range(N)],
        'sel"ect $1;': pa.array([i / 4 if i % 4 else None for i in range(N)], pa.float64()),
        "größe": pa.array([[i] * (i % 3) for i in range(N)], pa.list_(pa.int16())),
    })
    lake.create_experiment("A.b-c_0", samples, dataset={"name": "none", "n": float("nan")},
                           pictures=pa.array([b"\\x89PNG\\r\\n\\x1a\\n" + bytes([i]) for i in range(N)]))
    for number, (run, role) in enumerate((("1e5", "target"), ("null.x", "shadow"))):
        members = (ids % 2 == number) & (ids < 18)
        with lake.write_run("A.b-c_0", run, members=members) as writer:
            for query in (0, 1):
                loss = (ids + 3 * query + 7 * number) / 8
                loss[5] = np.inf
                logits = (ids[:, None] - np.arange(3) * (query + 1) - number) / 4
                writer.append_signals(ids, np.full(N, query), np.where(ids % 7, ids % 3, 0), loss=loss,
                                      phi=2 - np.minimum(loss, 9), correct=ids % 4 > 0,
                                      logits=logits.astype([np.float16, np.float32][number]))
            for epoch in range(5):
                there = ids[ids != epoch][::-1]
                value = there / 16 - epoch
                writer.append_epoch("eval", epoch, there, loss=np.where(there == 7, np.nan, value), margin=-value)
                own = np.flatnonzero(members)
                if epoch:
                    writer.append_epoch("train", epoch, own, loss=own / 2 + epoch, grad_norm=own * epoch / 4)
            writer.commit(RunInfo(role=role, seed=2**40 + number, model="m'; drop table runs", recipe={"lr": 0.5},
                                  epochs=4, train_accuracy=0.75, seconds=1.5, versions={"python": "3"},
                                  extra={"note": "\\u202e"}))
    lake.add_design("A.b-c_0", "shadows", 0, {"seed": 5, "members": "AAA="})
    scores = pa.table({"sample_id": ids[:18], "member": ids[:18] % 2 == 0,
                       "score": pa.array([None if i == 5 else -i / 8 for i in range(18)]),
                       "of its own": pa.array([str(i) for i in range(18)])})
    save_result(lake, "A.b-c_0", "loss", "1e5", "a=1,b='../~'", options={"a": 1, "b": "../~"}, notes=["a note"],
                scores=scores,
                metrics=[{"metric": "auc", "value": 0.5, "ci_low": 0.25, "ci_high": 0.75, "n": 18},
                         {"metric": "tpr_at_fpr", "fpr": 0.1, "value": None}])

format-2.tar was made from it by the losslake of format 2. The two runs share the file of their eval traces, which is
whole. So did they that of their train traces, until the manifest of the second listed the file of its own again: of the
shared one only a part counts.

    migrate(lake)
    path = "runs/experiment=A.b-c_0/null.x.json"
    before = lake.run("A.b-c_0", "null.x").files
    compact(lake, "A.b-c_0", least=2)
    content = manifest.load(lake.files, path)
    own = [file for file in manifest.files_to_json(before) if "train" in file["path"]]
    content["files"] = [file for file in content["files"] if "train" not in file["path"]] + own
    lake.files.put(path, manifest.dump(content))
    for left in verify(lake).leftovers:
        lake.files.delete(left)
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.analysis.attacks.logits import logits_of
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.cli import cli
from losslake.store.errors import CorruptLake, LosslakeError, OlderFormat
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest
from losslake.store.format import manifest as formats
from losslake.store.format.schema import FORMAT
from losslake.store.lake import Lake
from losslake.store.read.catalogue import fingerprint, results
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.migrate import migrate
from losslake.store.upkeep.verify import verify
from losslake.store.write.leases import claim
from losslake.store.write.results import save_result
from places import LAKES
from polars.testing import assert_frame_equal

EXPERIMENT = "A.b-c_0"
RUNS = ("1e5", "null.x")
N = 24


def opened(number: int, where: Path) -> Lake:
    with tarfile.open(LAKES / f"format-{number}.tar") as archive:
        archive.extractall(where, filter="data")
    return Lake.open(where / f"format-{number}")


@pytest.fixture(params=range(1, FORMAT + 1))
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return opened(request.param, tmp_path)


def files_in(lake: Lake) -> list[str]:
    return sorted(str(path.relative_to(lake.path)) for path in Path(lake.path).rglob("*") if path.is_file())


def rows_of(lake: Lake, view: str) -> list[tuple[Any, ...]]:
    """Rows in a fixed order, NaN as text: it is not equal to itself."""
    return [_plain(row) for row in lake.sql(f"from {view} order by all").rows()]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def expected_samples() -> list[tuple[Any, ...]]:
    return [
        (
            EXPERIMENT,
            i,
            i % 3 if i % 7 else None,
            "population" if i >= 18 else "audit",
            None,
            None if i % 5 else "o'\"\u202ezürich;--",
            f"../{i}\t\u2028",
            i / 4 if i % 4 else None,
            (i,) * (i % 3),
        )
        for i in range(N)
    ]


def expected_signals() -> list[tuple[Any, ...]]:
    found = []
    for number, run in enumerate(RUNS):
        for i in range(N):
            for query in (0, 1):
                loss = math.inf if i == 5 else (i + 3 * query + 7 * number) / 8
                logits = tuple((i - k * (query + 1) - number) / 4 for k in range(3))
                member, label = i % 2 == number and i < 18, i % 3 if i % 7 else 0
                phi = 2 - min(loss, 9)
                found.append(
                    (EXPERIMENT, run, i, query, member, label, loss, phi, i % 4 > 0, logits, *(None,) * 4)
                )
    return found


def expected_traces() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for number, run in enumerate(RUNS):
        for i in range(N):
            member = i % 2 == number and i < 18
            loss = tuple(None if i == e else "nan" if i == 7 else i / 16 - e for e in range(5))
            margin = tuple(None if i == e else e - i / 16 for e in range(5))
            found.append((EXPERIMENT, run, i, "eval", member, loss, None, margin))
            if member:
                loss = (None, *(i / 2 + e for e in range(1, 5)))
                norm = (None, *(i * e / 4 for e in range(1, 5)))
                found.append((EXPERIMENT, run, i, "train", True, loss, norm, None))
    return found


def expected_points() -> list[tuple[Any, ...]]:
    found = []
    for experiment, run, i, source, member, *lists in expected_traces():
        for epoch in range(5):
            found.append(
                (experiment, run, i, source, member, epoch, *(own[epoch] if own else None for own in lists))
            )
    return found


def check_rows(lake: Lake) -> None:
    """Every view has the rows that were written."""
    assert rows_of(lake, "samples") == expected_samples()
    assert rows_of(lake, "signals") == expected_signals()
    assert rows_of(lake, "traces") == expected_traces()
    assert rows_of(lake, "trace_points") == expected_points()
    said = (0.75, None, 1.5, "", '{"python": "3"}', None, json.dumps({"note": "\u202e"}))
    assert lake.sql("select * exclude (created) from runs order by run").rows() == [
        (EXPERIMENT, run, role, 2**40 + number, "", "m'; drop table runs", '{"lr": 0.5}', 4, 9, *said)
        for number, (run, role) in enumerate(zip(RUNS, ("target", "shadow"), strict=True))
    ]
    assert rows_of(lake, "scores") == [
        (EXPERIMENT, "loss", "1e5", "a=1,b='../~'", i, i % 2 == 0, None if i == 5 else -i / 8, str(i))
        for i in range(18)
    ]
    assert rows_of(lake, "metrics") == [
        (EXPERIMENT, "loss", "1e5", "a=1,b='../~'", "auc", "{}", 0.5, 0.25, 0.75, 18),
        (EXPERIMENT, "loss", "1e5", "a=1,b='../~'", "tpr_at_fpr", '{"fpr": 0.1}', None, None, None, None),
    ]


def test_every_view_of_an_old_lake(lake: Lake, tmp_path: Path) -> None:
    check_rows(lake)
    assert verify(lake).damage == ()
    assert verify(lake).leftovers == ()
    pictures = lake.pictures(EXPERIMENT, [0, 23])
    assert pictures == {i: b"\x89PNG\r\n\x1a\n" + bytes([i]) for i in (0, 23)}
    assert lake.designs(EXPERIMENT, "shadows") == [{"seed": 5, "members": "AAA="}]
    assert results(lake, EXPERIMENT)[0].notes == ("a note",)
    for run in lake.runs(EXPERIMENT):
        assert (run.tables(), run.trace_sources()) == ({"signals", "traces"}, {"eval", "train"})
    for view, of_row in (("signals", "query"), ("traces", "source"), ("trace_points", "source, epoch")):
        keys = ["run", "sample_id", *of_row.split(", ")]
        found, expected = lake.scan(view).collect().sort(keys), lake.sql(f"from {view}").sort(keys)
        assert_frame_equal(found, expected, check_dtypes=False)
    for views in (False, True):
        export(lake, tmp_path / "out.duckdb", views=views, force=True)
        with duckdb.connect(str(tmp_path / "out.duckdb"), read_only=True) as connection:
            found = connection.sql("from trace_points order by all").fetchall()
        assert [_plain(row) for row in found] == expected_points()


def test_analyses_of_an_old_lake(lake: Lake) -> None:
    old = manifest.load_as_written(lake.files, "lake.json")["format"] < FORMAT
    with open_source(lake, EXPERIMENT) as source:
        loss = run_analysis(source, find("loss"))
        assert loss.scores.frame["score"].to_list() == [None if i == 5 else -i / 8 for i in range(18)]
        options = {"aggregate": "max", "source": "train", "signal": "grad_norm"}
        norms = run_analysis(source, find("trace"), options).scores.frame.select("sample_id", "score")
        assert dict(norms.drop_nulls().iter_rows()) == {i: float(i) for i in range(0, 18, 2)}
        final = run_analysis(source, find("trace"), {"aggregate": "final", "signal": "margin"})
        agreement = run_evaluation(source, find_evaluation("agreement"), ("loss", "trace[aggregate=max]"))
        for number, run in enumerate(source.runs):
            (piece,) = logits_of(source, run, query=1)
            assert np.array_equal(piece.values, (np.arange(N)[:, None] - 2 * np.arange(3) - number) / 4)
            frame = source.rows(run, "traces", ["sample_id", "source"])
            assert frame["source"].value_counts(sort=True).rows() == [("eval", N), ("train", 9)]
    assert len(final.scores.frame)
    for notes in (loss.notes, agreement.notes):
        assert any("losslake lake migrate" in note for note in notes) == old
    assert (len(results(lake, EXPERIMENT)) == 1) == old


def test_nothing_is_written_to_an_old_lake(tmp_path: Path) -> None:
    lake = opened(1, tmp_path)
    before = files_in(lake)
    attempts: list[Callable[[], object]] = [
        lambda: lake.create_experiment("new", pa.table({"label": [0]})),
        lambda: lake.write_run(EXPERIMENT, "new", members=np.zeros(N, bool)),
        lambda: lake.add_design(EXPERIMENT, "shadows", 1, {}),
        lambda: save_result(lake, EXPERIMENT, "x", None, "", options={}, notes=[], metrics=[], scores=None),
        lambda: compact(lake, EXPERIMENT, least=2),
    ]
    for attempt in attempts:
        with pytest.raises(OlderFormat, match=r"format 1 .* 'losslake lake migrate'"):
            attempt()
    known = lake.experiment(EXPERIMENT)  # which is there already, so nothing has to be written
    assert lake.create_experiment(EXPERIMENT, lake.samples(EXPERIMENT), digest=known.digest) == known
    assert files_in(lake) == before
    done = CliRunner().invoke(cli, ["lake", "migrate", "--lake", lake.path])
    assert (done.exit_code, done.output) == (0, f"6 manifests brought to format {FORMAT}\n")
    done = CliRunner().invoke(cli, ["lake", "migrate", "--lake", lake.path])
    assert (done.exit_code, done.output) == (0, f"format {FORMAT} already\n")
    for attempt in attempts:
        attempt()


def test_a_migrated_lake_says_the_same(tmp_path: Path) -> None:
    lake = opened(1, tmp_path)
    data = {path: lake.files.read(path) for path in files_in(lake) if path.endswith(".parquet")}
    marks = fingerprint(lake, EXPERIMENT)
    assert migrate(lake) == 6
    assert fingerprint(lake, EXPERIMENT) == marks
    check_rows(lake)
    assert {path: lake.files.read(path) for path in data} == data
    for path in set(files_in(lake)) - set(data):
        assert manifest.load_as_written(lake.files, path)["format"] == FORMAT, path
    assert verify(lake).damage == ()
    compact(lake, EXPERIMENT, least=2)
    assert fingerprint(lake, EXPERIMENT) == marks
    check_rows(lake)


def test_a_migration_that_ends_anywhere_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = opened(1, tmp_path)
    put = LocalFiles.put
    left = [0]

    def put_one(files: LocalFiles, path: str, content: bytes, **given: Any) -> None:
        if not path.startswith(("writers/", "claims/")):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        put(files, path, content, **given)

    monkeypatch.setattr(LocalFiles, "put", put_one)
    for done in range(6):
        with pytest.raises(KeyboardInterrupt):
            migrate(lake)
        left[0] = 1
        assert verify(lake).damage == ()
        with pytest.raises(OlderFormat):
            lake.add_design(EXPERIMENT, "late", done, {})
    assert migrate(lake) == 1  # lake.json was the last
    assert migrate(lake) == 0
    check_rows(lake)


def test_a_damaged_manifest_stops_a_migration_before_it_begins(tmp_path: Path) -> None:
    lake = opened(1, tmp_path)
    path = f"runs/experiment={EXPERIMENT}/null.x.json"
    content = lake.files.read(path).replace(b'"seconds": 1.5', b'"seconds": 2.5')
    lake.files.put(path, content)
    with pytest.raises(CorruptLake, match=r"null\.x"):
        migrate(lake)
    assert manifest.load_as_written(lake.files, f"runs/experiment={EXPERIMENT}/1e5.json")["format"] == 1


def test_a_second_migration_at_the_same_time_is_kept_out(tmp_path: Path) -> None:
    lake = opened(1, tmp_path)
    with claim(lake.files, "lake", any_format=True), pytest.raises(LosslakeError, match="another process"):
        migrate(lake)
    assert migrate(lake) == 6


def test_there_is_a_step_and_a_lake_for_every_format() -> None:
    assert len(formats.STEPS) == FORMAT - 1
    assert sorted(path.name for path in LAKES.iterdir()) == [
        f"format-{number}.tar" for number in range(1, FORMAT + 1)
    ]
