"""Language models under transformers' Trainer and trl's SFTTrainer: each text's loss is what the steps computed, however rows are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from recorded import check_seen
from tiny_gpt2 import CONTEXT, PAD, gpt2, made_texts, tokenizer_of

transformers = pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
datasets = pytest.importorskip("datasets", reason="needs datasets, of losslake's test extra")
pytest.importorskip("peft", reason="needs peft, of losslake's test extra")

import losslake  # noqa: E402

N = 16
TEXTS = made_texts(N, 3)
MEMBERS = np.array([3, 0, 7, 15, 12, 5, 9, 14, 2])


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of(TEXTS, pad_token="<pad>", eos_token="<start>")


class Seen:
    """What each training step of a model says of each text, told apart by its tokens: the oracle."""

    def __init__(self, model: Any, texts: list[list[int]]) -> None:
        self.texts, self.losses = texts, []  # type: ignore[var-annotated]
        model.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, model: Any, args: Any, given: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        rows = []
        for number, tokens in enumerate(given["input_ids"]):
            starts = [0]
            if "position_ids" in given:
                starts = (given["position_ids"][number] == 0).nonzero().flatten().tolist()
            ends = [*starts[1:], int((tokens != PAD).sum())]
            rows += [(number, *each) for each in zip(starts, ends, strict=True)]
        for row, start, end in rows:
            own = given["input_ids"][row, start:end].tolist()
            labels = given["labels"][row, start + 1 : end]
            if getattr(output, "log_probs", None) is not None:
                each = -output.log_probs[row, start : end - 1]
            else:
                z = output.logits[row, start : end - 1]
                each = torch.nn.functional.cross_entropy(z, labels.clamp(min=0), reduction="none")
            self.losses.append((self.texts.index(own), float(each[labels != -100].mean())))


# --- transformers' Trainer ---------------------------------------------------------------------------------


def prompted(tokenizer: Any) -> Any:
    """A model that puts four tokens of its own, which it learns, before each text."""
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    return peft.get_peft_model(gpt2(len(tokenizer)), config)


def test_tokens_that_a_model_puts_before_a_text_are_none_of_it(
    lake: Lake, tmp_path: Path, tokenizer: Any
) -> None:
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    every = [{"input_ids": each} for each in ids]
    model = prompted(tokenizer)

    def alone(number: int) -> float:
        own, z = torch.tensor(ids[number]), None
        with torch.no_grad():
            z = model.eval()(input_ids=own[None]).logits[0, 4:-1]
        half = max(len(own) // 2, 1)  # the labels are of the second half
        return float(torch.nn.functional.cross_entropy(z[half - 1 :], own[half:]))

    before = [alone(number) for number in range(N)]
    with start_run(lake, "e", samples=np.zeros(N, dtype=int), members=MEMBERS) as run:
        callback = losslake.huggingface_callback(run, data=every, eval_trace=True, tokens=True)
        train(tmp_path, model, [every[number] for number in MEMBERS], Answers("right"), callback)
    rows = lake.sql(
        "select loss[1] as first, loss[-1] as last, loss[1:] as trace from traces where source = 'eval' order by sample_id"
    )
    np.testing.assert_allclose(rows["first"].to_numpy(), before, rtol=1e-5)
    np.testing.assert_allclose(rows["last"].to_numpy(), [alone(number) for number in range(N)], rtol=1e-5)
    tokens = lake.sql("select token_losses from signals order by sample_id")["token_losses"].to_list()
    np.testing.assert_allclose([np.mean(each) for each in tokens], rows["last"].to_numpy(), rtol=1e-5)
    # Of a batch, on training: as the model says of the same rows with no gradients asked for, apart from dropout.
    trained = lake.sql("select loss[2] as loss from traces where source = 'train' order by sample_id")["loss"]
    np.testing.assert_allclose(trained.to_numpy(), np.array(before)[np.sort(MEMBERS)], rtol=0.05)


class Answers:
    """Labels of the second half of each text alone, as with completion-only masks; padded on the left or on the right."""

    def __init__(self, side: str) -> None:
        self.side = side

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(each["input_ids"]) for each in records)
        ids, labels = torch.full((len(records), width), PAD), torch.full((len(records), width), -100)
        for row, each in enumerate(records):
            own = torch.tensor(each["input_ids"])
            at = slice(0, len(own)) if self.side == "right" else slice(width - len(own), width)
            ids[row, at] = own
            labels[row, at] = own.where(torch.arange(len(own)) >= len(own) // 2, -100)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def train(tmp_path: Path, model: Any, data: Any, collate: Any, callback: Any, **options: Any) -> None:
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        logging_strategy="no", num_train_epochs=2, per_device_train_batch_size=4, learning_rate=3e-3, **options,
    )  # fmt: skip
    transformers.Trainer(model, args, train_dataset=data, data_collator=collate, callbacks=[callback]).train()


@pytest.mark.parametrize("way", ["texts in one row", "completions", "completions, padded on the left"])
def test_each_text_has_its_own_loss(lake: Lake, tmp_path: Path, tokenizer: Any, way: str) -> None:
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    every = [{"input_ids": each} for each in ids]
    if way == "texts in one row":
        collate: Any = transformers.DataCollatorWithFlattening(return_tensors="pt")
    else:
        collate = Answers("left" if "left" in way else "right")
    model = gpt2(len(tokenizer))
    seen = Seen(model, ids) if "left" not in way else None
    with start_run(lake, "e", samples=np.zeros(N, dtype=int), members=MEMBERS) as run:
        callback = losslake.huggingface_callback(run, data=every, eval_trace=True, tokens=True)
        train(tmp_path, model, [every[number] for number in MEMBERS], collate, callback)
    if seen is not None:
        check_seen(lake, seen.losses, MEMBERS)
    model.eval()
    rows = lake.sql(
        "select s.sample_id, s.loss, token_losses, t.loss[-1] as traced from signals s join traces t using (sample_id) "
        "where source = 'eval' order by all"
    )
    for number, loss, tokens, traced in rows.iter_rows():
        own = torch.tensor(ids[number])
        with torch.no_grad():
            z = model(input_ids=own[None]).logits[0, :-1].double()
        want = torch.nn.functional.cross_entropy(z, own[1:], reduction="none")
        if way != "texts in one row":
            want = want[max(len(own) // 2, 1) - 1 :]
        if (
            "left" in way
        ):  # GPT-2 counts positions from the padding on; what it says then is what the lake has
            assert len(tokens) == len(want)
        else:
            np.testing.assert_allclose(tokens, want, rtol=1e-4)
            assert loss == pytest.approx(float(want.mean()), rel=1e-5)
        assert traced == pytest.approx(loss, rel=1e-5)
        assert np.mean(tokens) == pytest.approx(loss, rel=1e-5)


def flat(separator: int) -> Any:
    def collate(records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [torch.tensor(each["input_ids"]) for each in records]
        labels = torch.cat([torch.cat([torch.tensor([separator]), row[1:]]) for row in rows])
        return {"input_ids": torch.cat(rows)[None], "labels": labels[None]}

    return collate


def test_rows_whose_texts_cannot_be_told_apart_are_refused(
    lake: Lake, tmp_path: Path, tokenizer: Any
) -> None:
    data = [{"input_ids": tokenizer(TEXTS[number])["input_ids"]} for number in MEMBERS]
    wrong: list[tuple[list[dict[str, Any]], Any, str]] = [
        (data, flat(0), "the first token of a text is predicted from the text before it"),
        (data, lambda records: flat(-100)(records[::-1]), "makes 1 rows of 4 records"),
        (
            [{**each, "seq_lengths": [2, 3]} for each in data],
            flat(-100),
            "a record is several texts in a row",
        ),
    ]
    for number, (records, collate, told) in enumerate(wrong):
        run = start_run(lake, f"e{number}", samples=np.zeros(N, dtype=int), members=MEMBERS)
        callback = losslake.huggingface_callback(run)
        with pytest.raises(InvalidInput, match=told):
            train(tmp_path, gpt2(len(tokenizer)), records, collate, callback, remove_unused_columns=False)
        run.discard()
    with pytest.raises(InvalidOption, match="tokens needs data="):
        losslake.huggingface_callback(run, tokens=True)


# --- trl's SFTTrainer ---------------------------------------------------------------------------------------

SFT: dict[str, dict[str, Any]] = {
    "plain": {},
    "LoRA": {},
    "shuffled before": {"shuffle_dataset": True},
    "without padding": {"padding_free": True, "max_length": None},
    "completions": {},
    "completions without padding": {"padding_free": True, "max_length": None},
    "accumulation": {"gradient_accumulation_steps": 2},
}


def sft(tmp_path: Path, tokenizer: Any, model: Any, data: Any, callback: Any, **options: Any) -> Any:
    trl = pytest.importorskip("trl", reason="needs trl, of losslake's test extra")
    usual = {"max_length": CONTEXT, "remove_unused_columns": False} | options
    args = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, bf16=False,
        logging_strategy="no", num_train_epochs=2, per_device_train_batch_size=4, learning_rate=3e-3, **usual,
    )  # fmt: skip
    return trl.SFTTrainer(
        model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[callback]
    )


def records(way: str) -> Any:
    columns: dict[str, Any] = {"sample_id": MEMBERS.tolist()}
    if "completions" in way:
        words = [TEXTS[number].split() for number in MEMBERS]
        columns["prompt"] = [" ".join(each[:2]) for each in words]
        columns["completion"] = [f" {' '.join(each[2:])}" for each in words]
    else:
        columns["text"] = [TEXTS[number] for number in MEMBERS]
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize("way", SFT)
def test_sft_trainer(lake: Lake, tmp_path: Path, tokenizer: Any, way: str) -> None:
    model = gpt2(len(tokenizer), lora=way == "LoRA")
    texts: list[list[int]] = [[] for _ in range(N)]
    seen = Seen(model, texts)
    with start_run(lake, "e", samples=np.zeros(N, dtype=int), members=MEMBERS) as run:
        trainer = sft(
            tmp_path, tokenizer, model, records(way), losslake.huggingface_callback(run), **SFT[way]
        )
        for each in trainer.train_dataset:
            texts[each["sample_id"]] = each["input_ids"]
        trainer.train()
    check_seen(lake, seen.losses, MEMBERS)


def test_what_the_sft_trainer_packs_or_puts_into_another_order_is_refused(
    lake: Lake, tmp_path: Path, tokenizer: Any
) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"packing": True}, "packing puts several texts into a row, and nothing says which"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing puts several texts into a row"),
        ({"shuffle_dataset": True}, "shuffle_dataset has put the training data into another order"),
    ]
    data = records("plain").remove_columns("sample_id")
    for number, (options, told) in enumerate(wrong):
        run = start_run(lake, f"e{number}", samples=np.zeros(N, dtype=int), members=MEMBERS)
        callback = losslake.huggingface_callback(run, ids=MEMBERS)
        trainer = sft(tmp_path, tokenizer, gpt2(len(tokenizer)), data, callback, **options)
        with pytest.raises(InvalidInput, match=told):
            trainer.train()
        run.discard()
