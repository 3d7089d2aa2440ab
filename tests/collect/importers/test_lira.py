"""Importing LiRA's folders, of tensorflow/privacy and of lira-pytorch: files written by hand as those codes do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from losslake.collect.importers.lira import import_lira
from losslake.collect.signals.from_logits import loss_from_phi, signals_from_logits
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption
from losslake.store.lake import Lake
from losslake.store.upkeep.verify import verify

M, N, Q, C = 3, 14, 2, 4
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, C, N)
KEEP = RNG.random((M, N)) < 0.5
LOGITS = (RNG.normal(size=(M, N, Q, C)) * 4).astype(np.float32)
WANT = signals_from_logits(LOGITS.reshape(-1, C), np.repeat(np.tile(LABELS, M), Q))
NAMES = [f"experiment-{m}_16" for m in (0, 2, 10)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def tf_folder(path: Path, names: list[str] = NAMES, *, logits: bool = True, scores: bool = True) -> Path:
    (path / "logs").mkdir(parents=True)  # as TensorBoard leaves one
    np.save(path / "x_train.npy", np.zeros((N, 2)))
    np.save(path / "y_train.npy", LABELS)
    for m, name in enumerate(names):
        folder = path / name
        folder.mkdir()
        (folder / "hparams.json").write_text("{}")
        np.save(folder / "keep.npy", KEEP[m])
        for kind, wanted, values in (
            ("logits", logits, LOGITS[m][:, None]),
            ("scores", scores, WANT.phi.reshape(M, N, Q)[m]),
        ):
            if wanted:
                (folder / kind).mkdir()
                np.save(folder / kind / "0000000009.npy", values + 1)
                np.save(folder / kind / "0000000100.npy", values)
                (folder / kind / "notes.txt").write_text("not an epoch")
    return path


def torch_folder(path: Path, *, logits: bool = True, scores: bool = False) -> Path:
    for m in range(M):
        folder = path / str(m)
        folder.mkdir(parents=True)
        np.save(folder / "keep.npy", KEEP[m])
        (folder / "model.pt").write_bytes(b"never opened")
        if logits:
            np.save(folder / "logits.npy", LOGITS[m])
        if scores:
            np.save(folder / "scores.npy", WANT.phi.reshape(M, N, Q)[m])
    return path


def rows(lake: Lake) -> pl.DataFrame:
    return lake.sql("select * from signals order by length(run), run, sample_id, query")


def test_tensorflow_privacy(lake: Lake, tmp_path: Path) -> None:
    path = tf_folder(tmp_path / "exp")
    runs = import_lira(lake, "e", path, target="experiment-2_16")
    assert [run.run for run in runs] == NAMES
    assert [run.info.role for run in runs] == ["shadow", "target", "shadow"]
    assert [run.members for run in runs] == KEEP.sum(1).tolist()
    assert runs[0].info.extra["from"] == "experiment-0_16/logits/0000000100.npy"
    found = rows(lake)
    np.testing.assert_allclose(found["phi"], WANT.phi, rtol=1e-6)
    np.testing.assert_allclose(found["loss"], WANT.loss, rtol=1e-6)
    assert found["correct"].to_list() == WANT.correct.tolist()
    assert np.array_equal(np.array(found["logits"].to_list()).reshape(LOGITS.shape), LOGITS)
    assert found["label"].to_list() == np.repeat(np.tile(LABELS, M), Q).tolist()
    members = found.filter(pl.col("query") == 0)["member"].to_list()
    assert members == KEEP.ravel().tolist()
    assert import_lira(lake, "e", path, target="experiment-2_16") == runs


def test_scores_where_there_are_no_logits(lake: Lake, tmp_path: Path) -> None:
    import_lira(lake, "e", tf_folder(tmp_path / "exp", logits=False))
    found = rows(lake)
    np.testing.assert_allclose(found["phi"], WANT.phi, rtol=1e-6)
    np.testing.assert_allclose(found["loss"], loss_from_phi(WANT.phi), rtol=1e-6)
    assert found["correct"].null_count() == found["logits"].null_count() == M * N * Q


@pytest.mark.parametrize("form", ["npy", "csv", "parquet", "only.csv"])
def test_lira_pytorch_and_files_of_labels(lake: Lake, tmp_path: Path, form: str) -> None:
    path = torch_folder(tmp_path / "exp", scores=True)
    file = tmp_path / f"labels.{form}"
    if form == "npy":
        np.save(file, LABELS.astype(np.uint8))
    elif form == "only.csv":
        pl.DataFrame({"class": LABELS}).write_csv(file)
    else:
        frame = pl.DataFrame({"id": range(N), "label": LABELS})
        frame.write_csv(file) if form == "csv" else frame.write_parquet(file)
    runs = import_lira(lake, "e", path, labels=file)
    assert [run.run for run in runs] == ["0", "1", "2"]
    np.testing.assert_allclose(rows(lake)["phi"], WANT.phi, rtol=1e-6)
    assert lake.samples("e")["label"].to_pylist() == LABELS.tolist()


def test_lira_pytorch_scores_alone_need_no_labels(lake: Lake, tmp_path: Path) -> None:
    import_lira(lake, "e", torch_folder(tmp_path / "exp", logits=False, scores=True))
    np.testing.assert_allclose(rows(lake)["phi"], WANT.phi, rtol=1e-6)
    assert lake.samples("e")["label"].null_count == N


def test_the_data_set_may_be_longer_than_what_was_used_of_it(lake: Lake, tmp_path: Path) -> None:
    path = tf_folder(tmp_path / "exp")
    np.save(path / "y_train.npy", np.concatenate([LABELS, [99, 98]]))  # --dataset_size N
    import_lira(lake, "e", path)
    assert lake.samples("e")["label"].to_pylist() == LABELS.tolist()


def test_names_that_the_lake_cannot_hold(lake: Lake, tmp_path: Path) -> None:
    path = tf_folder(tmp_path / "exp", ["arch=cnn_lr=0.1", "experiment-1_16", "ALL"])
    runs = import_lira(lake, "e", path)
    assert [run.run for run in runs] == ["run-0000", "run-0001", "experiment-1_16"]
    assert runs[1].info.extra["from"].startswith("arch=cnn_lr=0.1/")
    tf_folder(tmp_path / "two", ["a=1", "run-0000", "c"])
    with pytest.raises(InvalidInput, match=r"'a=1' and 'run-0000' would both be called 'run-0000'"):
        import_lira(lake, "two", tmp_path / "two")


def test_again_and_other_values(lake: Lake, tmp_path: Path) -> None:
    path = tf_folder(tmp_path / "exp")
    first = import_lira(lake, "e", path)
    lake.files.delete("runs/experiment=e/experiment-2_16.json")  # as if the first time had been cut short
    assert [a == b for a, b in zip(first, import_lira(lake, "e", path), strict=True)] == [True, False, True]
    np.save(path / NAMES[1] / "logits" / "0000000101.npy", LOGITS[0][:, None])
    with pytest.raises(AlreadyExists, match=r"'experiment-2_16'.*other values.*0000000101\.npy"):
        import_lira(lake, "e", path)
    np.save(path / "y_train.npy", LABELS[::-1])
    with pytest.raises(AlreadyExists, match="other samples"):
        import_lira(lake, "e", path)
    with pytest.raises(InvalidOption, match="experiment-5_16"):
        import_lira(lake, "f", path, target="experiment-5_16")


class Interrupting:
    """Progress that is interrupted once the second run is written."""

    def __init__(self) -> None:
        self.done = 0
        self.notes: list[str] = []

    def start(self, total: int, unit: str) -> None:
        pass

    def advance(self, n: int, note: str) -> None:
        self.done += n
        if self.done == 2:
            raise KeyboardInterrupt

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def finish(self) -> None:
        pass


def test_interrupted(lake: Lake, tmp_path: Path) -> None:
    path = tf_folder(tmp_path / "exp")
    with pytest.raises(KeyboardInterrupt):
        import_lira(lake, "e", path, progress=Interrupting())
    assert [run.run for run in lake.runs("e")] == ["experiment-0_16", "experiment-2_16"]
    assert verify(lake).leftovers == ()
    assert len(import_lira(lake, "e", path)) == M


def with_nan() -> np.ndarray:
    values = LOGITS[1][:, None].copy()
    values[5, 0, 1, 2] = np.nan
    return values


def rewrite(file: str, values: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path / file, values, **options)


def truncate(path: Path) -> None:
    file = path / NAMES[1] / "logits" / "0000000100.npy"
    file.write_bytes(file.read_bytes()[:-5])


def lie(path: Path) -> None:
    file = path / NAMES[1] / "logits" / "0000000100.npy"
    content = file.read_bytes()
    shape = f"({N}, 1, {Q}, {C})".encode()
    huge = f"({10**9}, 1, {Q}, {10**6})".encode()
    file.write_bytes(content.replace(shape + b", }" + b" " * (len(huge) - len(shape)), huge + b", }"))


def unpickled(path: Path) -> None:
    file = path / NAMES[1] / "logits" / "0000000100.npy"
    file.write_bytes(pickle.dumps(LOGITS))


def move(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / old).rename(path / new)

    return change


LAST = f"{NAMES[1]}/logits/0000000100.npy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncate, r"0000000100\.npy: is \d+ bytes long, its header promises \d+"),
        (lie, r"0000000100\.npy: is \d+ bytes long, its header promises 8000000000000"),
        (unpickled, r"0000000100\.npy: is pickled"),
        (rewrite(LAST, LOGITS[1].astype(object)), "holds Python objects"),
        (rewrite(LAST, LOGITS[1][:, None].astype(int)), "is int64; it must be floating point"),
        (rewrite(LAST, LOGITS[1][:, None].astype("U8")), "must hold numbers"),
        (rewrite(LAST, LOGITS[1][:-1, None]), r"shape \(13, 1, 2, 4\).*N = 14"),
        (rewrite(LAST, LOGITS[1][:, :, None]), r"shape \(14, 2, 1, 4\)"),
        (rewrite(LAST, LOGITS[1][:, None, :1]), "different numbers of queries"),
        (rewrite(LAST, LOGITS[1][:, None, :, :3]), "has 3 classes, other models have 4"),
        (rewrite(LAST, with_nan()), r"experiment-2_16/logits/0000000100\.npy query 1 of sample 5 are NaN"),
        (rewrite(LAST, LOGITS[1][:, None].astype(float) * 1e300), "go beyond 1e"),
        (rewrite(f"{NAMES[1]}/keep.npy", KEEP[1][:-1]), r"keep\.npy: has shape \(13,\)"),
        (rewrite(f"{NAMES[1]}/keep.npy", KEEP[1] * 2), r"keep\.npy is int64; it must be bool"),
        (rewrite(f"{NAMES[1]}/keep.npy", np.zeros((0,), bool)), "holds no values"),
        (rewrite("y_train.npy", LABELS + 1), "label of sample 0 is 4, out of range"),
        (rewrite("y_train.npy", LABELS[:-1]), "13 labels, the models have 14 samples"),
        (rewrite("y_train.npy", LABELS.astype(float)), "labels are float64"),
        (move("y_train.npy", "z.npy"), "--labels FILE"),
        (move(f"{NAMES[1]}/logits", "l"), None),  # its scores remain
    ],
)
def test_folders_that_do_not_fit(
    lake: Lake, tmp_path: Path, change: Callable[[Path], None], message: str | None
) -> None:
    path = tf_folder(tmp_path / "exp")
    change(path)
    if message is None:
        assert len(import_lira(lake, "e", path)) == M
        return
    with pytest.raises(InvalidInput, match=message):
        import_lira(lake, "e", path)
    assert lake.experiments() == []


def test_no_such_folders(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no folder in it holds keep\.npy"):
        import_lira(lake, "e", tmp_path)
    (tmp_path / "models.pkl").write_bytes(b"")
    with pytest.raises(InvalidInput, match="is pickled"):
        import_lira(lake, "e", tmp_path / "models.pkl")
    path = torch_folder(tmp_path / "exp")
    with pytest.raises(InvalidInput, match=r"stores no labels.*--labels FILE"):
        import_lira(lake, "e", path)
    with pytest.raises(InvalidInput, match=r"labels\.pt: is pickled.*numpy\.save"):
        import_lira(lake, "e", path, labels=tmp_path / "labels.pt")
    (tmp_path / "labels.csv").write_text("\n".join(map(str, LABELS)))
    with pytest.raises(InvalidInput, match="the first line is"):
        import_lira(lake, "e", path, labels=tmp_path / "labels.csv")
    (path / "1" / "logits.npy").unlink()
    (path / "1" / "logits").mkdir()
    np.save(path / "1" / "logits" / "0000000001.npy", LOGITS[1])
    with pytest.raises(InvalidInput, match=r"1 has logits or scores by epoch.* and 0 has not"):
        import_lira(lake, "e", path)


@pytest.mark.parametrize("lacks", ["keep", "logits"])
def test_a_folder_that_is_not_finished_is_skipped_and_named(lake: Lake, tmp_path: Path, lacks: str) -> None:
    # It was an error; but a killed model among good ones is what a folder of many looks like, and none is mistaken for it.
    np.save(tmp_path / "labels.npy", LABELS)
    path = torch_folder(tmp_path / "exp")
    (path / "1" / f"{lacks}.npy").unlink()
    watch = Interrupting()
    watch.done = 10
    runs = import_lira(lake, "e", path, labels=tmp_path / "labels.npy", progress=watch)
    assert [run.run for run in runs] == ["0", "2"]
    assert watch.notes[0].startswith("skipped, not finished: 1 has ")
    with pytest.raises(InvalidOption, match="'1'"):
        import_lira(lake, "f", path, labels=tmp_path / "labels.npy", target="1")
    for other in ("0", "2"):
        (path / other / f"{lacks}.npy").unlink()
    with pytest.raises(InvalidInput, match=r"0 has .*; 1 has .*; 2 has .*finish the inference"):
        import_lira(lake, "f", path, labels=tmp_path / "labels.npy")


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "index"])
def test_a_leading_index_is_no_label(lake: Lake, tmp_path: Path, index: str) -> None:
    lines = [f"{index},diagnosis", *(f"{i},{label}" for i, label in enumerate(LABELS))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    import_lira(lake, "e", torch_folder(tmp_path / "exp"), labels=tmp_path / "labels.csv")
    assert lake.samples("e")["label"].to_pylist() == LABELS.tolist()
