"""What the named models are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Channels that share one mean and variance in a GroupNorm; a fixed width keeps narrow stages from
# becoming instance norm, which a fixed number of groups would make of them.
_CHANNELS_PER_GROUP = 8


class Classifier(nn.Module):
    """A trunk that maps records to features, and a linear head on them."""

    def __init__(self, trunk: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """The head's input: (B, D)."""
        out: Tensor = self.trunk(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, classes)."""
        out: Tensor = self.head(self.features(x))
        return out


class GlobalMean(nn.Module):
    """(B, C, H, W) to (B, C). Unlike adaptive pooling it has a deterministic backward pass on every device."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class GlobalMax(nn.Module):
    """(B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


def norm_layer(norm: str, channels: int) -> nn.Module:
    """The layer that `norm` ("batch", "group" or "none") names, for `channels` channels."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = channels // _CHANNELS_PER_GROUP if channels % _CHANNELS_PER_GROUP == 0 else 1
        return nn.GroupNorm(groups, channels)
    return nn.Identity()


def conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the picture's size, or divides it by `stride`."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def conv_norm_relu(inputs: int, outputs: int, norm: str, *, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution, its norm and a ReLU. The bias is left out where the norm would cancel it."""
    layers: list[nn.Module] = [conv3(inputs, outputs, stride=stride, bias=norm == "none")]
    if norm != "none":
        layers.append(norm_layer(norm, outputs))
    return [*layers, nn.ReLU()]


def dropout_layer(dropout: float) -> list[nn.Module]:
    """A dropout layer, or nothing."""
    return [nn.Dropout(dropout)] if dropout > 0 else []


def flat_width(trunk: nn.Module, input_shape: tuple[int, ...]) -> int:
    """How many features `trunk` makes of one record, found by running it once on zeros."""
    trunk.eval()  # so that BatchNorm's running statistics stay as they are
    with torch.no_grad():
        width = trunk(torch.zeros(1, *input_shape)).flatten(1).shape[1]
    trunk.train()
    return int(width)


def he_init(model: nn.Module) -> nn.Module:
    """Draw every convolution's weights from N(0, 2 / fan_out) (He et al. 2015), which deep trunks need."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
