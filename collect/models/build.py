"""Building a model by its name, and the plain ones: without shortcuts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...store.errors import InvalidInput, InvalidOption
from ..callables import is_callable_spec, load_callable, unknown_choice
from .fast import fast
from .parts import Classifier, conv_norm_relu
from .residual import resnet9, resnet18, resnet20, wide_resnet

MIN_SIDE = 8

_NORMS_OPTIONAL = ("batch", "group", "none")
_NORMS = ("batch", "group")


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
    return _with_dense([nn.Flatten()], shape, classes, widths=widths, dropout=dropout)


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
    """Dense ReLU layers on a flattening trunk, whose width is found by running it once on zeros."""
    trunk = nn.Sequential(*layers).eval()  # so that BatchNorm's running statistics stay as they are
    with torch.no_grad():
        width = trunk(torch.zeros(1, *shape)).shape[1]
    trunk.train()
    for hidden in widths:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = hidden
    return Classifier(nn.Sequential(*layers), width, classes)


@dataclass(frozen=True)
class ModelKind:
    """How a named model is built: `build(shape, classes, **options)`, its options' defaults, the norms it takes."""

    build: Callable[..., nn.Module]
    defaults: Mapping[str, object] = field(default_factory=dict)
    norms: tuple[str, ...] = ()
    pictures_only: bool = True


MODELS: Mapping[str, ModelKind] = {
    "mlp": ModelKind(mlp, {"widths": (512, 256), "dropout": 0.0}, pictures_only=False),
    "lenet5": ModelKind(lenet5, {"dropout": 0.0}),
    "cnn": ModelKind(cnn, {"dropout": 0.0, "norm": "none"}, _NORMS_OPTIONAL),
    "resnet9": ModelKind(resnet9, {"norm": "batch"}, _NORMS),
    "resnet20": ModelKind(resnet20, {"norm": "batch"}, _NORMS),
    "wrn28-2": ModelKind(wide_resnet(28, 2), {"dropout": 0.0, "norm": "batch"}, _NORMS),
    "wrn40-4": ModelKind(wide_resnet(40, 4), {"dropout": 0.0, "norm": "batch"}, _NORMS),
    "resnet18": ModelKind(resnet18, {"norm": "batch"}, _NORMS),
    "alexnet": ModelKind(alexnet, {"dropout": 0.5, "norm": "none"}, _NORMS_OPTIONAL),
    "vgg": ModelKind(vgg, {"dropout": 0.0, "norm": "batch"}, _NORMS_OPTIONAL),
    "fast": ModelKind(fast, {"widths": (64, 256, 256)}),
}

MODEL_NAMES = tuple(MODELS)


def build_model(name: str, *, input_shape: Any, classes: int, options: Mapping[str, object]) -> nn.Module:
    """The model `name`, with weights drawn from torch's global generator.

    name         one of MODEL_NAMES, or package.module:function, which is called as
                 function(input_shape=..., classes=..., **options) and returns a module
    input_shape  of one record: (C, H, W) with sides of 8 or more, or (F,). Only mlp takes (F,). A function is told of several
                 inputs the shape of each: by name, or in a tuple
    classes      width of the output; the model maps (B, *input_shape) floats to logits (B, classes)
    options      widths (mlp, fast): those of the hidden layers or blocks; dropout: a probability; norm: batch, group or none.
                 Which of them a model has, an error for another one says

    Every named model also has features(x), (B, D): what its last linear layer sees.

    Raises InvalidOption for a name or option that does not exist or does not fit, InvalidInput for records
    that the model cannot take.
    """
    if classes < 1:
        raise InvalidInput(f"classes is {classes}; a model needs 1 or more")
    if is_callable_spec(name):
        return _build_by_function(name, input_shape, classes, options)
    kind = MODELS.get(name)
    if kind is None:
        raise unknown_choice("model", name, MODEL_NAMES, more=", or package.module:function")
    if not isinstance(input_shape, tuple) or not all(isinstance(size, int) for size in input_shape):
        raise InvalidInput(
            f"model {name} takes one array of records, and these have inputs of shape {input_shape}; give a model of yours: --model "
            "module:function, or the data as x and y"
        )
    chosen = dict(kind.defaults)
    for option, value in options.items():
        if option not in chosen:
            raise unknown_choice(f"option of model {name}", option, chosen)
        chosen[option] = _checked(name, kind, option, value)
    if kind.pictures_only and len(input_shape) != 3:
        raise InvalidInput(f"model {name} takes pictures, these records have shape {input_shape}; use mlp")
    if kind.pictures_only and min(input_shape[1:]) < MIN_SIDE:
        height, width = input_shape[1:]
        raise InvalidInput(
            f"model {name} takes pictures of {MIN_SIDE} x {MIN_SIDE} or more, these are {height} x {width}"
        )
    return kind.build(tuple(input_shape), classes, **chosen)


def _checked(name: str, kind: ModelKind, option: str, value: object) -> object:
    if option == "norm":
        if value not in kind.norms:
            raise unknown_choice(f"norm of model {name}", value, kind.norms)
        return value
    if option == "dropout":
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            raise InvalidOption(
                f"dropout of model {name} is {value!r}; it must be a number from 0 to below 1"
            )
        return float(value)
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in value
    ):
        raise InvalidOption(
            f"{option} of model {name} is {value!r}; it must be a list of whole numbers above 0"
        )
    return tuple(value)


def _build_by_function(spec: str, input_shape: Any, classes: int, options: Mapping[str, object]) -> nn.Module:
    function = load_callable(spec)
    try:
        inspect.signature(function).bind(input_shape=input_shape, classes=classes, **options)
    except TypeError as error:
        raise InvalidOption(
            f"{spec} cannot be called with {', '.join(['input_shape', 'classes', *options])}: {error}"
        ) from error
    except ValueError:  # a builtin that has no signature to look at
        pass
    model = function(input_shape=input_shape, classes=classes, **options)
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"{spec} returned {type(model).__name__}; expected a torch.nn.Module")
    return model
