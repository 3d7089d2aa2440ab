"""Removing a lake's Delta tables beside processes that publish them, or were stopped at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.delta import publish as publishing
from losslake.store.delta.publish import publish, unpublish
from losslake.store.errors import LosslakeError
from losslake.store.format import paths
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": [0, 1, 0, 1]}))
    for name in ("a", "b"):
        write(lake, name)
    return lake


def write(lake: Lake, name: str) -> None:
    ids = np.arange(4)
    with lake.write_run("e", name, members=ids < 2) as writer:
        writer.append_signals(ids, ids * 0, ids % 2, loss=ids * 1.0, phi=ids * 1.0)
        writer.commit(RunInfo(role="shadow"))


@pytest.mark.parametrize("table", ["samples", "signals", "metrics"])
@pytest.mark.parametrize("work", ["publish", "commit", "compact"])
def test_who_publishes_meanwhile_leaves_nothing_behind(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, table: str, work: str
) -> None:
    """Else there would be tables that nobody brings up to date when a sample is forgotten."""
    publish(lake, keep=True)
    if work == "publish":
        publish(lake, keep=False)
        write(lake, "c")
    bring_up, met = publishing._bring_up, []

    def removed_before(lake: Any, files: Any, name: str, *given: Any) -> Any:
        if name == table and not met:
            met.append(name)
            unpublish(Lake.open(files.root))
        return bring_up(lake, files, name, *given)

    monkeypatch.setattr(publishing, "_bring_up", removed_before)
    if work == "publish":
        with pytest.raises(LosslakeError, match="another process removes the Delta tables"):
            publish(lake)
    elif work == "commit":
        write(lake, "c")
    else:
        compact(lake, "e", least=2)
    assert met
    assert not Path(lake.path, paths.DELTA).exists()
    publish(lake)
    assert lake.sql("select count(*) as n from signals")["n"].item() == (12 if work != "compact" else 8)


@pytest.mark.parametrize("work", ["forget", "gc"])
def test_what_a_stopped_process_left_of_tables_that_are_removed_goes(lake: Lake, work: str) -> None:
    publish(lake)
    Path(lake.path, paths.PUBLISHED).unlink()  # as one that was killed right after it
    if work == "forget":
        forget(lake, "e", [1])
    else:
        collect_garbage(lake)
    assert not Path(lake.path, paths.DELTA).exists()
