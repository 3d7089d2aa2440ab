"""Fleets on a Ray cluster of two nodes: the values of a fleet trained here, whatever is lost, fails or is stopped."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from losslake.cli import _run
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.distilled import collect_distilled
from losslake.collect.fleet.leave_one_out import collect_leave_one_out
from losslake.collect.fleet.ray import runs as fleet_ray
from losslake.collect.fleet.ray import worker as fleet_ray_worker
from losslake.collect.fleet.ray.cluster import OnRay, nodes_for
from losslake.collect.fleet.references import collect_references
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.fleet.work import FleetWork
from losslake.collect.progress import Silent
from losslake.collect.recipe import Recipe
from losslake.store.errors import (
    InvalidInput,
    InvalidOption,
    MissingExtra,
    NotEnoughData,
    NotFound,
    TrainingFailed,
)
from losslake.store.files import tokens
from losslake.store.format import paths
from losslake.store.lake import Lake
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases
from losslake.version import __version__
from warm import HANGS

pytestmark = pytest.mark.usefixtures("one_thread")

# A model that waits on a node where it is held, and fails where it is told to; `held` tells that it has begun to wait.
# What only looks whether it is there need not import torch for seconds.
MODEL = """
import sys, time
from pathlib import Path

HERE = Path(__file__).parent

def node():
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else "none"

def build(input_shape, classes):
    from torch import nn

    class Wait(nn.Module):
        batches = 0

        def forward(self, x):
            self.batches += 1
            hold = HERE / f"hold-{node()}"
            while self.training and self.batches > 4 and hold.exists():
                (HERE / f"held-{node()}").touch()
                time.sleep(0.05)
            return x

    fails = HERE / "fails"
    if node() != "none" and fails.exists():
        fails.unlink()
        raise RuntimeError("planted")
    side, channels = input_shape[1], input_shape[0]
    inputs = side * side * channels
    return nn.Sequential(Wait(), nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, classes))
"""
RECIPE = Recipe(model="made_up_net:build", epochs=3, batch_size=32, lr=0.05, flip=True)
MLP = Recipe(model="mlp", model_options={"widths": (8,)}, epochs=2, batch_size=32, lr=0.05)


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two nodes with one CPU each; the driver is on the first."""
    ray = pytest.importorskip("ray", reason="needs the extra losslake[ray]")
    from ray.cluster_utils import Cluster

    # A node has the environment that it was started in, and there stands where the store is.
    with contextlib.suppress(pytest.skip.Exception):
        request.getfixturevalue("s3")

    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets' names must be short
    # What Ray says of the latest cluster on a machine lies where all clusters' does, unless told otherwise: one more
    # cluster, started or gone at this moment, would then be in the way.
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "object_store_memory": 80 << 20,
                "include_dashboard": False,
                "temp_dir": str(folder),
            },
        )
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
        ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a target on 60 digits, 15 of them population, and the module of the model beside it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "made_up_net.py").write_text(MODEL)
    lake = Lake.open(folder / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=60, population=0.25, pictures=False)
    collect_target(lake, "e", recipe=MLP, prepared=prepared, traces=False, device="cpu", jobs=1)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    where = shutil.copytree(made, tmp_path / "here")
    monkeypatch.syspath_prepend(where)
    yield where
    sys.modules.pop("made_up_net", None)


@pytest.fixture
def collect(folder: Path) -> Callable[..., Any]:
    """Call a collector for the lake of that name: a copy of the lake with a target."""

    def call(collector: Callable[..., Any], name: str = "lake", **options: Any) -> Lake:
        if not (folder / name).exists():
            shutil.copytree(folder / "lake", folder / name)
        lake = Lake.open(folder / name)
        collector(lake, "e", **{"recipe": RECIPE, **options})
        return lake

    return call


HERE: dict[str, Any] = {"device": "cpu", "jobs": 1}
RAY: dict[str, Any] = {"engine": OnRay()}


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.words: list[str] = []
        self.units = 0

    def advance(self, n: int, note: str) -> None:
        self.units += n
        self.words.append(note)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def values(lake: Lake) -> list[pl.DataFrame]:
    return [
        lake.sql("select * from signals where run <> 'target' order by run, sample_id, query"),
        lake.sql("select * from traces order by run, source, sample_id"),
    ]


def same(one: Lake, other: Lake) -> None:
    for here, there in zip(values(one), values(other), strict=True):
        assert here.equals(there)


def unfinished(lake: Lake) -> list[Path]:
    return [path for path in Path(lake.path).glob("staging/**/*") if path.is_file()]


def test_a_node_is_killed_and_another_joins(
    cluster: Any, folder: Path, collect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = collect(collect_shadows, "here", count=4, traces=True, **HERE)
    assert len(values(here)[0]) == 4 * 60 * 2
    monkeypatch.setattr(fleet_ray, "_LOOK_SECONDS", 0.5)
    head, victim = cluster.head_node, next(iter(cluster.worker_nodes))
    killed: list[Any] = []
    for node in (head, victim):
        (folder / f"hold-{node.node_id}").touch()

    def looking(*args: Any) -> Any:
        if all((folder / f"held-{node.node_id}").exists() for node in (head, victim)) and killed == []:
            killed.append(victim)
            cluster.remove_node(victim, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        return nodes_for(*args)

    monkeypatch.setattr(fleet_ray, "nodes_for", looking)

    class Tell(Heard):
        def advance(self, n: int, note: str) -> None:
            super().advance(n, note)
            if "is in the lake" in note:  # by the node that has joined: the others are held or dead
                (folder / f"hold-{head.node_id}").unlink(missing_ok=True)

    heard = Tell()
    there = collect(collect_shadows, count=4, traces=True, progress=heard, **RAY)
    same(here, there)
    assert "2 workers on 2 nodes of Ray" in heard.words
    assert len(heard.notes) == 1
    assert "its worker on node" in heard.notes[0]
    assert "was lost; it is trained again (1 of 3)" in heard.notes[0]
    assert heard.units == 4 * RECIPE.epochs
    devices = {run.info.device for run in there.runs("e")}
    assert devices == {"cpu"}


def test_a_run_that_fails_stops_no_other(
    cluster: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "fails").touch()
    lake = Lake.open(folder / "lake")
    expected = {path.name for path in Path(lake.path).glob("writers/*")}  # copied with the lake
    command = ["collect", "shadows", "--lake", str(folder / "lake"), "--experiment", "e", "--count", "3"]
    command += ["--model", "made_up_net:build", "--epochs", "1"]
    command += ["--engine", "ray", "--cpus-per-run", "0.5", "--jobs", "1"]
    assert _run(command, debug=False) == 1
    assert "1 of 3 runs failed; the others are in the lake" in (said := capsys.readouterr().err)
    assert "RuntimeError: planted" in said
    assert len(lake.runs("e", role="shadow")) == 2
    assert unfinished(lake) == []
    # The same command trains what is missing, here or there.
    assert _run(command, debug=False) == 0
    assert "3 shadow runs in" in capsys.readouterr().out
    # Workers leave nothing behind: what is new is this process's own lease.
    expected |= {f"{tokens.process_part(lake.path)}.json"}
    deadline = time.monotonic() + HANGS
    while not {path.name for path in Path(lake.path).glob("writers/*")} <= expected:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_others_have_committed_counts_as_done(cluster: Any, collect: Any) -> None:
    class Tell(Heard):
        def start(self, total: int, unit: str) -> None:
            collect(collect_shadows, count=2, **HERE)

    heard = Tell()
    lake = collect(collect_shadows, count=2, progress=heard, jobs=1, **RAY)
    created = [run.created for run in lake.runs("e")]
    assert [word for word in heard.words if "is in the lake" in word]
    same(lake, collect(collect_shadows, "other", count=2, **HERE))
    assert [run.created for run in collect(collect_shadows, count=2, **RAY).runs("e")] == created


def test_stopped_by_ctrl_c(cluster: Any, folder: Path, collect: Any) -> None:
    class Tell(Heard):
        def advance(self, n: int, note: str) -> None:
            if "epoch" in note:
                raise KeyboardInterrupt

    import ray

    with pytest.raises(KeyboardInterrupt):
        collect(collect_shadows, count=2, recipe=replace(RECIPE, epochs=2000), progress=Tell(), **RAY)
    lake = Lake.open(folder / "lake")
    assert lake.runs("e", role="shadow") == []
    assert unfinished(lake) == []
    deadline = time.monotonic() + HANGS
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("collector", "options"),
    [
        (collect_references, {"count": 2, "size": 10, "stack": 2}),
        (collect_distilled, {"count": 1}),
        (collect_leave_one_out, {"samples": [3], "repeats": 1}),
    ],
)
def test_other_fleets_have_the_same_values(cluster: Any, collect: Any, collector: Any, options: Any) -> None:
    here = collect(collector, "here", recipe=MLP, **options, **HERE)
    there = collect(collector, recipe=MLP, **options, **RAY)
    assert len(values(there)[0])
    same(here, there)


def test_a_lake_in_an_object_store(cluster: Any, s3: str, collect: Any) -> None:
    here = collect(collect_shadows, "here", recipe=MLP, count=2, traces=True, **HERE)
    there = Lake.open(f"{s3}/ray", create=True)
    prepared = prepare_experiment(there, "e", dataset="digits", samples=60, population=0.25, pictures=False)
    collect_target(there, "e", recipe=MLP, prepared=prepared, traces=False, device="cpu", jobs=1)
    collect_shadows(there, "e", recipe=MLP, count=2, traces=True, **RAY)
    assert len(values(there)[0]) == 2 * 60 * 2
    same(here, there)
    assert list(there.files.list("staging")) == []
    assert verify(there).damage == ()


def test_a_node_that_does_not_see_the_lake(
    cluster: Any, folder: Path, collect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FleetWork.setup
    elsewhere = {"lake": str(folder / "nowhere")}
    monkeypatch.setattr(FleetWork, "setup", lambda work: {**real(work), **elsewhere})
    with pytest.raises(InvalidInput, match=r"node .*: there is no lake at .*nowhere.* under the same path"):
        collect(collect_shadows, count=1, **RAY)


def test_a_cluster_without_room(cluster: Any, collect: Any) -> None:
    import ray

    assert [node.slots for node in nodes_for(ray, OnRay(cpus_per_run=0.25))] == [4, 4]
    for on in (OnRay(cpus_per_run=2), OnRay(gpus_per_run=0.25)):
        with pytest.raises(
            NotEnoughData, match=r"no node of the Ray cluster has .* it has 2 CPUs and 0 GPUs"
        ):
            collect(collect_shadows, count=1, engine=on)


# --- without a cluster --------------------------------------------------------------------------------------


def test_another_lake_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_ray_worker, "_SEEN_SECONDS", 0.0)
    lake = Lake.open(tmp_path / "lake", create=True)
    leases.hold(lake.files)
    lease = paths.lease(tokens.process_part(lake.path))
    setup = {"lake": lake.path, "path": [], "recipe": {"model": "mlp"}}
    assert fleet_ray_worker.see_lake(setup, lease, __version__) is None
    assert [path.name for path in (tmp_path / "lake" / "writers").iterdir()] == [Path(lease).name]
    other = Lake.open(tmp_path / "other", create=True)
    said = fleet_ray_worker.see_lake({**setup, "lake": other.path}, lease, __version__)
    assert said is not None
    assert "is another lake than here" in said
    said = fleet_ray_worker.see_lake({**setup, "recipe": {"model": "nowhere:build"}}, lease, __version__)
    assert said is not None
    assert "no module 'nowhere'" in said
    said = fleet_ray_worker.see_lake(setup, lease, "0.0.0")
    assert said == f"it has losslake {__version__}, not 0.0.0; install the same on every node"


def test_room_on_nodes() -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            resources: list[dict[str, float]] = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 6.0}, {}, {"CPU": 64.0}]
            return [
                {"NodeID": f"{n}", "NodeManagerHostname": "h", "Alive": n != 3, "Resources": resources[n]}
                for n in range(4)
            ]

    def slots(**options: float) -> dict[str, int]:
        return {node.id: node.slots for node in nodes_for(Ray, OnRay(**options))}  # type: ignore[arg-type]

    assert slots() == {"0": 16, "1": 6}
    assert slots(cpus_per_run=4) == {"0": 4, "1": 1}
    assert slots(gpus_per_run=0.25) == {"0": 8}
    assert slots(gpus_per_run=0.4) == {"0": 4}
    assert slots(gpus_per_run=0.1, cpus_per_run=0.1) == {"0": 20}
    assert slots(gpus_per_run=1, cpus_per_run=16) == {"0": 1}


def test_the_device_follows_from_the_gpus() -> None:
    assert OnRay().device("auto") == torch.device("cpu")
    assert OnRay(gpus_per_run=0.25).device("auto") == torch.device("cuda")
    assert OnRay(gpus_per_run=1).device("cuda") == torch.device("cuda")
    assert [OnRay(cpus_per_run=cpus).threads for cpus in (0.5, 1, 3.5)] == [1, 1, 3]
    with pytest.raises(InvalidOption, match="with --gpus-per-run"):
        OnRay().device("cuda")
    for name in ("cpu", "cuda:1"):
        with pytest.raises(InvalidOption, match="does not go with 1 GPUs a run"):
            OnRay(gpus_per_run=1).device(name)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus-per-run", "0.5"], "--gpus-per-run: for fleets on Ray; add --engine ray"),
        (["--engine", "ray", "--cpus-per-run", "0"], "cpus_per_run is 0.0; it must be above 0"),
        (["--engine", "ray", "--gpus-per-run", "2"], "gpus_per_run is 2.0; .* give 0 to 1"),
        (["--engine", "ray", "--retries", "-1"], "retries is -1"),
    ],
)
def test_options_that_do_not_fit(
    folder: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "ray" in flags:
        pytest.importorskip("ray", reason="needs the extra losslake[ray]")
    command = ["collect", "shadows", "--lake", str(folder / "lake"), "--experiment", "e", "--count", "1"]
    assert _run([*command, *flags], debug=False) == 2
    assert re.search(said, capsys.readouterr().err)


def test_without_ray(collect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'losslake\[ray\]'"):
        collect(collect_shadows, count=1, **RAY)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            ConnectionError("none"),
            NotFound,
            "there is no Ray cluster at 'auto'; start one with 'ray start --head'",
        ),
        (RuntimeError("Version mismatch\nmore"), InvalidInput, "cluster at 'auto': Version mismatch$"),
        (ImportError("no grpc"), MissingExtra, r"pip install 'ray\[client\]'"),
    ],
)
def test_a_cluster_that_cannot_be_used(
    collect: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception], said: str
) -> None:
    class Ray:
        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init(**options: Any) -> None:
            raise error

    monkeypatch.setitem(sys.modules, "ray", Ray)  # type: ignore[arg-type]
    with pytest.raises(raised, match=said):
        collect(collect_shadows, count=1, recipe=MLP, **RAY)


def test_workers_that_cannot_start(cluster: Any, collect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, setup: Any, ear: Any) -> None:
            pass

        def start(self, data: Any) -> str:
            return "out of luck"

    monkeypatch.setattr(fleet_ray, "Worker", Broken)
    heard = Heard()
    with pytest.raises(TrainingFailed, match="no worker could start on any node: out of luck"):
        collect(collect_shadows, count=2, progress=heard, **RAY)
    assert len(heard.notes) == 2
