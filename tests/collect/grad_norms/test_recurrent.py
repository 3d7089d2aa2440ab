"""Recurrent layers, by their outputs and by their states: each record's norm is what it has in a batch of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from losslake.collect.grad_norms.eval_pass import per_sample_grad_norms
from losslake.collect.grad_norms.recurrent import run_recurrent
from losslake.store.errors import InvalidInput
from torch import nn
from torch.nn import functional

B, T, F, H, C = 6, 5, 4, 3, 2  # H layers and B records are never as many

KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "RNN": (nn.RNN, {}),
    "RNN of relu": (nn.RNN, {"nonlinearity": "relu"}),
    "LSTM, both directions": (nn.LSTM, {"bidirectional": True}),
    "GRU, two layers": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "RNN, three layers, no bias": (nn.RNN, {"num_layers": 3, "bias": False}),
    "LSTM, projected": (nn.LSTM, {"proj_size": 2, "num_layers": 2}),
    "GRU, as many layers as records": (nn.GRU, {"num_layers": B}),
}


class Recurrent(nn.Module):
    def __init__(self, kind: str, how: str) -> None:
        super().__init__()
        make, options = KINDS[kind]
        self.layer, self.how = make(F, H, batch_first=True, **options), how
        width = options.get("proj_size", H)
        self.first = width
        self.directions = 2 if options.get("bidirectional") else 1
        self.out = nn.Linear(width * (1 if how in ("h_n", "both") else self.directions), C)
        if how == "c_n":
            self.out = nn.Linear(H, C)

    def states(self, x: torch.Tensor) -> Any:
        rows = self.layer.num_layers * self.directions
        # Of the records, so that each has its own.
        h = (
            x.mean((1, 2))[None, :, None].expand(rows, len(x), self.first)
            * torch.linspace(0.5, 1, rows)[:, None, None]
        )
        c = x.amax((1, 2))[None, :, None].expand(rows, len(x), H)
        return (h, c) if isinstance(self.layer, nn.LSTM) else h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "h0":
            outputs, state = self.layer(x, self.states(x))
        elif self.how == "h0 by name":
            outputs, state = self.layer(input=x, hx=self.states(x))
        else:
            outputs, state = self.layer(x)
        h = state[0] if isinstance(state, tuple) else state
        if self.how == "h_n":
            found: torch.Tensor = self.out(h[-1])
        elif self.how == "c_n":
            found = self.out(state[1].sum(0))
        elif self.how == "both":
            found = self.out(h.mean(0) + outputs.mean(1)[:, : h.shape[-1]])
        else:
            found = self.out(outputs[:, -1])
        return found


@pytest.mark.parametrize("how", ["outputs", "h_n", "c_n", "both", "h0", "h0 by name"])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_each_record_alone(kind: str, how: str) -> None:
    if how == "c_n" and "LSTM" not in kind:
        pytest.skip("only an LSTM has c_n")
    torch.manual_seed(0)
    model = Recurrent(kind, how).double()
    x, y = torch.randn(B, T, F, dtype=torch.float64), torch.arange(B) % C
    found = per_sample_grad_norms(model, x, y).norms
    for row in range(B):
        loss = functional.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        own = torch.stack([grad.norm() for grad in grads if grad is not None]).norm()
        assert found[row].item() == pytest.approx(own.item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_written_out_it_is_what_torch_computes(kind: str) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind, "h0").double()
    x = torch.randn(1, T, F, dtype=torch.float64)
    for states in (None, model.states(x)):
        outputs, state = model.layer(x, states)
        want = [outputs, *(state if isinstance(state, tuple) else (state,))]
        for mine, its in zip(run_recurrent(model.layer, {}, x, states), want, strict=True):
            assert torch.allclose(mine, its, atol=1e-12)


def test_what_cannot_be_told_apart_is_refused() -> None:
    x, y = torch.randn(B, T, F), torch.arange(B) % C

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = nn.GRU(F, H, batch_first=True), nn.Linear(H, C)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), T), batch_first=True)
            out: torch.Tensor = self.out(self.layer(packed)[1][-1])
            return out

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = nn.GRU(F, H, 2, dropout=0.5, batch_first=True), nn.Linear(H, C)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(self.layer(x)[0][:, -1])
            return out

    with pytest.raises(InvalidInput, match="its input is packed"):
        per_sample_grad_norms(Packed(), x, y)
    with pytest.raises(InvalidInput, match="dropout between its layers"):
        per_sample_grad_norms(Dropping(), x, y)
    assert per_sample_grad_norms(Dropping().eval(), x, y).norms.shape == (B,)
