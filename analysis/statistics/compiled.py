"""Modules of a library that are imported without the packages around them, whose own imports take longer than what is asked of them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

_OWN = "losslake-"
"""Threads that the lake starts are named so; they import nothing that is not imported yet."""


@contextmanager
def without_packages(names: Sequence[str]) -> Iterator[None]:
    """Within, modules of the packages ``names``, the outermost first, are imported without what these import themselves.

    The modules stay, and are the same ones when a package is imported as a whole later. Raises ImportError where another thread
    runs, which may be about to import it. Where one of the packages has been imported already it is as it is.
    """
    missing = [name for name in names if name not in sys.modules]
    others = set(threading.enumerate()) - {threading.current_thread()}
    if missing and not all(thread.name.startswith(_OWN) for thread in others):
        raise ImportError(f"{missing[0]} may be imported by another thread")
    found = find_spec(names[0].partition(".")[0])
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"there is no package {names[0]}")
    folders = list(found.submodule_search_locations)
    stand_ins = {}
    for name in missing:
        package = ModuleType(name)
        package.__path__ = [os.path.join(folder, *name.split(".")[1:]) for folder in folders]
        stand_ins[name] = sys.modules[name] = package
    try:
        yield
    finally:
        for name, package in stand_ins.items():
            if sys.modules.get(name) is package:
                del sys.modules[name]
