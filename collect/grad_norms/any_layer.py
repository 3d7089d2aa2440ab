"""Per-sample gradients of layers that have no formula here: the layer run again, sample by sample, under vmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .recurrent import is_recurrent, run_recurrent
from .use import Dense, Use, parts, wide


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that this layer itself uses, by their names in it.

    They are its own, those in its lists of parameters, and all within attention, which never calls its parts.
    """
    if isinstance(module, nn.MultiheadAttention):
        return dict(module.named_parameters())
    found = {name: value for name, value in module._parameters.items() if value is not None}
    for name, child in module.named_children():
        if isinstance(child, (nn.ParameterList, nn.ParameterDict)):
            found |= {f"{name}.{inner}": value for inner, value in child.named_parameters()}
    return found


def any_layer(
    module: nn.Module,
    names: Sequence[str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    grads: Sequence[torch.Tensor | None],
    rows: int,
) -> dict[str, Use]:
    """Uses of the parameters ``names`` of any layer that treats samples independently.

    ``args`` and ``kwargs`` are what it was called with: tensors of ``rows`` rows hold one a sample, all else
    is the same for all; the states of recurrent layers have the batch second. ``grads`` are the gradients of the tensors in its output,
    in order, the batch first, see `batch_first`; None for one that the loss does not depend on. Raises what PyTorch raises where the layer cannot be run so:
    random numbers, conditions on values, operations without a batched version.
    """
    recurrent = is_recurrent(module)
    if recurrent:
        args, kwargs = _of_recurrent(args, kwargs)
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    # The input and then the states, where they are given.
    second = [recurrent and at > 0 for at in range(len(leaves))]
    own = own_parameters(module)
    values = {name: wide(own[name]) for name in names}
    # What the layer changes in its buffers when it is run again must not last.
    kept = {name: _wide_like(value) for name, value in module.named_buffers()}
    shared = _causal_mask(module, args, kwargs)
    batched = [
        isinstance(leaf, torch.Tensor)
        and leaf.ndim > states
        and leaf.shape[int(states)] == rows
        and leaf is not shared
        for leaf, states in zip(leaves, second, strict=True)
    ]
    used = [at for at, grad in enumerate(grads) if grad is not None]

    def weighted(
        parameters: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        rows_of: list[torch.Tensor],
        grads_of: list[torch.Tensor],
    ) -> torch.Tensor:
        """The outputs of one sample times their gradients: its gradient is the sample's."""
        mine = iter(rows_of)
        again: dict[int, torch.Tensor] = {}
        made = []
        for leaf, varies, states in zip(leaves, batched, second, strict=True):
            if not varies:
                made.append(_wide_like(leaf) if isinstance(leaf, torch.Tensor) else leaf)
                continue
            row = next(mine).unsqueeze(int(states))
            # Attention tells self-attention by its inputs being one object.
            made.append(again.setdefault(id(leaf), row))
        inner_args, inner_kwargs = pytree.tree_unflatten(made, spec)
        if recurrent:
            output: Any = run_recurrent(module, parameters, *inner_args)  # type: ignore[arg-type]
        else:
            output = torch.func.functional_call(module, {**buffers, **parameters}, inner_args, inner_kwargs)
        tensors = batch_first(module, output_tensors(output))
        return torch.stack(
            [(tensors[at][0] * grad).sum() for at, grad in zip(used, grads_of, strict=True)]
        ).sum()

    inputs = [
        _wide_like(leaf).movedim(int(states), 0)
        for leaf, varies, states in zip(leaves, batched, second, strict=True)
        if varies
    ]
    wanted = [wide(grad) for at in used if (grad := grads[at]) is not None]
    numbers = sum(value.numel() for value in values.values()) + sum(
        tensor[:1].numel() for tensor in (*inputs, *wanted)
    )
    each = torch.func.vmap(torch.func.grad(weighted), in_dims=(None, None, 0, 0))
    gathered: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for at in parts(rows, numbers, wanted[0].device):
        copies = {name: value.clone() for name, value in kept.items()}
        gradients = each(values, copies, [tensor[at] for tensor in inputs], [tensor[at] for tensor in wanted])
        for name in names:
            gathered[name].append(gradients[name])
    return {name: Dense(wide(torch.cat(pieces))) for name, pieces in gathered.items()}


def _causal_mask(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The mask (positions, positions) of attention, the same for all samples, however many positions there are."""
    if not isinstance(module, nn.MultiheadAttention):
        return None
    mask = args[5] if len(args) > 5 else kwargs.get("attn_mask")
    return mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


def _of_recurrent(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(input, states or None) of a recurrent layer's call. Raises ValueError for a packed sequence and for a single record."""
    x = args[0] if args else kwargs["input"]
    if not isinstance(x, torch.Tensor) or x.ndim != 3:
        raise ValueError(
            f"its input is {tuple(x.shape) if isinstance(x, torch.Tensor) else 'packed'}, not padded (batch, steps, features)"
        )
    return (x, args[1] if len(args) > 1 else kwargs.get("hx")), {}


def batch_first(module: nn.Module, tensors: Sequence[Any]) -> list[Any]:
    """The tensors of a layer's output, or their gradients, with the batch as the first dimension: the states of recurrent layers, which
    come after the output, have it second."""
    if not is_recurrent(module):
        return list(tensors)
    return [value if at == 0 or value is None else value.movedim(1, 0) for at, value in enumerate(tensors)]


def output_tensors(output: Any) -> list[torch.Tensor]:
    """The floating-point tensors in what a layer returned, in order."""
    return [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]


def _wide_like(values: torch.Tensor) -> torch.Tensor:
    """Floats in float32 at least, since the layer is run again outside autocast; others as they are."""
    return wide(values) if values.is_floating_point() else values.detach()
