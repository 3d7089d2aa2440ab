"""Importing Privacy Meter's log folder: matrices written by hand as that tool writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losslake.collect.importers import privacy_meter as module
from losslake.collect.importers.privacy_meter import import_privacy_meter
from losslake.collect.progress import Silent
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake

M, N, P = 5, 12, 4


class Heard(Silent):
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


RNG = np.random.default_rng(1)
KEEP = RNG.random((M, N)) < 0.5
SIGNALS = RNG.random((N, M)).astype(np.float32)
SIGNALS[0] = 1.0
SIGNALS[1, 0] = 0.0
POPULATION = RNG.random((P, M)).astype(np.float32)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    for name in ("models", "signals", "report"):
        (folder / name).mkdir(parents=True)
    (folder / "models" / "model_0.pkl").write_bytes(b"never opened")
    np.save(folder / "models" / "memberships.npy", KEEP)
    np.save(folder / "signals" / "rmia_signals.npy", SIGNALS)
    np.save(folder / "signals" / "rmia_signals_pop.npy", POPULATION)
    return folder


def losses(lake: Lake) -> np.ndarray:
    """(M, N + P), NaN where there is no signal."""
    found = np.full((M, N + P), np.nan)
    for run, sample, loss in lake.sql("select run, sample_id, loss from signals").iter_rows():
        found[int(run.removeprefix("model_")), sample] = loss
    return found


def test_everything(lake: Lake, path: Path, tmp_path: Path) -> None:
    labels = np.arange(N + P) % 3
    np.save(tmp_path / "y.npy", labels)
    runs = import_privacy_meter(lake, "e", path, labels=tmp_path / "y.npy", target="model_3")
    assert [run.run for run in runs] == [f"model_{m}" for m in range(M)]
    assert [run.info.role for run in runs] == ["shadow"] * 3 + ["target", "shadow"]
    assert [run.members for run in runs] == KEEP.sum(1).tolist()
    with np.errstate(divide="ignore"):
        want = -np.log(np.concatenate([SIGNALS, POPULATION]).astype(float)).T
    np.testing.assert_allclose(losses(lake), want, rtol=1e-6)
    table = lake.samples("e")
    assert table["pool"].to_pylist() == ["audit"] * N + ["population"] * P
    assert table["label"].to_pylist() == labels.tolist()
    found = lake.sql("select * from signals order by run, sample_id")
    assert found["correct"].null_count() == len(found)
    assert np.isfinite(found["phi"].to_numpy()).all()
    member = found["member"].to_numpy().reshape(M, N + P)
    assert np.array_equal(member[:, :N], KEEP)
    assert not member[:, N:].any()
    assert import_privacy_meter(lake, "e", path, labels=tmp_path / "y.npy", target="model_3") == runs


def test_a_part_was_audited_and_blocks_of_columns(
    lake: Lake, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_BYTES", 2 * 8 * (7 + P))  # two models at a time
    rows = RNG.permutation(N)[:7]
    np.save(path / "signals" / "rmia_signals.npy", np.asfortranarray(SIGNALS[rows]))
    with pytest.raises(InvalidInput, match=r"of 7 of the 12 samples.*--rows FILE"):
        import_privacy_meter(lake, "e", path)
    np.save(tmp_path / "rows.npy", rows)
    import_privacy_meter(lake, "e", path, rows=tmp_path / "rows.npy")
    want = np.full((M, N + P), np.nan)
    with np.errstate(divide="ignore"):
        want[:, rows] = -np.log(SIGNALS[rows].T.astype(float))
    want[:, N:] = -np.log(POPULATION.T.astype(float))
    np.testing.assert_allclose(losses(lake), want, rtol=1e-6)
    assert lake.samples("e")["label"].null_count == N + P
    for wrong in (rows[:-1], np.where(rows == rows[0], rows[1], rows), rows - 5, rows.astype(float)):
        np.save(tmp_path / "rows.npy", wrong)
        with pytest.raises(InvalidInput, match=r"rows\.npy"):
            import_privacy_meter(lake, "f", path, rows=tmp_path / "rows.npy")


def test_several_files_of_signals(lake: Lake, path: Path) -> None:
    np.save(path / "signals" / "loss_signals.npy", SIGNALS)
    np.save(path / "signals" / "rmia_ramia_signals.npy", SIGNALS)
    with pytest.raises(InvalidInput, match=r"several \(loss_signals\.npy, rmia_signals\.npy\).*--signals"):
        import_privacy_meter(lake, "e", path)
    with pytest.raises(InvalidOption, match="'los'"):
        import_privacy_meter(lake, "e", path, signals="los")
    runs = import_privacy_meter(lake, "e", path, signals="loss_signals.npy")
    assert lake.experiment("e").samples == N  # no population of its own
    assert runs[0].info.extra["from"] == "loss_signals.npy column 0"


@pytest.mark.parametrize("signals", [None, "rmia_ramia_signals.npy"])
def test_signals_of_a_range_audit_are_refused(lake: Lake, path: Path, signals: str | None) -> None:
    np.save(path / "signals" / "rmia_ramia_signals.npy", np.repeat(SIGNALS, 3, axis=0))
    if signals is None:
        (path / "signals" / "rmia_signals.npy").unlink()
    with pytest.raises(InvalidInput, match=r"rmia_ramia_signals\.npy: is of a range audit.*run_mia"):
        import_privacy_meter(lake, "e", path, signals=signals)
    assert lake.experiments() == []


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_losses_of_older_versions(lake: Lake, path: Path, scale: float) -> None:
    """Losses and probabilities have one name; what cannot be told apart is refused."""
    given = (SIGNALS * (1.0 - 0.5 * KEEP.T)).astype(np.float32)  # members have less
    np.save(path / "signals" / "loss_signals.npy", given * scale)
    if scale == 1:
        with pytest.raises(InvalidInput, match="members have less than others"):
            import_privacy_meter(lake, "e", path, signals="loss_signals.npy")
        np.save(path / "signals" / "loss_signals.npy", SIGNALS * (0.5 + 0.5 * KEEP.T))
        import_privacy_meter(lake, "e", path, signals="loss_signals.npy")
        with np.errstate(divide="ignore"):
            want = -np.log((SIGNALS * (0.5 + 0.5 * KEEP.T)).T)
    else:
        heard = Heard()
        import_privacy_meter(lake, "e", path, signals="loss_signals.npy", progress=heard)
        assert "loss_signals.npy holds values above 1: they are taken for losses" in heard.notes
        want = given.T * scale
    np.testing.assert_allclose(losses(lake)[:, :N], want, rtol=1e-6)


def rewrite(file: str, values: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path / file, values)


def with_value(values: np.ndarray, value: float) -> np.ndarray:
    changed = values.copy()
    changed[2, 1] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite("models/memberships.npy", KEEP.T), r"shape \(12, 5\); it must be \(samples, M\).* M = 12"),
        (rewrite("models/memberships.npy", KEEP[0]), r"shape \(12,\); it must be \(M, N\)"),
        (rewrite("models/memberships.npy", KEEP * 3), "memberships.npy is int64; it must be bool"),
        (rewrite("models/memberships.npy", KEEP[:, :-1]), "has 12 rows, models/memberships.npy has 11"),
        (rewrite("signals/rmia_signals.npy", SIGNALS.astype(object)), "Python objects"),
        (rewrite("signals/rmia_signals.npy", KEEP.T), "is bool; it must be floating"),
        (
            rewrite("signals/rmia_signals.npy", with_value(SIGNALS, np.nan)),
            r"rmia_signals\.npy: row 2 of column 1 is nan",
        ),
        (
            rewrite("signals/rmia_signals.npy", with_value(SIGNALS, 1.5)),
            r"rmia_signals\.npy: row 2 of column 1 is 1.5",
        ),
        (
            rewrite("signals/rmia_signals_pop.npy", with_value(POPULATION, -0.5)),
            r"rmia_signals_pop\.npy: row 2 of column 1 is -0.5",
        ),
        (rewrite("signals/rmia_signals_pop.npy", POPULATION[:, 1:]), r"signals_pop\.npy: has shape \(4, 4\)"),
        (lambda path: (path / "models" / "memberships.npy").unlink(), r"memberships\.npy: no such file"),
        (lambda path: (path / "signals" / "rmia_signals.npy").unlink(), r"no file ending in _signals\.npy"),
    ],
)
def test_files_that_do_not_fit(lake: Lake, path: Path, change: Callable[[Path], None], message: str) -> None:
    change(path)
    with pytest.raises(InvalidInput, match=message):
        import_privacy_meter(lake, "e", path)
    assert lake.experiments() == []


def test_labels_are_of_all(lake: Lake, path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.zeros(N, int))
    with pytest.raises(InvalidInput, match=r"has 12 labels.* 12 samples, and of the 4 of the population"):
        import_privacy_meter(lake, "e", path, labels=tmp_path / "y.npy")
