"""A process that does parts of all analyses: ``python -m losslake.analysis.evaluations.worker``. See `side_by_side`.

It is told what to do by lines of JSON on its standard input and answers with lines of JSON on what was its
standard output. When its input ends, because the parent closed it or died, it ends at once: results are committed whole.
"""

from __future__ import annotations

import signal

# A Ctrl-C goes to the whole process group; the parent decides what it means for its workers.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import gc  # noqa: E402
import os  # noqa: E402
import traceback  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from ...store.line_processes import Inside  # noqa: E402

if TYPE_CHECKING:
    from ..source import Source

_GRACE_SECONDS = 1.0
"""How long a worker may take to clear away what it is at before it ends itself."""


def main() -> None:
    """Do the parts that the lines on standard input name, until they end."""
    gc.set_threshold(1_000_000, *gc.get_threshold()[1:])  # as in the command line's own process
    from ...store.format.outgoing import guarded_terminal
    from ...store.query.connection import remove_private_folder
    from ...store.write import leases

    inside = Inside(_GRACE_SECONDS, remove_private_folder)
    try:
        with guarded_terminal():
            _serve(inside)
    finally:
        leases.release()
        remove_private_folder()
        os._exit(0)  # nothing is open; unloading the engines would take longer


def _serve(inside: Inside) -> None:
    from .catalogue import Part, run_part

    try:
        source = _opened(inside.setup)
    except Exception as error:
        inside.tell({"not opened": _error(error)})
        return
    inside.tell({"ready": True})
    fprs = tuple(inside.setup["fprs"])
    for part in inside.tasks():
        try:
            told = run_part(source, Part(part["name"], tuple(part["scores"])), fprs)
        except Exception as error:
            inside.tell({"error": _error(error)})
        else:
            inside.tell({**vars(told), "metrics": [vars(metric) for metric in told.metrics]})


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


if __name__ == "__main__":
    main()
