"""Whatever holds samples, members and ids, the experiment and the run are the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.hook.start import start_run
from losslake.store.errors import AlreadyExists, InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

N = 30
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 4)).astype(np.float32)
NUMBERS = rng.permutation(np.arange(N) % 3)
NAMES = np.array(["ash", "birch", "oak"])
WORDS = NAMES[NUMBERS]
KEYS = [f"P{number:03d}" for number in rng.permutation(N)]
POOL = np.where(np.arange(N) < 24, "audit", "population")
ORDER = np.array([7, 3, 21, 0, 11, 16])
MASK = np.isin(np.arange(N), ORDER)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def frame(words: bool = False) -> pl.DataFrame:
    label = WORDS if words else NUMBERS
    return pl.DataFrame({"label": label, "key": KEYS, "pool": POOL, "age": np.arange(N) * 2})


def pandas_frame(words: bool = False, index: bool = False) -> Any:
    pandas = pytest.importorskip("pandas")
    made = pandas.DataFrame(frame(words).to_dict(as_series=False))
    return made.set_index("key") if index else made


def hugging_face(words: bool = False) -> Any:
    datasets = pytest.importorskip("datasets")
    columns = {**frame(words).to_dict(as_series=False), "text": ["some words"] * N, "ids": [[1, 2]] * N}
    return datasets.Dataset.from_dict(columns)


def class_labels() -> Any:
    datasets = pytest.importorskip("datasets")
    return hugging_face().cast_column("label", datasets.ClassLabel(names=NAMES.tolist()))


def shuffled_there_and_back() -> Any:
    """A Dataset whose rows stand in another order than its Arrow table's."""
    order = np.random.default_rng(1).permutation(N)
    return hugging_face().select(order).select(np.argsort(order))


TABLES = {
    "polars": frame,
    "polars lazy": lambda: frame().lazy(),
    "polars, names": lambda: frame(words=True),
    "polars categorical": lambda: frame(words=True).with_columns(pl.col("label").cast(pl.Categorical)),
    "polars enum": lambda: frame(words=True).with_columns(pl.col("label").cast(pl.Enum(NAMES.tolist()))),
    "arrow": lambda: frame().to_arrow(),
    "arrow dictionary": lambda: pa.table({**frame(words=True).to_dict(), "label": pa.array(WORDS.tolist()).dictionary_encode()}),
    "mapping": lambda: frame().to_dict(),
    "mapping of lists": lambda: frame(words=True).to_dict(as_series=False),
    "mapping of tensors": lambda: {**frame().to_dict(as_series=False), "label": torch.from_numpy(NUMBERS)},
    "rows": lambda: frame(words=True).to_dicts(),
    "whole floats": lambda: frame().with_columns(pl.col("label").cast(pl.Float32)),
    "pandas": pandas_frame,
    "pandas, names": lambda: pandas_frame(words=True),
    "pandas categorical": lambda: pandas_frame(words=True).astype({"label": "category"}),
    "pandas, keys as index": lambda: pandas_frame(words=True, index=True),
    "hugging face": hugging_face,
    "hugging face, names": lambda: hugging_face(words=True),
    "hugging face, classes": class_labels,
    "hugging face, labels": lambda: hugging_face().rename_column("label", "labels"),
    "hugging face, rearranged": shuffled_there_and_back,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_table_makes_the_same_experiment(lake: Lake, name: str) -> None:
    start_run(lake, "e", samples=TABLES[name](), members=MASK).discard()
    samples = lake.samples("e")
    assert samples["label"].to_pylist() == NUMBERS.tolist()
    assert samples["key"].to_pylist() == KEYS
    assert samples["pool"].to_pylist() == POOL.tolist()
    assert samples["age"].to_pylist() == (np.arange(N) * 2).tolist()
    assert not {"text", "ids"} & set(samples.column_names)  # a Dataset's records themselves stay out
    named = any(
        word in name
        for word in ("names", "categorical", "enum", "dictionary", "lists", "rows", "keys", "classes")
    )
    assert lake.experiment("e").dataset.get("classes") == (NAMES.tolist() if named else None)  # fmt: skip


LABELS = {
    "list": lambda: NUMBERS.tolist(),
    "tuple of names": lambda: tuple(WORDS.tolist()),
    "numpy": lambda: NUMBERS,
    "numpy names": lambda: WORDS,
    "numpy objects": lambda: WORDS.astype(object),
    "tensor": lambda: torch.from_numpy(NUMBERS),
    "list of tensors": lambda: [torch.tensor(int(n)) for n in NUMBERS],
    "polars": lambda: pl.Series(WORDS),
    "pandas": lambda: pandas_frame(words=True)["label"],
    "pandas categorical": lambda: pandas_frame(words=True)["label"].astype("category"),
    "arrow": lambda: pa.array(WORDS.tolist()),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_alone(lake: Lake, name: str) -> None:
    start_run(lake, "e", samples=LABELS[name](), members=MASK).discard()
    assert lake.samples("e")["label"].to_pylist() == NUMBERS.tolist()


def test_categories_keep_their_own_order_and_missing_labels_are_null(lake: Lake) -> None:
    pandas = pytest.importorskip("pandas")
    order = ["oak", "ash", "birch", "yew"]
    start_run(lake, "e", samples=pandas.Categorical(WORDS, order), members=MASK).discard()
    assert lake.samples("e")["label"].to_pylist() == [order.index(word) for word in WORDS]
    assert lake.experiment("e").dataset["classes"] == order
    start_run(lake, "gaps", samples=["b", None, "a"], members=[0]).discard()
    assert lake.samples("gaps")["label"].to_pylist() == [1, None, 0]
    start_run(lake, "truth", samples=[True, False, True], members=[0]).discard()
    assert lake.samples("truth")["label"].to_pylist() == [1, 0, 1]


MEMBERS = {
    "ids": (lambda: ORDER, ORDER),
    "list": (lambda: ORDER.tolist(), ORDER),
    "tensor": (lambda: torch.from_numpy(ORDER), ORDER),
    "polars ids": (lambda: pl.Series(ORDER), ORDER),
    "keys": (lambda: [KEYS[i] for i in ORDER], ORDER),
    "numpy keys": (lambda: np.array(KEYS)[ORDER], ORDER),
    "polars keys": (lambda: frame()["key"].gather(ORDER), ORDER),
    "pandas keys": (lambda: pandas_frame().iloc[ORDER]["key"], ORDER),
    "pandas index": (lambda: pandas_frame(index=True).iloc[ORDER].index, ORDER),
    "set": (lambda: set(ORDER.tolist()), np.sort(ORDER)),
    "range": (lambda: range(4, 9), np.arange(4, 9)),
    "mask": (lambda: MASK, np.sort(ORDER)),
    "list of bools": (lambda: MASK.tolist(), np.sort(ORDER)),
    "0 and 1": (lambda: MASK.astype(int), np.sort(ORDER)),
    "0 and 1, floats": (lambda: torch.from_numpy(MASK).float(), np.sort(ORDER)),
    "list of 0 and 1": (lambda: MASK.astype(int).tolist(), np.sort(ORDER)),
    "polars mask": (lambda: pl.Series(MASK), np.sort(ORDER)),
    "pandas mask": (lambda: pandas_frame().index.isin(ORDER), np.sort(ORDER)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_every_kind(lake: Lake, name: str) -> None:
    make, order = MEMBERS[name]
    run = start_run(lake, "e", samples=frame(), members=make())
    assert np.flatnonzero(run.members).tolist() == np.sort(order).tolist()
    assert run.positions(range(len(order))).tolist() == order.tolist()
    run.discard()


class Patients(Dataset[Any]):
    def __len__(self) -> int:
        return len(ORDER)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"key": KEYS[ORDER[at]], "x": X[ORDER[at]], "y": int(NUMBERS[ORDER[at]])}


@pytest.mark.parametrize("by", ["batch", "watch_loader"])
def test_batches_by_key_are_recorded_under_their_ids(lake: Lake, by: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    wanted = functional.cross_entropy(
        model(torch.from_numpy(X[ORDER])), torch.from_numpy(NUMBERS[ORDER]), reduction="none"
    )
    with start_run(lake, "e", samples=frame(words=True), members=[KEYS[i] for i in ORDER[::-1]]) as run:
        loader: Any = DataLoader(Patients(), batch_size=4, shuffle=True)
        if by == "watch_loader":
            loader = run.watch_loader(loader, ids=[KEYS[i] for i in ORDER])
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for batch in loader:
            if by == "batch":
                run.batch(batch["key"])
            criterion(model(batch["x"]), batch["y"]).backward()
    stored = lake.sql("select sample_id, loss[2] as loss from traces")
    found = dict(stored.iter_rows())
    assert [found[i] for i in ORDER] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert len(found) == len(ORDER)


def test_tables_show_the_names_of_classes(lake: Lake) -> None:
    with start_run(lake, "e", samples=frame(words=True), members=ORDER) as run:
        run.evaluate(nn.Linear(4, 3), (torch.from_numpy(X), torch.from_numpy(NUMBERS)))
    shown = CliRunner().invoke(cli, ["analyze", "loss", "--lake", lake.path]).output
    rows = [
        line.split()
        for line in re.split("most exposed|highest scores", shown)[1].splitlines()
        if line.startswith("  ")
    ]
    assert {int(row[0]): row[2] for row in rows[1:]} == {i: WORDS[i] for i in ORDER}


def test_what_cannot_be_told_apart_is_refused(lake: Lake) -> None:
    pandas = pytest.importorskip("pandas")
    odd = pandas_frame().sort_values("age", ascending=False)
    wholes = frame().with_columns(key=pl.Series(np.roll(np.arange(N), 1)))
    cases: list[tuple[Any, Any, str]] = [
        (odd.drop(columns="key"), MASK, "reset_index"),
        (pandas_frame()["age"].sort_values(ascending=False), MASK, "reset_index"),
        (frame(), pandas.Series(MASK, index=np.arange(N)[::-1]), "reset_index"),
        (wholes, [3, 4], "each of them is a key"),
        (frame(), ["P000", "nobody"], "no sample of the experiment has the key 'nobody'"),
        (frame().with_columns(key=pl.lit("one")), ["one"], "several samples have the key 'one'"),
        (frame(), pandas_frame(), "one column"),
        (frame(), [True, None] * 15, "no value at position 1"),
        (frame(), [KEYS[1], KEYS[1]], "member 1 is given twice"),
        (frame(), [], "members are none"),
        (frame(), {0: True}, "members are a mapping"),
        (rng.normal(size=N), MASK, "regression"),
        (np.eye(3)[NUMBERS], MASK, "argmax"),
        ("labels", MASK, "str"),
        (["a", 1], [0], "cannot be read"),
        ([[1], [2]], [0], "list"),
        ({"label": [0, 1], "key": ["a"]}, [0], "differ in length"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), [0], "class numbers"),
    ]
    for samples, members, reason in cases:
        with pytest.raises(InvalidInput, match=reason):
            start_run(lake, "e", samples=samples, members=members)
        assert lake.experiments() in ([], ["e"])
        if lake.experiments():
            return_to_start(lake)
    datasets = pytest.importorskip("datasets")
    with pytest.raises(InvalidInput, match="concatenate_datasets"):
        start_run(lake, "e", samples=datasets.DatasetDict(train=hugging_face()), members=MASK)


def return_to_start(lake: Lake) -> None:
    for path in lake.files.list("experiments"):
        lake.files.delete(path)


def test_labels_from_1_are_pointed_out_and_other_names_refused(lake: Lake) -> None:
    with pytest.warns(UserWarning, match="1 to 3 and none is 0") as told:
        start_run(lake, "e", samples=NUMBERS + 1, members=MASK).discard()
    assert told[0].filename == __file__
    start_run(lake, "names", samples=WORDS, members=MASK).discard()
    with pytest.raises(AlreadyExists, match="are called ash, birch, oak, not elm"):
        start_run(lake, "names", samples=np.array(["elm", "fir", "yew"])[NUMBERS], members=MASK)


def test_datasets_is_not_imported() -> None:
    program = (
        "import sys, tempfile, losslake; lake = losslake.open(tempfile.mkdtemp() + '/l')\n"
        "lake.start_run('e', samples=['a', 'b'], members=[0]).discard()\n"
        "print([name for name in ('datasets',) if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
