"""A process that does parts of all analyses: ``python -m losslake.analysis.evaluations.worker``. See `side_by_side`.

It is told what to do by lines of JSON on its standard input and answers with lines of JSON on what was its
standard output. When its input ends, because the parent closed it or died, it ends at once: results are committed whole.
"""

from __future__ import annotations

import signal

# A Ctrl-C goes to the whole process group; the parent decides what it means for its workers.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from contextlib import suppress  # noqa: E402
from types import FrameType  # noqa: E402
from typing import TYPE_CHECKING, Any, TextIO  # noqa: E402

if TYPE_CHECKING:
    from ..source import Source

_GRACE_SECONDS = 1.0
"""How long a worker may take to clear away what it is at before it ends itself."""


def main() -> None:
    """Do the parts that the lines on standard input name, until they end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGTERM, _stop)
    gc.set_threshold(1_000_000, *gc.get_threshold()[1:])  # as in the command line's own process
    setup = json.loads(sys.stdin.readline())
    sys.path.extend(entry for entry in setup["path"] if entry not in sys.path)

    from ...store.format.outgoing import guarded_terminal
    from ...store.query.connection import remove_private_folder

    parts: queue.Queue[dict[str, Any] | None] = queue.Queue()
    idle = threading.Event()
    threading.Thread(target=_listen, args=(parts, idle), daemon=True).start()
    try:
        with guarded_terminal():
            _serve(setup, parts, idle, answers)
    finally:
        remove_private_folder()
        os._exit(0)  # nothing is open; unloading the engines would take longer


def _serve(
    setup: dict[str, Any], parts: queue.Queue[dict[str, Any] | None], idle: threading.Event, answers: TextIO
) -> None:
    from .catalogue import Part, run_part

    def tell(told: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # without a parent the input ends too, and that is what counts
            answers.write(json.dumps(told) + "\n")
            answers.flush()

    try:
        source = _opened(setup)
    except Exception as error:
        tell({"not opened": _error(error)})
        return
    tell({"ready": True})
    fprs = tuple(setup["fprs"])
    idle.set()
    while (part := parts.get()) is not None:
        idle.clear()
        try:
            told = run_part(source, Part(part["name"], tuple(part["scores"])), fprs)
        except Exception as error:
            tell({"error": _error(error)})
        else:
            tell({**vars(told), "metrics": [vars(metric) for metric in told.metrics]})
        idle.set()


def _opened(setup: dict[str, Any]) -> Source:
    """The parent's source: the runs that it saw and no others, whatever was committed since."""
    from ...store.errors import NotFound
    from ...store.lake import Lake
    from ...store.query.connection import share_machine
    from ...store.read.catalogue import check_remembered
    from ..scoring.catalogue import open_source

    share_machine(setup["jobs"], setup["threads"])
    lake, experiment = Lake.open(setup["lake"]), setup["experiment"]
    source = open_source(lake, experiment, setup["target"])
    check_remembered(lake, experiment, tuple(setup["forgotten"]), "it was analysed")
    there = {run.run: run for run in source.runs}
    for name, created in setup["runs"].items():
        if name not in there or there[name].created != created:
            raise NotFound(
                f"run {name!r} of experiment {experiment!r} was removed or collected anew while it was analysed; run it again"
            )
    source.runs = tuple(there[name] for name in setup["runs"])
    source.keep_more()
    return source


def _error(error: Exception) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error))
    return {"kind": type(error).__name__, "message": str(error), "trace": trace}


def _listen(parts: queue.Queue[dict[str, Any] | None], idle: threading.Event) -> None:
    for line in sys.stdin:
        parts.put(json.loads(line))
    # The parent is gone or has had enough.
    parts.put(None)
    if not idle.is_set():
        # The main thread unwinds. A real signal also ends a wait inside a system call.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)  # inside a long computation: the process ends all the same
    from ...store.query.connection import remove_private_folder

    remove_private_folder()
    os._exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
