"""Requests that commands make of an object store, by the number of runs in the lake.

    python benchmarks/object_store_requests.py [--runs 10 100 1000] [--commands "lake runs" verify ...]

An S3 server (moto) in this process counts them, those of Polars and of DuckDB's reader included. A lake of so many runs of 20 samples is made
in a folder, sent there, and its index written, as commits write it. Each command is a process of its own; one that changes the lake comes
last. ``compacted`` are the same commands after ``losslake lake compact``. Read are requests of kinds GET and HEAD, listings among them;
written are PUT, POST and DELETE.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from losslake.store.files.filesystem import files_at
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.write.index import write_index

LOSSLAKE = (sys.executable, "-P", "-c", "from losslake.cli import cli; cli(prog_name='losslake')")
SAMPLES = 20
COMMANDS = {
    "lake runs": ("lake", "runs", "--experiment", "e"),
    "sql": ("sql", "select role, count(*) from runs group by role"),
    "analyze lira": ("analyze", "lira", "--experiment", "e", "--target", "target"),
    "verify": ("lake", "verify"),
    "gc": ("lake", "gc"),
    "forget": ("lake", "forget", "--experiment", "e", "--sample", "3"),
    "compact": ("lake", "compact", "--experiment", "e"),
}
"""In this order."""

COMPACTED = ("lake runs", "sql", "analyze lira", "verify", "gc", "forget")


class Counted:
    """An application that counts what it is asked."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self.asked: Counter[str] = Counter()
        self.told: list[str] = []

    def __call__(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        listing = method == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        self.asked["LIST" if listing else method] += 1
        self.told.append(
            f"{'LIST' if listing else method} {environ['PATH_INFO']} {environ.get('HTTP_RANGE', '')}"
        )
        return self._application(environ, respond)


@contextmanager
def store() -> Iterator[Counted]:
    """The server; the environment says where it is."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").disabled = True
    counted = Counted(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
        AWS_REGION="us-east-1",
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}",
        NO_PROXY="127.0.0.1",
    )
    import urllib.request

    urllib.request.urlopen(
        urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/lakes", method="PUT"), timeout=10
    )
    try:
        yield counted
    finally:
        server.shutdown()


def send(runs: int, place: str) -> None:
    """A lake of so many runs, at a URL."""
    ids, rng = np.arange(SAMPLES), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with patch("os.fsync", lambda handle: None):  # it goes at once
            lake = Lake.open(f"{folder}/lake", create=True)
            lake.create_experiment("e", pa.table({"label": ids % 5}))
            for r in range(runs):
                run = "target" if r == 0 else f"shadow-{r:04d}"
                member = rng.random(SAMPLES) < 0.5
                with lake.write_run("e", run, members=member) as writer:
                    phi = rng.normal(size=SAMPLES) + member
                    writer.append_signals(ids, ids * 0, None, loss=np.logaddexp(0, -phi), phi=phi)
                    writer.commit(RunInfo(role="shadow" if r else "target"))
        files = files_at(place)
        root = Path(lake.path)
        kept = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        sent = [path for path in kept if not path.startswith(("writers/", "index/"))]
        files.each(lambda path: files.put(path, (root / path).read_bytes()), sent)
        write_index(files, "e")


def asked(counted: Counted, place: str, command: str) -> Counter[str]:
    """What a command asks of the store."""
    counted.asked.clear()
    counted.told.clear()
    done = subprocess.run(
        [*LOSSLAKE, *COMMANDS[command], "--lake", place], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    return Counter(counted.asked)


def cell(found: Counter[str]) -> str:
    """Requests that read and that write."""
    read = sum(found[kind] for kind in ("GET", "HEAD", "LIST"))
    return f"{read} + {found.total() - read}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument(
        "--told", type=Path, help="a file that takes what the last size was asked, line by line"
    )
    given = parser.parse_args()
    rows: dict[str, list[str]] = {}
    with store() as counted:
        for runs in given.runs:
            place = f"s3://lakes/lake-{runs}"
            send(runs, place)
            if given.told:
                given.told.write_text("")
            for command in given.commands:
                print(f"{runs} runs: {command}", file=sys.stderr)
                rows.setdefault(command, []).append(cell(asked(counted, place, command)))
                if given.told:
                    with given.told.open("a") as lines:
                        lines.write("".join(f"{command}: {line}\n" for line in counted.told))
            for command in COMPACTED if "compact" in given.commands else ():
                rows.setdefault(f"{command}, compacted", []).append(cell(asked(counted, place, command)))
    print(f"\n| read + written | {' | '.join(f'{runs:,} runs' for runs in given.runs)} |")
    print("| --- " * (len(given.runs) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
