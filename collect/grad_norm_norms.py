"""Per-sample gradients of the scales and shifts of normalisation layers: sums of G x^ and of G over a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .grad_norm_route import parts
from .grad_norm_use import Dense, Use, wide

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


def group_norm(module: nn.GroupNorm, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """nn.GroupNorm: input and output's gradient (B, C, ...)."""
    return _of_channels(grad, x, _by_group(module.num_groups, module.eps))


def instance_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """nn.InstanceNorm1d, 2d, 3d: input and output's gradient (B, C, ...)."""
    if module.training or not module.track_running_stats:
        return _of_channels(grad, x, _by_group(module.num_features, module.eps))
    return batch_norm(module, x, grad)


def batch_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """Batch norms in eval mode, where running statistics make samples independent: input (B, C, ...)."""

    def running(some: torch.Tensor) -> _Statistics:
        mean, scale = wide(module.running_mean), (wide(module.running_var) + module.eps).rsqrt()
        return mean.expand(len(some), -1), scale.expand(len(some), -1)

    return _of_channels(grad, x, running)


def mixes_samples(module: nn.Module) -> bool:
    """Whether this is a batch norm that takes its statistics from the batch, so that no sample has a gradient."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (
        module.training or module.running_mean is None
    )


def _of_channels(
    grad: torch.Tensor, x: torch.Tensor | None, statistics: Callable[[torch.Tensor], _Statistics]
) -> dict[str, Use]:
    g = wide(grad)
    if x is None:
        return {"bias": Dense(g.flatten(2).sum(2) if g.ndim > 2 else g)}
    pieces = [
        _scale_and_shift(g[rows], wide(x[rows]), statistics)
        for rows in parts(len(g), g[:1].numel(), g.device, read=g[:1].numel())
    ]
    scales, shifts = (torch.cat(each) for each in zip(*pieces, strict=True))
    return {"weight": Dense(scales), "bias": Dense(shifts)}


def _scale_and_shift(
    g: torch.Tensor, x: torch.Tensor, statistics: Callable[[torch.Tensor], _Statistics]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of g x^ and of g over the positions of each sample and channel (b, C)."""
    mean, scale = statistics(x)
    rows, channels = g.shape[:2]
    # PyTorch sums over the samples, but not over channels: so all channels of all samples are given as those of one
    # sample. Not asked for the input's gradient, it reads x and g once and writes next to nothing.
    _, scales, shifts = torch.ops.aten.native_group_norm_backward(
        g.reshape(1, rows * channels, -1),
        x.reshape(1, rows * channels, -1),
        mean.reshape(1, -1),
        scale.reshape(1, -1),
        None,
        1,
        rows * channels,
        g[:1, :1].numel(),
        mean.numel(),
        [False, True, True],
    )
    return scales.view(rows, channels), shifts.view(rows, channels)


def _by_group(groups: int, eps: float) -> Callable[[torch.Tensor], _Statistics]:
    def found(x: torch.Tensor) -> _Statistics:
        rows, channels = x.shape[:2]
        made = torch.native_group_norm(
            x.contiguous(), None, None, rows, channels, x[:1, :1].numel(), groups, eps
        )
        return made[1], made[2]

    return found


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
