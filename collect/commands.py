"""``losslake collect ...``: train or import models, and keep what they say of every record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..store.command_options import lake_option
from ..store.errors import NotFound
from ..store.lake import Lake
from .command_options import DATA, EXPERIMENT, INPUT, RECIPE, RUNNING, data_of, recipe_of, told
from .fleet.commands import FLEETS
from .progress import GETTING_READY, ProgressLines
from .recipe import Recipe


@click.group(name="collect")
def collect_group() -> None:
    """Train or import models, and keep what they say of every record."""


@collect_group.command()
@lake_option
@EXPERIMENT
@DATA
@RECIPE
@RUNNING
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
@click.option(
    "--grad-norms",
    type=click.Choice(["none", "train", "eval"]),
    default="none",
    show_default=True,
    help="Trace the norm of each record's gradient: of members as they train, or of all audit records in eval mode.",
)
@click.option(
    "--checkpoint-every",
    type=int,
    metavar="K",
    help="Epochs between checkpoints, from which the same command goes on after a stop; 0: none. Default: by time, "
    "30 s or more apart.",
)
@click.option("--restart", is_flag=True, help="Begin anew, and remove the checkpoints of a stopped run.")
def target(lake: str, experiment: str, **given: Any) -> None:
    """Train the model to audit, and record every sample's loss before training and after each epoch.

    An estimator, as of scikit-learn, has a loss after each of its boosting rounds or trees, where it has these; with --epochs, after
    each of so many passes of partial_fit, where it has that.

    \b
    Examples:
      losslake collect target --lake my-lake --experiment digits --dataset digits --model mlp --epochs 40
      losslake collect target --lake my-lake --experiment forest --dataset patients.csv --label diagnosis \\
          --key patient --model sklearn.ensemble:RandomForestClassifier --set n_estimators=200
      losslake collect target --lake my-lake --experiment sgd --dataset patients.csv --label diagnosis \\
          --key patient --model sklearn.linear_model:SGDClassifier --set loss=log_loss --epochs 20
    """
    progress = ProgressLines(f"{experiment} {given['run']}")
    progress.note(GETTING_READY)
    from ..store.upkeep.remove import unused_removed
    from .experiment.prepare import prepare_experiment
    from .fleet.meaningless import refuse_meaningless
    from .fleet.target_and_shadows import collect_target

    chosen = told()
    recipe = recipe_of(given) or Recipe()
    data = data_of(given)
    opened = Lake.open(lake, create=True)
    with unused_removed(opened, experiment):
        prepared = prepare_experiment(
            opened, experiment, seed=given["seed"], fraction=given["fraction"], **data
        )
        refuse_meaningless(recipe, chosen, prepared.data)
        runs = collect_target(
            opened, experiment, recipe=recipe, prepared=prepared, progress=progress, **given
        )
    for run in runs:
        click.echo(_summary(run))


for _fleet in FLEETS:
    collect_group.add_command(_fleet)


@collect_group.command(name="import")
@click.argument("layout", metavar="LAYOUT")
@click.argument("path", type=click.Path(path_type=Path))
@lake_option
@EXPERIMENT
@click.option(
    "--target",
    metavar="NAME",
    help="The run to audit; the others are shadows. loss-traces: which experiment.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Labels that the layout does not store: .npy (N,), or a column 'label' in .csv or .parquet.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="loss-traces: .npy of bool, a row for each run whose members are not stored.",
)
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="privacy-meter: .npy with the sample number of each row, where a part was audited.",
)
@click.option(
    "--signals", metavar="NAME", help="privacy-meter: which *_signals.npy, where there are several."
)
@INPUT
def import_(layout: str, path: Path, lake: str, experiment: str, **given: Any) -> None:
    """Import models that were trained elsewhere. Everything is checked before anything is written.

    Runs that are in the lake with the same values are left alone. Pickled files are refused. LAYOUT is one of:

    \b
    arrays         an .npz file: labels (N,), keep (M,N) bool, and any of logits (M,N,Q,C),
                   loss (M,N[,Q]), phi (M,N[,Q]), traces (M,N,E), grad_norms (M,N,E),
                   population (N,) bool, groups (N,) str
    lira           tensorflow/privacy: y_train.npy, experiment-I_N/keep.npy, .../logits/*.npy,
                   .../scores/*.npy (the last counts); or lira-pytorch: ID/keep.npy,
                   .../logits.npy, .../scores.npy, and --labels. The files show which.
    lira-pytorch   the same
    privacy-meter  a log_dir: models/memberships.npy, signals/*_signals.npy,
                   signals/*_signals_pop.npy (population)
    loss-traces    a storage folder: losses/EXP.pq, EXP_dual_X.pq, EXP_shadow_I.pq; grad_norms/
                   and confidences/ (margins) alike; lira_scores/EXP_target. The last loss is
                   the signal; the peer's LiRA scores become samples.peer_lira_score.

    \b
    Examples:
      losslake collect import arrays shadows.npz --lake my-lake --experiment mine
      losslake collect import lira exp/cifar10 --lake my-lake --experiment lira --target experiment-0_16
      losslake collect import lira-pytorch exp/cifar10 --labels y.npy --lake my-lake --experiment lira
      losslake collect import privacy-meter demo_cifar10 --lake my-lake --experiment pm
      losslake collect import loss-traces storage --keep shadows.npy --lake my-lake --experiment lt
    """
    progress = ProgressLines(f"import {path.name}")
    progress.note(GETTING_READY)
    from ..store.upkeep.remove import unused_removed
    from .importers.layouts import find_layout, import_layout

    find_layout(layout)
    if not path.exists():
        raise NotFound(f"there is no file or folder {path}")
    opened = Lake.open(lake, create=True)
    with unused_removed(opened, experiment):
        runs = import_layout(layout, opened, experiment, path, progress=progress, **given)
    click.echo(f"{len(runs)} runs in {opened.path}, experiment {experiment}")


@collect_group.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="The folder that was given to other commands."
)
@click.option("--clear", is_flag=True, help="Remove the decoded pictures; they are made again when needed.")
def cache(data_dir: Path | None, clear: bool) -> None:
    """Where downloads and decoded pictures are kept, and how large the latter are.

    The folder is --data-dir, or LOSSLAKE_DATA, or the user's folder of caches (~/.cache/losslake on Linux). Data sets of
    torchvision are downloaded there. Pictures in Parquet files are decoded once, into its folder decoded: 20 GB of them are kept, or
    LOSSLAKE_CACHE_GB, and those that were not used for the longest time go. Downloads stay until you delete them.

    \b
    Examples:
      losslake collect cache
      losslake collect cache --clear
    """
    from .data.cache import DECODED, bound, data_directory, entries, remove_entries

    folder = data_directory(data_dir)
    if clear:
        count, size = remove_entries(folder / DECODED)
        click.echo(f"{folder}: removed {count} decoded data sets, {size / 1e9:.1f} GB")
        return
    held = entries(folder / DECODED)
    size = sum(size for _, size, _ in held)
    click.echo(f"{folder}: {len(held)} decoded data sets, {size / 1e9:.1f} of {bound() / 1e9:g} GB")


def _summary(run: Any) -> str:
    accuracies = [
        f"{name} accuracy {value:.4f}"
        for name, value in (("train", run.info.train_accuracy), ("test", run.info.test_accuracy))
        if value is not None
    ]
    return ", ".join([f"{run.run}: {run.members} members", *accuracies, *_defences(run.info)])


def _defences(info: Any) -> list[str]:
    told = []
    if budget := info.extra.get("dp"):
        epsilon = "infinite" if budget["epsilon"] is None else f"{budget['epsilon']:.3g}"
        told.append(f"epsilon {epsilon} at delta {budget['delta']:g}")
    if stopped := info.extra.get("early_stop"):
        told.append(f"stopped after epoch {info.epochs} with the weights of epoch {stopped['best_epoch']}")
    return told
