"""The same lake on the local disk and in a real object store: what works, and how long it takes.

Starts Ceph's S3 gateway (a monitor, one storage daemon in memory, radosgw) where Debian's packages ceph-mon, ceph-osd and
radosgw are installed, on ports of 127.0.0.1. With AWS_ENDPOINT_URL set it takes the store there instead, and --bucket.

    python benchmarks/object_store.py --runs 32 --samples 20000
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from losslake.store.files.filesystem import files_at
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool")
FSID = "8f1d2c6e-0000-4000-8000-000000000001"
OSD = "7d1d2c6e-0000-4000-8000-000000000002"
MON = "[v2:127.0.0.1:16788,v1:127.0.0.1:16789]"
PORT = 17480
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}

CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rwx", "osd": "allow rwx"},
}


@contextlib.contextmanager
def ceph() -> Iterator[None]:
    """A cluster of one of each, in a folder that goes with it; the environment says where its gateway is."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise click.ClickException(
            f"{', '.join(missing)}: not installed (apt-get install ceph-mon ceph-osd radosgw); or set AWS_ENDPOINT_URL"
        )
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ceph-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)

        def do(*command: str) -> None:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=120,
                env={**os.environ, "CEPH_CONF": f"{folder}/ceph.conf"},
            )
            if done.returncode:
                raise click.ClickException(f"{' '.join(command)}: {done.stderr.decode()[-500:]}")

        def start(*command: str) -> None:
            with open(folder / f"{command[0]}.out", "wb") as out:
                started.append(
                    subprocess.Popen([*command, "-f", "-c", f"{folder}/ceph.conf"], stdout=out, stderr=out)
                )
            stack.callback(_stop, started[-1])

        _configure(folder, do)
        do("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{folder}/monmap", "--keyring", f"{folder}/keyring")
        start("ceph-mon", "-i", "a")
        do("ceph", "--connect-timeout", "60", "auth", "import", "-i", f"{folder}/keyring")
        do("ceph", "osd", "new", OSD)
        do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", OSD)
        start("ceph-osd", "-i", "0")
        key, secret = KEYS.values()
        do(
            *("radosgw-admin", "user", "create", "--uid=benchmark", "--display-name=benchmark"),
            *(f"--access-key={key}", f"--secret-key={secret}"),
        )
        start("radosgw", "-n", "client.rgw")
        os.environ.update(
            KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{PORT}", AWS_REGION="us-east-1", NO_PROXY="127.0.0.1"
        )
        yield


def _configure(folder: Path, do: Callable[..., None]) -> None:
    for part in ("mon", "osd", "rgw"):
        (folder / part).mkdir()
    settings = {
        "fsid": FSID,
        "mon host": MON,
        "public addr": "127.0.0.1",
        "mon allow pool size one": "true",
        "osd pool default size": "1",
        "osd pool default min size": "1",
        "osd pool default pg num": "4",
        "osd pool default pg autoscale mode": "off",
        "osd crush chooseleaf type": "0",
        "osd objectstore": "memstore",
        "memstore device bytes": str(2 << 30),
        "mon data avail crit": "1",
        "mon max pg per osd": "1000",
        "run dir": str(folder),
        "log file": f"{folder}/$name.log",
        "admin socket": f"{folder}/$name.asok",
        "mon data": f"{folder}/mon",
        "osd data": f"{folder}/osd",
        "rgw data": f"{folder}/rgw",
        "keyring": f"{folder}/keyring",
        "rgw frontends": f"beast endpoint=127.0.0.1:{PORT}",
        "rgw thread pool size": "32",
    }
    text = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / "ceph.conf").write_text(f"[global]\n{text}")
    do("monmaptool", "--create", "--addv", "a", MON, "--fsid", FSID, f"{folder}/monmap")
    do("ceph-authtool", "--create-keyring", f"{folder}/keyring")
    for entity, granted in CAPABILITIES.items():
        caps = [word for cap in granted.items() for word in ("--cap", *cap)]
        do("ceph-authtool", f"{folder}/keyring", "--gen-key", "-n", entity, *caps)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def make_bucket(bucket: str) -> None:
    """Make a bucket as soon as the server answers. Losslake makes none itself, so the test's boto3 does."""
    import boto3
    from botocore.exceptions import ClientError, EndpointConnectionError

    for _ in range(240):
        try:
            boto3.client("s3").create_bucket(Bucket=bucket)
            return
        except (EndpointConnectionError, ClientError):
            time.sleep(0.25)
    raise click.ClickException("the gateway does not answer")


def race(place: str, writers: int = 8, names: int = 50) -> None:
    """Check that of many that claim a name at once exactly one gets it."""
    files = [files_at(f"{place}-race") for _ in range(writers)]
    for name in range(names):
        with ThreadPoolExecutor(writers) as pool:
            got = list(
                pool.map(lambda i, n=name: files[i].put_if_absent(f"names/{n}", b"%d" % i), range(writers))
            )
        assert got.count(True) == 1, f"{got.count(True)} writers have the name {name}"
    print(f"{place}: of {writers} writers at once one has each of {names} names")


def write(place: str, runs: int, samples: int) -> None:
    """Write an experiment with signals and traces of 20 epochs."""
    rng = np.random.default_rng(0)
    lake = Lake.open(place, create=True)
    lake.create_experiment("e", pa.table({"label": rng.integers(0, 10, samples)}))
    ids = np.arange(samples)
    for number in range(runs):
        members = rng.random(samples) < 0.5
        with lake.write_run("e", f"run-{number:04d}", members=members) as writer:
            phi = rng.normal(0, 1, samples) + members
            writer.append_signals(
                ids, np.zeros(samples, int), np.zeros(samples, int), loss=np.exp(-phi), phi=phi
            )
            writer.append_traces("eval", ids, loss=rng.random((samples, 20), dtype=np.float32))
            writer.commit(RunInfo(role="shadow" if number else "target"))


SCENARIO: dict[str, Callable[[Lake], object]] = {
    "open and list runs": lambda lake: Lake.open(lake.path).runs("e"),
    "sql: count": lambda lake: lake.sql("select count(*) from signals"),
    "sql: mean phi a run": lambda lake: lake.sql(
        "select run, avg(phi) as m from signals group by run order by run"
    ),
    "sql: one sample": lambda lake: lake.sql(
        "select run, phi from signals where sample_id = 17 order by run"
    ),
    "sql: loss an epoch": lambda lake: lake.sql(
        "select epoch, avg(loss) as m from trace_points group by epoch order by 1"
    ),
    "polars: mean phi": lambda lake: lake.scan("signals").select("phi").mean().collect(),
    "verify": lambda lake: verify(lake).damage,
    "compact": lambda lake: compact(lake, "e"),
    "sql: mean phi a run, compacted": lambda lake: lake.sql(
        "select run, avg(phi) as m from signals group by run order by run"
    ),
    "gc": lambda lake: collect_garbage(lake, older_than=timedelta(0)),
}


def measure(places: list[str], runs: int, samples: int) -> None:
    """Print the seconds of each step in each place."""
    times: dict[str, list[float]] = {}
    for place in places:
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, __file__, "--write", place, "--runs", str(runs), "--samples", str(samples)],
            check=True,
        )
        times.setdefault("write (with starting Python)", []).append(time.perf_counter() - begun)
        lake = Lake.open(place)
        for name, step in SCENARIO.items():
            begun = time.perf_counter()
            step(lake)
            times.setdefault(name, []).append(time.perf_counter() - begun)
        assert not verify(lake).damage
    print(f"\n{runs} runs, {samples} samples; seconds\n{'':32}{'local':>10}{'S3':>10}")
    for name, seconds in times.items():
        print(f"{name:32}{''.join(f'{each:10.2f}' for each in seconds)}")


@click.command()
@click.option("--runs", default=32, show_default=True)
@click.option("--samples", default=20_000, show_default=True)
@click.option("--bucket", default="losslake-benchmark", show_default=True)
@click.option("--write", "place", hidden=True)
def main(runs: int, samples: int, bucket: str, place: str | None) -> None:
    """Compare a local lake with one in an object store."""
    if place:
        write(place, runs, samples)
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if not os.environ.get("AWS_ENDPOINT_URL"):
            stack.enter_context(ceph())
            make_bucket(bucket)
        remote = f"s3://{bucket}/{time.time_ns()}"
        race(remote)
        measure([f"{folder}/lake", remote], runs, samples)


if __name__ == "__main__":
    main()
