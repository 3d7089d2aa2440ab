"""`verify` finds every damage, and tells it from what unfinished writers left."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.store.errors import InvalidInput, LosslakeError
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest, paths
from losslake.store.format.paths import run_manifest
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.read.catalogue import results
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases, processes
from losslake.store.write.results import save_result

N = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small lake with something of everything."""
    lake = Lake.open(tmp_path_factory.mktemp("whole") / "lake", create=True)
    pictures = pa.array([bytes([i]) * 50 for i in range(N)])
    lake.create_experiment(
        "e", pa.table({"label": np.arange(N)}), pictures=pictures, dataset={"spec": "digits"}
    )
    rng = np.random.default_rng(0)
    for run in ("a", "b"):
        with lake.write_run("e", run, members=rng.random(N) < 0.5) as writer:
            ids = np.arange(N)
            writer.append_signals(ids, ids * 0, ids, loss=rng.random(N), phi=rng.random(N))
            writer.append_epoch("eval", 0, ids, loss=rng.random(N))
            writer.commit(RunInfo(role="target", recipe={"lr": 0.1, "text": "a  b"}))
    scores = pa.table({"sample_id": ids, "member": ids > 3, "score": rng.random(N)})
    metrics = [{"metric": "auc", "value": 0.5}]
    save_result(lake, "e", "x", "a", "", options={}, notes=["n"], metrics=metrics, scores=scores)
    lake.add_design("e", "shadows", 0, {"seed": 1})
    return Path(lake.path)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "lake"))


@pytest.fixture
def lake(copy: Path) -> Lake:
    made = Lake.open(copy)
    for path in made.files.list("results"):
        made.files.delete(path)
    return made


def damage_found(root: Path) -> tuple[str, ...]:
    try:
        return verify(Lake.open(root)).damage
    except LosslakeError as error:
        return (str(error),)


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_whole_lake_is_whole(whole: Path) -> None:
    result = verify(Lake.open(whole))
    assert (result.damage, result.leftovers) == ((), ())
    assert (result.manifests, result.files) == (6, 7)
    assert result.bytes == sum(path.stat().st_size for path in whole.rglob("*.parquet"))


def test_a_manifest_that_is_replaced_while_it_is_read_is_no_damage(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `lake compact` in another process, after each time that it is read."""
    lake, path, read = Lake.open(copy), run_manifest("e", "a"), LocalFiles.read
    content = manifest.load(lake.files, path)
    others = (manifest.dump({**content, "seen": number}) for number in itertools.count())

    def read_and_replace(self: LocalFiles, asked: str) -> bytes:
        found = read(self, asked)
        if asked == path:
            self.put(path, next(others))
        return found

    monkeypatch.setattr(LocalFiles, "read", read_and_replace)
    assert verify(lake).damage == ()


def test_every_random_corruption_is_found_and_named(whole: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    root = Path(shutil.copytree(whole, tmp_path / "lake"))
    files = files_of(root)
    kinds = {path.suffix for path in files}
    assert kinds == {".json", ".parquet"}
    for number in range(72):
        victim = files[number % len(files)]
        before = victim.read_bytes()
        data = bytearray(before)
        way = chance.choice(["bit", "byte", "byte", "cut", "longer"])
        at = chance.randrange(len(data))
        if way == "bit":
            data[at] ^= 1 << chance.randrange(8)
        elif way == "byte":
            data[at] = (data[at] + chance.randrange(1, 256)) % 256
        elif way == "cut":
            del data[at:]
        else:
            data += b"\0" * chance.randrange(1, 9)
        victim.write_bytes(data)
        found = damage_found(root)
        assert len(found) == 1, (number, victim, way, at)
        assert victim.relative_to(root).as_posix() in found[0]
        victim.write_bytes(before)
    assert damage_found(root) == ()


@pytest.mark.parametrize("change", [(b'"role": ', b'"role":\t'), (b"\n", b"\r\n"), (b"}", b"}\n")])
def test_a_manifest_that_says_the_same_in_other_bytes_is_found(
    copy: Path, change: tuple[bytes, bytes]
) -> None:
    path = copy / "runs/experiment=e/a.json"
    data = path.read_bytes()
    assert change[0] in data
    path.write_bytes(data.replace(*change))
    assert len(damage_found(copy)) == 1


def test_every_missing_data_file_is_found(copy: Path) -> None:
    for path in sorted(copy.rglob("*.parquet")):
        data = path.read_bytes()
        path.unlink()
        found = damage_found(copy)
        assert len(found) == 1
        assert path.relative_to(copy).as_posix() in found[0]
        path.write_bytes(data)


def test_data_of_a_damaged_manifest_is_not_called_a_leftover(copy: Path) -> None:
    (copy / "runs/experiment=e/a.json").write_bytes(b"{}")
    result = verify(Lake.open(copy))
    assert len(result.damage) == 1
    assert result.leftovers == ()


def test_data_of_a_run_whose_manifest_is_gone_is_left_over(copy: Path) -> None:
    (copy / "runs/experiment=e/a.json").unlink()
    result = verify(Lake.open(copy))
    assert result.damage == ()
    assert [path.rpartition("/")[0] for path in result.leftovers] == [
        "signals/experiment=e/run=a",
        "traces/experiment=e/run=a",
    ]


def test_a_renamed_manifest_and_swapped_files_are_found(copy: Path) -> None:
    runs = copy / "runs/experiment=e"
    (runs / "a.json").rename(runs / "c.json")
    assert any("c.json" in sentence for sentence in damage_found(copy))
    (runs / "c.json").rename(runs / "a.json")
    one, two = sorted((copy / "signals").rglob("*.parquet"))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    assert len(damage_found(copy)) == 2


def test_leftovers_are_listed_and_are_no_damage(copy: Path) -> None:
    lake = Lake.open(copy)
    writer = lake.write_run("e", "late", members=np.zeros(N, bool))
    writer.append_epoch("eval", 0, [1], loss=[1.0])
    writer.append_signals(np.arange(N), np.zeros(N, int), None, loss=np.ones(N), phi=np.ones(N))
    (copy / "runs" / "experiment=e" / ".tmp-0011223344556677").write_bytes(b"half a mani")
    scores = pa.table({"sample_id": [0], "member": [True], "score": [1.0]})
    save_result(lake, "e", "x", "a", "", options={}, notes=[], metrics=[], scores=scores)
    result = verify(lake)
    assert result.damage == ()
    kinds = ["runs", "scores", "signals", "staging", "staging"]  # the last says that the run has begun
    assert [path.partition("/")[0] for path in result.leftovers] == kinds
    done = CliRunner().invoke(cli, ["lake", "verify", "--lake", str(copy)])
    assert done.exit_code == 0
    assert done.output.count("leftover: ") == 5
    assert "0 damaged, 5 leftovers" in done.output
    writer.discard()
    assert len(verify(lake).leftovers) == 2


def test_the_command_names_damage_and_fails(copy: Path) -> None:
    victim = next(copy.glob("signals/**/*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1])
    done = CliRunner().invoke(cli, ["lake", "verify", "--lake", str(copy)])
    assert done.exit_code == 1
    assert f"damaged: {victim.relative_to(copy)} has" in done.output
    assert "1 damaged" in done.output


def _metric(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["metrics"][0].update({name: value})


def _field(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({name: value})


WRONG_RESULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"n {value}": _metric("n", value) for value in (2**64, True, 1e308, 0.5, float("nan"), "3", [])},
    **{f"value {value}": _metric("value", value) for value in (True, "1", [1], {}, 10**400)},
    **{f"metric {value!a}": _metric("metric", value) for value in ("\ud800", 3, None)},
    **{f"forgotten {value}": _field("forgotten", value) for value in ([[]], 5, ["x"], [True], None)},
    **{f"notes {value}": _field("notes", value) for value in ([3], "text", None)},
    **{
        f"{name} wrong": _field(name, 3) for name in ("metrics", "options", "fingerprint", "files", "variant")
    },
    "no metrics": lambda content: content.pop("metrics"),
}


@pytest.mark.parametrize("wrong", WRONG_RESULTS)
def test_a_result_that_is_none_costs_itself_and_no_more(lake: Lake, wrong: str) -> None:
    name = lake.experiments()[0]
    metrics = [{"metric": "auc", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 24}]
    for analysis in ("whole", "wrong"):
        save_result(lake, name, analysis, None, "", options={}, notes=[], metrics=metrics, scores=None)
    (path,) = (path for path in lake.files.list("results") if "analysis=wrong" in path)
    content = manifest.load(lake.files, path)
    WRONG_RESULTS[wrong](content)
    lake.files.put(path, manifest.dump(content))
    assert lake.sql("select analysis from metrics")["analysis"].to_list() == ["whole"]
    assert [result.analysis for result in results(lake, name)] == ["whole"]
    assert lake.sql("select count(*) from runs").item() == len(lake.runs(name))
    (told,) = verify(lake).damage
    assert path in told
    assert collect_garbage(lake).damaged == (told,)
    forget(lake, name, [0])  # it does not say what it was computed from
    assert not lake.files.exists(path)
    assert verify(lake).damage == ()


@pytest.mark.parametrize("value", [2**64, 2**63, 1.5, True, "3", 10**400])
def test_a_value_of_a_result_that_can_be_held_or_not(lake: Lake, value: Any) -> None:
    """What a manifest may say of a value, a query shows; what it may not is told where it is written."""
    name = lake.experiments()[0]
    metrics = [{"metric": "auc", "value": value}]
    if isinstance(value, bool | str) or value == 10**400:
        with pytest.raises(InvalidInput, match="needs a name and numbers"):
            save_result(lake, name, "loss", None, "", options={}, notes=[], metrics=metrics, scores=None)
        return
    save_result(lake, name, "loss", None, "", options={}, notes=[], metrics=metrics, scores=None)
    assert lake.sql("select value from metrics").item() == float(value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pid": 2**31},
        {"pid": -1},
        {"pid": True},
        {"started": "x"},
        {"started": -1},
        {"started": 2**64},
        {"host": None},
        {"pid": None},
    ],
    ids=str,
)
def test_a_lease_that_is_none_is_named_and_stops_nothing(lake: Lake, wrong: dict[str, Any]) -> None:
    writer = "d" * 16
    lease = {"kind": "writer", "writer": writer, "host": processes.host_identity(), "pid": 1, "started": None}
    lake.files.put(paths.lease(writer), manifest.dump({**lease, **wrong}))
    assert leases.states(lake.files)[writer] == "elsewhere"
    (told,) = verify(lake).damage
    assert paths.lease(writer) in told
    collect_garbage(lake)
    assert lake.sql("select count(*) from runs").item() > 0
    lake.files.put(
        paths.lease(writer),
        manifest.dump({name: value for name, value in lease.items() if name != "started"}),
    )
    assert "started" in verify(lake).damage[0]
