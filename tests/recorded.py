"""What a lake with one run shows of its training, and whether that is what each step computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from losslake.store.lake import Lake


def trace(lake: Lake, source: str = "train") -> pl.DataFrame:
    """sample_id, loss and margin, by sample."""
    return lake.sql(
        "select sample_id, loss, margin from traces where source = $source order by sample_id",
        {"source": source},
    )


def check_seen(lake: Lake, seen: Sequence[tuple[int, float]], members: np.ndarray) -> None:
    """The losses of the members in two epochs are those ``seen``: (sample, loss) of all, one epoch after the other."""
    rows = trace(lake)
    assert rows["sample_id"].to_list() == sorted(members.tolist())
    assert len(seen) == 2 * len(members)
    for number, losses in rows.select("sample_id", "loss").iter_rows():
        want = [loss for other, loss in seen if other == number]
        assert len(want) == 2, "every member once an epoch"
        np.testing.assert_allclose(losses[1:], want, rtol=1e-5, atol=1e-5)
