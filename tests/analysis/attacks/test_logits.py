"""Reading logits in pieces: every row once, in the types that were stored, whatever is left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest
from losslake.analysis.attacks import logits as reader
from losslake.analysis.attacks.logits import lists_of, logits_of, need_lists
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import CorruptLake, NotEnoughData
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]


def arrays(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(shape[:2]) < 0.5, rng.normal(0, 3, shape)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("piece", [7, 16_384])
def test_every_row_comes_once(
    lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch, kind: type, piece: int
) -> None:
    monkeypatch.setattr(reader, "PIECE", piece)
    keep, z = arrays(0, 2, 40, 3, 4)
    z, labels = z.astype(kind), np.arange(40, dtype=np.int32) % 4
    with open_source(lake_of(keep, logits=z, labels=labels), "tests") as source:
        pieces = list(logits_of(source, source.runs[1], query=None))
        assert max(len(one) for one in pieces) <= piece
        ids, query = (
            np.concatenate([getattr(one, name) for one in pieces]) for name in ("sample_id", "query")
        )
        values = np.concatenate([one.values for one in pieces])
        assert values.dtype == np.float32
        assert sorted(zip(ids, query, strict=True)) == [(i, q) for i in range(40) for q in range(3)]
        np.testing.assert_array_equal(values, z[1, ids, query])
        np.testing.assert_array_equal(np.concatenate([one.member for one in pieces]), keep[1, ids])
        np.testing.assert_array_equal(np.concatenate([one.label for one in pieces]), labels[ids])
        originals = list(logits_of(source, source.runs[1]))
        np.testing.assert_array_equal(np.concatenate([one.values for one in originals]), z[1, :, 0])


def test_a_run_without_logits_yields_nothing_and_is_named(lake_of: MakeLake) -> None:
    keep, z = arrays(1, 2, 10, 3)
    with open_source(lake_of(keep, z[..., 0]), "tests") as source:
        assert list(logits_of(source, source.runs[0])) == []
        with pytest.raises(
            NotEnoughData, match=r"run-0000.* has no logits; collect it with --logits float16"
        ):
            need_lists(source, source.runs[0])
        with pytest.raises(NotEnoughData, match="has no features; collect it with --features"):
            need_lists(source, source.runs[0], "features")


def test_features_and_records_without_a_label(lake_of: MakeLake) -> None:
    lake = lake_of(*(part[:1] for part in arrays(2, 1, 6)))
    with lake.write_run("tests", "other", members=np.zeros(6, bool)) as writer:
        ids, value = np.arange(6), np.zeros(6, np.float32)
        wide = np.arange(12, dtype=np.float32).reshape(6, 2)
        writer.append_signals(ids, ids * 0, None, loss=value, phi=value, features=wide)
        writer.commit(RunInfo(role="shadow"))
    with open_source(lake, "tests", "run-0000") as source:
        (piece,) = lists_of(source, lake.run("tests", "other"), "features")
        np.testing.assert_array_equal(piece.values, wide)
        assert set(piece.label) == {reader.NO_LABEL}
        need_lists(source, lake.run("tests", "other"), "features")


def test_a_damaged_file_is_named(lake_of: MakeLake) -> None:
    keep, z = arrays(3, 1, 500, 3)
    with open_source(lake_of(keep, logits=z.astype(np.float32)), "tests") as source:
        path = source.lake.files.location(source.runs[0].files[0].path)
        group = pq.read_metadata(path).row_group(0)
        chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        with open(path, "r+b") as file:
            file.seek(chunks["logits.list.element"].data_page_offset + 1_000)
            file.write(b"\0" * 1_000)
        with pytest.raises(CorruptLake, match=r"run=run-0000.*lake verify"):
            list(logits_of(source, source.runs[0]))
