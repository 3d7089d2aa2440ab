"""Importing arrays: what goes in comes out, and every array is checked against the others."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losslake.collect.importers.arrays import import_arrays
from losslake.collect.signals.from_logits import loss_from_phi, phi_from_loss, signals_from_logits
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption
from losslake.store.lake import Lake

M, N, Q, C, E = 3, 20, 2, 4, 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, C, N)
POPULATION = np.arange(N) >= 17
KEEP = (RNG.random((M, N)) < 0.5) & ~POPULATION
LOGITS = (RNG.normal(size=(M, N, Q, C)) * 4).astype(np.float32)
TRACES = RNG.random((M, N, E)).astype(np.float32)
BASE: dict[str, Any] = {"labels": LABELS, "keep": KEEP, "population": POPULATION}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def saved(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "arrays.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def signals(lake: Lake, column: str, queries: int = Q) -> np.ndarray:
    """(M, N, queries)"""
    rows = lake.sql("select * from signals order by run, sample_id, query")
    return np.array(rows[column].to_list()).reshape(M, N, queries, *([-1] if column == "logits" else []))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_logits(lake: Lake, tmp_path: Path, write: Any, order: Any) -> None:
    path = tmp_path / "a.npz"
    groups = np.array(["rare" if i < 3 else "usual" for i in range(N)])
    arrays = {**BASE, "logits": LOGITS, "traces": TRACES, "grad_norms": TRACES * 2}
    write(path, groups=groups, **{name: np.asarray(array, order=order) for name, array in arrays.items()})
    runs = import_arrays(lake, "e", path)
    assert [run.run for run in runs] == ["run-0000", "run-0001", "run-0002"]
    assert [run.members for run in runs] == KEEP.sum(1).tolist()
    want = signals_from_logits(LOGITS.reshape(-1, C), np.repeat(np.tile(LABELS, M), Q))
    np.testing.assert_allclose(signals(lake, "phi").ravel(), want.phi, rtol=1e-6)
    np.testing.assert_allclose(signals(lake, "loss").ravel(), want.loss, rtol=1e-6)
    assert signals(lake, "correct").ravel().tolist() == want.correct.tolist()
    assert signals(lake, "member")[..., 1].tolist() == KEEP.tolist()
    assert np.array_equal(signals(lake, "logits"), LOGITS)
    traces = lake.sql("select * from traces order by run, sample_id")
    assert set(traces["source"]) == {"eval"}
    assert np.array_equal(np.array(traces["loss"].to_list()).reshape(M, N, E), TRACES)
    assert np.array_equal(np.array(traces["grad_norm"].to_list()).reshape(M, N, E), TRACES * 2)
    assert runs[0].info.epochs == E - 1
    right = want.correct.reshape(M, N, Q)[..., 0]
    for run, keep, correct in zip(runs, KEEP, right, strict=True):
        assert run.info.train_accuracy == pytest.approx(correct[keep].mean())
        assert run.info.test_accuracy == pytest.approx(correct[~keep & ~POPULATION].mean())
    table = lake.samples("e")
    assert table["label"].to_pylist() == LABELS.tolist()
    assert table["group"].to_pylist() == groups.tolist()
    assert (table["pool"].to_numpy(zero_copy_only=False) == "population").tolist() == POPULATION.tolist()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("queries", [None, 1, Q])
def test_one_logit_is_that_of_class_1(lake: Lake, tmp_path: Path, kind: Any, queries: int | None) -> None:
    labels = LABELS % 2
    shape = (M, N, 1) if queries is None else (M, N, queries, 1)
    z = (RNG.normal(size=shape) * 4).astype(kind)
    watch = Watching()
    runs = import_arrays(lake, "e", saved(tmp_path, **BASE | {"labels": labels}, logits=z), progress=watch)
    assert watch.events[1] == "one logit a sample is taken for that of class 1, beside 0 for class 0"
    exact = z.reshape(M, N, -1).astype(np.float64)
    sign = np.where(labels == 1, 1, -1)[None, :, None]
    found = signals(lake, "loss", queries or 1)
    np.testing.assert_allclose(found, np.logaddexp(0, -sign * exact), rtol=1e-6)  # binary cross-entropy
    np.testing.assert_allclose(signals(lake, "phi", queries or 1), sign * exact, rtol=1e-6)
    assert np.array_equal(signals(lake, "correct", queries or 1), (exact > 0) == (sign > 0))
    assert import_arrays(lake, "e", saved(tmp_path, **BASE | {"labels": labels}, logits=z)) == runs
    with pytest.raises(InvalidInput, match="2 classes, 0 to 1"):
        import_arrays(lake, "f", saved(tmp_path, **BASE, logits=z))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 4, 300])
def test_probabilities_are_no_logits(lake: Lake, tmp_path: Path, kind: Any, classes: int) -> None:
    z = RNG.normal(size=(M, N, classes)) * 4
    base = BASE | {"labels": LABELS % max(2, classes)}
    p = 1 / (1 + np.exp(-z)) if classes == 1 else np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    with pytest.raises(InvalidInput, match=r"logits of run-0000.* are probabilities"):
        import_arrays(lake, "e", saved(tmp_path, **base, logits=p.astype(kind)))
    assert lake.experiments() == []
    if classes > 1:  # their logarithms are logits, and so are some that lie from 0 to 1
        import_arrays(lake, "e", saved(tmp_path, **base, logits=np.log(p)))
        import_arrays(lake, "f", saved(tmp_path, **base, logits=RNG.random((M, N, classes)).astype(kind)))


def test_infinite_in_half_precision_is_no_logit(lake: Lake, tmp_path: Path) -> None:
    logits = LOGITS.astype(np.float16)
    logits[1, 3, 0, 2] = np.inf
    with pytest.raises(InvalidInput, match=r"run-0001.*NaN or infinite"):
        import_arrays(lake, "e", saved(tmp_path, **BASE, logits=logits))
    assert lake.experiments() == []


def test_one_view_without_its_axis(lake: Lake, tmp_path: Path) -> None:
    import_arrays(lake, "e", saved(tmp_path, **BASE, logits=LOGITS[:, :, 0].astype(np.float64)))
    assert np.array_equal(signals(lake, "logits", 1)[:, :, 0], LOGITS[:, :, 0])


def test_loss_alone_and_phi_alone(lake: Lake, tmp_path: Path) -> None:
    phi = RNG.normal(size=(M, N)) * 5
    loss = loss_from_phi(phi)
    loss[1, 3] = 0.0
    import_arrays(lake, "loss", saved(tmp_path, **BASE, loss=loss))
    rows = lake.sql("select * from signals where experiment = 'loss' order by run, sample_id")
    want = np.stack([phi_from_loss(each) for each in loss])
    np.testing.assert_allclose(rows["phi"].to_numpy(), want.ravel(), rtol=1e-6)
    assert rows["correct"].null_count() == M * N
    assert rows["logits"].null_count() == M * N
    import_arrays(lake, "phi", saved(tmp_path, **BASE, phi=phi[..., None]), role="reference")
    rows = lake.sql("select * from signals where experiment = 'phi' order by run, sample_id")
    np.testing.assert_allclose(rows["loss"].to_numpy(), loss_from_phi(phi).ravel(), rtol=1e-6)
    assert lake.runs("phi", role="reference") == lake.runs("phi")


def test_what_is_given_wins_over_what_follows_from_logits(lake: Lake, tmp_path: Path) -> None:
    phi = RNG.normal(size=(M, N, Q)).astype(np.float32)
    import_arrays(lake, "e", saved(tmp_path, **BASE, logits=LOGITS, phi=phi))
    assert np.array_equal(signals(lake, "phi"), phi)
    want = signals_from_logits(LOGITS.reshape(-1, C), np.repeat(np.tile(LABELS, M), Q))
    np.testing.assert_allclose(signals(lake, "loss").ravel(), want.loss, rtol=1e-6)


def test_traces_alone_with_gaps(lake: Lake, tmp_path: Path) -> None:
    traces = TRACES.copy()
    traces[0, 0, 2] = np.nan
    runs = import_arrays(lake, "e", saved(tmp_path, **BASE, traces=traces))
    assert {run.tables() for run in runs} == {frozenset({"traces"})}


def test_keep_as_integers(lake: Lake, tmp_path: Path) -> None:
    runs = import_arrays(lake, "e", saved(tmp_path, **{**BASE, "keep": KEEP.astype(np.uint8)}, logits=LOGITS))
    assert [run.members for run in runs] == KEEP.sum(1).tolist()


class Watching:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def start(self, total: int, unit: str) -> None:
        self.events.append((total, unit))

    def advance(self, n: int, note: str) -> None:
        self.events.append((n, note))

    def note(self, sentence: str) -> None:
        self.events.append(sentence)

    def finish(self) -> None:
        self.events.append("finish")


def test_again_and_other_values(lake: Lake, tmp_path: Path) -> None:
    watch = Watching()
    first = import_arrays(lake, "e", saved(tmp_path, **BASE, logits=LOGITS, logit=LABELS), progress=watch)
    assert watch.events == [
        (3, "runs"),
        "arrays not used: logit",
        (0, "checking run-0000"),
        (0, "checking run-0001"),
        (0, "checking run-0002"),
        (1, "run-0000"),
        (1, "run-0001"),
        (1, "run-0002"),
        "finish",
    ]
    lake.files.delete("runs/experiment=e/run-0001.json")  # as if the first time had been cut short
    again = import_arrays(lake, "e", saved(tmp_path, **BASE, logits=LOGITS))
    assert [a == b for a, b in zip(first, again, strict=True)] == [True, False, True]
    other = LOGITS.copy()
    other[2, 0, 0, 0] += 1
    with pytest.raises(AlreadyExists, match=r"'run-0002'.*other values"):
        import_arrays(lake, "e", saved(tmp_path, **BASE, logits=other))
    with pytest.raises(AlreadyExists, match="other samples"):
        import_arrays(lake, "e", saved(tmp_path, **{**BASE, "labels": LABELS[::-1]}, logits=LOGITS))


def test_a_bad_run_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    broken = LOGITS.copy()
    broken[1, 7, 1, 2] = np.nan
    with pytest.raises(InvalidInput, match=r"run-0001 query 1 of sample 7 are NaN"):
        import_arrays(lake, "e", saved(tmp_path, **BASE, logits=broken))
    assert lake.experiments() == []
    assert len(import_arrays(lake, "e", saved(tmp_path, **BASE, logits=LOGITS))) == M


def test_other_values_write_no_run(lake: Lake, tmp_path: Path) -> None:
    import_arrays(lake, "e", saved(tmp_path, **BASE, logits=LOGITS))
    lake.files.delete("runs/experiment=e/run-0000.json")
    other = LOGITS.copy()
    other[2, 0, 0, 0] += 1
    with pytest.raises(AlreadyExists, match="'run-0002'"):
        import_arrays(lake, "e", saved(tmp_path, **BASE, logits=other))
    assert [run.run for run in lake.runs("e")] == ["run-0001", "run-0002"]


def test_a_target(lake: Lake, tmp_path: Path) -> None:
    path = saved(tmp_path, **BASE, logits=LOGITS)
    runs = import_arrays(lake, "e", path, target="run-0001")
    assert [run.info.role for run in runs] == ["shadow", "target", "shadow"]
    with pytest.raises(InvalidOption, match=r"'run-1'.*run-0001"):
        import_arrays(lake, "e", path, target="run-1")
    with pytest.raises(AlreadyExists, match=r"'run-0001'.*the role target, not shadow"):
        import_arrays(lake, "e", path)


def with_member_of_population() -> np.ndarray:
    keep = KEEP.copy()
    keep[2, 18] = True
    return keep


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "none of logits, loss, phi, traces, grad_norms"),
        ({"labels": None, "logits": LOGITS}, "no array labels"),
        ({"keep": None, "logits": LOGITS}, "no array keep"),
        (
            {"logits": LOGITS[:2]},
            r"logits has shape \(2, 20, 2, 4\), keep has shape \(3, 20\).*\(M, N, Q, C\)",
        ),
        ({"logits": LOGITS[:, :5]}, r"\(3, 5, 2, 4\).*\(3, 20\)"),
        ({"loss": np.ones(N)}, r"loss has shape \(20,\)"),
        ({"traces": TRACES[..., 0]}, r"traces has shape \(3, 20\)"),
        ({"traces": TRACES, "grad_norms": TRACES[..., 1:]}, r"\(3, 20, 5\), grad_norms \(3, 20, 4\)"),
        ({"logits": LOGITS, "loss": np.ones((M, N))}, r"queries: logits \(3, 20, 2, 4\), loss \(3, 20\)"),
        ({"keep": KEEP.T, "logits": LOGITS}, r"keep has shape \(20, 3\), labels have shape \(20,\)"),
        ({"keep": KEEP * 2, "logits": LOGITS}, "keep is int64; it must be bool"),
        ({"keep": KEEP.astype(float), "logits": LOGITS}, "keep is float64; it must be bool"),
        ({"keep": with_member_of_population(), "logits": LOGITS}, "run 2 trained on sample 18"),
        ({"population": POPULATION[1:], "logits": LOGITS}, r"population has shape \(19,\)"),
        ({"labels": LABELS - 1, "logits": LOGITS}, "labels run from 0"),
        ({"labels": LABELS + 1, "logits": LOGITS}, "label of sample 0 is 4, out of range"),
        ({"labels": LABELS.astype(float), "logits": LOGITS}, "labels are float64"),
        ({"labels": LABELS.astype(object), "logits": LOGITS}, r"labels: holds Python objects.*\.astype"),
        ({"logits": LOGITS.astype(int)}, "logits is int64"),
        ({"groups": np.arange(N), "logits": LOGITS}, "groups are int64"),
        ({"loss": np.full((M, N), -1.0)}, r"loss of run-0000 query 0, sample \[0\] is -1.0"),
        ({"phi": np.full((M, N), np.inf)}, "phi of run-0000 query 0, sample 0 is inf"),
    ],
)
def test_arrays_that_do_not_fit(lake: Lake, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        import_arrays(lake, "e", saved(tmp_path, **{**BASE, **changes}))
    assert lake.experiments() == []


def test_files_that_are_none(lake: Lake, tmp_path: Path) -> None:
    path = saved(tmp_path, **BASE, logits=LOGITS)
    content = path.read_bytes()
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InvalidInput, match=r"not an \.npz file"):
        import_arrays(lake, "e", tmp_path / "text.npz")
    with pytest.raises(InvalidInput, match="no such file"):
        import_arrays(lake, "e", tmp_path / "absent.npz")
    damaged = bytearray(content)
    damaged[content.index(LOGITS[1].tobytes()[:64]) + 5] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(InvalidInput, match="array logits: cannot be read: Bad CRC"):
        import_arrays(lake, "damaged", tmp_path / "damaged.npz")
    with pytest.raises(InvalidOption, match="role"):
        import_arrays(lake, "e", path, role="victim")  # type: ignore[arg-type]


def test_memory_is_that_of_one_run(lake: Lake, tmp_path: Path) -> None:
    runs, samples = 40, 5_000
    logits = np.zeros((runs, samples, 10), dtype=np.float32)
    logits += np.arange(10)
    keep = np.arange(runs * samples).reshape(runs, samples) % 2 == 0
    path = tmp_path / "large.npz"
    np.savez_compressed(path, labels=np.zeros(samples, dtype=int), keep=keep, logits=logits)
    one = logits[0].nbytes
    del logits
    import_arrays(lake, "warm", saved(tmp_path, **BASE, logits=LOGITS))
    tracemalloc.start()
    import_arrays(lake, "e", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * one, f"{peak / one:.1f} times one run of {runs}"
