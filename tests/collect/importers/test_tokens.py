"""Importing what language models say of tokens: lists of their own lengths, from arrays with NaN after the last token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losslake.collect.importers.arrays import import_arrays
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake

M, N, T = 2, 12, 7
LENGTHS = 1 + np.arange(N) % T
THERE = np.arange(T) < LENGTHS[:, None]


def arrays(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    losses = np.where(THERE, rng.exponential(2, (M, N, T)), np.nan).astype(np.float32)
    given = {
        "labels": np.zeros(N, int),
        "keep": np.arange(M * N).reshape(M, N) % 2 == 0,
        "token_losses": losses,
        "token_z": np.where(THERE, rng.normal(size=(M, N, T)), np.nan).astype(np.float32),
        "lower_loss": rng.random((M, N)).astype(np.float32),
        "zlib_bytes": 20 + np.arange(N),
    }
    return {name: value for name, value in (given | changed).items() if value is not None}


def imported(path: Path, given: dict[str, Any]) -> Lake:
    np.savez(path / "texts.npz", **given)
    lake = Lake.open(path / "lake", create=True)
    import_arrays(lake, "e", path / "texts.npz", target="run-0000")
    return lake


def test_they_come_in_as_lists(tmp_path: Path) -> None:
    given = arrays()
    lake = imported(tmp_path, given)
    rows = lake.sql("from signals order by run, sample_id")
    for name in ("token_losses", "token_z"):
        expected = [
            list(given[name][run, i, :length]) for run in range(M) for i, length in enumerate(LENGTHS)
        ]
        assert rows[name].to_list() == expected
    np.testing.assert_array_equal(rows["lower_loss"], given["lower_loss"].ravel())
    np.testing.assert_allclose(rows["loss"], np.nanmean(given["token_losses"], axis=2).ravel(), rtol=1e-6)
    assert lake.samples("e")["zlib_bytes"].to_pylist() == given["zlib_bytes"].tolist()
    import_arrays(lake, "e", tmp_path / "texts.npz", target="run-0000")  # the same again


def test_a_loss_that_is_given_wins(tmp_path: Path) -> None:
    loss = np.full((M, N), 0.5, np.float32)
    lake = imported(tmp_path, arrays(loss=loss, token_z=None, lower_loss=None, zlib_bytes=None))
    assert lake.sql("select distinct loss, token_z, lower_loss from signals").rows() == [(0.5, None, None)]


def holed(name: str, run: int, sample: int, token: int, value: float) -> dict[str, Any]:
    changed = arrays()[name].copy()
    changed[run, sample, token] = value
    return {name: changed}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"token_losses": None}, "token_z is there without token_losses"),
        ({"token_z": np.zeros((M, N, T + 1), np.float32)}, r"token_z \(2, 12, 8\)"),
        ({"token_losses": np.zeros((M, N), np.float32)}, "token_losses must be"),
        ({"token_losses": np.zeros((M, N, T), int)}, "floating point"),
        ({"loss": np.zeros((M, N, 2), np.float32)}, "2 queries; give one"),
        ({"zlib_bytes": np.zeros(N, int)}, "zlib_bytes"),
        ({"zlib_bytes": np.ones(N)}, "zlib_bytes"),
        ({"zlib_bytes": np.ones(N + 1, int)}, "zlib_bytes has shape"),
        (holed("token_losses", 1, 6, 2, np.nan), "run-0001: row 6 has NaN before its last token"),
        (holed("token_losses", 1, 6, 2, -3), "'run-0001': token_losses of sample 6, token 2, is -3"),
        (holed("token_losses", 1, 0, 0, np.nan), "sample 0"),
        (holed("token_z", 0, 5, 5, np.nan), "sample 5 has 5 token_z and 6 token_losses"),
        ({"lower_loss": np.full((M, N), np.nan, np.float32)}, "lower_loss of sample 0 is nan"),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput, match=named):
        imported(tmp_path, arrays(**changed))
    assert Lake.open(tmp_path / "lake").experiments() == []
