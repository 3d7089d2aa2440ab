"""The layouts that ``losslake collect import`` reads, and the options that go with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...store.errors import InvalidOption
from ...store.format.records import Run
from ...store.lake import Lake
from ..callables import unknown_choice
from ..progress import Progress
from .arrays import import_arrays
from .lira import import_lira
from .loss_traces import import_loss_traces
from .privacy_meter import import_privacy_meter


@dataclass(frozen=True)
class Layout:
    """A layout, its importer, and the keywords that this takes besides the target."""

    name: str
    read: Callable[..., list[Run]]
    takes: tuple[str, ...] = ()


LAYOUTS = (
    Layout("arrays", import_arrays),
    Layout("lira", import_lira, ("labels",)),
    Layout("lira-pytorch", import_lira, ("labels",)),
    Layout("privacy-meter", import_privacy_meter, ("labels", "rows", "signals")),
    Layout("loss-traces", import_loss_traces, ("labels", "keep")),
)


def import_layout(
    name: str,
    lake: Lake,
    experiment: str,
    path: Path,
    *,
    target: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Run]:
    """Import what lies at ``path`` in the layout called ``name``. Options that are None were not given.

    Raises InvalidOption for an unknown layout, and for an option that does not go with it.
    """
    layout = find_layout(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in layout.takes:
            meant = [other.name for other in LAYOUTS if option in other.takes]
            raise InvalidOption(f"--{option} does not go with {name}; it is for {', '.join(meant)}")
    return layout.read(lake, experiment, path, target=target, progress=progress, **given)


def find_layout(name: str) -> Layout:
    """The layout of that name. Raises InvalidOption with the names there are."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise unknown_choice("layout to import", name, [layout.name for layout in LAYOUTS])
