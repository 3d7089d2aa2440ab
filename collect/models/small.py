"""Models without shortcuts: MLP, LeNet-5, a two-layer CNN, AlexNet and VGG for small pictures."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Classifier, conv_norm_relu, dropout_layer, flat_width


class PadTo(nn.Module):
    """Zeros around a picture until both sides are at least `side`."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        height, width = max(self.side - x.shape[2], 0), max(self.side - x.shape[3], 0)
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def mlp(shape: tuple[int, ...], classes: int, *, widths: tuple[int, ...], dropout: float) -> Classifier:
    """Hidden layers of `widths` with ReLU, on the flattened record. No widths: a linear model."""
    width = math.prod(shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for hidden in widths:
        layers += [nn.Linear(width, hidden), nn.ReLU(), *dropout_layer(dropout)]
        width = hidden
    return Classifier(nn.Sequential(*layers), width, classes)


def lenet5(shape: tuple[int, ...], classes: int, *, dropout: float) -> Classifier:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling; pictures under 32 x 32 are padded as there."""
    trunk: list[nn.Module] = [PadTo(32), nn.Conv2d(shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2)]
    trunk += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return _with_dense(trunk, shape, classes, widths=(120, 84), dropout=dropout)


def cnn(shape: tuple[int, ...], classes: int, *, dropout: float, norm: str) -> Classifier:
    """Two 3x3 convolutions of 32 and 64 filters, each max-pooled, and a hidden layer of 128."""
    trunk: list[nn.Module] = []
    channels = shape[0]
    for filters in (32, 64):
        trunk += [*conv_norm_relu(channels, filters, norm), nn.MaxPool2d(2)]
        channels = filters
    return _with_dense([*trunk, nn.Flatten()], shape, classes, widths=(128,), dropout=dropout)


def alexnet(shape: tuple[int, ...], classes: int, *, dropout: float, norm: str) -> Classifier:
    """AlexNet's five convolutions (Krizhevsky et al. 2012) with 3x3 filters for small pictures, dense layers of 1024."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(2, ceil_mode=True)  # a side of 1 stays 1

    trunk = [*conv_norm_relu(shape[0], 64, norm, stride=2), pool(), *conv_norm_relu(64, 192, norm), pool()]
    trunk += [
        *conv_norm_relu(192, 384, norm),
        *conv_norm_relu(384, 256, norm),
        *conv_norm_relu(256, 256, norm),
    ]
    return _with_dense([*trunk, pool(), nn.Flatten()], shape, classes, widths=(1024, 1024), dropout=dropout)


def vgg(shape: tuple[int, ...], classes: int, *, dropout: float, norm: str) -> Classifier:
    """Three blocks of two 3x3 convolutions (64, 128, 256 filters), each max-pooled, and a hidden layer of 512."""
    trunk: list[nn.Module] = []
    channels = shape[0]
    for filters in (64, 128, 256):
        trunk += [
            *conv_norm_relu(channels, filters, norm),
            *conv_norm_relu(filters, filters, norm),
            nn.MaxPool2d(2),
        ]
        channels = filters
    return _with_dense([*trunk, nn.Flatten()], shape, classes, widths=(512,), dropout=dropout)


def _with_dense(
    layers: list[nn.Module], shape: tuple[int, ...], classes: int, *, widths: tuple[int, ...], dropout: float
) -> Classifier:
    """Dense ReLU layers on a flattening trunk whose width follows from the picture's size."""
    width = flat_width(nn.Sequential(*layers), shape)
    for hidden in widths:
        layers += [nn.Linear(width, hidden), nn.ReLU(), *dropout_layer(dropout)]
        width = hidden
    return Classifier(nn.Sequential(*layers), width, classes)
