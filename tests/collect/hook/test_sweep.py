"""Models x losses x loaders: each record's loss and gradient norm are those of a batch of its own, or are refused with a reason.

The table of docs/any-loop.md is made here: `LOSSLAKE_DOCS=update pytest tests/collect/hook/test_sweep.py`. Each cell, a model and a loss,
has one of the loaders, so that each pair of a model, a loss and a loader is tried; LOSSLAKE_SWEEP=all tries all triples.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import LosslakeError
from losslake.store.lake import Lake
from places import ROOT
from torch import nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
data_loader = pytest.importorskip("opacus.data_loader", reason="needs opacus, of losslake's test extra")

N, C, T, F, WORDS = 14, 3, 5, 6, 30
IDS = [11, 2, 7, 9, 0, 4, 12, 5, 3]  # the members, in the order of what is trained on
PAGE = ROOT / "docs" / "any-loop.md"
TABLE = "<!-- what follows is made by tests/collect/hook/test_sweep.py -->\n"

# --- models, each with a kind of record ---------------------------------------------------------------------


class Outer(nn.Module):
    """A layer between an embedding of its records and its outputs."""

    def __init__(self, inner: nn.Module, take: Callable[[Any], torch.Tensor], width: int) -> None:
        super().__init__()
        self.inner, self.take, self.out = inner, take, nn.Linear(width, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.take(self.inner(x)))
        return out


class Logits(nn.Module):
    """A transformers model as a function from tokens to logits."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(input_ids=x).logits
        return out


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, C)
    )


def _bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(WORDS, F), nn.Linear(F, C))


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(F, 2, 8, dropout=0.0, batch_first=True)
    return Outer(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), lambda z: z.mean(1), F)


def _resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    model: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=C)
    return model


def _vit() -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=C)
    return model


def _of_transformers(kind: str, **options: Any) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(vocab_size=WORDS, num_labels=C, pad_token_id=0, **options)
    return Logits(getattr(transformers, f"{kind}ForSequenceClassification")(config))


_WIDE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "perceptron": ("numbers", lambda: nn.Sequential(nn.Linear(F, 8), nn.Tanh(), nn.Linear(8, C))),
    "convolutions, BatchNorm": ("pictures", _conv),
    "LSTM, outputs": ("steps", lambda: Outer(nn.LSTM(F, 4, batch_first=True), lambda z: z[0][:, -1], 4)),
    "GRU, last state": ("steps", lambda: Outer(nn.GRU(F, 4, batch_first=True), lambda z: z[1][-1], 4)),
    "TransformerEncoder": ("steps", _encoder),
    "EmbeddingBag": ("tokens", _bag),
    "torchvision ResNet": ("pictures", _resnet),
    "torchvision MobileNetV3": ("pictures", lambda: torchvision.models.mobilenet_v3_small(num_classes=C)),
    "torchvision VisionTransformer": ("pictures", _vit),
    "transformers BERT": ("tokens", lambda: _of_transformers("Bert", **_WIDE)),
    "transformers GPT-2": (
        "tokens",
        lambda: _of_transformers("GPT2", n_positions=8, n_embd=8, n_layer=1, n_head=2),
    ),
    "transformers Llama": ("tokens", lambda: _of_transformers("Llama", **_WIDE)),
}

_drawn = torch.Generator().manual_seed(0)
RECORDS = {
    "numbers": torch.randn(N, F, generator=_drawn),
    "pictures": torch.randn(N, 3, 32, 32, generator=_drawn),
    "steps": torch.randn(N, T, F, generator=_drawn),
    "tokens": torch.randint(1, WORDS, (N, T), generator=_drawn),
}
Y = torch.arange(N) * 5 % 7 % C

# --- losses -------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


def nll_of_p(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -p.gather(1, y[:, None]).log().mean()


def focal(z: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    each = functional.cross_entropy(z, y, reduction="none")
    each = (1 - (-each).exp()) ** 2 * each
    return each if reduction == "none" else each.mean()


def bare_mse(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (z - y).square().mean()


def numbers(y: torch.Tensor) -> torch.Tensor:
    return torch.stack([y + 2.0, y * 0.5, 1.0 - y], dim=1)


def several(y: torch.Tensor) -> torch.Tensor:
    return (torch.arange(C)[None] <= y[:, None]).float()


def same(value: torch.Tensor) -> torch.Tensor:
    return value


def clean(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(z, y)


@dataclass(frozen=True)
class Loss:
    """``criterion(of(output), target(y))`` is trained on; of one record ``recorded(output, target)`` and the norm of ``trained``."""

    criterion: Callable[..., torch.Tensor]
    recorded: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    trained: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    of: Callable[[torch.Tensor], torch.Tensor] = same
    target: Callable[[torch.Tensor], torch.Tensor] = same


def _weighted(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(z, y, weight=WEIGHTS, label_smoothing=0.1, reduction="sum")


LOSSES = {
    "cross-entropy": Loss(nn.CrossEntropyLoss(), clean, clean),
    "smoothed, class weights": Loss(nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), clean, _weighted),
    "sum": Loss(nn.CrossEntropyLoss(reduction="sum"), clean, clean),
    "one's own, of probabilities": Loss(nll_of_p, clean, clean, of=partial(torch.softmax, dim=1)),
    "one's own, focal": Loss(focal, clean, focal),
    "several labels": Loss(
        nn.BCEWithLogitsLoss(),
        functional.binary_cross_entropy_with_logits,
        functional.binary_cross_entropy_with_logits,
        target=several,
    ),
    "mean squared error": Loss(nn.MSELoss(), functional.mse_loss, functional.mse_loss, target=numbers),
    "one's own, of numbers": Loss(bare_mse, bare_mse, bare_mse, target=numbers),
}

# --- loaders: batches (x, y) or a mapping, and the run that follows them ------------------------------------


class Stream(IterableDataset[Any]):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Any]:
        return iter([{"x": self.x[i], "y": Y[i], "name": f"r{i}"} for i in IDS])


def by_hand(run: RecordedRun, x: torch.Tensor) -> Iterator[Any]:
    for ids in torch.tensor(IDS).split(4):
        run.batch(ids)
        yield x[ids], Y[ids]
    run.end_epoch()


def poisson(run: RecordedRun, x: torch.Tensor) -> Any:
    data = TensorDataset(x[IDS], Y[IDS])
    drawn = torch.Generator().manual_seed(4)
    return run.watch_loader(data_loader.DPDataLoader(data, sample_rate=0.2, generator=drawn), ids=IDS)


LOADERS: dict[str, Callable[[RecordedRun, torch.Tensor], Any]] = {
    "shuffled": lambda run, x: run.watch_loader(
        DataLoader(TensorDataset(x[IDS], Y[IDS]), 4, shuffle=True), ids=IDS
    ),
    "Subset, members as a mask": lambda run, x: run.watch_loader(
        DataLoader(Subset(TensorDataset(x, Y), IDS), 4, shuffle=True)
    ),
    "sampler with replacement": lambda run, x: run.watch_loader(
        DataLoader(TensorDataset(x[IDS], Y[IDS]), 4, sampler=WeightedRandomSampler([1.0] * len(IDS), 12)), ids=IDS
    ),
    "batch sampler": lambda run, x: run.watch_loader(
        DataLoader(TensorDataset(x, Y), batch_sampler=BatchSampler(SubsetRandomSampler(IDS), 4, drop_last=True))
    ),
    "Poisson, empty batches": poisson,
    "stream with keys": lambda run, x: run.watch_loader(DataLoader(Stream(x), 4), key="name"),
    "data sets side by side": lambda run, x: run.watch_loader(
        DataLoader(StackDataset(x=Subset(x, IDS), y=Subset(Y, IDS)), 4, shuffle=True)  # type: ignore[arg-type]
    ),
    "run.batch": by_hand,
}  # fmt: skip

# --- a cell -------------------------------------------------------------------------------------------------


def alone(model: nn.Module, loss: Loss, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient norm of each sample, in a batch of its own: slow, and obvious."""
    losses, norms = np.full(N, np.nan), np.full(N, np.nan)
    for i in IDS:
        output, target = model(x[i : i + 1]), loss.target(Y[i : i + 1])
        losses[i] = loss.recorded(output, target).item()
        grads = torch.autograd.grad(loss.trained(output, target), list(model.parameters()), allow_unused=True)
        norms[i] = torch.stack([grad.norm() for grad in grads if grad is not None]).norm().item()
    return losses, norms


def cell(
    lake: Lake,
    run_name: str,
    model: nn.Module,
    loss: Loss,
    loader: Callable[..., Any],
    x: torch.Tensor,
    *,
    norms: bool,
) -> str | None:
    """Record one epoch, of a model in eval mode that is not changed; why it was refused, or None."""
    samples = {"label": Y, "key": [f"r{i}" for i in range(N)]}
    try:
        with start_run(lake, "e", samples=samples, members=np.isin(np.arange(N), IDS), run=run_name) as run:
            if norms:
                run.watch_model(model)
            criterion = run.watch_criterion(loss.criterion)
            for batch in loader(run, x):
                given, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch[:2]
                if len(y):
                    criterion(loss.of(model(given)), loss.target(y)).backward()
                    model.zero_grad()
    except LosslakeError as error:
        return str(error)
    return None


REASONS = {
    "E": ("EmbeddingBag) has no per-sample gradients", "the loss is right; norms are refused, as an EmbeddingBag has no per-sample gradients: `nn.Embedding` and a sum"),
    "R": ("losses of single samples cannot be had", "a loss of one's own without `reduction`, of what is no class number, is refused: `run.record`"),
}  # fmt: skip


def short(reason: str) -> str:
    (letter,) = [letter for letter, (said, _) in REASONS.items() if said in reason]
    return letter


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """What came of each (model, loss, loader): right, or the letters of what was refused."""
    lake = Lake.open(tmp_path_factory.mktemp("sweep") / "lake", create=True)
    want: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    said: dict[str, str] = {}
    names: dict[tuple[str, str, str], str] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for i, (kind, build) in enumerate(MODELS.values()):
        torch.manual_seed(i)
        model, x = build().eval(), RECORDS[kind]
        for j, loss in enumerate(LOSSES.values()):
            oracle = alone(model, loss, x)
            every = os.environ.get("LOSSLAKE_SWEEP") == "all"
            for k in range(len(LOADERS)) if every else [(i + j) % len(LOADERS)]:
                name = f"{i}-{j}-{k}"
                names[list(MODELS)[i], list(LOSSES)[j], list(LOADERS)[k]] = name
                follow = list(LOADERS.values())[k]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".* were in no batch")
                    warnings.filterwarnings("error", ".*nothing shows")
                    reason = cell(lake, name, model, loss, follow, x, norms=True)
                    said[name] = "" if reason is None else short(reason)
                    if said[name] == "E":
                        reason = cell(lake, name, model, loss, follow, x, norms=False)
                        said[name] += "" if reason is None else short(reason)
                want[name] = oracle
    torch.set_num_threads(threads)
    rows = lake.sql("select run, sample_id, loss[2] as loss, grad_norm[2] as norm from traces")
    seen: dict[str, int] = dict.fromkeys(want, 0)
    for run, sample, loss_found, norm in rows.rows():
        losses, norms = want[run]
        assert loss_found == pytest.approx(losses[sample], rel=1e-3, abs=1e-5), (run, sample)
        if not said[run]:
            assert norm == pytest.approx(norms[sample], rel=2e-3, abs=1e-5), (run, sample)
        seen[run] += 1
    for run, number in seen.items():
        assert (number == 0) == ("R" in said[run]), run
    return {at: said[name] for at, name in names.items()}


def test_each_cell_is_right_or_refused_with_a_reason(table: dict[tuple[str, str, str], str]) -> None:
    found = {}
    for (model, loss, _), letters in table.items():
        assert found.setdefault((model, loss), letters) == letters  # whatever the loader
    head = "| | " + " | ".join(LOSSES) + " |\n|" + " --- |" * (len(LOSSES) + 1) + "\n"
    rows = [
        f"| {model} | " + " | ".join(" ".join(found[model, loss]) or "right" for loss in LOSSES) + " |\n"
        for model in MODELS
    ]
    legend = "\n".join(f"- {letter}: {means}" for letter, (_, means) in REASONS.items())
    text = f"{TABLE}\n{head}{''.join(rows)}\n{legend}\n\nLoaders: {'; '.join(LOADERS)}.\n"
    before, _, written = PAGE.read_text().partition(TABLE)
    if os.environ.get("LOSSLAKE_DOCS") == "update":
        PAGE.write_text(before + text)
        written = text.removeprefix(TABLE)
    assert TABLE + written == text, "docs/any-loop.md is out of date; see this module"
    # Refused is what must be, and no more.
    assert {at for at, letters in found.items() if "R" in letters} == {
        (model, "one's own, of numbers") for model in MODELS
    }
    assert {model for (model, _), letters in found.items() if "E" in letters} == {"EmbeddingBag"}


def test_each_pair_is_tried(table: dict[tuple[str, str, str], str]) -> None:
    for one, other, kinds in ((0, 1, (MODELS, LOSSES)), (0, 2, (MODELS, LOADERS)), (1, 2, (LOSSES, LOADERS))):
        assert len({(at[one], at[other]) for at in table}) == len(kinds[0]) * len(kinds[1])
