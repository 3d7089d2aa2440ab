"""Per-sample gradients of the scales and shifts of normalisation layers: sums of G x^ and of G over a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .grad_norm_use import Dense, Use, wide


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
    return _of_channels(
        grad, x, lambda wide_x: functional.group_norm(wide_x, module.num_groups, eps=module.eps)
    )


def instance_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """nn.InstanceNorm1d, 2d, 3d: input and output's gradient (B, C, ...)."""
    if module.training or not module.track_running_stats:
        return _of_channels(grad, x, lambda wide_x: functional.instance_norm(wide_x, eps=module.eps))
    return batch_norm(module, x, grad)


def batch_norm(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """Batch norms in eval mode, where running statistics make samples independent: input (B, C, ...)."""

    def normalised(wide_x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *[1] * (wide_x.ndim - 2))
        scale = (wide(module.running_var) + module.eps).rsqrt()
        return (wide_x - wide(module.running_mean).view(shape)) * scale.view(shape)

    return _of_channels(grad, x, normalised)


def mixes_samples(module: nn.Module) -> bool:
    """Whether this is a batch norm that takes its statistics from the batch, so that no sample has a gradient."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (
        module.training or module.running_mean is None
    )


def _of_channels(grad: torch.Tensor, x: torch.Tensor | None, normalised: Any) -> dict[str, Use]:
    g = wide(grad)
    uses: dict[str, Use] = {"bias": Dense(g.flatten(2).sum(2) if g.ndim > 2 else g)}
    if x is not None:
        y = normalised(wide(x))
        uses["weight"] = Dense(torch.linalg.vecdot(g.flatten(2), y.flatten(2)) if g.ndim > 2 else g * y)
    return uses


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
