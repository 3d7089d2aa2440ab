"""A fleet on Ray clusters of this machine: what workers take of memory, and what a lost node costs.

    python benchmarks/ray_fleet.py [--records 50000] [--runs 6]

Made pictures of CIFAR-10's size and an MLP, on two nodes: the first has one CPU and the driver, the second has two, and is killed once runs
of both its workers are under way and their memory was measured. Private memory is what a worker has for itself, shared what it has in
common with others: the data, in Ray's object store, and libraries. Also the same fleet on this machine alone, with two processes, and whether all values are
the same.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import torch
from fleet_speed import made, records_of
from losslake.collect.experiment.prepare import Prepared
from losslake.collect.fleet.ray.cluster import OnRay
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.progress import ProgressLines
from losslake.collect.recipe import Recipe
from losslake.store.lake import Lake

RECIPE = Recipe(model="mlp", model_options={"widths": (16,)}, epochs=4, batch_size=256, lr=0.05)


class Watched(ProgressLines):
    """Progress that remembers which runs are under way."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.begun: set[str] = set()

    def advance(self, n: int, note: str) -> None:
        super().advance(n, note)
        if " epoch " in note:
            self.begun.add(note.split()[0])


def workers() -> dict[int, tuple[str, float, float]]:
    """What each of Ray's workers that trains is called, and its private and shared memory in MB."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if not name.startswith("ray::shadow-"):
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines}
        private = sizes["Private_Clean"] + sizes["Private_Dirty"]
        found[int(process.name)] = (name, private, sizes["Shared_Clean"] + sizes["Shared_Dirty"])
    return found


def on_ray(prepared: Prepared, runs: int) -> float:
    """Train the fleet on Ray, with a node that is killed; seconds."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    room = 2 * records_of(prepared).nbytes + (80 << 20)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": room, "include_dashboard": False},
    )
    victim = cluster.add_node(num_cpus=2, object_store_memory=room)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    watched = Watched()

    def kill() -> None:
        while len(watched.begun) < 3:
            time.sleep(0.05)
        for name, private, shared in workers().values():
            print(f"{name}: {private:.0f} MB private, {shared:.0f} MB shared")
        print("a node with two workers is killed")
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    started = time.perf_counter()
    try:
        collect_shadows(
            prepared.lake,
            "fleet",
            count=runs,
            recipe=RECIPE,
            prepared=prepared,
            engine=OnRay(),
            progress=watched,
        )
        return time.perf_counter() - started
    finally:
        killer.join(10)
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lakes = [Lake.open(Path(folder) / name, create=True) for name in ("here", "ray")]
        here, there = (made(lake, options.records) for lake in lakes)
        print(f"data: {records_of(here).nbytes / 1e6:.0f} MB")
        print(f"on Ray, a node killed: {on_ray(there, options.runs):.1f} s")
        started = time.perf_counter()
        collect_shadows(
            lakes[0], "fleet", count=options.runs, recipe=RECIPE, prepared=here, device="cpu", jobs=2
        )
        print(f"here, two processes: {time.perf_counter() - started:.1f} s")
        one, other = (lake.sql("select * from signals order by run, sample_id, query") for lake in lakes)
        print(f"{len(one)} rows of signals, {'all the same' if one.equals(other) else 'they differ'}")


if __name__ == "__main__":
    main()
