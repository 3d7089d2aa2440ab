"""Reading while others replace what is read: results that are written again, runs that are compacted, collected garbage.

A file that a manifest lists may go once the manifest has been replaced. So whoever misses one looks at the manifests
again, and only where they still list it the lake is damaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..errors import CorruptLake
from .changed_files import check_unchanged
from .results import Result, results

if TYPE_CHECKING:
    import pyarrow as pa

    from ..format.records import Experiment, Run
    from .catalogue import Catalogue

T = TypeVar("T")

TRIES = 10
"""How often others may replace what is being read before it is given up."""


def read_again(read: Callable[[], T], look: Callable[[], object]) -> T:
    """What ``read`` returns; where it raises CorruptLake, it is called again as long as manifests change meanwhile.

    ``look`` says what manifests list at this moment. ``read`` must find out by itself which files to read.
    """
    seen = None
    for attempt in range(TRIES):
        try:
            return read()
        except CorruptLake:
            listed = look()
            # Equal: the manifests were the same before this attempt as after it, and it read what they list.
            if attempt == TRIES - 1 or (attempt and listed == seen):
                raise
            seen = listed
    raise AssertionError("the last attempt returns or raises")


def read_result(lake: Catalogue, result: Result) -> tuple[Result, pa.Table]:
    """The scores of a result, and the result itself: as it is now where it was replaced since. It must have scores."""
    latest = result

    def read() -> tuple[Result, pa.Table]:
        if latest.file is None:
            raise ValueError(f"the result of {latest.analysis} has no scores")
        check_unchanged(lake.files, [latest])
        return latest, lake.read_file(latest.file)

    def look() -> Result:
        nonlocal latest
        name = (result.analysis, result.target, result.variant)
        for each in results(lake, result.experiment):
            if (each.analysis, each.target, each.variant) == name:
                latest = each
        return latest

    return read_again(read, look)


def listed_files(lake: Catalogue, experiment: str | None = None) -> frozenset[str]:
    """The data files that the manifests of an experiment, or of all, list at this moment."""
    found: set[str] = set()
    for name in [experiment] if experiment is not None else lake.experiments():
        owners: tuple[Experiment | Run, ...] = (lake.experiment(name), *lake.runs(name))
        found.update(file.path for owner in owners for file in owner.files)
        found.update(result.file.path for result in results(lake, name) if result.file is not None)
    return frozenset(found)
