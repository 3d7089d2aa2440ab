"""What the named models are made of."""

from __future__ import annotations

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
