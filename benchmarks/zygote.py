"""A process that has imported everything and forks: a command of losslake starts in milliseconds, as one of its own.

It runs no query and no training itself, so there is no pool of threads that a fork would lose.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MODULES = (
    "losslake.cli",
    "losslake.collect.commands",
    "losslake.collect.experiment.prepare",
    "losslake.collect.fleet.target_and_shadows",
    "losslake.collect.importers.layouts",
    "losslake.analysis.commands",
    "losslake.store.upkeep.compact",
    "losslake.store.query.connection",
    "losslake.store.upkeep.export",
    "losslake.store.upkeep.forget",
    "losslake.store.upkeep.gc",
    "losslake.store.upkeep.migrate",
    "losslake.store.upkeep.verify",
    "sklearn.datasets",
)

_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Zygote:
    """Starts processes that have imported ``modules`` and losslake; all of them have one thread of torch's.

    Use as a context manager, in one thread. Children that are left at the end are killed.
    """

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_THREADS},
        )
        self._children: list[Child] = []
        assert self._answer() == "ready"

    def start(self, function: str, arguments: Sequence[Any], log: Path) -> Child:
        """A process that calls ``module:function`` with arguments that JSON knows; ``log`` gets what it prints."""
        child = Child(self, self._ask({"call": function, "arguments": list(arguments), "log": str(log)}), log)
        self._children.append(child)
        return child

    def command(self, arguments: Sequence[str], log: Path) -> Child:
        """A process of the command ``losslake ARGUMENTS``."""
        return self.start("losslake.cli:main", [list(arguments)], log)

    def _ask(self, question: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(eq=False)
class Child:
    """A process that a zygote started."""

    zygote: Zygote
    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        if self.code is None:
            self.code = self.zygote._ask({"poll": self.pid})
        return self.code

    def wait(self, seconds: float = 1200) -> int:
        """The same once it has ended. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} still runs after {seconds:g} s; see {self.log}")
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        """Kill it at once. Its number cannot be another's: it is the zygote that takes notice of its end."""
        os.kill(self.pid, signal.SIGKILL)

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def children_of(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(status.parent.name))
    return found


def _serve() -> dict[str, Any] | None:
    """Answer until the pipe is closed; in a child, what it is to do."""
    for name in (*MODULES, *sys.argv[1:]):
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if "poll" in asked:
            pid, status = os.waitpid(asked["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        child = os.fork()
        if not child:
            return asked
        print(json.dumps(child), flush=True)
    return None


def _become(asked: dict[str, Any]) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    module, _, name = asked["call"].partition(":")
    leave(lambda: getattr(importlib.import_module(module), name)(*asked["arguments"]))


def leave(work: Callable[[], object]) -> NoReturn:
    """Do the work of a fork, and end it with the exit code that an interpreter would end with."""
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # What Python does at its end, without the libraries' farewell, which waits for threads that a fork has not got.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    wanted = _serve()
    if wanted is not None:
        _become(wanted)
