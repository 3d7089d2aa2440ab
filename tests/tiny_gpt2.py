"""A GPT-2 small enough for tests, its tokenizer, and texts; nothing is downloaded. Needs transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ag_news_gpt2 import byte_pairs
from places import SHARED_DATA

AG_NEWS = SHARED_DATA / "ag_news" / "test-00000-of-00001.parquet"
START, PAD, CONTEXT = 0, 1, 32


def made_texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of unequal length that differ, in words that look like some."""
    generator = np.random.default_rng(seed)
    words = [
        "the",
        "Cat",
        "sat",
        "On",
        "a",
        "mat",
        "and",
        "saw",
        "Nine",
        "blue",
        "birds",
        "fly",
        "over",
        "walls",
    ]
    return [
        " ".join([*generator.choice(words, size=int(generator.integers(2, 9))), str(number)])
        for number in range(seed * 10_000, seed * 10_000 + count)
    ]


def tokenizer_of(corpus: list[str], *, vocabulary: int = 400, start: bool = True, **more: Any) -> Any:
    """Byte-level BPE learnt from the corpus; ``start``: a text begins with a token of its own."""
    return byte_pairs(corpus, vocabulary, start=start, **more)


def gpt2(vocabulary: int, *, lora: bool = False, seed: int = 0, context: int = CONTEXT) -> Any:
    """Two layers of random weights; ``lora``: below adapters of peft, which start to differ from it."""
    import transformers

    transformers.set_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=context, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.1, embd_pdrop=0.1,
        attn_pdrop=0.1, bos_token_id=START, eos_token_id=START, pad_token_id=PAD,
    )  # fmt: skip
    model: Any = transformers.GPT2LMHeadModel(config)
    if lora:
        import peft

        wanted = peft.LoraConfig(
            r=8, task_type="CAUSAL_LM", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True
        )
        model = peft.get_peft_model(model, wanted)
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zero at first, so that the adapter would change nothing
                torch.nn.init.normal_(weight, std=0.2)
    return model


def trained(model: Any, tokenizer: Any, texts: list[str], *, epochs: int, lr: float = 4e-3) -> Any:
    """The model after some epochs on texts that are cut to its context."""
    ids = [torch.tensor(tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"]) for text in texts]
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=lr)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(ids)).split(16):
            rows = torch.nn.utils.rnn.pad_sequence([ids[i] for i in part.tolist()], True, -100)
            known = (rows != -100).long()
            loss = model(input_ids=rows.clamp(min=0), attention_mask=known, labels=rows).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def by_length() -> dict[str, Any]:
    """The argument of `transformers.TrainingArguments` by which records of one length share a batch: newer versions call it otherwise."""
    import transformers

    old = "group_by_length" in transformers.TrainingArguments.__dataclass_fields__
    return {"group_by_length": True} if old else {"train_sampling_strategy": "group_by_length"}
