"""The Hugging Face callback: what it records is what each step computed, and the Trainer does not notice."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.collect.losses.cross_entropy import sequence_loss_and_margin
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from recorded import check_seen, trace
from tiny_gpt2 import by_length
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, IterableDataset
from two_processes import run_both
from warm import HUGGINGFACE

transformers = pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
pytest.importorskip("accelerate", reason="needs the extra losslake[huggingface]")

import losslake  # noqa: E402
from losslake.collect.callbacks import huggingface_answers  # noqa: E402

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "nine", "blue", "birds", "fly", "over", "walls"]
N = 22
MEMBERS = np.array([3, 0, 7, 21, 12, 5, 9, 14, 2, 18, 11])  # in this order in the data set trained on
PAD = 256


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are far too small for more
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def byte_tokenizer() -> Any:
    """One token a byte, made here: nothing is downloaded."""
    from tokenizers import Tokenizer, models

    tokens = {f"<{number:02x}>": number for number in range(256)} | {"<pad>": PAD}
    inner = Tokenizer(models.WordLevel(tokens, unk_token="<00>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")


def texts() -> list[list[int]]:
    """N texts of unequal length, as bytes."""
    generator = np.random.default_rng(0)
    drawn = [generator.choice(WORDS, size=int(generator.integers(2, 8))) for _ in range(N)]
    return [list(" ".join(each).encode()) for each in drawn]


TEXTS = texts()
LABELS = np.arange(N) % 3


class Records(Dataset[dict[str, Any]]):
    """Texts, with what a test adds to each record."""

    def __init__(self, ids: Any, *, labelled: bool, numbered: bool = False) -> None:
        self.ids, self.labelled, self.numbered = np.asarray(ids), labelled, numbered

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        number = int(self.ids[position])
        record: dict[str, Any] = {"input_ids": TEXTS[number], "attention_mask": [1] * len(TEXTS[number])}
        if self.labelled:
            record["label"] = int(LABELS[number])
        if self.numbered:
            record["sample_id"] = number
        return record


def make_model(task: str, lora: bool = False, dropout: float = 0.1) -> Any:
    transformers.set_seed(1)
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=64, n_embd=32, n_layer=2, n_head=2, pad_token_id=PAD, bos_token_id=PAD,
        eos_token_id=PAD, num_labels=3, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    kind = transformers.GPT2LMHeadModel if task == "causal-lm" else transformers.GPT2ForSequenceClassification
    model = kind(config)
    if lora:
        peft = pytest.importorskip("peft", reason="needs peft, of losslake's test extra")
        of = "CAUSAL_LM" if task == "causal-lm" else "SEQ_CLS"
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=4, task_type=of, target_modules=["c_attn"], fan_in_fan_out=True)
        )
    return model


def collator(task: str) -> Any:
    if task == "causal-lm":
        return transformers.DataCollatorForLanguageModeling(byte_tokenizer(), mlm=False)
    return transformers.DataCollatorWithPadding(byte_tokenizer())


def make_trainer(
    tmp_path: Path,
    task: str,
    *,
    model: Any = None,
    data: Any = None,
    callbacks: list[Any] | None = None,
    kind: Any = None,
    **options: Any,
) -> Any:
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 3e-3} | options
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), report_to="none", save_strategy=options.pop("save_strategy", "no"),
        use_cpu=True, disable_tqdm=True, logging_strategy="no", seed=5, **options,
    )  # fmt: skip
    return (kind or transformers.Trainer)(
        model=model if model is not None else make_model(task),
        args=args,
        train_dataset=data if data is not None else Records(MEMBERS, labelled=task == "classification"),
        data_collator=collator(task),
        callbacks=callbacks or [],
    )


def plain_losses(task: str, logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """One by one, as slow and as obvious as can be."""
    losses = []
    for z, y in zip(logits.float(), labels, strict=True):
        if task == "classification":
            losses.append(float(cross_entropy(z[None], y.reshape(1))))
        else:
            losses.append(float(cross_entropy(z[:-1], y[1:], ignore_index=-100)))
    return losses


class Watching:
    """Keeps what each training step of a model put out, by the text it saw: the oracle."""

    def __init__(self, model: Any, task: str) -> None:
        self.seen: list[tuple[int, float]] = []
        self.task = task
        model.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, model: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        rows = [row[row != PAD].tolist() for row in kwargs["input_ids"]]
        numbers = [TEXTS.index(row) for row in rows]
        if self.task == "classification":
            labels = torch.from_numpy(LABELS[numbers])
        else:
            labels = kwargs["input_ids"].masked_fill(kwargs["input_ids"] == PAD, -100)
        self.seen += zip(numbers, plain_losses(self.task, output.logits.detach(), labels), strict=True)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "by length": by_length(),
    "bf16": {"bf16": True},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
}


@pytest.mark.parametrize(
    ("task", "lora", "variant"),
    [
        *(("causal-lm", False, variant) for variant in VARIANTS),
        ("causal-lm", True, "plain"),
        ("classification", False, "plain"),
        ("classification", False, "label smoothing"),
        ("classification", True, "accumulation"),
    ],
)
def test_the_trace_is_what_each_step_computed_and_training_is_the_same(
    lake: Lake, tmp_path: Path, task: str, lora: bool, variant: str
) -> None:
    plain = make_trainer(tmp_path, task, model=make_model(task, lora), **VARIANTS[variant])
    plain.train()
    after = torch.rand(1)

    model = make_model(task, lora)
    watching = Watching(model, task)
    every = Records(np.arange(N), labelled=task == "classification")
    with lake_run(lake) as run:
        callback = losslake.huggingface_callback(run, data=every, eval_trace=True)
        make_trainer(tmp_path, task, model=model, callbacks=[callback], **VARIANTS[variant]).train()
    assert torch.equal(torch.rand(1), after), "the random stream goes on as it would have"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.model.parameters(), strict=True))
    check_seen(lake, watching.seen, MEMBERS)


def lake_run(lake: Lake, **options: Any) -> Any:
    return start_run(lake, "e", **{"samples": LABELS, "members": MEMBERS, **options})


def answers(model: Any, task: str) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Each text on its own, without padding: losses (N,) and logits."""
    model.eval()
    losses, kept = [], []
    with torch.no_grad():
        for number, text in enumerate(TEXTS):
            z = model(input_ids=torch.tensor([text])).logits
            y = torch.tensor([text]) if task == "causal-lm" else torch.tensor([LABELS[number]])
            losses += plain_losses(task, z, y)
            kept.append(z[0])
    return np.array(losses), kept


@pytest.mark.parametrize("task", ["causal-lm", "classification"])
def test_the_eval_trace_and_the_signals(lake: Lake, tmp_path: Path, task: str) -> None:
    model = make_model(task)
    before, _ = answers(copy.deepcopy(model), task)
    population = np.arange(N) == 20
    samples = {"label": LABELS, "pool": np.where(population, "population", "audit")}
    with lake_run(lake, samples=samples) as run:
        callback = losslake.huggingface_callback(
            run, data=Records(np.arange(N), labelled=task == "classification"), eval_trace=True
        )
        make_trainer(tmp_path, task, model=model, callbacks=[callback]).train()
    after, logits = answers(model, task)
    rows = trace(lake, "eval")
    assert rows["sample_id"].to_list() == np.flatnonzero(~population).tolist()
    np.testing.assert_allclose([row[0] for row in rows["loss"]], before[~population], rtol=1e-5)
    np.testing.assert_allclose([row[2] for row in rows["loss"]], after[~population], rtol=1e-5)
    found = lake.sql("select * from signals order by sample_id")
    np.testing.assert_allclose(found["loss"], after, rtol=1e-5)
    p = np.exp(-after)
    np.testing.assert_allclose(found["phi"], np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)
    if task == "classification":
        np.testing.assert_allclose(
            np.stack(found["logits"].to_list()), torch.stack(logits), rtol=1e-4, atol=1e-5
        )
        assert found["correct"].to_list() == [
            int(z.argmax()) == y for z, y in zip(logits, LABELS, strict=True)
        ]
    else:
        assert found["logits"].null_count() == found["correct"].null_count() == N
    assert found["label"].to_list() == LABELS.tolist()
    assert lake.runs("e")[0].info.epochs == 2


def test_sequence_loss_and_margin() -> None:
    """Means over the targets, whatever is ignored, in pieces or at once; without a target NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, 11, generator=generator) * 4
    labels = torch.randint(0, 11, (5, 7), generator=generator)
    labels[0, 4:] = labels[1, :3] = labels[2, 1:] = labels[3, 2] = -100
    loss, margin = sequence_loss_and_margin(logits, labels)
    for row in (0, 1, 3, 4):
        at = [t for t in range(6) if labels[row, t + 1] != -100]
        z, y = logits[row, at], labels[row, [t + 1 for t in at]]
        others = z.scatter(1, y[:, None], -torch.inf).amax(1)
        assert float(loss[row]) == pytest.approx(float(cross_entropy(z, y)), rel=1e-5)
        assert float(margin[row]) == pytest.approx(float((z[range(len(y)), y] - others).mean()), rel=1e-5)
    assert torch.isnan(loss[2])
    assert torch.isnan(margin[2])
    with pytest.raises(InvalidInput, match="labels"):
        sequence_loss_and_margin(logits, labels[:, :6])


def test_sequences_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(5, 6, 9), torch.randint(0, 9, (5, 6))
    at_once = sequence_loss_and_margin(logits, labels)
    monkeypatch.setattr("losslake.collect.losses.cross_entropy._LOGITS_AT_ONCE", 2 * 6 * 9)
    for a, b in zip(at_once, sequence_loss_and_margin(logits, labels), strict=True):
        torch.testing.assert_close(a, b)


def test_ids_from_a_column_whatever_the_trainer_removes(lake: Lake, tmp_path: Path) -> None:
    """The column wins over the order of the members; both ways of removing unknown columns."""
    for removes in (True, False):
        model = make_model("causal-lm")
        watching = Watching(model, "causal-lm")
        data = Records(MEMBERS[::-1], labelled=False, numbered=True)
        with start_run(lake, f"removes-{removes}", samples=LABELS, members=MEMBERS) as run:
            callback = losslake.huggingface_callback(run, data=Records(np.arange(N), labelled=False))
            make_trainer(
                tmp_path, "causal-lm", model=model, data=data, callbacks=[callback],
                remove_unused_columns=removes, num_train_epochs=1,
            ).train()  # fmt: skip
        rows = lake.sql(
            "select sample_id, loss[2] as loss from traces where experiment = $e and source = 'train'",
            {"e": f"removes-{removes}"},
        )
        want = dict(watching.seen)
        assert len(rows) == len(MEMBERS)
        for number, loss in rows.iter_rows():
            assert loss == pytest.approx(want[number], rel=1e-5)


def test_ids_given(lake: Lake, tmp_path: Path) -> None:
    model = make_model("causal-lm")
    watching = Watching(model, "causal-lm")
    data = Records(np.sort(MEMBERS), labelled=False)
    with lake_run(lake) as run:
        callback = losslake.huggingface_callback(run, ids=np.sort(MEMBERS))
        make_trainer(tmp_path, "causal-lm", model=model, data=data, callbacks=[callback]).train()
    check_seen(lake, watching.seen, MEMBERS)


def test_a_data_set_whose_columns_are_gone(lake: Lake, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets, of losslake's test extra")
    model = make_model("causal-lm")
    watching = Watching(model, "causal-lm")
    order = MEMBERS[::-1]
    table = {"input_ids": [TEXTS[i] for i in order], "text": ["x"] * len(order), "sample_id": order}
    every = datasets.Dataset.from_dict({"input_ids": TEXTS, "text": ["x"] * N, "topic": LABELS})
    run = lake_run(lake)
    data = datasets.Dataset.from_dict(table)
    with pytest.raises(InvalidInput, match="ids="):
        make_trainer(tmp_path, "causal-lm", data=data, callbacks=[losslake.huggingface_callback(run)]).train()
    run.discard()
    with lake_run(lake) as run:
        callback = losslake.huggingface_callback(run, ids=data["sample_id"], data=every, eval_trace=True)
        make_trainer(tmp_path, "causal-lm", model=model, data=data, callbacks=[callback]).train()
    check_seen(lake, watching.seen, MEMBERS)
    np.testing.assert_allclose(
        lake.sql("select loss from signals order by sample_id")["loss"],
        answers(model, "causal-lm")[0],
        rtol=1e-5,
    )


def test_under_compile(lake: Lake, tmp_path: Path) -> None:
    model = make_model("classification")
    watching = Watching(model, "classification")
    with lake_run(lake) as run:
        make_trainer(
            tmp_path, "classification", model=model, callbacks=[losslake.huggingface_callback(run)],
            torch_compile=True, torch_compile_backend="eager", max_steps=1,
        ).train()  # fmt: skip
    assert len(watching.seen) == 4
    got = dict(trace(lake).select("sample_id", pl.col("loss").list.get(1)).iter_rows())
    for number, loss in watching.seen:
        assert got[number] == pytest.approx(loss, rel=1e-5)


def test_stopping_in_the_middle_of_an_epoch(lake: Lake, tmp_path: Path) -> None:
    with lake_run(lake) as run:
        make_trainer(
            tmp_path, "causal-lm", callbacks=[losslake.huggingface_callback(run)], max_steps=4
        ).train()
    rows = trace(lake)
    assert rows["loss"].list.len().unique().to_list() == [3]
    assert rows["loss"].list.get(2).null_count() == len(MEMBERS) - 4


def test_a_loss_of_ones_own(lake: Lake, tmp_path: Path) -> None:
    class TakesLabelsOut(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            labels = inputs.pop("labels")
            return cross_entropy(model(**inputs).logits, labels)

    class KeepsInputs(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            return cross_entropy(model(input_ids=inputs["input_ids"]).logits, inputs["labels"])

    model = make_model("classification")
    watching = Watching(model, "classification")
    with lake_run(lake) as run:
        callback = losslake.huggingface_callback(run)
        make_trainer(
            tmp_path, "classification", model=model, callbacks=[callback], kind=TakesLabelsOut
        ).train()
    check_seen(lake, watching.seen, MEMBERS)
    run = lake_run(lake)
    trainer = make_trainer(
        tmp_path, "classification", callbacks=[losslake.huggingface_callback(run)], kind=KeepsInputs
    )
    with pytest.raises(InvalidInput, match="all that is in inputs"):
        trainer.train()
    run.discard()


def test_a_training_that_failed_leaves_the_model_usable(lake: Lake, tmp_path: Path) -> None:
    class Fails(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    model = make_model("causal-lm")

    def interrupted() -> None:
        with lake_run(lake) as run:
            callback = losslake.huggingface_callback(run)
            make_trainer(tmp_path, "causal-lm", model=model, callbacks=[callback, Fails()]).train()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lake.experiments() == []  # nor the experiment that was made for the run
    watching = Watching(model, "causal-lm")
    with lake_run(lake) as run:
        callback = losslake.huggingface_callback(run)
        make_trainer(tmp_path, "causal-lm", model=model, callbacks=[callback]).train()
    check_seen(lake, watching.seen, MEMBERS)
    assert [run.run for run in lake.runs("e")] == ["target"]


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(Records(MEMBERS, labelled=False)[i] for i in range(4))


def pack(records: list[Any]) -> Any:
    batch = collator("causal-lm")(records)
    return {name: value.reshape(1, -1) for name, value in batch.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"data": Records(MEMBERS[:4], labelled=False)}, "4 records.*11 members.*22 samples"),
        (lambda: {"data": Stream(), "max_steps": 2}, "Stream.*no position"),
        (lambda: {"collate": pack}, "1 rows of 4 records"),
        (lambda: {"collate": lambda records: {"input_ids": torch.zeros(4, 2)}}, "labels"),
        (lambda: {"callback": {"data": Records(MEMBERS, labelled=False)}}, "11 records, the experiment 22"),
        (lambda: {"deepspeed": {}}, "DeepSpeed"),
    ],
)
def test_wrong_uses(lake: Lake, tmp_path: Path, change: Callable[[], dict[str, Any]], message: str) -> None:
    changed = change()
    run = lake_run(lake)
    callback = losslake.huggingface_callback(run, **changed.pop("callback", {}))
    collate, deepspeed = changed.pop("collate", None), changed.pop("deepspeed", None)
    trainer = make_trainer(tmp_path, "causal-lm", callbacks=[callback], **changed)
    if collate is not None:
        trainer.data_collator = collate
    if deepspeed is not None:
        trainer.args.deepspeed = {"stage": 3}
        trainer.is_deepspeed_enabled = False
    with pytest.raises(InvalidInput, match=message):
        trainer.train()
    run.discard()


def test_data_in_another_order(lake: Lake, tmp_path: Path) -> None:
    run = lake_run(lake)
    callback = losslake.huggingface_callback(
        run, data=Records(np.arange(N)[::-1], labelled=True), eval_trace=True
    )
    with pytest.raises(InvalidInput, match="order of sample ids"):
        make_trainer(tmp_path, "classification", callbacks=[callback]).train()
    run.discard()


def test_ids_of_other_records(lake: Lake, tmp_path: Path) -> None:
    def trained() -> None:
        with lake_run(lake) as run:
            callback = losslake.huggingface_callback(run, ids=MEMBERS[::-1].copy())
            make_trainer(tmp_path, "classification", callbacks=[callback]).train()

    with pytest.raises(InvalidInput, match="targets are not the labels"):
        trained()


def test_a_text_with_nothing_to_predict(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TEXTS", [*TEXTS[:1], [65], *TEXTS[2:]])
    run = lake_run(lake)
    callback = losslake.huggingface_callback(run, data=Records(np.arange(N), labelled=False))
    with pytest.raises(InvalidInput, match="1 samples, the first of them 1: a text of fewer than two tokens"):
        make_trainer(tmp_path, "causal-lm", callbacks=[callback]).train()
    run.discard()


def test_resuming_is_refused(lake: Lake, tmp_path: Path) -> None:
    make_trainer(tmp_path, "causal-lm", num_train_epochs=1, save_strategy="epoch").train()
    run = lake_run(lake)
    trainer = make_trainer(tmp_path, "causal-lm", callbacks=[losslake.huggingface_callback(run)])
    with pytest.raises(InvalidInput, match="resumes at step 3"):
        trainer.train(resume_from_checkpoint=True)
    run.discard()


def test_options_and_models_that_do_not_fit(lake: Lake, tmp_path: Path) -> None:
    run = lake_run(lake)
    with pytest.raises(InvalidOption, match="data="):
        losslake.huggingface_callback(run, eval_trace=True)
    with pytest.raises(InvalidOption, match="task"):
        huggingface_answers.task_of(make_model("causal-lm"), "translation")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="Linear is not known"):
        huggingface_answers.task_of(torch.nn.Linear(2, 2), None)
    with pytest.raises(InvalidInput, match=r"float32.*regression"):
        huggingface_answers.batch_loss_and_margin("classification", torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(InvalidInput, match="no logits"):
        huggingface_answers.logits_of((torch.zeros(()), torch.zeros(2, 3)))
    run.discard()


DDP = """
import os, sys
import numpy as np, torch, transformers
from torch.nn.functional import cross_entropy
import losslake

torch.set_num_threads(1)
folder, rank = sys.argv[1:]
os.environ.update(WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank)
transformers.set_seed(0)
config = transformers.GPT2Config(
    vocab_size=30, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
)
model = transformers.GPT2LMHeadModel(config)
texts = torch.randint(0, 30, (30, 8), generator=torch.Generator().manual_seed(0))
texts[:, 0] = torch.arange(30)
every = [{"input_ids": row, "labels": row} for row in texts]
kept = []

def keep(model, args, kwargs, output):
    if model.training:
        for row, z in zip(kwargs["input_ids"], output.logits.detach()):
            kept.append((int(row[0]), float(cross_entropy(z[:-1], row[1:]))))

model.register_forward_hook(keep, with_kwargs=True)
args = transformers.TrainingArguments(
    output_dir=folder + "/out", use_cpu=True, ddp_backend="gloo", num_train_epochs=2, per_device_train_batch_size=4,
    gradient_accumulation_steps=2, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
)
with losslake.open(folder + "/lake").start_run("e", samples=np.zeros(30, int), members=np.arange(21)) as run:
    callback = losslake.huggingface_callback(run, data=every, eval_trace=True)
    trainer = transformers.Trainer(model, args, train_dataset=every[:21], callbacks=[callback])
    assert trainer.accelerator.num_processes == 2
    trainer.train()
torch.save(kept, f"{folder}/kept-{rank}.pt")
"""


def test_two_processes(tmp_path: Path) -> None:
    """accelerate shards the batches: what is recorded is what each process trained on, once an epoch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_both(DDP, tmp_path, HUGGINGFACE, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    seen: dict[int, list[float]] = {}
    for rank in (0, 1):
        for number, loss in torch.load(tmp_path / f"kept-{rank}.pt", weights_only=True):
            seen.setdefault(number, []).append(loss)
    lake = Lake.open(tmp_path / "lake")
    assert [run.run for run in lake.runs("e")] == ["target"]
    rows = trace(lake)
    assert rows["sample_id"].to_list() == sorted(seen) == list(range(21))
    for number, losses in rows.select("sample_id", "loss").iter_rows():
        if len(seen[number]) == 2:  # the others were repeated to fill the last batch, and have the mean
            assert sorted(losses[1:]) == pytest.approx(sorted(seen[number]), rel=1e-5)
        else:
            assert sum(losses[1:]) == pytest.approx(np.mean(seen[number]) * 2, rel=0.05)
    assert sum(len(each) == 2 for each in seen.values()) >= 15
    assert lake.sql("select count(*) from signals").item() == 30
    assert trace(lake, "eval")["loss"].list.len().unique().to_list() == [3]
