"""losslake: which of my training records does this model expose?

import losslake

lake = losslake.open("my-lake")
with lake.start_run("mine", samples=labels, members=ids) as run: ...   # record a training loop
lake.analyze("lt-iqr", experiment="mine").scores.frame                 # score every record
lake.sql("from runs")                                                  # ask anything
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .api import Lake

__version__ = "0.1.0"
__all__ = ["Lake", "LosslakeError", "__version__", "open"]


def open(path: str | Path, *, create: bool = True) -> Lake:
    """The lake in the folder ``path``; made when there is none, unless ``create`` is False.

    Raises NotFound, InvalidInput for a folder that is something else, NewerFormat for a newer losslake's lake.
    """
    from .api import Lake

    return Lake.open(path, create=create)


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line answers --help without numpy, pyarrow and the rest.
    if name == "Lake":
        from .api import Lake

        return Lake
    if name == "LosslakeError":
        from .store.errors import LosslakeError

        return LosslakeError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
