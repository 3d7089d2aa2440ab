"""A small network that learns pictures in few epochs: a whitening first layer, max-pooled blocks, scaled logits.

The parts are those that fast CIFAR-10 training has settled on (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single
GPU"). The preset "fast" in `recipe` goes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...store.errors import InvalidOption
from ..data.training import DeviceData
from .parts import Classifier, GlobalMax, conv3

_PATCH = 2
_LEAST_VARIANCE = 5e-4
"""Share of the patches' mean variance that is added to each direction's: directions with next to none stay small."""
_BATCH = 1024
_LOGIT_SCALE = 1 / 9


class Whitening(nn.Module):
    """A convolution whose frozen filters turn P x P patches into uncorrelated values of variance 1, and their negatives.

    Until `fit` was called the filters are random. They are a buffer: no optimizer sees them. The bias is trained.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = channels * _PATCH**2
        half = nn.init.orthogonal_(torch.empty(inputs, inputs))
        self.register_buffer("weight", _filters(half, channels))
        self.bias = nn.Parameter(torch.zeros(2 * inputs))

    @property
    def filters(self) -> int:
        return len(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias)

    def fit(self, pictures: Iterable[Tensor]) -> None:
        """Take the filters from the covariance of all patches of these pictures, batches of (B, C, H, W).

        With C = sum p p^T / n over the patches p and C = V diag(s) V^T the filters are the rows of diag(s)^-1/2 V^T. The
        host waits for the device once, at the end.
        """
        channels = self.weight.shape[1]
        total: Tensor | None = None
        patches = 0
        for x in pictures:
            wide = (x.cpu() if x.device.type == "mps" else x).double()  # MPS has no doubles
            columns = F.unfold(wide, _PATCH).transpose(0, 1).flatten(1)
            part = columns @ columns.T
            total = part if total is None else total + part
            patches += columns.shape[1]
        if total is None:
            return
        # On the CPU, so that every device finds the same filters.
        variances, vectors = torch.linalg.eigh(total.cpu() / patches)
        least = _LEAST_VARIANCE * float(variances.mean())
        scale = (variances.clamp(min=0) + (least if least > 0 else 1.0)).rsqrt()
        vectors = vectors * _signs(vectors)
        found = (vectors * scale).T.flip(0).float()  # the direction of most variance first
        with torch.no_grad():
            self.weight.copy_(_filters(found, channels))


class Scale(nn.Module):
    """A constant times its input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def fast(shape: tuple[int, ...], classes: int, *, widths: tuple[int, ...]) -> Classifier:
    """Whitening of 2 x 2 patches, then for each of ``widths`` a block: 3x3 convolution, max-pool, BatchNorm, GELU, and
    another convolution with BatchNorm and GELU; the largest value of each filter, a ninth of it, and a linear layer.

    Before training the filters of the first layer are made from the pictures the run trains on; see `fit_to_members`.
    """
    if not widths:
        raise InvalidOption("widths of model fast is empty; give a width for each block, such as 64,256,256")
    whitening = Whitening(shape[0])
    layers: list[nn.Module] = [whitening, nn.GELU()]
    inputs = whitening.filters
    side = min(shape[1:]) - _PATCH + 1
    for width in widths:
        # A side of 1 stays 1.
        layers += [_conv(inputs, width), nn.MaxPool2d(2, ceil_mode=side < 2), _norm(width), nn.GELU()]
        layers += [_conv(width, width), _norm(width), nn.GELU()]
        inputs, side = width, max(1, side // 2)
    model = Classifier(nn.Sequential(*layers, GlobalMax(), Scale(_LOGIT_SCALE)), inputs, classes)
    model.head = nn.Linear(inputs, classes, bias=False)
    return model


def fit_to_members(model: nn.Module, held: DeviceData, chosen: Tensor) -> None:
    """Make a whitening layer's filters from the records ``chosen`` (M,), those that the run trains on and all of them.

    No other record may have a say: the filters are part of the model, and an audit takes records that are not among the
    members for ones that the model never saw. Nothing happens to a model without such a layer.
    """
    for module in model.modules():
        if isinstance(module, Whitening):
            with torch.no_grad():
                module.fit(held.inputs(held.x[ids]) for ids in chosen.to(held.device).split(_BATCH))


def _filters(half: Tensor, channels: int) -> Tensor:
    """Rows (K, C * P * P) and their negatives as a convolution's filters (2 K, C, P, P)."""
    return torch.cat([half, -half]).reshape(-1, channels, _PATCH, _PATCH)


def _signs(vectors: Tensor) -> Tensor:
    """What makes the largest entry of each column positive: an eigenvector's sign is anybody's choice."""
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that begins as the identity on its first channels, the other filters random."""
    conv = conv3(inputs, outputs)
    nn.init.kaiming_uniform_(conv.weight, a=math.sqrt(5))
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: min(inputs, outputs)])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm whose running statistics follow soon: the runs are of few steps."""
    return nn.BatchNorm2d(channels, momentum=0.4)
