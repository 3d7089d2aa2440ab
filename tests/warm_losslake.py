"""``losslake`` for a shell, without the seconds that each command takes to import everything.

A process that has imported it all listens at a socket. The program that a shell finds hands it a command with its folder, its
environment and its three streams; a fork does the command there, as a process of its own, and its exit code comes back.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from zygote import MODULES, leave

EVERYTHING = (
    *MODULES,
    "losslake.demo",
    "losslake.analysis.report.write",
    "losslake.analysis.evaluations.catalogue",
    "rich.table",
)
OF_SQL = (
    "losslake.cli",
    "losslake.store.commands",
    "losslake.store.shell.interactive",
    "losslake.store.shell.command",
    "rich.table",
)

# Without the site's modules, it is there in a few milliseconds.
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    asked = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextlib.contextmanager
def warm(environment: Mapping[str, str], modules: Sequence[str] = EVERYTHING) -> Iterator[list[str]]:
    """The words that stand for ``losslake`` for as long as the block lasts; ``modules`` is what is imported before."""
    if sys.platform != "linux":  # elsewhere libraries may not bear a fork once they are loaded
        yield [sys.executable, "-m", "losslake.cli"]
        return
    with tempfile.TemporaryDirectory() as folder:
        where = str(Path(folder) / "socket")
        server = subprocess.Popen(
            [sys.executable, __file__, where, *modules],
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield [sys.executable, "-I", "-S", "-c", CLIENT, where]
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # with commands that still run
            server.communicate()


def _serve(where: str, modules: Sequence[str]) -> NoReturn:
    for name in modules:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        listener.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as asked:
        arguments, folder, environment = json.loads(asked.read(int.from_bytes(length, "big")))
    child = os.fork()
    if not child:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(min(streams), max(streams) + 1)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        leave(lambda: importlib.import_module("losslake.cli").main(arguments))
    for stream in streams:
        os.close(stream)  # a reader waits until nobody can write any more
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
