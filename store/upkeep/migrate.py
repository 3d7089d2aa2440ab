"""Migration: a lake of an older format becomes one of today's.

Each manifest is replaced by one that says the same, ``lake.json`` last: until then nobody writes into the lake. It may be
killed at any instant and done again, and readers of this version notice nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ..format import manifest, paths
from ..format.manifest import upgraded
from ..format.schema import FORMAT
from ..read.catalogue import Catalogue
from ..write.leases import claim
from .leftovers import MANIFESTS


def migrate(lake: Catalogue, *, told: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Bring every manifest to today's format; the number of those that were not. Data files stay as they are.

    ``told(done, total)`` is called after every manifest. Writers of an older losslake must have ended before. Raises
    CorruptLake where a manifest is damaged, before anything is changed, and LosslakeError where another process migrates.
    """
    if manifest.load_as_written(lake.files, paths.LAKE)["format"] == FORMAT and not _older(lake):
        return 0
    with claim(lake.files, "lake", any_format=True) as held:
        older = _older(lake)
        for done, path in enumerate(older):
            if done % 100 == 0:
                held.renew()
            content = manifest.load_as_written(lake.files, path)
            lake.files.put(path, manifest.dump(upgraded(content)), before=held.check)
            told(done + 1, len(older))
    return len(older)


def _older(lake: Catalogue) -> list[str]:
    found = [path for folder in MANIFESTS for path in lake.files.list(folder, ".json")]
    return [
        path for path in [*found, paths.LAKE] if manifest.load_as_written(lake.files, path)["format"] < FORMAT
    ]
