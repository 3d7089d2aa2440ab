"""``python`` and ``losslake`` for tests, without the seconds that each process takes to import everything.

A process listens at a socket for as long as the tests run. What stands for a program hands it a command with its folder, its
environment, its three streams, and the modules that are to be there: those that no command before has named are imported,
once. A fork does the command, as a process of its own. It gets the signals that its stand-in gets, it is killed with it, and
its end is its stand-in's. It ends without the libraries' farewell (see `zygote.leave`): what is to show that a process ends well
runs in one of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from zygote import MODULES, leave

STORE = (
    "losslake.store.lake",
    "losslake.store.upkeep.compact",
    "losslake.store.upkeep.forget",
    "losslake.store.upkeep.gc",
)
EVERYTHING = (
    *MODULES,
    "losslake.collect.fleet.runs",
    "losslake.demo",
    "losslake.analysis.report.write",
    "losslake.analysis.evaluations.catalogue",
    "rich.table",
)
OF_DOCS = (
    *EVERYTHING,
    *(name for name in ("opacus", "pandas") if find_spec(name)),
    "altair",
    "jinja2",
    "losslake.analysis.gate.command",
    "losslake.collect.audit.collect",
    "losslake.collect.estimators.fitting",
    "sklearn.ensemble",
    "sklearn.linear_model",
)
LIGHTNING = (*EVERYTHING, "lightning.pytorch")
HUGGINGFACE = (
    *EVERYTHING,
    "transformers.trainer",
    "transformers.models.bert.modeling_bert",
    "transformers.models.gpt2.modeling_gpt2",
)
OF_SQL = (
    "losslake.cli",
    "losslake.store.commands",
    "losslake.store.shell.interactive",
    "losslake.store.shell.command",
    "rich.table",
)

HANGS = 1200.0
"""Seconds after which a process that still runs waits for something that never comes, however busy the machine is."""

_SOCKET = "WARM_SOCKET"

# Without the site's modules, it is there in a few milliseconds.
_STAND_IN = """
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    try:
        server.connect(sys.argv[1])
    except OSError:  # gone: `warm_server` says so at the end
        os.execv(sys.executable, [*json.loads(sys.argv[4]), *sys.argv[5:]])
    asked = json.dumps([*sys.argv[2:4], sys.argv[5:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
    os.close(0), os.close(1)  # they are the other's
    code = server.recv(2)
code = int.from_bytes(code, "big", signed=True) if code else 1
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if code != -signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def warm_python(modules: Sequence[str] = EVERYTHING) -> list[str]:
    """The words that stand for ``python``, followed by ``-c CODE`` or a file, and arguments; ``modules`` are there at once."""
    return _words("python", modules, [sys.executable])


def warm_losslake(modules: Sequence[str] = EVERYTHING) -> list[str]:
    """The words that stand for ``losslake``."""
    return _words("losslake", modules, [sys.executable, "-m", "losslake.cli"])


def warm_worker() -> list[str]:
    """The words that stand for a process that trains for a fleet."""
    return _words("worker", EVERYTHING, [sys.executable, "-P", "-m", "losslake.collect.fleet.worker"])


def _words(kind: str, modules: Sequence[str], cold: list[str]) -> list[str]:
    where = os.environ.get(_SOCKET)
    if not where:
        return cold
    return [sys.executable, "-I", "-S", "-c", _STAND_IN, where, kind, " ".join(modules), json.dumps(cold)]


@contextlib.contextmanager
def warm_server() -> Iterator[None]:
    """The process that forks, for this one and those that it starts."""
    if sys.platform != "linux":  # elsewhere libraries may not bear a fork once they are loaded
        yield
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        where = str(Path(folder) / "socket")
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        server = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, **one, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            os.environ[_SOCKET] = where
            yield
        finally:
            os.environ.pop(_SOCKET, None)
            ended = server.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # with commands that still run
            server.communicate()
            if ended is not None:
                said.seek(0)
                print(f"the warm process ended with {ended}: {said.read().decode()}", file=sys.stderr)


def _serve(where: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        listener.listen(128)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                _fork_for(connection, listener)
    os.killpg(
        0, signal.SIGKILL
    )  # whoever wanted it is gone, however that went: so are commands that still run


def _fork_for(connection: socket.socket, listener: socket.socket) -> None:
    """Start what is asked for. Whatever is wrong with one, the next is to find the server there."""
    streams: list[int] = []
    try:
        length, streams, _, _ = socket.recv_fds(connection, 8, 3)
        with connection.makefile("rb") as asked:
            text = asked.read(int.from_bytes(length, "big"))
        if len(streams) < 3 or not text:
            return  # killed before it had asked
        kind, modules, *command = json.loads(text)
        for name in modules.split():
            importlib.import_module(name)
        if not os.fork():
            try:
                listener.close()
                _answer(connection, streams, kind, *command)
            finally:
                os._exit(1)
    except BaseException:  # also a module that exits
        with contextlib.suppress(OSError, IndexError):
            os.write(streams[2], traceback.format_exc().encode())
    finally:
        for stream in streams:
            os.close(stream)


def _answer(
    connection: socket.socket,
    streams: list[int],
    kind: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if not child:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(min(streams), max(streams) + 1)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        leave(lambda: _become(kind, arguments))
    for stream in streams:
        os.close(stream)  # a reader waits until nobody can write any more
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        told = connection.recv(1) if ready else b""
        os.kill(child, told[0] if told else signal.SIGKILL)
        if not told:
            break
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(2, "big", signed=True))
    os._exit(0)


def _become(kind: str, arguments: list[str]) -> None:
    if pool := sys.modules.get("losslake.collect.fleet.pool"):
        pool._COMMAND = warm_worker()  # type: ignore[attr-defined]
    if kind == "losslake":
        importlib.import_module("losslake.cli").main(arguments)
    elif kind == "worker":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        importlib.import_module("losslake.collect.fleet.worker").main()
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent.resolve()))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
