"""Per-sample gradients of the scales and shifts of normalisation layers: sums of G x^ and of G over a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .use import Dense, Use, parts, wide

_Statistics = tuple[torch.Tensor, torch.Tensor]
"""Mean and 1 / standard deviation of each sample's groups of channels, both (B, groups)."""


def layer_norm(module: nn.LayerNorm, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """nn.LayerNorm: input and output's gradient (B, ..., *normalized_shape)."""
    shape = tuple(module.normalized_shape)
    return _of_last(shape, grad, x, lambda wide_x: functional.layer_norm(wide_x, shape, eps=module.eps))


def rms_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """nn.RMSNorm: as `layer_norm`, a scale alone. Its default eps is that of the input's own type."""
    shape = tuple(module.normalized_shape)
    eps = module.eps
    if eps is None and x is not None:
        eps = torch.finfo(x.dtype).eps
    return _of_last(shape, grad, x, lambda wide_x: functional.rms_norm(wide_x, shape, eps=eps))


def group_norm(
    module: nn.GroupNorm, kept: tuple[torch.Tensor, _Statistics | None] | None, grad: torch.Tensor
) -> dict[str, Use]:
    """nn.GroupNorm: what `with_statistics` kept and the output's gradient (B, C, ...)."""
    if kept is None:
        return _of_channels(grad, None, None)
    x, statistics = kept
    return _of_channels(grad, x, statistics or _by_group(x, module.num_groups, module.eps))


def with_statistics(x: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, _Statistics | None]:
    """The input of nn.GroupNorm, and the statistics that autograd has saved of it; None where it has not, or only packed.

    To unpack what saved_tensors_hooks or a checkpoint have packed may take as much work as to find them again. Torch 2.6 does
    not say what is packed; there they are found again.
    """
    node = output.grad_fn
    found = []
    for name in ("result1", "result2"):
        packed = getattr(node, f"_raw_saved_{name}", None)
        if packed is None or getattr(packed, "unpack_hook", packed) is not None:
            return x, None
        saved = getattr(node, f"_saved_{name}")
        if saved.dtype not in (torch.float32, torch.float64):
            return x, None
        found.append(saved.detach())
    return x, (found[0], found[1])


def instance_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """nn.InstanceNorm1d, 2d, 3d: input and output's gradient (B, C, ...)."""
    if module.training or not module.track_running_stats:
        statistics = None if x is None else _by_group(x, module.num_features, module.eps)
        return _of_channels(grad, x, statistics)
    return batch_norm(module, x, grad)


def batch_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """Batch norms in eval mode, where running statistics make samples independent: input (B, C, ...)."""
    mean, scale = wide(module.running_mean), (wide(module.running_var) + module.eps).rsqrt()
    return _of_channels(grad, x, (mean.expand(len(grad), -1), scale.expand(len(grad), -1)))


def _of_channels(
    grad: torch.Tensor, x: torch.Tensor | None, statistics: _Statistics | None
) -> dict[str, Use]:
    g = wide(grad)
    if x is None or statistics is None:
        return {"bias": Dense(g.flatten(2).sum(2) if g.ndim > 2 else g)}
    mean, scale = statistics
    pieces = [
        _scale_and_shift(g[rows], wide(x[rows]), mean[rows], scale[rows])
        for rows in parts(len(g), g[:1].numel(), g.device)
    ]
    scales, shifts = (torch.cat(each) for each in zip(*pieces, strict=True))
    return {"weight": Dense(scales), "bias": Dense(shifts)}


def _scale_and_shift(
    g: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of g x^ and of g over the positions of each sample and channel (b, C)."""
    rows, channels = g.shape[:2]
    # PyTorch sums over the samples, but not over channels: so all channels of all samples are given as those of one
    # sample. Not asked for the input's gradient, it reads x and g once and writes next to nothing.
    _, scales, shifts = torch.ops.aten.native_group_norm_backward(
        g.reshape(1, rows * channels, -1),
        x.reshape(1, rows * channels, -1),
        mean.reshape(1, -1),
        scale.reshape(1, -1),
        g.new_ones(rows * channels),  # the layer's own weight does not matter here; torch 2.6 wants one
        1,
        rows * channels,
        g[:1, :1].numel(),
        mean.numel(),
        [False, True, True],
    )
    return scales.view(rows, channels), shifts.view(rows, channels)


def _by_group(x: torch.Tensor, groups: int, eps: float) -> _Statistics:
    """Found again: PyTorch writes the normalised input too, so some samples at a time."""
    channels, pixels = x.shape[1], x[:1, :1].numel()
    pieces = [
        torch.native_group_norm(wide(some).contiguous(), None, None, len(some), channels, pixels, groups, eps)
        for some in (x[rows] for rows in parts(len(x), channels * pixels, x.device, read=channels * pixels))
    ]
    return torch.cat([mean for _, mean, _ in pieces]), torch.cat([scale for _, _, scale in pieces])


def _of_last(
    shape: tuple[int, ...], grad: torch.Tensor, x: torch.Tensor | None, normalised: Any
) -> dict[str, Use]:
    def summed(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(len(values), -1, *shape).sum(1)

    g = wide(grad)
    uses: dict[str, Use] = {"bias": Dense(summed(g))}
    if x is not None:
        uses["weight"] = Dense(summed(g * normalised(wide(x))))
    return uses
