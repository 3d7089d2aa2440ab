"""`forward=`: records of any kind in a loop of one's own; what is recorded is what each record has by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

N, F, C, V = 20, 4, 3, 9


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    torch.manual_seed(0)
    return Lake.open(tmp_path / "lake", create=True)


class Both(nn.Module):
    """Two inputs to logits (B, C), or to numbers (B, 1)."""

    def __init__(self, outputs: int = C) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(F, outputs), nn.Linear(F, outputs)

    def forward(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.one(one) + self.two(two).tanh()
        return out


class Texts(nn.Module):
    """Token numbers (B, T) and their mask to logits (B, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(V, F), nn.Linear(F, C)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        held = attention_mask.unsqueeze(2).float()
        out: torch.Tensor = self.out((self.table(input_ids) * held).sum(1) / held.sum(1))
        return out


class Graph(NamedTuple):
    nodes: torch.Tensor
    y: torch.Tensor


class Graphs:
    """As torch-geometric has it: all nodes of a batch below one another, and which graph each belongs to."""

    def __init__(self, graphs: list[Graph]) -> None:
        self.x = torch.cat([graph.nodes for graph in graphs])
        self.batch = torch.repeat_interleave(torch.tensor([len(graph.nodes) for graph in graphs]))
        self.y = torch.stack([graph.y for graph in graphs])

    def to(self, device: torch.device) -> Graphs:
        self.x, self.batch, self.y = (each.to(device) for each in (self.x, self.batch, self.y))
        return self


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.out = nn.Linear(F, F), nn.Linear(F, C)

    def forward(self, x: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        pooled = torch.zeros(int(batch.max()) + 1, F).index_add(0, batch, self.each(x).relu())
        out: torch.Tensor = self.out(pooled)
        return out


def padded(records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = nn.utils.rnn.pad_sequence([torch.tensor(each["input_ids"]) for each in records], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(each["input_ids"])) for each in records], True)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.tensor([each["labels"] for each in records]),
    }


def case(kind: str) -> tuple[nn.Module, list[Any], Any, Any, nn.Module]:
    """Model, records, forward, collate, criterion."""
    x, z, y = torch.randn(N, F), torch.randn(N, F), torch.arange(N) % C
    if kind == "dict":
        data: list[Any] = [{"a": x[i], "b": z[i], "y": y[i]} for i in range(N)]
        return Both(), data, lambda m, b: (m(b["a"], b["b"]), b["y"]), None, nn.CrossEntropyLoss()
    if kind == "nested":
        data = [((x[i], z[i]), y[i]) for i in range(N)]
        return Both(), data, lambda m, b: (m(*b[0]), b[1]), None, nn.CrossEntropyLoss()
    if kind == "three":
        data = [(x[i], z[i], y[i]) for i in range(N)]
        return Both(), data, lambda m, b: (m(*b[:2]), b[2]), None, nn.CrossEntropyLoss()
    if kind == "regression":
        data = [{"a": x[i], "b": z[i], "y": x[i].sum()} for i in range(N)]
        return Both(1), data, lambda m, b: (m(b["a"], b["b"]).squeeze(1), b["y"]), None, nn.MSELoss()
    if kind == "tokens":
        data = [{"input_ids": list(range(1, 2 + i % 7)), "labels": int(y[i])} for i in range(N)]

        def ask(m: nn.Module, b: Any) -> Any:
            return m(b["input_ids"], b["attention_mask"]), b["labels"]

        return Texts(), data, ask, padded, nn.CrossEntropyLoss()
    data = [Graph(torch.randn(1 + i % 4, F), y[i]) for i in range(N)]
    return GraphNet(), data, lambda m, b: (m(b.x, b.batch), b.y), Graphs, nn.CrossEntropyLoss()


@pytest.mark.parametrize("kind", ["dict", "nested", "three", "regression", "tokens", "graphs"])
def test_each_record_has_what_it_has_alone(lake: Lake, kind: str) -> None:
    model, data, forward, collate, criterion = case(kind)
    samples = {"key": [str(i) for i in range(N)]} if kind == "regression" else np.arange(N) % C
    loader: Any = DataLoader(data, 6, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with start_run(lake, "e", samples=samples, members=np.arange(N), forward=forward) as run:
        batches, watched = run.watch_loader(loader), run.watch_criterion(criterion)
        run.trace_eval(model, data)
        for batch in batches:
            optimizer.zero_grad()
            watched(*forward(model, batch)).backward()
            optimizer.step()
        run.trace_eval(model, data)
        run.evaluate(model, data)
    with torch.no_grad():
        # The oracle: a batch of each record by itself.
        alone = [float(criterion(*forward(model, loader.collate_fn([record])))) for record in data]
    signals = lake.sql("select sample_id, loss from signals order by sample_id")
    np.testing.assert_allclose(signals["loss"].to_numpy(), alone, rtol=1e-4, atol=1e-6)
    points = lake.sql("select loss[2] as loss from traces where source = 'eval' order by sample_id")
    np.testing.assert_allclose(points["loss"].to_numpy(), alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["dict", "nested", "three", "tokens", "graphs"])
def test_without_forward_it_is_said_what_to_give(lake: Lake, kind: str) -> None:
    model, data, _, _, _ = case(kind)
    run = start_run(lake, "e", samples=np.arange(N) % C, members=np.arange(N))
    with pytest.raises(InvalidInput, match="forward="):
        run.evaluate(model, data)
    run.discard()


def test_what_draws_at_random_is_refused(lake: Lake) -> None:
    model, data, forward, _, _ = case("dict")

    def mixed(records: list[Any]) -> Any:
        batch = torch.utils.data.default_collate(records)
        order = torch.randperm(len(records))
        return {**batch, "a": 0.5 * batch["a"] + 0.5 * batch["a"][order]}

    run = start_run(lake, "e", samples=np.arange(N) % C, members=np.arange(N), forward=forward, collate=mixed)
    with pytest.raises(InvalidInput, match="asked twice"):
        run.evaluate(model, data)
    run.discard()


def test_records_in_another_order_and_other_rows_are_refused(lake: Lake) -> None:
    model, data, forward, _, _ = case("dict")
    labels = np.arange(N) % C
    for name, wrong, reason, given in (
        ("order", forward, "order of sample ids", data[::-1]),
        ("rows", lambda m, b: (m(b["a"], b["b"])[1:], b["y"][1:]), "a row a record", data),
        ("what", lambda m, b: functional.relu(m(b["a"], b["b"])), "must return", data),
    ):
        run = start_run(lake, name, samples=labels, members=np.arange(N), forward=wrong)
        with pytest.raises(InvalidInput, match=reason):
            run.evaluate(model, given)
        run.discard()
    with pytest.raises(InvalidOption, match="queries"):
        start_run(lake, "q", samples=labels, members=np.arange(N), forward=forward, queries="original,flip")


def test_a_training_is_not_lost_to_an_evaluation(lake: Lake) -> None:
    """What `evaluate` raises leaves the traces; called again it replaces what it recorded before."""
    x, y = torch.randn(N, F), torch.arange(N) % C
    model = nn.Linear(F, C)
    with (  # noqa: PT012
        pytest.raises(InvalidInput, match="data holds") as raised,
        start_run(lake, "e", samples=y, members=np.arange(N)) as run,
    ):
        run.watch_criterion(nn.CrossEntropyLoss())
        run.trace_eval(model, (x, y))
        run.evaluate(model, (x[:5], y[:5]))
    assert "are in the lake" in raised.value.__notes__[0]
    assert len(lake.sql("select * from traces")) == N
    assert not lake.sql("select * from signals where run = 'target'").height

    with start_run(lake, "e", members=np.arange(N), run="again") as run:
        run.evaluate(nn.Linear(F, C), (x, y))
        with pytest.raises(InvalidInput):
            run.evaluate(model, (x, y.flip(0)))
        run.evaluate(nn.Linear(F, C), (x, y))
        run.evaluate(model, (x, y))
    found = lake.sql("select loss from signals where run = 'again' order by sample_id")
    wanted = functional.cross_entropy(model(x), y, reduction="none").detach()
    np.testing.assert_allclose(found["loss"].to_numpy(), wanted, rtol=1e-5)

    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="in training"),
        start_run(lake, "e", members=np.arange(N), run="other") as run,
    ):
        run.trace_eval(model, (x, y))
        raise RuntimeError("in training")
    assert not lake.has_run("e", "other"), "a training that failed leaves nothing"
