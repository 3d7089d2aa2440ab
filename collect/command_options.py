"""Options that the commands which train models share, and what is made of them."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..store.errors import InvalidOption
from .data.named import DATASET_NAMES
from .data.room import VARIABLE, room_for
from .presets import PRESETS
from .recipe import Recipe, changed, load_recipe, recipe_file

Command = Callable[..., Any]

_NAME = re.compile(r"[A-Za-z_]\w*")
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_TOLD = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
_OF_PYTHON = {"True": "true", "False": "false", "None": "null"}


def option_set(*options: Command) -> Callable[[Command], Command]:
    """Options as one decorator."""
    return lambda function: reduce(lambda made, option: option(made), reversed(options), function)


EXPERIMENT = click.option(
    "--experiment", required=True, metavar="NAME", help="The experiment; made when it is new."
)


def _allow(_: click.Context, __: click.Parameter, value: float | None) -> None:
    if value is not None:
        os.environ[VARIABLE] = str(value)  # for worker processes too
        room_for()


INPUT = click.option(
    "--input-gb",
    type=float,
    metavar="GB",
    expose_value=False,
    callback=_allow,
    help="Memory that an input file may take once unpacked; default: 100 times its size, at least 1 GB, at most 32 GB.",
)

DATA = option_set(
    click.option(
        "--dataset",
        metavar="D",
        help=f"{', '.join(DATASET_NAMES)}, a Parquet/CSV/.npz file, a folder of Parquet files, or module:function.",
    ),
    click.option("--label", metavar="COLUMN", help="The label column of a table."),
    click.option("--group", metavar="COLUMN", help="A column that names each record's group."),
    click.option(
        "--key", metavar="COLUMN", help="A column that names each record, shown with it; it is no feature."
    ),
    click.option("--samples", type=int, metavar="N", help="Take a class-balanced subset of N records."),
    click.option(
        "--population", type=float, metavar="FRACTION", help="Share of records that no run trains on."
    ),
    click.option(
        "--canaries",
        metavar="KIND:N",
        help="Plant N records to audit: mislabelled, blank or noise; a fair coin puts each in the target.",
    ),
    click.option(
        "--without",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Leave out the records whose keys this .csv, .parquet or .txt file lists (column key).",
    ),
    click.option(
        "--pictures/--no-pictures", default=True, help="Keep small pictures of the records, for reports."
    ),
    click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Where downloads and decoded pictures are kept."
    ),
    INPUT,
)

RECIPE = option_set(
    click.option(
        "--recipe",
        "recipe_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A recipe in TOML, or a preset by its name: fast, for pictures on a GPU (on a CPU with --precision fp32; few records want a smaller --batch-size and --lr), or a paper's, such as lt-iqr-wrn28-2; docs/recipes.md lists them.",
    ),
    click.option(
        "--model",
        metavar="M",
        help="Architecture, module:function that makes a network, or an estimator's module:class, such as sklearn.ensemble:RandomForestClassifier.",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the model, such as n_estimators=200, as in TOML or JSON; may be given many times.",
    ),
    click.option(
        "--forward",
        metavar="FUNCTION",
        help="module:function, (model, batch) -> (outputs, targets), for records of several inputs; default: by name or place.",
    ),
    click.option("--widths", metavar="N,N,...", help="Layers of an mlp, such as 512,256, or blocks of fast."),
    click.option("--dropout", type=float, help="Dropout, for models that have it."),
    click.option(
        "--norm",
        type=click.Choice(["batch", "group", "none"]),
        help="Normalisation, for models that have it.",
    ),
    click.option(
        "--epochs",
        type=int,
        help="Passes over the training data; of an estimator, calls of its partial_fit. Default: 100, and one fit of an estimator.",
    ),
    click.option("--batch-size", type=int, help="Records a step."),
    click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), help="Default: sgd."),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--momentum", type=float, help="Of sgd."),
    click.option("--weight-decay", type=float, help="L2 penalty on the weights."),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "step", "constant", "one-cycle"]),
        help="Of the learning rate.",
    ),
    click.option("--clip-norm", type=float, help="Clip gradients to this norm."),
    click.option("--label-smoothing", type=float, help="Share of the target spread over all classes."),
    click.option("--flip/--no-flip", default=None, help="Mirror pictures at random while training."),
    click.option(
        "--crop", type=int, metavar="PIXELS", help="Shift pictures by up to so many pixels while training."
    ),
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of training; fp32 by default."
    ),
    click.option(
        "--dp-noise",
        type=float,
        metavar="SIGMA",
        help="Train by DP-SGD with this noise multiplier (Opacus, secure mode off: for audits, not for release).",
    ),
    click.option(
        "--dp-epsilon",
        type=float,
        metavar="EPS",
        help="Train by DP-SGD; the noise is found for this epsilon.",
    ),
    click.option(
        "--dp-clip",
        type=float,
        metavar="NORM",
        help="Largest norm of a record's gradient in DP-SGD; default: 1.",
    ),
    click.option(
        "--dp-delta",
        type=float,
        metavar="DELTA",
        help="Of the epsilon; default: the largest power of ten up to 1 / members, at most 1e-5.",
    ),
    click.option(
        "--early-stop",
        type=int,
        metavar="PATIENCE",
        help="Stop after so many epochs without a lower loss of the population; keep the best weights.",
    ),
)

RUNNING = option_set(
    click.option("--seed", type=int, help="A CPU run with the same seed repeats exactly."),
    click.option(
        "--queries",
        metavar="LIST",
        help="Views of each record: original, flip (default: a fleet's target's, else both for pictures), and for ramia N neighbours of it, "
        "crop:N[:PIXELS], flip-crop:N[:PIXELS], noise:N[:SIGMA] or, for rows, impute:N[:SHARE].",
    ),
    click.option(
        "--logits",
        type=click.Choice(["float16", "float32", "none"]),
        default="float16",
        show_default=True,
        help="How to keep the logits of every record.",
    ),
    click.option("--features", is_flag=True, help="Keep the penultimate layer of every record too."),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ..."),
    click.option(
        "--jobs", type=int, metavar="N", help="Worker processes; default: one a core, or one on a GPU."
    ),
    click.option(
        "--compile/--no-compile",
        "compiled",
        default=None,
        help="Compile one model for all runs of a fleet; default: on a GPU.",
    ),
    click.option("--stack", type=int, metavar="K", help="Train K plain mlps as one; default: on a GPU."),
)

_DATA_FLAGS = (
    "dataset",
    "label",
    "group",
    "key",
    "samples",
    "population",
    "canaries",
    "without",
    "pictures",
    "data_dir",
)


def told() -> dict[str, str]:
    """What the command's caller gave of its options, by parameter, and of a recipe in a file of theirs: what each is called to them.

    Whatever the value is: one that is the default counts as well, and a preset's fields do not, which nobody chose one by one.
    """
    context = click.get_current_context()
    found = {
        each.name: each.opts[0]
        for each in context.command.params
        if each.name is not None and context.get_parameter_source(each.name) in _TOLD
    }
    file = context.params.get("recipe_file")
    if file is not None and str(file) not in PRESETS:
        found = {**{name: f"recipe field {name}" for name in recipe_file(file)}, **found}
    return found


def recipe_of(given: dict[str, Any], base: Callable[[], Recipe | None] = lambda: None) -> Recipe | None:
    """Take the recipe's flags out of a command's options; None where none was given.

    Without a file flags go on top of the recipe that ``base`` answers, or of the defaults where that is None. Raises
    InvalidOption where that one's model is a function and no flag names it (see `refuse_unnamed`).
    """
    file = given.pop("recipe_file")
    chosen = _taken(given, (field.name for field in fields(Recipe)))
    model_options = _taken(given, ("widths", "dropout", "norm"))
    if "widths" in model_options:
        widths = model_options["widths"]
        try:
            model_options["widths"] = tuple(int(width) for width in widths.split(","))
        except ValueError as error:
            raise InvalidOption(f"--widths takes numbers such as 512,256, not {widths!r}") from error
    for name, value in map(_setting, given.pop("settings", ())):
        if name in model_options:
            raise InvalidOption(f"{name} of the model is given twice; give it once")
        model_options[name] = value
    if model_options:
        chosen["model_options"] = model_options
    if file is None and not chosen:
        return None
    below = base() if file is None else None
    if below is None:
        return load_recipe(file, chosen)
    below.refuse_unnamed("the target", chosen)
    return changed(below, chosen)


def _setting(text: str) -> tuple[str, Any]:
    """The name and value that ``NAME=VALUE`` gives: a literal of TOML or of JSON, or one word, which is text. Nothing is run."""
    name, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not _NAME.fullmatch(name):
        raise InvalidOption(f"--set takes NAME=VALUE, such as n_estimators=200, not {text!r}")
    if written in _OF_PYTHON:
        raise InvalidOption(
            f"--set {name}={written}: values are as in TOML or JSON; write {_OF_PYTHON[written]}"
        )
    try:
        return name, json.loads(written)
    except ValueError:
        pass
    try:
        found = tomllib.loads(f"value = {written}")
    except tomllib.TOMLDecodeError:
        found = {}
    if found.keys() == {"value"}:
        return name, found["value"]
    if _WORD.fullmatch(written):
        return name, written
    raise InvalidOption(
        f"--set {name}={written}: a value is a number, true, false, null, a list such as [64, 32], one word, or text in quotes "
        f"(--set '{name}=\"two words\"')"
    )


def data_of(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the data out of a command's."""
    return {name: given.pop(name) for name in _DATA_FLAGS}


def _taken(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were given."""
    found = {name: given.pop(name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
