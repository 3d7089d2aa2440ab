"""Recipes that have a name: the fast one, and those of the papers whose figures people want to see again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Fields of a `Recipe`, the others at their defaults; where they are published, and what is otherwise here.

    ``data`` is how a target is collected with it, beside the model: what the paper says of records and members.
    """

    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""
    data: str = ""


_HALF = {
    "optimizer": "sgd",
    "batch_size": 256,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "epochs": 100,
}
_LIRA = {**_HALF, "schedule": "cosine", "flip": True, "crop": 4}
_TRACES = (
    "Pollock et al., “Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods”, and its code"
)
_COSINE = "the cosine ends at 0, there at cos(7π/16), a fifth of the first rate"
_TRACES_DIFFERS = (
    "traces are recorded in eval mode, there with BatchNorm in train mode; precision is fp32 unless told"
)
_TRACES_DATA = "CIFAR10 (25,000 members, balanced over classes), `--duals`, 256 shadow models, two queries"

PUBLISHED: Mapping[str, Preset] = {
    # Rate, momentum, decay and smoothing are the published ones for this kind of network (Jordan 2024), for the mean over
    # a batch of 1024 instead of the sum.
    "fast": Preset(
        "Jordan 2024, “94% on CIFAR-10 in 3.29 seconds on a single GPU”",
        {
            "model": "fast",
            "epochs": 10,
            "batch_size": 1024,
            "lr": 1.5,
            "momentum": 0.85,
            "nesterov": True,
            "weight_decay": 1.3e-3,
            "bias_lr": 64.0,
            "schedule": "one-cycle",
            "warmup_epochs": 2,
            "label_smoothing": 0.2,
            "flip": True,
            "flip_order": "alternate",
            "crop": 2,
            "crop_border": "reflect",
            "precision": "bf16",
        },
        "no look-ahead averaging, no views of the test records; batches of 1,024 and their mean, there a sum",
        "pictures on a GPU; on a CPU with `--precision fp32`; few records want a smaller `--batch-size` and `--lr`",
    ),
    "lt-iqr-wrn28-2": Preset(_TRACES, {**_LIRA, "model": "wrn28-2"}, _TRACES_DIFFERS, _TRACES_DATA),
    "lt-iqr-wrn40-4": Preset(_TRACES, {**_LIRA, "model": "wrn40-4"}, _TRACES_DIFFERS, _TRACES_DATA),
    "lt-iqr-resnet20": Preset(_TRACES, {**_LIRA, "model": "resnet20"}, _TRACES_DIFFERS, _TRACES_DATA),
    "lira-wrn28-2": Preset(
        "Carlini et al. 2022, “Membership Inference Attacks From First Principles”; settings of TensorFlow Privacy's "
        "`mi_lira_2021` (train.py, scripts/train_demo.sh)",
        {**_LIRA, "model": "wrn28-2", "crop_border": "reflect", "warmup_epochs": 1},
        f"{_COSINE}; decay is on all weights, there not on BatchNorm's and biases; no average of the weights over steps (0.999 there); inputs are "
        "standardised channel by channel, there scaled to [-1, 1]",
        "CIFAR10, each record in half of the models (`--design balanced`), two queries",
    ),
    "lira-pytorch-resnet18": Preset(
        "lira-pytorch (run.sh, train.py)",
        {**_LIRA, "model": "resnet18", "batch_size": 128},
        "the rate falls step by step, there once an epoch",
        "CIFAR10, 16 shadow models, each record in half of them",
    ),
    "privacy-meter-wrn28-2": Preset(
        "Privacy Meter (configs/cifar10.yaml, trainers/default_trainer.py), the tool of Zarifzadeh et al. 2024, “Low-Cost High-Power "
        "Membership Inference Attacks” (RMIA)",
        {**_HALF, "model": "wrn28-2", "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 1},
        f"{_COSINE}; inputs are standardised channel by channel. As there, no momentum, decay or "
        "augmentation",
        "CIFAR10, train and test split together; each record in half of the models",
    ),
    "privacy-meter-mlp": Preset(
        "Privacy Meter (configs/purchase.yaml, models/mlp.py)",
        {
            **_HALF,
            "model": "mlp",
            "model_options": {"widths": (128,)},
            "momentum": 0.0,
            "weight_decay": 0.0,
            "warmup_epochs": 1,
        },
        f"{_COSINE}; ReLU, there tanh",
        "Purchase100, which does not come with losslake: a table with `--label`",
    ),
    "kde-lenet5": Preset(
        "the slides on attacks by densities of the loss: LeNet-5 on CIFAR-10, Adam, 100 epochs, 92.8% on its members and 51.5% on others",
        {
            "model": "lenet5",
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
            "epochs": 100,
            "batch_size": 128,
        },
        "rate, batch and decay are not said; here Adam's usual 0.001, 128 and none",
        "CIFAR10",
    ),
}

PRESETS: Mapping[str, Mapping[str, Any]] = {name: preset.fields for name, preset in PUBLISHED.items()}
"""Fields of `Recipe` by the name of a preset; the others have their defaults."""
