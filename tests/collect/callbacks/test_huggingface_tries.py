"""The Hugging Face callback where the Trainer begins more than once, draws in other ways, or has parts of a data set."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.store.lake import Lake
from tiny_gpt2 import by_length
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

transformers = pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
pytest.importorskip("accelerate", reason="needs the extra losslake[huggingface]")

import losslake  # noqa: E402

N = 22
TEXTS = [[1 + (7 * i + k) % 20 for k in range(3 + i % 5)] for i in range(N)]
LABELS = [i * i % 3 for i in range(N)]
RECORDS = [{"input_ids": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
IDS = list(range(N))


def collate(records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(len(record["input_ids"]) for record in records)
    rows = [record["input_ids"] + [0] * (width - len(record["input_ids"])) for record in records]
    seen = [[1] * len(record["input_ids"]) + [0] * (width - len(record["input_ids"])) for record in records]
    labels = [record["label"] for record in records]
    return {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor(seen),
        "labels": torch.tensor(labels),
    }


def a_model() -> Any:
    transformers.set_seed(1)
    config = transformers.BertConfig(
        vocab_size=30, num_labels=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


@pytest.fixture(scope="module")
def own() -> np.ndarray:
    """The loss of each text in a batch of its own; the rate is 0 in what follows, so that it stays."""
    model = a_model().eval()
    found = []
    for record in RECORDS:
        batch = collate([record])
        label = batch.pop("labels")
        with torch.no_grad():
            found.append(cross_entropy(model(**batch).logits, label).item())
    return np.array(found)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def trainer(tmp_path: Path, callback: Any, *, model: Any = None, data: Any = RECORDS, **options: Any) -> Any:
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 4, **options}
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        logging_strategy="no", learning_rate=0.0, remove_unused_columns=False, **options,
    )  # fmt: skip
    return transformers.Trainer(
        model=model or a_model(), args=args, train_dataset=data, data_collator=collate, callbacks=[callback]
    )


def check(lake: Lake, own: np.ndarray, *, epochs: int, sources: dict[str, int], missing: int = 0) -> None:
    """Each value is the record's own, ``missing`` of them are not there, and so many records are in each source."""
    assert lake.run("e", "target").info.epochs == epochs
    rows = lake.sql("select sample_id, source, loss from traces order by sample_id")
    absent = 0
    for sample, source, losses in rows.rows():
        assert len(losses) == epochs + 1
        points = losses[1:] if source == "train" else losses
        absent += sum(value is None for value in points)
        assert all(value is None or abs(value - own[sample]) < 1e-4 for value in points)
    assert absent == missing
    assert {source: rows["source"].to_list().count(source) for source in rows["source"]} == sources
    signals = lake.sql("select loss from signals order by sample_id")["loss"].to_numpy()
    assert np.allclose(signals, own, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "missing", "epochs"),
    [
        (by_length(), 0, 2),
        ({"dataloader_drop_last": True, "data_seed": 1}, None, 2),
        ({"auto_find_batch_size": True}, 0, 2),
        ({"gradient_accumulation_steps": 3, "label_smoothing_factor": 0.1}, 0, 2),
        ({"max_steps": 7}, N - 4, 2),
    ],
)
def test_each_way_of_drawing(
    lake: Lake, tmp_path: Path, own: np.ndarray, options: dict[str, Any], missing: int | None, epochs: int
) -> None:
    with start_run(lake, "e", samples=LABELS, members=IDS) as run:
        trainer(tmp_path, losslake.huggingface_callback(run, ids=IDS, data=RECORDS), **options).train()
    count = lake.sql("select count(*) as n from traces")["n"][0]
    if missing is None:  # two of 22 in each epoch, and who is in none has no row
        missing = 2 * epochs - 2 * (N - count)
    check(lake, own, epochs=epochs, sources={"train": count}, missing=missing)


class OutOfMemory:
    """A forward pass that fails for batches above 3, from a call on."""

    def __init__(self, inner: Any, first: int) -> None:
        self.inner, self.first, self.calls = inner, first, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += torch.is_grad_enabled()
        if self.calls > self.first and torch.is_grad_enabled() and len(kwargs["input_ids"]) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize(("first", "epochs", "eval_trace"), [(0, 2, True), (2, 2, False), (8, 3, True)])
def test_a_batch_size_that_is_found_by_failing(
    lake: Lake, tmp_path: Path, own: np.ndarray, first: int, epochs: int, eval_trace: bool
) -> None:
    """What failed in its second epoch, of 6 batches each, goes on from there: with the model as it is."""
    model = a_model()
    model.forward = functools.wraps(model.forward)(OutOfMemory(model.forward, first))
    with start_run(lake, "e", samples=LABELS, members=IDS) as run:
        callback = losslake.huggingface_callback(run, ids=IDS, data=RECORDS, eval_trace=eval_trace)
        trainer(tmp_path, callback, model=model, auto_find_batch_size=True).train()
    check(lake, own, epochs=epochs, sources={"train": N, **({"eval": N} if eval_trace else {})})


@pytest.mark.parametrize("eval_trace", [False, True])
def test_training_that_goes_on(lake: Lake, tmp_path: Path, own: np.ndarray, eval_trace: bool) -> None:
    with start_run(lake, "e", samples=LABELS, members=IDS) as run:
        callback = losslake.huggingface_callback(run, ids=IDS, data=RECORDS, eval_trace=eval_trace)
        again = trainer(tmp_path, callback)
        again.train()
        again.train()
    check(lake, own, epochs=4, sources={"train": N, **({"eval": N} if eval_trace else {})})


@pytest.mark.parametrize("kind", ["subset", "datasets"])
def test_parts_of_a_data_set_say_who_they_are(lake: Lake, tmp_path: Path, own: np.ndarray, kind: str) -> None:
    half = np.random.default_rng(0).permutation(N)[:11]
    if kind == "subset":
        data: Any = Subset(RECORDS, half.tolist())  # type: ignore[arg-type]
    else:
        datasets = pytest.importorskip("datasets")
        data = datasets.Dataset.from_list(RECORDS).select(half)
    with start_run(lake, "e", samples=LABELS, members=np.isin(IDS, half)) as run:
        trainer(tmp_path, losslake.huggingface_callback(run, data=RECORDS), data=data).train()
    check(lake, own, epochs=2, sources={"train": 11})
    assert lake.sql("select sample_id from traces order by sample_id")["sample_id"].to_list() == sorted(half)
