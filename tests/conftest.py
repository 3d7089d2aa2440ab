"""Fixtures that tests share."""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from email.utils import formatdate
from importlib.util import find_spec
from itertools import count
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from losslake.store import interrupted
from losslake.store.format.ranges import parse_range
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.write import leases
from run_data import SAMPLES, nine_runs, of_texts
from warm import HANGS, warm_server, warm_worker

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the CPUs: a thread of torch's for each CPU in each of them would wait for the others'. Not imported yet.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has Ctrl-C ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_RUNNING = pytest.StashKey[contextlib.ExitStack]()

Array = npt.NDArray[np.generic]
Traces = Mapping[str, Array]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # one for all of xdist's workers, whose environment is this one's
        running = config.stash[_RUNNING] = contextlib.ExitStack()
        running.enter_context(warm_server())


def pytest_unconfigure(config: pytest.Config) -> None:
    if _RUNNING in config.stash:
        config.stash[_RUNNING].close()


_LONGEST = (
    "test_docs",
    "test_spark",
    "test_report",
    "test_huggingface",
    "test_durability",
    "test_object_store_commands",
    "test_kill_collect",
    "test_ray",
    "test_examples",
    "test_resume",
    "test_demo",
    "test_lightning",
    "test_fleets",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: none of them is left to one worker at the end, when the other has nothing to do."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def no_power_fails() -> Iterator[None]:
    """What this process writes is there without waiting for the disk: milliseconds each time, a hundred thousand times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle))
        yield


@pytest.fixture(scope="session", autouse=True)
def leases_of_other_tests_rest() -> Iterator[None]:
    """The threads that renew leases of lakes of earlier tests sleep, unless a test wakes its own: they outlive theirs, and would run into what
    a later one counts, or lets fail, in every lake of the process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RENEWED", "RETRIED"):
            patch.setattr(leases, name, timedelta(days=1))
        yield


@pytest.fixture(autouse=True)
def ctrl_c_is_forgotten() -> Iterator[None]:
    """A command that a test runs in this process listens for Ctrl-C from then on, and keeps in mind that it was pressed."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted.answered()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch's: tiny work, where threads only wait for each other."""
    import torch  # not at the top: tests of the analyses go without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that train for a fleet have everything imported."""
    monkeypatch.setattr("losslake.collect.fleet.pool._COMMAND", warm_worker())


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an empty bucket, in an S3 server of the module's own; the environment says where that is."""
    pytest.importorskip("obstore", reason="needs the extra object-store")
    if find_spec("moto") is None or find_spec("flask") is None:
        pytest.skip("needs moto[server]")
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    with _serving(command, port), _environment("AWS_", settings), _leases_removed():
        request = urllib.request.Request(f"http://127.0.0.1:{port}/lakes", method="PUT")
        urllib.request.urlopen(request, timeout=HANGS).close()
        yield "s3://lakes"


@pytest.fixture(scope="module")
def azure() -> Iterator[str]:
    """The same of Azure's Blob Storage: an empty container in Azurite, Microsoft's emulator of it."""
    pytest.importorskip("obstore", reason="needs the extra object-store")
    if shutil.which("azurite-blob") is None:
        pytest.skip("needs azurite-blob (npm install -g azurite)")
    port = _free_port()
    options = ("--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent")
    command = ["azurite-blob", *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    settings = {
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
    }
    with _serving(command, port), _environment("AZUR", settings), _leases_removed():
        urllib.request.urlopen(_new_container(port, "lakes"), timeout=HANGS).close()
        yield "az://lakes"


def _new_container(port: int, name: str) -> urllib.request.Request:
    """What makes a container in Azurite, signed with the key that every Azurite has. obstore makes none."""
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = [f"{header}:{value}" for header, value in headers.items()]
    signed = "\n".join(
        ["PUT", *[""] * 11, *lines, f"/{account}/{account}/{name}", "restype:container"]
    ).encode()
    signature = base64.b64encode(hmac.digest(base64.b64decode(key), signed, "sha256")).decode()
    return urllib.request.Request(
        f"http://127.0.0.1:{port}/{account}/{name}?restype=container",
        method="PUT",
        headers={**headers, "Authorization": f"SharedKey {account}:{signature}"},
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    """A server that answers at a port of this machine, until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            assert process.poll() is None, "the server has ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=HANGS):
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the server does not answer")
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _leases_removed() -> Iterator[None]:
    """Leases that this process takes go when the block ends, and not when it exits and the server has gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "_endings", {})
        try:
            yield
        finally:
            for end in list(leases._endings.values()):
                end()


@contextlib.contextmanager
def _environment(prefix: str, settings: Mapping[str, str]) -> Iterator[None]:
    """These variables, and no others that begin with ``prefix``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(prefix)]:
            patch.delenv(name)
        for name, value in {**settings, "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def lake_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Lake]:
    """Write a lake from arrays; see `_write`. Every call makes a new lake unless ``lake`` names one to add to."""
    numbers = count()

    def make(*args: object, lake: Lake | None = None, **kwargs: object) -> Lake:
        opened = lake or Lake.open(tmp_path_factory.mktemp("lake") / str(next(numbers)), create=True)
        _write(opened, *args, **kwargs)  # type: ignore[arg-type]
        return opened

    return make


@pytest.fixture(scope="module")
def everything(lake_of: Callable[..., Lake]) -> Lake:
    """A lake whose experiment "tests" has what every analysis and evaluation needs; tests may add results to it."""
    rng = np.random.default_rng(0)
    runs = nine_runs(rng)
    keep, population = runs["keep"], runs["population"]
    near = runs["phi"][:, :, None] + rng.normal(0, [0, 0.3, 0.3], (*keep.shape, 3))
    columns = {
        "zlib_bytes": [50 + i for i in range(SAMPLES)],
        "group": ["canary" if i % 2 else None for i in range(SAMPLES)],
    }
    made = lake_of(
        **{**runs, "phi": near},
        traces={"loss": rng.random((SAMPLES, 6))},
        recorded=[("original", "crop:2:4")] * 9,
        tokens=[of_texts(SAMPLES, 1), *[{}] * 8],
        columns=columns,
    )
    # The experiment that this one's records are part of, for onion.
    whole = np.hstack([keep, rng.random((9, 5)) < 0.5])
    lake_of(whole, rng.normal(0, 2, whole.shape), lake=made, experiment="whole")
    # The same records with a defence, for defences.
    lake_of(keep, near[:, :, 0] / 2, population=population, columns=columns, lake=made, experiment="defended")
    of_target = np.stack([np.zeros_like(keep[0]), keep[0], keep[0]])
    left_out = [int(np.flatnonzero(side & ~population)[0]) for side in (keep[0], ~keep[0])]
    of_target[1, left_out[0]] = False
    return lake_of(
        of_target,
        rng.normal(0, 2, of_target.shape),
        lake=made,
        roles=["distilled", "leave_one_out", "leave_one_out"],
        names=["distilled-0000", *(f"leave-out-{sample}-0" for sample in left_out)],
        parents=["run-0000"] * 3,
        extras=[{}, *({"sample_id": sample} for sample in left_out)],
    )


def _write(
    lake: Lake,
    keep: Array,
    phi: Array | None = None,
    *,
    logits: Array | None = None,
    features: Array | None = None,
    loss: Array | None = None,
    correct: Array | Literal["phi"] | None = "phi",
    labels: Array | None = None,
    population: Array | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    held: Array | None = None,
    traces: Traces | None = None,
    train_traces: Traces | None = None,
    roles: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    parents: Sequence[str | None] | None = None,
    recorded: Sequence[Sequence[str]] | None = None,
    extras: Sequence[Mapping[str, object]] | None = None,
    tokens: Sequence[Mapping[str, Sequence[object]]] | None = None,
    experiment: str = "tests",
) -> None:
    """Commit M runs on N samples: keep (M, N), phi (M, N) or (M, N, Q), loss and correct like phi.

    ``logits`` (M, N, C) or (M, N, Q, C), float16 or float32, are kept with the signals; phi follows from them where it
    is not given. ``features`` (M, N, D) are the same for every query. ``columns`` are further ones of the samples.
    ``held`` (M, N) marks the samples a run has signals of (default: all). Traces are of the first run: signal to an
    array (N, E) whose masked entries were not recorded. The first run is the target, the others are shadows, unless
    ``roles`` says otherwise. ``recorded`` are each run's query specs, such as ("original", "crop:2:4"): then Q are its
    views, beginning with the first. ``extras`` are each run's extra facts, ``tokens`` its columns of tokens, a row a sample.
    """
    runs, samples = keep.shape
    labels = np.zeros(samples, np.int32) if labels is None else labels
    phi = _phi(logits, labels) if phi is None and logits is not None else phi
    pool = np.where(np.zeros(samples, bool) if population is None else population, "population", "audit")
    if experiment not in lake.experiments():
        lake.create_experiment(experiment, pa.table({"label": labels, "pool": pool, **(columns or {})}))
    for m in range(runs):
        name = names[m] if names else f"run-{m:04d}"
        with lake.write_run(experiment, name, members=keep[m].astype(bool)) as writer:
            if phi is not None:
                ids = np.flatnonzero(held[m]) if held is not None else np.arange(samples)
                views = _queries(phi[m])
                numbers = _numbers(recorded[m]) if recorded else range(len(views))
                for q, (number, of_query) in enumerate(zip(numbers, views, strict=False)):
                    right = (
                        of_query > 0 if isinstance(correct, str) else None if correct is None else correct[m]
                    )
                    own = (
                        np.logaddexp(0, -of_query.astype(np.float64))
                        if loss is None
                        else _queries(loss[m])[q]
                    )
                    writer.append_signals(
                        ids,
                        np.full(len(ids), number, np.int16),
                        labels[ids],
                        loss=own[ids],
                        phi=of_query[ids],
                        correct=None if right is None else right[ids],
                        features=None if features is None else features[m][ids],
                        logits=None
                        if logits is None
                        else (logits[m] if logits.ndim == 3 else logits[m, :, q])[ids],
                        **{
                            name: [rows[i] for i in ids]
                            for name, rows in (tokens[m] if tokens else {}).items()
                        },
                    )
            if m == 0:
                for source, given in (("eval", traces), ("train", train_traces)):
                    for epoch, ids, values in _epochs(given or {}):
                        writer.append_epoch(source, epoch, ids, **values)  # type: ignore[arg-type]
            role = roles[m] if roles else "target" if m == 0 else "shadow"
            extra = {"recording": {"queries": list(recorded[m])}} if recorded else {}
            extra |= extras[m] if extras else {}
            writer.commit(RunInfo(role=role, parent=parents[m] if parents else None, extra=extra))  # type: ignore[arg-type]


def _phi(logits: Array, labels: Array) -> Array:
    """log p_y - log(1 - p_y) of logits (M, N[, Q], C)."""
    true = np.arange(logits.shape[-1]) == np.expand_dims(labels, tuple(range(1, logits.ndim - 1)))
    z = logits.astype(np.float64)
    own = np.where(true, z, 0).sum(axis=-1)
    return own - np.logaddexp.reduce(np.where(true, -np.inf, z), axis=-1)


def _numbers(specs: Sequence[str]) -> list[int]:
    """The query numbers of the views that specs name."""
    plain = {"original": [0], "flip": [1]}
    return [number for spec in specs for number in plain.get(spec) or parse_range(spec).queries]


def _queries(values: Array) -> Array:
    """(N,) or (N, Q) as (Q, N)."""
    return values[None] if values.ndim == 1 else values.T


def _epochs(traces: Traces) -> Iterator[tuple[int, Array, dict[str, Array]]]:
    """Epoch, ids and values of what was recorded; an epoch 0 without any is left out, as inside the steps."""
    if not traces:
        return
    recorded = ~np.ma.getmaskarray(next(iter(traces.values())))
    for epoch in range(recorded.shape[1]):
        ids = np.flatnonzero(recorded[:, epoch])
        if epoch or len(ids):
            yield epoch, ids, {name: np.ma.getdata(values)[ids, epoch] for name, values in traces.items()}
