"""How a model is trained: every choice that a run has to record to be repeated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from ..store.errors import InvalidInput, InvalidOption, NotFound
from ..store.format.text import read_toml
from .callables import is_callable_spec, refuse_unnamed, unknown_choice
from .presets import PRESETS

OF_ESTIMATORS = ("model", "model_options", "estimator")
"""The fields of a recipe for an estimator; epochs too, where they are given."""


class _Untold(int):
    """A number that nobody gave: epochs of a network have a default, those of an estimator are given or it has none."""


_EPOCHS = _Untold(100)


@dataclass(frozen=True)
class Recipe:
    """One training recipe. Raises InvalidOption for a value out of range, naming the field and the range.

    model, model_options    what build_model takes
    forward                 package.module:function, (model, batch) -> (outputs, targets): how the model is called with records of
                            several inputs; None: with their entries by name, or by place
    optimizer               sgd (with momentum, nesterov), adam or adamw (which ignore those two)
    lr, schedule            the rate after warm-up; cosine to 0 at the last epoch, step: times step_gamma at each
                            of step_epochs, one-cycle: in a straight line to 0, or constant
    warmup_epochs           epochs of linear warm-up from 0, part of `epochs`
    clip_norm               the gradient's L2 norm is clipped to it; None: not
    bias_lr                 the rate of biases is this times the others'; their decay a step stays as it is
    flip, crop              random horizontal flips, random crops after padding by `crop` pixels (0: none).
                            Pictures only: tabular records are never augmented
    flip_order              random: each record is mirrored or not, whatever it was before; alternate: every other epoch,
                            half of the records in the odd ones, so that two epochs see both views of each
    crop_border             what crops see beyond the edge: zeros, or reflect
    label_smoothing         the share of the target spread over all classes
    precision               fp32, or autocast in bf16 or fp16
    normalize               subtract the mean and divide by the standard deviation of each channel of the data; not of
                            several inputs, which a model is given as they are
    dp_noise, dp_epsilon    train by DP-SGD (see `PrivateSteps`): its noise multiplier, or the epsilon to find that for,
                            which all epochs together spend. One of the two; None and None: no DP-SGD
    dp_clip                 the largest norm of a record's gradient in DP-SGD; 1 unless given
    dp_delta                of the epsilon; None: see `budget_of`
    early_stop              stop after so many epochs in a row without a lower loss of the population, and take the weights
                            of the lowest (see `EarlyStopping`); ``epochs`` is the most. None: train them all
    epochs                  passes over the members; of a network 100 unless given. An estimator takes them where it has
                            partial_fit, and is fitted in one call where they are not given
    estimator               the libraries, with their versions, of a model that is an estimator, as of scikit-learn, which has
                            model, model_options and epochs alone; found, not chosen. None: a network
    """

    model: str = "cnn"
    model_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: str = "cosine"
    step_epochs: tuple[int, ...] = ()
    step_gamma: float = 0.1
    warmup_epochs: int = 0
    epochs: int = _EPOCHS
    batch_size: int = 256
    clip_norm: float | None = None
    bias_lr: float = 1.0
    flip: bool = False
    flip_order: str = "random"
    crop: int = 0
    crop_border: str = "zeros"
    label_smoothing: float = 0.0
    precision: str = "fp32"
    normalize: bool = True
    dp_noise: float | None = None
    dp_epsilon: float | None = None
    dp_clip: float | None = None
    dp_delta: float | None = None
    early_stop: int | None = None
    forward: str | None = None
    estimator: str | None = None

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            value = getattr(self, name)
            try:
                # Lists from TOML and JSON become tuples, whole numbers for a float field floats: equal
                # recipes compare equal wherever they came from.
                object.__setattr__(self, name, rule.read(value))
            except (ValueError, OverflowError):  # the latter of whole numbers that no float holds
                raise InvalidOption(f"recipe field {name} is {value!r}; it must be {rule.allowed}") from None
        if self.warmup_epochs > self.epochs:
            raise InvalidOption(
                f"recipe field warmup_epochs is {self.warmup_epochs}; it must be at most epochs, {self.epochs}"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InvalidOption(
                "recipe field nesterov is True; it needs optimizer 'sgd' and momentum above 0"
            )
        if self.schedule == "step" and not self.step_epochs:
            raise InvalidOption(
                "recipe field step_epochs is empty; schedule 'step' needs the epochs to step at"
            )
        self._check_private()
        if self.estimator is not None:
            for each in dataclasses.fields(self):
                if each.name in (*OF_ESTIMATORS, "epochs") or getattr(self, each.name) == each.default:
                    continue
                raise InvalidOption(
                    f"recipe field {each.name} is of networks, and {self.model} is an estimator; leave it out, and give its own parameters with "
                    "--set NAME=VALUE"
                )

    def refuse_unnamed(self, whose: str, named: Container[str] = ()) -> None:
        """Raises InvalidOption for functions of a recipe from a lake that the user has not ``named`` (fields); see there."""
        functions = {"model": ("model", self.model), "forward": ("forward function", self.forward or "")}
        refuse_unnamed(
            whose,
            *((what, spec, f"--{field}") for field, (what, spec) in functions.items() if field not in named),
        )

    @property
    def passes(self) -> int | None:
        """How many passes of partial_fit an estimator is trained in; None: in one call of fit, as where no epochs are given."""
        return None if isinstance(self.epochs, _Untold) else self.epochs

    @property
    def private(self) -> bool:
        """Whether it is a recipe for DP-SGD."""
        return self.dp_noise is not None or self.dp_epsilon is not None

    def _check_private(self) -> None:
        if not self.private:
            for name in ("dp_clip", "dp_delta"):
                if getattr(self, name) is not None:
                    raise InvalidOption(
                        f"recipe field {name} is part of DP-SGD, which dp_noise or dp_epsilon asks for; give one of these"
                    )
            return
        if self.dp_noise is not None and self.dp_epsilon is not None:
            raise InvalidOption(
                "recipe fields dp_noise and dp_epsilon are both given; give the noise, or the epsilon to find it for"
            )
        if self.clip_norm is not None:
            raise InvalidOption(
                "recipe field clip_norm does not go with DP-SGD, which clips each record's gradient; give dp_clip alone"
            )
        if self.precision == "fp16":
            raise InvalidOption(
                "recipe field precision is fp16, whose loss scaling does not go with DP-SGD; take fp32 or bf16"
            )
        if self.dp_clip is None:
            object.__setattr__(self, "dp_clip", 1.0)


RECIPE_FIELDS = tuple(each.name for each in dataclasses.fields(Recipe))


def load_recipe(path: Path | None, overrides: Mapping[str, object]) -> Recipe:
    """The recipe in the TOML file `path` (None: the defaults), with `overrides` on top.

    `path` may also be the name of a preset (PRESETS), which is then the recipe. The file has the fields at its top level
    or in a table [recipe]. Leave out of overrides what was not given: a None there is a value. model_options are merged
    key by key; everything else is replaced.

    Raises NotFound, InvalidInput (not TOML) or InvalidOption (unknown field, wrong type or value).
    """
    return from_json(_on_top({} if path is None else recipe_file(path), overrides))


def recipe_file(path: Path) -> dict[str, Any]:
    """The fields of a recipe that a TOML file gives, or a preset of this name. Raises as `load_recipe`."""
    if str(path) in PRESETS:
        return dict(PRESETS[str(path)])
    try:
        values = read_toml(Path(path))
    except FileNotFoundError as error:
        raise NotFound(
            f"no recipe file {path}, and no preset of this name; presets: {', '.join(PRESETS)}"
        ) from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{path}: not a TOML file: {error}") from error
    if not isinstance(values.get("recipe"), dict):
        return values
    beside = [key for key in values if key != "recipe"]
    if beside:
        raise InvalidOption(
            f"{path}: {', '.join(beside)} stand beside [recipe]; put all fields in it or none"
        )
    return dict(values["recipe"])


def changed(recipe: Recipe, overrides: Mapping[str, object]) -> Recipe:
    """The recipe with `overrides` on top, as `load_recipe` puts them; another model starts without model_options, and without the passes
    of an estimator.

    Raises InvalidOption (unknown field, wrong type or value).
    """
    values = to_json(recipe)
    if overrides.get("model", recipe.model) != recipe.model:
        del values["model_options"]
        values.pop("estimator", None)
        if recipe.estimator is not None or recipe.epochs == _EPOCHS:
            values.pop("epochs", None)  # passes of partial_fit, or what the other has unless told
    return from_json(_on_top(values, overrides))


def _on_top(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**values, **overrides}
    below, above = values.get("model_options"), overrides.get("model_options")
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        merged["model_options"] = {**below, **above}
    return merged


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values (tuples as lists), forward only where there is one. from_json(to_json(r)) == r.

    Of an estimator, what it is, its options and the epochs that were given: it has no optimizer.
    """
    values = {each.name: _plain(getattr(recipe, each.name)) for each in dataclasses.fields(recipe)}
    if recipe.estimator is not None:
        told = () if recipe.passes is None else ("epochs",)
        return {name: values[name] for name in (*OF_ESTIMATORS, *told)}
    for name in ("forward", "estimator"):
        if values[name] is None:  # as in all runs from before it was thought of
            del values[name]
    return values


def from_json(values: Mapping[str, Any]) -> Recipe:
    """The recipe with these fields, the others at their defaults. Raises InvalidOption for an unknown field."""
    known = [each.name for each in dataclasses.fields(Recipe)]
    for name in values:
        if name not in known:
            raise unknown_choice("recipe field", name, known)
    return Recipe(**values)


@dataclass(frozen=True)
class _Rule:
    """read: the value as it is kept, or ValueError; allowed: what to say then."""

    read: Callable[[Any], Any]
    allowed: str


def _number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> _Rule:
    """A float from low to high; above and below leave the ends out."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError
        if value < low or value > high or (above and value == low) or (below and value == high):
            raise ValueError
        return float(value)

    start = f"a number {'above' if above else 'of at least'} {low:g}"
    end = "" if high == math.inf else f" and {'below' if below else 'at most'} {high:g}"
    return _Rule(read, start + end)


def _checked(fits: Callable[[Any], bool], allowed: str) -> _Rule:
    def read(value: Any) -> Any:
        if not fits(value):
            raise ValueError
        return value

    return _Rule(read, allowed)


def _whole(low: int) -> _Rule:
    return _checked(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low,
        f"a whole number of at least {low}",
    )


def _one_of(*names: str) -> _Rule:
    return _checked(lambda value: value in names, "one of " + ", ".join(names))


def _read_epochs(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    epochs = tuple(_whole(1).read(epoch) for epoch in value)
    if list(epochs) != sorted(set(epochs)):
        raise ValueError
    return epochs


def _read_options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError
    return {key: _frozen(option) for key, option in value.items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(element) for element in value)
    if not isinstance(value, (NoneType, int, float, str)) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ValueError
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _or_none(rule: _Rule) -> _Rule:
    return _Rule(lambda value: None if value is None else rule.read(value), f"{rule.allowed}, or none")


_POSITIVE = _or_none(_number(0, above=True))
_FLAG = _checked(lambda value: isinstance(value, bool), "true or false")

_RULES: Mapping[str, _Rule] = {
    "model": _checked(lambda value: isinstance(value, str) and value != "", "a model's name"),
    "model_options": _Rule(_read_options, "a table of names to text, numbers, true, false or lists of them"),
    "optimizer": _one_of("sgd", "adam", "adamw"),
    "lr": _number(0, above=True),
    "momentum": _number(0, 1, below=True),
    "weight_decay": _number(0),
    "nesterov": _FLAG,
    "schedule": _one_of("cosine", "step", "constant", "one-cycle"),
    "step_epochs": _Rule(_read_epochs, "a list of whole numbers of at least 1, in ascending order"),
    "step_gamma": _number(0, 1, above=True),
    "warmup_epochs": _whole(0),
    "epochs": _whole(1),
    "batch_size": _whole(1),
    "clip_norm": _POSITIVE,
    "bias_lr": _number(0, above=True),
    "flip": _FLAG,
    "flip_order": _one_of("random", "alternate"),
    "crop": _whole(0),
    "crop_border": _one_of("zeros", "reflect"),
    "label_smoothing": _number(0, 1, below=True),
    "precision": _one_of("fp32", "bf16", "fp16"),
    "normalize": _FLAG,
    "dp_noise": _POSITIVE,
    "dp_epsilon": _POSITIVE,
    "dp_clip": _POSITIVE,
    "dp_delta": _or_none(_number(0, 1, above=True, below=True)),
    "early_stop": _or_none(_whole(1)),
    "forward": _or_none(
        _checked(lambda value: isinstance(value, str) and is_callable_spec(value), "package.module:function")
    ),
    "estimator": _or_none(_checked(lambda value: isinstance(value, str) and value != "", "text")),
}
