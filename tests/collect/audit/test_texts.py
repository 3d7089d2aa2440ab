"""An audit of a language model: each number is that of its text asked alone, and what cannot be right is refused."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from losslake.audit_command import command
from losslake.collect.audit.collect import collect_audit
from losslake.collect.audit.language_model import shown
from losslake.collect.signals.texts import ask_tokens
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from tiny_gpt2 import AG_NEWS, CONTEXT, PAD, gpt2, made_texts, tokenizer_of, trained
from torch import nn

transformers = pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
pytest.importorskip("peft", reason="needs peft, of losslake's test extra")

import losslake  # noqa: E402

N = 8
MEMBERS, OTHERS = made_texts(N, 1), made_texts(N, 2)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of([*MEMBERS, *OTHERS], pad_token="<pad>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return gpt2(len(tokenizer)).train()


def asked(folder: Path, model: Any, members: Any, others: Any, **more: Any) -> tuple[Lake, tuple[str, ...]]:
    """What `losslake.audit` collects, and its notes, without the judgement."""
    lake = Lake.open(folder / f"lake{len(list(folder.iterdir()))}", create=True)
    return lake, collect_audit(lake, "audit", model, members, others, **more)


def rows_of(lake: Lake, run: str = "target") -> pl.DataFrame:
    return lake.sql(
        "select * from signals join samples using (experiment, sample_id) where run = $run order by sample_id",
        {"run": run},
    )


def alone(model: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Loss and z of each token of one text, asked alone and unpadded, in the plainest terms."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    shares = logits.softmax(dim=1)
    mean = (shares * shares.log()).sum(dim=1)
    spread = ((shares * shares.log() ** 2).sum(dim=1) - mean**2).sqrt()
    return losses.numpy(), ((-losses - mean) / spread).numpy()


@pytest.mark.parametrize(
    ("lora", "kind", "batch_size", "near"),
    [
        (False, torch.float32, 512, 2e-5),
        (False, torch.float32, 7, 2e-5),
        (True, torch.float32, 512, 2e-5),
        (False, torch.bfloat16, 512, 0.1),
        (False, torch.float16, 512, 0.02),
    ],
)
def test_each_number_is_that_of_the_text_asked_alone(
    tmp_path: Path, tokenizer: Any, lora: bool, kind: torch.dtype, batch_size: int, near: float
) -> None:
    model = gpt2(len(tokenizer), lora=lora).to(kind).train()
    lake, _ = asked(tmp_path, model, MEMBERS, OTHERS, tokenizer=tokenizer, batch_size=batch_size)
    assert model.training
    rows = rows_of(lake)
    assert rows["text"].to_list() == [*MEMBERS, *OTHERS]
    assert len({len(each) for each in rows["token_losses"]}) > 4
    for row in rows.iter_rows(named=True):
        losses, z = alone(model, tokenizer(row["text"])["input_ids"])
        np.testing.assert_allclose(row["token_losses"], losses, rtol=near, atol=near)
        np.testing.assert_allclose(row["token_z"], z, rtol=near, atol=near)
        np.testing.assert_allclose(row["loss"], losses.mean(), rtol=near)
        np.testing.assert_allclose(row["loss"], np.mean(row["token_losses"]), rtol=1e-6)
        lower = alone(model, tokenizer(row["text"].lower())["input_ids"])[0].mean()
        np.testing.assert_allclose(row["lower_loss"], lower, rtol=near)
        assert row["zlib_bytes"] == len(zlib.compress(row["text"].encode()))
        np.testing.assert_allclose(row["phi"], -np.log(np.expm1(row["loss"])), rtol=1e-4)


def test_how_the_tokenizer_would_pad_does_not_matter(tmp_path: Path, model: Any) -> None:
    found = []
    for more in ({"pad_token": "<pad>"}, {"pad_token": "<pad>", "padding_side": "left"}, {}):
        tokenizer = tokenizer_of([*MEMBERS, *OTHERS], **more)
        lake, _ = asked(tmp_path, model, MEMBERS, OTHERS, tokenizer=tokenizer)
        found.append(rows_of(lake).select("loss", "token_losses", "token_z", "lower_loss"))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_what_it_keeps_is_what_the_long_way_writes(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    audit = losslake.audit(model, MEMBERS, OTHERS, tokenizer=tokenizer)
    texts = [*MEMBERS, *OTHERS]
    how: dict[str, Any] = {"pad": PAD, "width": len(tokenizer), "batch_size": 512}
    tokens = ask_tokens(model, shown(tokenizer, texts, CONTEXT).ids, **how)
    lower = ask_tokens(model, shown(tokenizer, [text.lower() for text in texts], CONTEXT).ids, **how)
    lake = losslake.open(tmp_path / "lake")
    loss = tokens.means()
    sizes = [len(zlib.compress(text.encode())) for text in texts]
    lake.create_experiment("long", pl.DataFrame({"zlib_bytes": sizes}).to_arrow())
    members = np.arange(2 * N) < N
    with lake.write_run("long", "target", members=members) as writer:
        writer.append_signals(
            np.arange(2 * N), np.zeros(2 * N, dtype=int), None, loss=loss, phi=-np.log(np.expm1(loss)),
            token_losses=tokens.parts(tokens.loss), token_z=tokens.parts(tokens.z), lower_loss=lower.means(),
        )  # fmt: skip
        writer.commit(losslake.store.format.records.RunInfo(role="target"))
    for score in ("loss", "kde", "min-k", "min-k[plus_plus=true]", "zlib", "lowercase"):
        ours = audit.lake.scores(score, experiment="audit", target="target")
        assert ours["score"].equals(lake.scores(score, experiment="long", target="target")["score"]), score
    query = "select token_losses, token_z, zlib_bytes from signals join samples using (experiment, sample_id) order by sample_id"
    assert audit.lake.sql(query).equals(lake.sql(query))


def test_frames_and_pipelines_say_the_same(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    plain, _ = asked(tmp_path, model, MEMBERS, OTHERS, tokenizer=tokenizer)
    frames = [
        pl.DataFrame(
            {"body": each, "label": ["sport", "news"] * (N // 2), "who": [f"{side}{i}" for i in range(N)]}
        )
        for side, each in enumerate((MEMBERS, OTHERS))
    ]
    pipeline = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    columns = [[frame["body"] for frame in frames], [_dataset(frame)["body"] for frame in frames]]
    for given in columns:
        lake, _ = asked(tmp_path, pipeline, *given)
        assert rows_of(lake)["loss"].equals(rows_of(plain)["loss"])
    for given in (frames, [frame.to_pandas() for frame in frames], [_dataset(frame) for frame in frames]):
        lake, _ = asked(tmp_path, pipeline, *given, features="body", key="who")
        rows = rows_of(lake)
        assert rows["loss"].equals(rows_of(plain)["loss"])
        assert rows["key"].to_list()[:2] == ["00", "01"]
        assert rows["label"].to_list()[:2] == [1, 0]
        assert lake.experiment("audit").dataset["classes"] == ["news", "sport"]


def _dataset(frame: pl.DataFrame) -> Any:
    return pytest.importorskip("datasets", reason="needs datasets").Dataset.from_polars(frame)


def test_long_texts_are_cut_as_the_tokenizer_cuts_them(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    long = " ".join(MEMBERS[:8])
    lake, notes = asked(tmp_path, model, [long, *MEMBERS], OTHERS, tokenizer=tokenizer)
    assert any(f"1 of {2 * N + 1} texts have more than {CONTEXT} tokens" in note for note in notes)
    first = rows_of(lake).row(0, named=True)
    ids = tokenizer(long, truncation=True, max_length=CONTEXT)["input_ids"]
    np.testing.assert_allclose(first["token_losses"], alone(model, ids)[0], rtol=2e-5)
    part = tokenizer.decode(ids, skip_special_tokens=True)
    assert len(part) < len(long)
    assert first["zlib_bytes"] == len(zlib.compress(part.encode()))
    lower = tokenizer(part.lower(), truncation=True, max_length=CONTEXT)["input_ids"]
    np.testing.assert_allclose(first["lower_loss"], alone(model, lower)[0].mean(), rtol=2e-5)

    fewer, _ = asked(tmp_path, model, MEMBERS, OTHERS, tokenizer=tokenizer, max_tokens=4)
    assert max(len(each) for each in rows_of(fewer)["token_losses"]) == 3


def test_reference_and_shadow_models(tmp_path: Path, tokenizer: Any) -> None:
    lora = gpt2(len(tokenizer), lora=True)
    other = gpt2(len(tokenizer), seed=5)

    def train(members: list[str], seed: int) -> Any:
        assert all(isinstance(each, str) for each in members)
        return trained(gpt2(len(tokenizer), seed=seed % 1000), tokenizer, members, epochs=1)

    lake, _ = asked(
        tmp_path,
        lora,
        MEMBERS,
        OTHERS,
        tokenizer=tokenizer,
        shadows=2,
        train=train,
        references=["base", other],
    )
    ids = tokenizer(MEMBERS[0])["input_ids"]
    with lora.disable_adapter():
        want = {"reference-0000": alone(lora, ids)[0]}
    want |= {"reference-0001": alone(other, ids)[0], "target": alone(lora, ids)[0]}
    for run, losses in want.items():
        np.testing.assert_allclose(rows_of(lake, run)["token_losses"][0], losses, rtol=2e-5)
    assert sum(run.members for run in lake.runs("audit", "shadow")) == 2 * N


class Peeks(nn.Module):
    """A model whose logits of a token depend on the next one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(width, width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.embedding(input_ids.roll(-1, dims=1))
        return logits


def bert(tokenizer: Any, *, decoder: bool = False) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=CONTEXT, is_decoder=decoder,
    )  # fmt: skip
    return transformers.BertLMHeadModel(config)


def nan(model: Any) -> Any:
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    return model


WRONG: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "no tokenizer": (lambda t: {"tokenizer": None}, "GPT2LMHeadModel is a language model; give its tokenizer="),
    "its name": (lambda t: {"tokenizer": "gpt2"}, "tokenizer is a str; give one of transformers"),
    "of a function": (lambda t: {"model": lambda x: x}, "tokenizer goes with a language model of torch"),
    "a text of one token": (lambda t: {"members": [*MEMBERS, ""]}, f"record {N} of members has 1 token"),
    "numbers": (lambda t: {"members": [1, 2, 3]}, "record 0 of members is an int, no text"),
    "one text": (lambda t: {"members": "a text"}, "members are a str; give texts"),
    "tokens": (lambda t: {"members": torch.zeros(3, 4).long()}, "members are a Tensor; give texts"),
    "on two sides": (lambda t: {"members": OTHERS}, "are also on another side"),
    "another tokenizer": (
        lambda t: {"tokenizer": tokenizer_of(MEMBERS + OTHERS, vocabulary=900, pad_token="<pad>"), "model": gpt2(300)},
        "give the model's own tokenizer",
    ),
    "another vocabulary": (lambda t: {"references": [gpt2(len(t) + 1)]}, "reference-0000 knows .* tokens and .*: it has another tokenizer"),
    "another one in a pipeline": (lambda t: {"references": [_pipeline(t)]}, "reference-0000 has another tokenizer: it makes other tokens"),
    "a shorter context": (lambda t: {"references": [gpt2(len(t), context=8)]}, "takes 8 tokens at most, .* give max_tokens=8"),
    "no adapters": (lambda t: {"references": ["base"]}, "GPT2LMHeadModel has none"),
    "the model itself": (lambda t: {"references": [gpt2(len(t))]}, "reference-0000 answers as the audited model does"),
    "sees ahead": (lambda t: {"model": Peeks(len(t))}, "what Peeks says after a token changes"),
    "sees all": (lambda t: {"model": bert(t)}, "what BertLMHeadModel says after a token changes"),
    "a classifier": (
        lambda t: {"model": transformers.GPT2ForSequenceClassification(gpt2(len(t)).config)},
        "is no causal language model; leave tokenizer= out",
    ),
    "another call": (lambda t: {"model": nn.Linear(2, 2)}, "Linear cannot be asked about texts: TypeError"),
    "NaN": (lambda t: {"model": nan(gpt2(len(t)))}, f"gives a loss of nan for record 0 of members .{2 * N} such texts"),
    "classes": (lambda t: {"classes": [0, 1]}, "classes is of classifiers"),
    "too many tokens": (lambda t: {"max_tokens": 64}, "max_tokens is 64, and GPT2LMHeadModel takes 32"),
    "one token": (lambda t: {"max_tokens": 1}, "max_tokens is 1; it is how many"),
}  # fmt: skip


def _pipeline(tokenizer: Any) -> Any:
    other = tokenizer_of(MEMBERS, vocabulary=300, pad_token="<pad>")
    return transformers.pipeline("text-generation", model=gpt2(len(tokenizer)), tokenizer=other, device="cpu")


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_be_right_is_refused(tokenizer: Any, model: Any, why: str) -> None:
    change, told = WRONG[why]
    changed = {"model": model, "members": MEMBERS, "nonmembers": OTHERS, "tokenizer": tokenizer} | change(
        tokenizer
    )
    with pytest.raises((InvalidInput, InvalidOption), match=told):
        losslake.audit(changed.pop("model"), changed.pop("members"), changed.pop("nonmembers"), **changed)


def test_a_bert_that_does_not_look_ahead_and_a_model_of_ones_own(tmp_path: Path, tokenizer: Any) -> None:
    lake, _ = asked(tmp_path, bert(tokenizer, decoder=True), MEMBERS, OTHERS, tokenizer=tokenizer)
    assert rows_of(lake)["loss"].is_finite().all()
    torch.manual_seed(0)
    own = nn.Embedding(len(tokenizer), len(tokenizer))  # a bigram model
    lake, _ = asked(
        tmp_path,
        own,
        MEMBERS,
        OTHERS,
        tokenizer=tokenizer,
        forward=lambda model, batch: model(batch["input_ids"]),
    )
    ids = tokenizer(MEMBERS[0])["input_ids"]
    want = torch.nn.functional.cross_entropy(own.weight[ids[:-1]].double(), torch.tensor(ids[1:]))
    assert rows_of(lake)["loss"][0] == pytest.approx(want.item(), rel=1e-6)


def test_notes_of_what_weakens_it(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    guesses = copy.deepcopy(model)
    with torch.no_grad():
        guesses.transformer.wte.weight.mul_(30)
    _, notes = asked(
        tmp_path, guesses, MEMBERS, [*OTHERS, f"{MEMBERS[0]} "], tokenizer=tokenizer, max_tokens=3
    )
    assert "same tokens as a member to the model" in " ".join(notes)
    assert "it was not trained, or on texts of another tokenizer" in " ".join(notes)


@pytest.mark.parametrize("lora", [False, True])
def test_it_finds_what_a_model_remembers(lora: bool) -> None:
    if not AG_NEWS.exists():
        pytest.skip("AG News is not in the shared data")
    texts = [text[:100] for text in pl.read_parquet(AG_NEWS, n_rows=300)["text"].to_list()]
    tokenizer = tokenizer_of(texts[100:], vocabulary=500)
    model = gpt2(len(tokenizer), lora=lora)
    model = trained(model, tokenizer, texts[:40], epochs=20 if lora else 12, lr=2e-2 if lora else 1e-2)
    audit = losslake.audit(model, texts[:40], texts[40:80], tokenizer=tokenizer)
    assert audit.level in ("signs", "clear leak")
    (low,) = audit.metrics().filter(attack="loss", metric="auc")["ci_low"]
    assert low > 0.8


SHELL = """
from tiny_gpt2 import gpt2, made_texts, tokenizer_of

def its_tokenizer():
    return tokenizer_of([*made_texts(8, 1), *made_texts(8, 2)], pad_token="<pad>")

def model():
    return gpt2(len(its_tokenizer()), lora=True)
"""


def test_the_shell_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    name = f"spoken_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHELL)
    pl.DataFrame({"text": MEMBERS, "n": range(N)}).write_csv(tmp_path / "members.csv")
    pl.DataFrame({"text": OTHERS, "n": range(N)}).write_parquet(tmp_path / "others.parquet")
    monkeypatch.chdir(tmp_path)
    options = [
        "--members",
        "members.csv",
        "--nonmembers",
        "others.parquet",
        "--lake",
        "lake",
        "--max-tokens",
        "8",
    ]
    spoken = ["--model", f"{name}:model", "--references", "base"]
    done = CliRunner().invoke(command, [*spoken, "--tokenizer", f"{name}:its_tokenizer", *options])
    assert done.exit_code == 0, done.output
    assert "texts have more than 8 tokens, and are cut there (--max-tokens)" in done.stdout
    python, _ = asked(
        tmp_path,
        gpt2(len(tokenizer), lora=True),
        MEMBERS,
        OTHERS,
        tokenizer=tokenizer,
        max_tokens=8,
        references=["base"],
    )
    lake = losslake.open("lake")
    for run in ("target", "reference-0000"):
        columns = ("loss", "token_losses", "token_z", "lower_loss", "zlib_bytes")
        assert rows_of(lake, run).select(columns).equals(rows_of(python, run).select(columns))
    done = CliRunner().invoke(command, [*spoken, *options[:-2]])
    assert "GPT2LMHeadModel is a language model; give its --tokenizer" in str(done.exception)
