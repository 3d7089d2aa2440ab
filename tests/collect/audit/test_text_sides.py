"""What stands beside a language model in an audit: functions around its tokenizer, pad tokens of their own, adapters, other models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.audit.collect import collect_audit
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from tiny_gpt2 import CONTEXT, PAD, gpt2, made_texts, tokenizer_of
from torch import nn

pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
pytest.importorskip("peft", reason="needs peft, of losslake's test extra")

MEMBERS, OTHERS = made_texts(6, 1), made_texts(6, 2)


def of(**more: Any) -> Any:
    return tokenizer_of([*MEMBERS, *OTHERS], **more)


def added_pad() -> Any:
    """A tokenizer with a pad token that the model's embeddings lack."""
    tokenizer = of()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    return gpt2(len(of(pad_token="<pad>")))


def lists_of(folder: Path, model: Any, tokenizer: Any, **more: Any) -> list[list[float]]:
    lake = Lake.open(folder / f"lake{len(list(folder.iterdir()))}", create=True)
    collect_audit(lake, "audit", model, MEMBERS, OTHERS, tokenizer=tokenizer, **more)
    return lake.sql("select token_losses from signals where run = 'target' order by sample_id")[
        "token_losses"
    ].to_list()


def padded() -> Any:
    backend = of(pad_token="<pad>")
    backend._tokenizer.enable_padding(length=30, pad_id=PAD)
    return backend


AROUND: dict[str, Callable[[], Any]] = {
    "pads": lambda: functools.partial(of(pad_token="<pad>"), padding=True),
    "pads on the left": lambda: functools.partial(of(pad_token="<pad>", padding_side="left"), padding=True),
    "tensors": lambda: functools.partial(of(pad_token="<pad>"), padding=True, return_tensors="pt"),
    "a saved setting": padded,
    "a pad token of its own": added_pad,
}


@pytest.mark.parametrize("kind", AROUND)
def test_padding_is_none_of_a_texts_tokens(tmp_path: Path, model: Any, kind: str) -> None:
    plain = lists_of(tmp_path, model, of(pad_token="<pad>"))
    for one, other in zip(lists_of(tmp_path, model, AROUND[kind]()), plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_function_that_cannot_say_what_is_cut_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot say which part"):
        lists_of(tmp_path, model, functools.partial(of(pad_token="<pad>")), max_tokens=np.int64(4))
    several = functools.partial(
        of(pad_token="<pad>"), truncation=True, max_length=4, return_overflowing_tokens=True
    )
    with pytest.raises(InvalidInput, match="lists of tokens for 12 texts"):
        lists_of(tmp_path, model, several)


def test_a_partial_that_cuts_is_the_tokenizer_with_max_tokens(tmp_path: Path, model: Any) -> None:
    plain = of(pad_token="<pad>")
    cuts = functools.partial(plain, truncation=True, max_length=5, padding="max_length", return_tensors="pt")
    found = []
    for number, (tokenizer, more) in enumerate([(cuts, {}), (plain, {"max_tokens": 5})]):
        lake = Lake.open(tmp_path / f"{number}", create=True)
        notes = collect_audit(lake, "audit", model, MEMBERS, OTHERS, tokenizer=tokenizer, **more)
        rows = lake.sql(
            "select token_losses, lower_loss, zlib_bytes from signals join samples using (sample_id) order by sample_id"
        )
        found.append((rows, [note for note in notes if "are cut there" in note]))
    (one, said), (other, usual) = found
    assert one.equals(other)
    many = sum(len(ids) > 5 for ids in plain([*MEMBERS, *OTHERS])["input_ids"])
    assert many
    assert said[0].startswith(
        f"{many} of 12 texts have more than 5 tokens, and are cut there (by the tokenizer"
    )
    assert usual[0].startswith(f"{many} of 12 texts have more than 5 tokens, and are cut there (max_tokens)")


def test_a_function_that_cuts_is_refused_and_one_that_need_not_is_not(tmp_path: Path, model: Any) -> None:
    plain = of(pad_token="<pad>")
    longest = max(len(ids) for ids in plain([*MEMBERS, *OTHERS])["input_ids"])
    with pytest.raises(InvalidInput, match=r"a function, cuts texts to 5 tokens .* at least.*max_tokens=5"):
        lists_of(tmp_path, model, lambda texts: plain(texts, truncation=True, max_length=5))
    for most in (longest, longest + 3):
        found = lists_of(
            tmp_path, model, lambda texts, most=most: plain(texts, truncation=True, max_length=most)
        )
        assert found == lists_of(tmp_path, model, plain)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_a_models_own_tokens_before_a_text_are_none_of_it(tmp_path: Path, kind: str) -> None:
    import peft

    tokenizer, own = of(pad_token="<pad>"), 6
    more = {"encoder_hidden_size": 8} if kind == "PromptEncoderConfig" else {}
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=own, **more)
    base = gpt2(len(tokenizer)).eval()
    model = peft.get_peft_model(gpt2(len(tokenizer)), config).eval()
    with torch.no_grad():
        for weight in model.prompt_encoder.parameters():
            weight.normal_(0, 0.5)
    long = " ".join(OTHERS)  # its own tokens take of the places that the model has
    lake = Lake.open(tmp_path / "lake", create=True)
    notes = collect_audit(
        lake, "audit", model, MEMBERS, [*OTHERS, long], tokenizer=tokenizer, references=["base"]
    )
    assert f"1 of 13 texts have more than {CONTEXT - own} tokens" in " ".join(notes)
    for run, its in (("target", model), ("reference-0000", base)):
        rows = lake.sql("select token_losses from signals where run = $run order by sample_id", {"run": run})[
            "token_losses"
        ].to_list()
        for text, said in zip([*MEMBERS, *OTHERS, long], rows, strict=True):
            ids = torch.tensor(tokenizer(text, truncation=True, max_length=CONTEXT - own)["input_ids"])
            with torch.no_grad():
                z = its(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
            want = torch.nn.functional.cross_entropy(z[-len(ids) : -1], ids[1:], reduction="none")
            np.testing.assert_allclose(said, want.numpy(), atol=1e-5)


def test_half_a_character_is_refused(tmp_path: Path, model: Any) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    with pytest.raises(InvalidInput, match=r"record 1 of members is no text: character 2"):
        collect_audit(lake, "audit", model, ["a text", "ab\ud800"], OTHERS, tokenizer=of())


def test_weights_that_do_not_train_do_not_afterwards(tmp_path: Path) -> None:
    adapted = gpt2(len(of()), lora=True)
    for number, weight in enumerate(adapted.parameters()):
        weight.requires_grad_(number % 3 == 0)
    before = [weight.requires_grad for weight in adapted.parameters()]
    lists_of(tmp_path, adapted, of(), references=["base"])
    assert before == [weight.requires_grad for weight in adapted.parameters()]


class Own(nn.Module):
    """A model that does not say how many tokens it knows."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.inner, self.head = nn.Embedding(tokens, 8), nn.Linear(8, tokens)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(input_ids))


def test_a_reference_that_does_not_say_its_tokens_is_asked(tmp_path: Path, model: Any) -> None:
    torch.manual_seed(0)
    plain = lists_of(tmp_path, model, of())
    assert lists_of(tmp_path, model, of(), references=[Own(len(of()))]) == plain
