"""The options of an audit, looked at before anybody is asked anything; those that only the records or the answers can judge are judged there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from ...store.errors import InvalidOption
from ..callables import a, unknown_choice
from ..estimators.logits import Output
from .same import Overlap

_NUMBERS = {
    "shadows": (0, "how many shadow models to fit, 0 or more"),
    "seed": (0, "a whole number, 0 or more"),
    "batch_size": (1, "how many records a function is asked about at once, 1 or more"),
}
_CHOICES = {"overlap": get_args(Overlap), "output": (None, *get_args(Output))}


def check_options(options: Mapping[str, Any]) -> None:
    """Raises InvalidOption for one of an audit's options, by their names, that is of another type or out of range."""
    for name, (least, meaning) in _NUMBERS.items():
        value = options[name]
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise InvalidOption(f"{name} is {value!r}; it is {meaning}")
    for name, valid in _CHOICES.items():
        if options[name] not in valid:
            raise unknown_choice(name, options[name], filter(None, valid))
    if re.fullmatch(r"(shadow|reference)-\d+", str(options["run"])):
        raise InvalidOption(
            f"run is {options['run']!r}, as shadow and reference models are called; choose another name"
        )
    _check_least(options["least_probability"])
    _check_classes(options["classes"])
    if isinstance(options["references"], (str, bytes)) or not hasattr(options["references"], "__len__"):
        given = options["references"]
        named = repr(given) if isinstance(given, str) else "model"
        raise InvalidOption(
            f"references are {a(type(given).__name__)}; give a list of models: references=[{named}]"
        )
    if options["train"] is not None and not callable(options["train"]):
        raise InvalidOption(
            f"train is {a(type(options['train']).__name__)}; it is a function (members, seed) that returns a trained model"
        )
    if options["train"] is not None and not options["shadows"]:
        raise InvalidOption("train fits shadow models; say with shadows= how many")


def _check_least(least: Any) -> None:
    if least is None:
        return
    if not isinstance(least, (int, float, np.number)) or not math.isfinite(least) or not 0 < least < 0.5:
        raise InvalidOption(f"least_probability is {least!r}; it is a number above 0 and below 0.5")


def _check_classes(classes: Any) -> None:
    if classes is None:
        return
    if isinstance(classes, (str, bytes, Mapping, set, frozenset)) or not hasattr(classes, "__len__"):
        raise InvalidOption(
            f"classes is {a(type(classes).__name__)}; give a list of the labels, in the order of the model's outputs"
        )
    known = list(classes)
    twice = [label for i, label in enumerate(known) if label in known[:i]]
    if twice:
        raise InvalidOption(
            f"classes names {twice[0]!r} twice; each label stands for one output of the model"
        )
