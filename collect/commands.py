"""``losslake collect ...``: train or import models, and keep what they say of every record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..store.command_options import lake_option
from ..store.errors import InvalidOption, NotFound
from ..store.lake import Lake
from .choices import unknown_choice
from .dataset_torchvision import TORCHVISION_NAMES
from .progress_lines import ProgressLines
from .recipe import Recipe, load_recipe

Command = Callable[..., Any]


@click.group(name="collect")
def collect_group() -> None:
    """Train or import models, and keep what they say of every record."""


def _options(*options: Command) -> Callable[[Command], Command]:
    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_EXPERIMENT = click.option(
    "--experiment", required=True, metavar="NAME", help="The experiment; made when it is new."
)

_DATA = _options(
    click.option(
        "--dataset",
        metavar="D",
        help=f"{', '.join(TORCHVISION_NAMES)}, digits, a Parquet/CSV/.npz file, a folder of Parquet files, or module:function.",
    ),
    click.option("--label", metavar="COLUMN", help="The label column of a table."),
    click.option("--group", metavar="COLUMN", help="A column that names each record's group."),
    click.option("--samples", type=int, metavar="N", help="Take a class-balanced subset of N records."),
    click.option(
        "--population", type=float, metavar="FRACTION", help="Share of records that no run trains on."
    ),
    click.option(
        "--pictures/--no-pictures", default=True, help="Keep small pictures of the records, for reports."
    ),
    click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Where downloads and decoded pictures are kept."
    ),
)

_RECIPE = _options(
    click.option(
        "--recipe", "recipe_file", type=click.Path(path_type=Path), metavar="FILE", help="A recipe in TOML."
    ),
    click.option("--model", metavar="M", help="Architecture, or module:function."),
    click.option("--widths", metavar="N,N,...", help="Layers of an mlp, such as 512,256."),
    click.option("--dropout", type=float, help="Dropout, for models that have it."),
    click.option("--epochs", type=int, help="Passes over the training data."),
    click.option("--batch-size", type=int, help="Records a step."),
    click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), help="Default: sgd."),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--momentum", type=float, help="Of sgd."),
    click.option("--weight-decay", type=float, help="L2 penalty on the weights."),
    click.option(
        "--schedule", type=click.Choice(["cosine", "step", "constant"]), help="Of the learning rate."
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
)

_RUNNING = _options(
    click.option("--seed", type=int, help="A CPU run with the same seed repeats exactly."),
    click.option(
        "--queries",
        metavar="LIST",
        help="Views of each record: original, or original,flip (default for pictures).",
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
    click.option("--jobs", type=int, metavar="N", help="Worker processes on a CPU; default: one a core."),
)

_RECIPE_FLAGS = (
    "model",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "schedule",
    "clip_norm",
    "label_smoothing",
    "flip",
    "crop",
    "precision",
)


def _recipe_of(given: dict[str, Any]) -> tuple[Recipe | None, dict[str, Any]]:
    """Take the recipe's flags out of a command's options; None where none was given."""
    file = given.pop("recipe_file")
    flags = {name: given.pop(name) for name in _RECIPE_FLAGS}
    chosen = {name: value for name, value in flags.items() if value is not None}
    model_options: dict[str, Any] = {}
    widths, dropout = given.pop("widths"), given.pop("dropout")
    if widths is not None:
        try:
            model_options["widths"] = tuple(int(width) for width in widths.split(","))
        except ValueError as error:
            raise InvalidOption(f"--widths takes numbers such as 512,256, not {widths!r}") from error
    if dropout is not None:
        model_options["dropout"] = dropout
    if model_options:
        chosen["model_options"] = model_options
    recipe = load_recipe(file, chosen) if file is not None or chosen else None
    return recipe, given


_DATA_FLAGS = ("dataset", "label", "group", "samples", "population", "pictures", "data_dir")


def _data_of(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given.pop(name) for name in _DATA_FLAGS}


@collect_group.command()
@lake_option
@_EXPERIMENT
@_DATA
@_RECIPE
@_RUNNING
@click.option("--run", default="target", show_default=True, metavar="NAME", help="What to call the run.")
@click.option(
    "--duals",
    type=int,
    default=0,
    show_default=True,
    metavar="K",
    help="Train the same members K more times.",
)
@click.option("--fraction", type=float, help="Share of the audit records to train on (default: half).")
def target(lake: str, experiment: str, **given: Any) -> None:
    """Train the model to audit, and record every sample's loss before training and after each epoch.

    \b
    Example:
      losslake collect target --lake my-lake --experiment digits --dataset digits --model mlp --epochs 40
    """
    from .experiment import prepare_experiment
    from .fleet import collect_target

    recipe, given = _recipe_of(given)
    data = _data_of(given)
    opened = Lake.open(lake, create=True)
    prepared = prepare_experiment(opened, experiment, seed=given["seed"], fraction=given["fraction"], **data)
    progress = ProgressLines(f"{experiment} {given['run']}")
    runs = collect_target(
        opened, experiment, recipe=recipe or Recipe(), prepared=prepared, progress=progress, **given
    )
    for run in runs:
        click.echo(_summary(run))


@collect_group.command()
@lake_option
@_EXPERIMENT
@_DATA
@_RECIPE
@_RUNNING
@click.option(
    "--count", type=int, required=True, metavar="N", help="How many shadow models there shall be in all."
)
@click.option(
    "--design",
    type=click.Choice(["balanced", "bernoulli", "paired"]),
    default="balanced",
    show_default=True,
    help="Who is in which run; balanced: every record in exactly half of them.",
)
@click.option(
    "--probability", type=float, default=0.5, show_default=True, help="Share of the runs a record is in."
)
@click.option("--traces/--no-traces", default=False, help="Record losses after each epoch too.")
def shadows(lake: str, experiment: str, **given: Any) -> None:
    """Train shadow models, each on its own half of the records; runs that are committed are not trained again.

    Data and recipe are the experiment's and its target's unless given.

    \b
    Example:
      losslake collect shadows --lake my-lake --experiment digits --count 32
    """
    from .experiment import prepare_experiment
    from .fleet import collect_shadows

    recipe, given = _recipe_of(given)
    data = _data_of(given)
    opened = Lake.open(lake, create=True)
    prepared = prepare_experiment(opened, experiment, **data)
    progress = ProgressLines(f"{experiment} shadows")
    runs = collect_shadows(opened, experiment, recipe=recipe, prepared=prepared, progress=progress, **given)
    click.echo(f"{len(runs)} shadow runs in {opened.path}, experiment {experiment}")


_FORMATS = ("arrays",)


@collect_group.command(name="import")
@click.argument("layout", metavar="LAYOUT")
@click.argument("path", type=click.Path(path_type=Path))
@lake_option
@_EXPERIMENT
def import_(layout: str, path: Path, lake: str, experiment: str) -> None:
    """Import models that were trained elsewhere. LAYOUT is arrays: an .npz file.

    It holds labels (N,), keep (M,N) bool, and any of logits (M,N,Q,C), loss (M,N[,Q]), phi (M,N[,Q]), traces
    (M,N,E), grad_norms (M,N,E), population (N,) bool, groups (N,) str.

    \b
    Example:
      losslake collect import arrays shadows.npz --lake my-lake --experiment mine
    """
    from .arrays import import_arrays

    if layout not in _FORMATS:
        raise unknown_choice("layout to import", layout, _FORMATS)
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    opened = Lake.open(lake, create=True)
    runs = import_arrays(opened, experiment, path, progress=ProgressLines(f"import {path.name}"))
    click.echo(f"{len(runs)} runs in {opened.path}, experiment {experiment}")


def _summary(run: Any) -> str:
    accuracies = [
        f"{name} accuracy {value:.4f}"
        for name, value in (("train", run.info.train_accuracy), ("test", run.info.test_accuracy))
        if value is not None
    ]
    return f"{run.run}: {run.members} members, " + ", ".join(accuracies)
