"""Records of several inputs under the built-in trainer: the values of the same model on one array, whatever the form, or refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from losslake.collect.data.load import load_dataset
from losslake.collect.data.nested import Nested
from losslake.collect.data.record import content_digest
from losslake.collect.data.training import TrainingData
from losslake.collect.experiment.prepare import Prepared, prepare_experiment
from losslake.collect.fleet.design import Shard
from losslake.collect.fleet.distilled import collect_distilled
from losslake.collect.fleet.leave_one_out import collect_leave_one_out
from losslake.collect.fleet.references import collect_references
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.recipe import Recipe, from_json, to_json
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption, TrainingFailed
from losslake.store.lake import Lake

pytestmark = pytest.mark.usefixtures("one_thread")

MODULE = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

N = 60
rng = np.random.default_rng(0)
A, B = (rng.normal(size=(N, width)).astype(np.float32) for width in (3, 5))
Y = (A.sum(1) > 0).astype(int) + (B[:, 0] > 0)
TEXTS = [rng.integers(1, 9, rng.integers(2, 7)) for _ in range(N)]
NAMES = np.array(["low", "mid", "top"])


class Rows(list):
    "A list is a data set too; so that a test sees that no more is asked of one than torch does."


def rows(record):
    return Rows(record(i) for i in range(N))


def one():
    return {"x": np.concatenate([A, B], 1), "y": Y}

def by_name():
    return {"x": {"b": B, "a": A}, "y": Y}

def by_place():
    return rows(lambda i: (A[i], B[i], NAMES[Y[i]]))

def dicts():
    return rows(lambda i: {"a": A[i], "b": B[i], "label": int(Y[i])})

def lists_of_numbers():
    return rows(lambda i: {"label": int(Y[i]), "b": B[i].tolist(), "a": A[i].astype(np.float64)})

def triples():
    return TensorDataset(*map(torch.tensor, (A, B, Y)))

def nested():
    return rows(lambda i: ((A[i], B[i]), Y[i]))

def deep():
    return rows(lambda i: {"who": f"p{i}", "in": {"both": (A[i], B[i])}, "diagnosis": str(NAMES[Y[i]]), "sex": i % 2})

def by_split():
    whole = dicts()
    return {"train": whole[:45], "test": whole[45:]}

def collate(records):
    a, b, y = zip(*records)
    return {"both": torch.tensor(np.stack([np.concatenate(pair) for pair in zip(a, b)])), "target": torch.tensor(np.array(y))}

def loader():
    return DataLoader(rows(lambda i: (A[i], B[i], Y[i])), batch_size=7, shuffle=True, collate_fn=collate)

def texts(pad=0):
    def padded(records):
        wide = max(len(record["ids"]) for record in records)
        ids = torch.zeros(len(records), wide, dtype=torch.int64)
        for row, record in zip(ids, records):
            row[:len(record["ids"])] = torch.tensor(record["ids"])
        return {"ids": ids, "mask": ids > 0, "labels": torch.tensor([record["labels"] for record in records])}
    return DataLoader(rows(lambda i: {"ids": TEXTS[i], "labels": Y[i]}), collate_fn=padded)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, a, b=None):
        return self.out(self.hidden(a if b is None else torch.cat([a, b], 1)).relu())

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids, mask):
        held = mask.unsqueeze(2).float()
        return self.out((self.table(ids) * held).sum(1) / held.sum(1))

def both(input_shape, classes):
    assert classes == 3
    return Both()

def shaped(input_shape, classes):
    assert input_shape == {"a": (3,), "b": (5,)}, input_shape
    return Both()

def reader(input_shape, classes):
    return Reader()

def of_dicts(model, batch):
    return model(batch["a"], batch["b"]), batch["label"]

def of_deep(model, batch):
    return model(*batch["in"]["both"]), batch["diagnosis"]

def of_loader(model, batch):
    return model(batch["both"]), batch["target"]

# What is refused.
def drawn():
    class Drawn(Rows):
        def __getitem__(self, i):
            return {"a": A[i] + torch.rand(3).numpy(), "b": B[i], "label": int(Y[i])}
    return Drawn(range(N))

def mixed():
    def mix(records):
        batch = collate(records)
        return {**batch, "both": batch["both"] - batch["both"].mean(0)}
    return DataLoader(rows(lambda i: (A[i], B[i], Y[i])), collate_fn=mix)

def uneven():
    return rows(lambda i: {"ids": TEXTS[i], "labels": int(Y[i])})

def raw_text():
    return rows(lambda i: {"text": "a word", "label": int(Y[i])})

def unlabelled():
    return rows(lambda i: {"a": A[i], "b": B[i]})

def two_labels():
    return rows(lambda i: {"a": A[i], "label": 0, "target": 1})

def values():
    return rows(lambda i: (A[i], B[i], B[i]))

def inner_label():
    return rows(lambda i: (A[i], (B[i], Y[i])))

def missing():
    return rows(lambda i: {"a": A[i] * (float("nan") if i == 7 else 1), "label": int(Y[i])})

def no_rows():
    return {"x": {"a": A, "b": B[:9]}, "y": Y}

def lone(input_shape, classes):
    class Lone(Both):
        def forward(self, a, b):
            return super().forward(a, b)[:, :1]
    return Lone()

def shuffled(model, batch):
    return model(batch["a"], batch["b"]), batch["label"].flip(0)

def floats(model, batch):
    return model(batch["a"], batch["b"]), batch["label"].float()

def outputs_alone(model, batch):
    return model(batch["a"], batch["b"])
"""

RECIPE = {"epochs": 3, "batch_size": 8, "lr": 0.1, "normalize": False}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "inputs_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("inputs_mine", None)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def recipe(model: str = "both", forward: str | None = None, **fields: Any) -> Recipe:
    named = None if forward is None else f"inputs_mine:{forward}"
    return Recipe(model=f"inputs_mine:{model}", forward=named, **{**RECIPE, **fields})


def prepared(lake: Lake, data: str, experiment: str | None = None, **options: Any) -> Prepared:
    return prepare_experiment(lake, experiment or data, dataset=f"inputs_mine:{data}", **options)


def values(lake: Lake, experiment: str) -> pl.DataFrame:
    """All that was recorded of all runs of an experiment."""
    traces = lake.sql(
        "select experiment, run, sample_id, source, epoch, loss, margin, grad_norm from trace_points"
    )
    signals = lake.sql(
        "select experiment, run, sample_id, 'signals' source, -1 epoch, loss, phi margin, null grad_norm from signals"
    )
    found = pl.concat([pl.DataFrame(traces), pl.DataFrame(signals)], how="vertical_relaxed")
    found = found.filter(pl.col("experiment") == experiment)
    return found.sort("run", "sample_id", "source", "epoch").select(
        pl.col("run", "sample_id", "source", "epoch"), pl.col("loss", "margin", "grad_norm").cast(pl.Float64)
    )


def assert_same(lake: Lake, one: str, other: str) -> None:
    left, right = values(lake, one), values(lake, other)
    assert len(left)
    assert left.select("run", "sample_id", "source", "epoch").equals(
        right.select("run", "sample_id", "source", "epoch")
    )
    for name in ("loss", "margin", "grad_norm"):
        np.testing.assert_allclose(
            left[name].fill_null(-9.0).to_numpy(),
            right[name].fill_null(-9.0).to_numpy(),
            rtol=2e-5,
            atol=1e-6,
        )


FORMS = {
    "by_name": {"model": "shaped"},
    "by_place": {},
    "dicts": {},
    "lists_of_numbers": {},
    "triples": {},
    "nested": {},
    "loader": {"forward": "of_loader"},
}


def run_all(lake: Lake, data: str, **fields: Any) -> None:
    made = prepared(lake, data, population=0.2)
    chosen = recipe(**fields)
    for norms in ("train", "eval"):
        collect_target(
            lake, data, recipe=chosen, prepared=made, run=f"target-{norms}", grad_norms=norms, jobs=1
        )
    collect_shadows(lake, data, count=2, recipe=chosen, prepared=made, traces=True, jobs=1)
    collect_references(lake, data, count=1, target="target-train", recipe=chosen, prepared=made, jobs=1)
    collect_distilled(lake, data, count=1, target="target-train", recipe=chosen, prepared=made, jobs=1)
    collect_leave_one_out(
        lake, data, samples=[0], repeats=1, target="target-train", recipe=chosen, prepared=made, jobs=1
    )


def test_every_form_has_the_values_of_one_array(lake: Lake) -> None:
    run_all(lake, "one")
    for data, fields in FORMS.items():
        run_all(lake, data, **fields)
        assert_same(lake, "one", data)
    assert lake.samples("by_place")["label"].to_pylist() == lake.samples("one")["label"].to_pylist()


def test_entries_that_name_label_key_and_group(lake: Lake) -> None:
    made = prepared(lake, "deep", label="diagnosis", key="who", group="sex", canaries="mislabelled:6")
    collect_target(lake, "deep", recipe=recipe(forward="of_deep"), prepared=made, jobs=1)
    plain = prepared(lake, "one", canaries="mislabelled:6")
    collect_target(lake, "one", recipe=recipe(), prepared=plain, jobs=1)
    assert_same(lake, "one", "deep")
    samples = lake.samples("deep").to_pylist()
    assert [row["key"] for row in samples] == [f"p{i}" for i in range(60)]
    assert {row["group"] for row in samples} == {"0", "1", "canary"}
    assert made.options["classes"] == ["low", "mid", "top"]
    # Gone on with by what the lake says, and by the function that is named again.
    again = prepared(lake, "deep")
    assert again.experiment.digest == made.experiment.digest
    collect_shadows(lake, "deep", count=1, recipe=recipe(forward="of_deep"), prepared=again, jobs=1)


def test_a_lake_names_no_code(lake: Lake) -> None:
    made = prepared(lake, "dicts")
    collect_target(lake, "dicts", recipe=recipe(forward="of_dicts"), prepared=made, jobs=1)
    stored = lake.run("dicts", "target").info.recipe
    assert stored["forward"] == "inputs_mine:of_dicts"
    assert not stored["normalize"]
    with pytest.raises(InvalidOption, match="--forward inputs_mine:of_dicts"):
        from_json(stored).refuse_unnamed("it", ("model",))
    from_json(stored).refuse_unnamed("it", ("model", "forward"))
    # Both at once, so that the second is not asked for once the first has been given.
    with pytest.raises(
        InvalidOption, match="again with --model inputs_mine:both --forward inputs_mine:of_dicts"
    ):
        collect_shadows(lake, "dicts", count=1, prepared=made, jobs=1)
    with pytest.raises(AlreadyExists, match="forward = 'inputs_mine:of_dicts', not None"):
        collect_target(lake, "dicts", recipe=recipe(), prepared=made, jobs=1)
    assert "forward" not in to_json(Recipe())
    assert from_json(to_json(recipe())) == recipe()


def test_padded_texts_with_a_test_split_without_and_early_stopping(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("train/3\ntrain/9\n")
    made = prepared(lake, "texts", population=0.2, without=tmp_path / "gone.txt")
    (run,) = collect_target(lake, "texts", recipe=recipe("reader", early_stop=2), prepared=made, jobs=1)
    assert run.info.extra["early_stop"]["records"] == 12
    assert len(made.data) == 58
    by_split = prepared(lake, "by_split")
    (run,) = collect_target(lake, "by_split", recipe=recipe(), prepared=by_split, jobs=1)
    assert run.info.extra["tested_on"] == "test split"
    assert len(by_split.data) == 45


def test_dp(lake: Lake) -> None:
    pytest.importorskip("opacus")
    for data in ("one", "dicts"):
        made = prepared(lake, data)
        collect_target(lake, data, recipe=recipe(dp_noise=1.0), prepared=made, jobs=1)
    assert_same(lake, "one", "dicts")


def test_shards_and_going_on(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepared(lake, "dicts")
    collect_target(lake, "dicts", recipe=recipe(), prepared=made, jobs=1)
    collect_target(lake, "dicts", recipe=recipe(), prepared=made, run="stopped", checkpoint_every=1, jobs=1)
    whole = values(lake, "dicts")
    # Stopped in its last epoch, where its checkpoint is after the second.
    from losslake.collect.train import trainer

    asked = trainer.eval_point

    def stop(step: Any, recording: Any, recorder: Any, epoch: int, audit: Any) -> None:
        if epoch == 3:
            raise KeyboardInterrupt
        asked(step, recording, recorder, epoch, audit)

    again = Lake.open(lake.path + "-2", create=True)
    fresh = prepared(again, "dicts")
    monkeypatch.setattr(trainer, "eval_point", stop)
    with pytest.raises(KeyboardInterrupt):
        collect_target(
            again, "dicts", recipe=recipe(), prepared=fresh, run="stopped", checkpoint_every=1, jobs=1
        )
    monkeypatch.setattr(trainer, "eval_point", asked)
    (run,) = collect_target(
        again, "dicts", recipe=recipe(), prepared=fresh, run="stopped", checkpoint_every=1, jobs=1
    )
    assert run.info.extra["resumed_after"] == [2]
    assert values(again, "dicts").equals(whole.filter(pl.col("run") == "stopped"))
    runs = [
        collect_shadows(lake, "dicts", count=3, recipe=recipe(), prepared=made, shard=Shard(part, 2), jobs=1)
        for part in (1, 2)
    ]
    assert [len(each) for each in runs] == [2, 1]


def test_processes_share_it(lake: Lake, tmp_path: Path) -> None:
    made = prepared(lake, "deep", label="diagnosis", key="who", group="sex", population=0.1).data
    made.save(tmp_path)
    held = TrainingData.load(tmp_path)
    assert isinstance(held.x, Nested)
    assert isinstance(made.x, Nested)
    assert (held.x.layout, held.x.label) == (made.x.layout, made.x.label)
    assert content_digest(held.x, held.y) == content_digest(made.x, made.y)
    assert held.x.names() == ("in.both.0", "in.both.1", "diagnosis")
    batch = held.x[np.array([4, 2])].batch()
    assert np.array_equal(batch["in"]["both"][0], made.x.arrays[0][[4, 2]])
    assert np.array_equal(batch["diagnosis"], made.y[[4, 2]])


def test_digest_sees_how_it_is_nested() -> None:
    found = {data: load_dataset(f"inputs_mine:{data}") for data in ("triples", "nested", "dicts")}
    assert len({content_digest(each.x, each.y) for each in found.values()}) == 3


@pytest.mark.parametrize(
    ("data", "fields", "options", "message"),
    [
        ("drawn", {}, {}, "a of the same records is another one when they are read again"),
        ("mixed", {"forward": "of_loader"}, {}, "both of the same records is another one"),
        ("uneven", {"model": "reader"}, {}, "its 60 records make no batch.*return a DataLoader with collate_fn"),
        ("raw_text", {}, {}, "text is text, no tensor of numbers; tokenise"),
        ("unlabelled", {}, {}, "entries a, b; which is the label"),
        ("two_labels", {}, {}, "entries a, label, target; which is the label"),
        ("values", {}, {}, "the label, has shape .60, 5.*loop of your own"),
        ("inner_label", {}, {}, "its labels are nested"),
        ("missing", {}, {}, "a of record 7 is NaN"),
        ("no_rows", {}, {}, "b has shape .9, 5., and there are 60 records"),
        ("dicts", {}, {"label": "lebel"}, "unknown label entry.*Did you mean 'label'"),
        ("triples", {}, {"key": "who"}, "key names an entry of records that are dicts"),
        ("by_name", {}, {"key": "who"}, "brings its own"),
        ("dicts", {}, {"canaries": "blank:3"}, "several inputs .a, b, label.*mislabelled:3"),
        ("dicts", {"flip": True}, {}, "flips and crops are of pictures alone"),
        ("dicts", {"crop": 2}, {}, "flips and crops are of pictures alone"),
        ("dicts", {}, {"queries": "original,noise:4"}, "query 'noise:4:0.1' is a view of one array"),
        ("dicts", {}, {"features": True}, "leave --features out"),
        ("dicts", {}, {"compiled": True}, "leave --compile out"),
        ("dicts", {}, {"stack": 2}, "only plain mlps"),
        ("one", {"forward": "of_dicts"}, {}, "forward inputs_mine:of_dicts is for records of several inputs"),
        ("dicts", {"forward": "nowhere"}, {}, "unknown function of inputs_mine 'nowhere'"),
        ("deep", {}, {"label": "diagnosis", "key": "who", "group": "sex"}, "could not be called as model.in=...."),
        ("dicts", {"model": "lone"}, {}, "gives .8, 1. for 8 records|gives 1 numbers a record"),
        ("dicts", {"forward": "shuffled"}, {}, "not the labels of these records"),
        ("dicts", {"forward": "floats"}, {}, "targets that forward returned are torch.float32"),
        ("dicts", {"forward": "outputs_alone"}, {}, "it must return .outputs, targets."),
    ],
)  # fmt: skip
def test_refused_with_the_reason(
    lake: Lake, data: str, fields: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    of_data = ("label", "key", "group", "canaries")
    with pytest.raises((InvalidInput, InvalidOption, TrainingFailed), match=f"(?s){message}"):
        _train(
            lake,
            data,
            recipe(**fields),
            {name: options[name] for name in of_data if name in options},
            {name: value for name, value in options.items() if name not in of_data},
        )
    if lake.files.exists(f"experiments/{data}.json"):
        assert not lake.runs(data)


def _train(lake: Lake, data: str, by: Recipe, of_data: dict[str, Any], running: dict[str, Any]) -> None:
    collect_target(lake, data, recipe=by, prepared=prepared(lake, data, **of_data), jobs=1, **running)


def test_named_models_take_one_array(lake: Lake) -> None:
    made = prepared(lake, "dicts")
    with pytest.raises(
        InvalidInput, match="model mlp takes one array of records, and these have inputs of shape"
    ):
        collect_target(lake, "dicts", recipe=Recipe(model="mlp", epochs=1), prepared=made, jobs=1)
