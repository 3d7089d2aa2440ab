"""Recurrent layers written out step by step, so that they can be run again sample by sample: torch's own cannot, but for LSTM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def is_recurrent(module: nn.Module) -> bool:
    """Whether it is an RNN, LSTM or GRU of torch, whose states (layers, batch, features) have the batch second."""
    return isinstance(module, nn.RNNBase) and type(module).forward in (
        nn.RNN.forward,
        nn.LSTM.forward,
        nn.GRU.forward,
    )


def run_recurrent(
    module: nn.RNNBase, values: Mapping[str, torch.Tensor], x: torch.Tensor, hx: Any = None
) -> tuple[torch.Tensor, ...]:
    """What the layer gives of x (1, T, F) and its first states: the output (1, T, D * H), h_n and of an LSTM c_n (L * D, 1, H).

    ``values`` are parameters by name; those that are not among them are the module's own. Raises ValueError for dropout between layers, whose
    draws are not known.
    """
    if module.dropout and module.training and module.num_layers > 1:
        raise ValueError("dropout between its layers draws at random")
    own = {name: values.get(name, value.detach()) for name, value in module.named_parameters()}
    lstm, directions = module.mode == "LSTM", 2 if module.bidirectional else 1
    rows = module.num_layers * directions
    if hx is None:
        h0 = x.new_zeros(rows, module.proj_size or module.hidden_size)
        c0 = x.new_zeros(rows, module.hidden_size)
    else:
        h0, c0 = (hx[0][:, 0], hx[1][:, 0]) if lstm else (hx[:, 0], hx[:, 0])
    steps, lasts_h, lasts_c = x[0], [], []
    for layer in range(module.num_layers):
        found = []
        for direction in range(directions):
            at, tail = layer * directions + direction, f"_l{layer}" + ("_reverse" if direction else "")
            inputs = steps @ own[f"weight_ih{tail}"].T
            if module.bias:
                inputs = inputs + own[f"bias_ih{tail}"]
            h, c, outputs = h0[at], c0[at], []
            for step in range(len(inputs)) if not direction else reversed(range(len(inputs))):
                states = h @ own[f"weight_hh{tail}"].T
                if module.bias:
                    states = states + own[f"bias_hh{tail}"]
                h, c = _cell(module.mode, inputs[step], states, h, c)
                if module.proj_size:
                    h = h @ own[f"weight_hr{tail}"].T
                outputs.append(h)
            found.append(torch.stack(outputs[::-1] if direction else outputs))
            lasts_h.append(h)
            lasts_c.append(c)
        steps = torch.cat(found, dim=-1)
    states_n = (torch.stack(lasts_h)[:, None], torch.stack(lasts_c)[:, None])
    return (steps[None], *(states_n if lstm else states_n[:1]))


def _cell(
    mode: str, inputs: torch.Tensor, states: torch.Tensor, h: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of one layer: h and c, from what the weights make of the input and of h, as torch's documentation has it."""
    if mode == "LSTM":
        i, f, g, o = (inputs + states).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if mode == "GRU":
        (ir, iz, new), (hr, hz, hn) = inputs.chunk(3), states.chunk(3)
        z = torch.sigmoid(iz + hz)
        return (1 - z) * torch.tanh(new + torch.sigmoid(ir + hr) * hn) + z * h, c
    act = torch.relu if mode == "RNN_RELU" else torch.tanh
    return act(inputs + states), c
