"""Models with shortcuts, in their versions for small pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Classifier, GlobalMax, conv3, conv_norm_relu, norm_layer


class ShrinkPad(nn.Module):
    """A shortcut without weights: every `stride`-th pixel, the new channels zero (He et al. 2016, option A)."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more = more
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.more // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.more - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them, ReLU last (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str, projection: bool) -> None:
        super().__init__()
        self.conv1 = conv3(inputs, outputs, stride=stride)
        self.norm1 = norm_layer(norm, outputs)
        self.conv2 = conv3(outputs, outputs)
        self.norm2 = norm_layer(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if (stride != 1 or inputs != outputs) and projection:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm_layer(norm, outputs)
            )
        elif stride != 1 or inputs != outputs:
            self.shortcut = ShrinkPad(outputs - inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class WideBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions (Zagoruyko & Komodakis 2016)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, inputs)
        self.conv1 = conv3(inputs, outputs, stride=stride)
        self.norm2 = norm_layer(norm, outputs)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = conv3(outputs, outputs)
        self.project = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if self.project else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        out = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))
        # Where the shapes change, the shortcut starts after the norm, as in the paper's own code.
        shortcut: Tensor = self.shortcut(active if self.project else x)
        return shortcut + out


class AroundTwo(nn.Module):
    """x plus two convolution-norm-ReLU layers of x."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *conv_norm_relu(channels, channels, norm), *conv_norm_relu(channels, channels, norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out


class GlobalMean(nn.Module):
    """(B, C, H, W) to (B, C). Unlike adaptive pooling it has a deterministic backward pass on every device."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def resnet9(shape: tuple[int, ...], classes: int, *, norm: str) -> Classifier:
    """The nine-layer net of the DAWNBench entries: 64, 128, 256, 512 channels, shortcuts at 128 and 512."""
    trunk: list[nn.Module] = [*conv_norm_relu(shape[0], 64, norm)]
    trunk += [*conv_norm_relu(64, 128, norm), nn.MaxPool2d(2), AroundTwo(128, norm)]
    trunk += [*conv_norm_relu(128, 256, norm), nn.MaxPool2d(2)]
    trunk += [*conv_norm_relu(256, 512, norm), nn.MaxPool2d(2), AroundTwo(512, norm), GlobalMax()]
    return Classifier(_he_init(nn.Sequential(*trunk)), 512, classes)


def resnet20(shape: tuple[int, ...], classes: int, *, norm: str) -> Classifier:
    """ResNet-20 for CIFAR: three stages of three blocks, 16, 32, 64 channels, shortcuts without weights."""
    return _resnet(shape, classes, norm, stem=16, widths=(16, 32, 64), blocks=3, projection=False)


def resnet18(shape: tuple[int, ...], classes: int, *, norm: str) -> Classifier:
    """ResNet-18 with a 3x3 stem and no first pooling, as is usual for small pictures."""
    return _resnet(shape, classes, norm, stem=64, widths=(64, 128, 256, 512), blocks=2, projection=True)


def wide_resnet(depth: int, widen: int) -> Callable[..., Classifier]:
    """The builder of WRN-depth-widen; depth = 6 n + 4."""

    def build(shape: tuple[int, ...], classes: int, *, dropout: float, norm: str) -> Classifier:
        channels = 16
        trunk: list[nn.Module] = [conv3(shape[0], channels)]
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for block in range((depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                trunk.append(WideBlock(channels, width, stride=stride, norm=norm, dropout=dropout))
                channels = width
        trunk += [norm_layer(norm, channels), nn.ReLU(), GlobalMean()]
        return Classifier(_he_init(nn.Sequential(*trunk)), channels, classes)

    return build


def _resnet(
    shape: tuple[int, ...],
    classes: int,
    norm: str,
    *,
    stem: int,
    widths: tuple[int, ...],
    blocks: int,
    projection: bool,
) -> Classifier:
    trunk: list[nn.Module] = [*conv_norm_relu(shape[0], stem, norm)]
    channels = stem
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            trunk.append(BasicBlock(channels, width, stride=stride, norm=norm, projection=projection))
            channels = width
    return Classifier(_he_init(nn.Sequential(*trunk, GlobalMean())), channels, classes)


def _he_init(model: nn.Module) -> nn.Module:
    """Draw every convolution's weights from N(0, 2 / fan_out) (He et al. 2015), which deep trunks need."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
