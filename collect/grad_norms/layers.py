"""The layers of a model whose gradients are looked at, and the rule for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...store.errors import InvalidOption
from .any_layer import own_parameters
from .conv import convolution
from .embedding import embedding
from .linear import is_transposed_linear, linear, transposed_linear
from .normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
    with_statistics,
)
from .use import Use

Rule = Callable[[Any, Any, torch.Tensor], dict[str, Use]]
"""rule(module, its input or None, its output's gradient): the uses of its parameters; None: those that need no input.

Where a `Keep` stands for the kind of layer, what that returned takes the place of the input.
"""

Keep = Callable[[torch.Tensor, torch.Tensor], Any]
"""keep(input, output): what the forward pass already found that the rule needs, the input with it."""

_RULES: tuple[tuple[type[nn.Module], Rule], ...] = (
    (nn.Linear, linear),
    (nn.Conv1d, convolution),
    (nn.Conv2d, convolution),
    (nn.Conv3d, convolution),
    (nn.Embedding, embedding),
    (nn.LayerNorm, layer_norm),
    (nn.RMSNorm, rms_norm),
    (nn.GroupNorm, group_norm),
    (nn.modules.instancenorm._InstanceNorm, instance_norm),
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer with parameters of its own, or one that must not mix samples.

    parameters  by their names within the layer
    rule        None: the layer is run again sample by sample
    keep        None: the rule needs the input alone
    mixing      whether it mixes the samples of a batch in train mode
    """

    name: str
    module: nn.Module
    parameters: dict[str, nn.Parameter]
    rule: Rule | None
    keep: Keep | None
    mixing: bool

    def __str__(self) -> str:
        return f"layer {self.name or '(the model itself)'} ({type(self.module).__name__})"


def watched_layers(model: nn.Module) -> list[Layer]:
    """All layers of a model that have parameters of their own, and all batch norms.

    Raises InvalidOption, naming the layer and what to do, for a trainable one that can have no per-sample gradient and
    for a batch norm in train mode.
    """
    layers: list[Layer] = []
    within_attention: set[int] = set()
    for name, module in model.named_modules():
        if id(module) in within_attention:
            continue
        if isinstance(module, nn.MultiheadAttention):
            within_attention |= {id(part) for part in module.modules()}
        if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            continue  # whoever holds it uses them
        parameters = own_parameters(module)
        mixing = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if not parameters and not mixing:
            continue
        rule = _rule_for(module)
        keep = with_statistics if rule is group_norm else None
        layer = Layer(name, module, parameters, rule, keep, mixing)
        check_layer(layer)
        layers.append(layer)
    if not any(value.requires_grad for value in model.parameters()):
        raise InvalidOption(
            "the model has no trainable parameter, so there are no gradients to take norms of"
        )
    return layers


def check_layer(layer: Layer) -> None:
    """Raises InvalidOption where the layer, as it stands now, has no per-sample gradients."""
    if layer.mixing and (layer.module.training or layer.module.running_mean is None):
        raise InvalidOption(
            f"{layer} in train mode mixes the samples of a batch, so no sample has a gradient of its own; "
            'take norms in eval mode (mode="eval", or --grad-norms eval), or use GroupNorm'
        )
    if any(value.requires_grad for value in layer.parameters.values()):
        why = _refusal(layer.module)
        if why is not None:
            raise InvalidOption(f"{layer} has no per-sample gradients: {why}")


def _rule_for(module: nn.Module) -> Rule | None:
    # A subclass with a forward of its own computes something else, and so does one with other parameters,
    # as weight norm makes them.
    if not set(own_parameters(module)) <= {"weight", "bias"} or "forward" in vars(module):
        return None
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return batch_norm
    if is_transposed_linear(module):
        return transposed_linear
    for kind, rule in _RULES:
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return rule
    return None


def _refusal(module: nn.Module) -> str | None:
    """Why no layer of this kind can have per-sample gradients and what to do, or None."""
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        return "its weights are computed from others by a parametrization; remove it or freeze them"
    if getattr(module, "batch_first", None) is False:
        return "it takes the batch as the second dimension; build it with batch_first=True, or freeze it"
    if isinstance(module, nn.EmbeddingBag):
        return "its samples have different lengths in one tensor; use nn.Embedding and a sum, or freeze it"
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return "scale_grad_by_freq makes a sample's gradient depend on the others; build it without, or freeze it"
    if any(isinstance(value, nn.UninitializedParameter) for value in module._parameters.values()):
        return "its weights are not made yet; run one batch through the model first"
    return None
