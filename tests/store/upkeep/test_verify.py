"""`verify` finds every damage, and tells it from what unfinished writers left."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.store.errors import LosslakeError
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest
from losslake.store.format.paths import run_manifest
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.verify import verify
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
