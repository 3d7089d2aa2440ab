"""Records of which half are members in no order, their loader, and whether a train trace has what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from losslake.store.lake import Lake
from torch.utils.data import DataLoader, TensorDataset

N, M, C = 24, 12, 3
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(N) % C
MEMBERS = torch.randperm(N, generator=torch.Generator().manual_seed(2))[:M]
KEYS = {"key": [f"u{i}" for i in range(N)]}


def loader_of_members() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[MEMBERS], Y[MEMBERS]), batch_size=4, shuffle=True)


def check_trace(lake: Lake, want: list[np.ndarray]) -> None:
    """That the last epochs of the members' train trace are ``want``, (samples,) each."""
    rows = lake.sql("select sample_id, loss from traces where source = 'train' order by sample_id")
    found = np.array(rows["loss"].to_list(), dtype=float)[:, -len(want) :]
    assert rows["sample_id"].to_list() == sorted(MEMBERS.tolist())
    np.testing.assert_allclose(found.T, np.array(want)[:, rows["sample_id"].to_numpy()], rtol=1e-4)
