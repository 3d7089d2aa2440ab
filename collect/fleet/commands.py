"""``losslake collect shadows|references|distilled|leave-one-out``: the commands that train a fleet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...store.command_options import lake_option
from ...store.errors import InvalidOption, NotFound
from ...store.lake import Lake
from ..command_options import DATA, EXPERIMENT, RECIPE, RUNNING, data_of, option_set, recipe_of, told
from ..progress import GETTING_READY, ProgressLines

if TYPE_CHECKING:
    from ...store.format.records import Run
    from ..recipe import Recipe
    from .ray.cluster import OnRay

_ENGINE = option_set(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Train on this machine, or on the nodes of a Ray cluster.",
    ),
    click.option(
        "--address",
        metavar="A",
        help="Of the Ray cluster: auto (default), ray://HOST:10001, HOST:6379, or local for one of this machine alone.",
    ),
    click.option("--cpus-per-run", type=float, metavar="C", help="CPUs of a run on Ray; default: 1."),
    click.option(
        "--gpus-per-run", type=float, metavar="G", help="GPUs of a run on Ray, such as 0.25; default: none."
    ),
    click.option(
        "--retries",
        type=int,
        metavar="N",
        help="How often a run on Ray whose node was lost is trained again; default: 3.",
    ),
)
_FLEET = option_set(
    lake_option,
    EXPERIMENT,
    DATA,
    RECIPE,
    RUNNING,
    _ENGINE,
    click.option("--traces/--no-traces", default=False, help="Record losses after each epoch too."),
    click.option(
        "--shard",
        metavar="I/N",
        help="Train every Nth run from the Ith on, for N jobs that share nothing but the lake: 1/N to N/N.",
    ),
)
_COUNT = click.option(
    "--count", type=int, required=True, metavar="N", help="How many of these models there shall be in all."
)
_TARGET = click.option("--target", metavar="RUN", help="The run they are about; default: the only target.")


@click.command()
@_FLEET
@_COUNT
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
def shadows(lake: str, experiment: str, **given: Any) -> None:
    """Train shadow models, each on its own half of the records; runs that are committed are not trained again.

    Data and recipe are the experiment's and its target's; what is given of a recipe changes that.

    \b
    Example:
      losslake collect shadows --lake my-lake --experiment digits --count 32
    """
    from .target_and_shadows import collect_shadows

    _collect(lake, experiment, "shadow", collect_shadows, given)


@click.command()
@_FLEET
@_COUNT
@_TARGET
@click.option(
    "--size",
    type=int,
    metavar="N",
    help="Records each trains on; default: as many as the target, or half of what there is.",
)
def references(lake: str, experiment: str, **given: Any) -> None:
    """Train models on records that the target did not train on, for attack-r.

    Each takes a random choice of them. Data and recipe are the experiment's and its target's but for what is given; runs that
    are committed are not trained again.

    \b
    Example:
      losslake collect references --lake my-lake --experiment digits --count 32 --size 400
    """
    from .references import collect_references, crowded

    runs = _collect(lake, experiment, "reference", collect_references, given)
    if note := crowded(runs):
        click.echo(f"note: {note}", err=True)


@click.command()
@_FLEET
@_COUNT
@_TARGET
@click.option(
    "--on",
    type=click.Choice(["population", "audit"]),
    help="The records they learn from; default: the population where there is one.",
)
@click.option("--size", type=int, metavar="N", help="Records each learns from; default: half of them.")
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="Divides logits before the softmax, the target's and the model's.",
)
def distilled(lake: str, experiment: str, **given: Any) -> None:
    """Train models on what the target says of records instead of their labels, for attack-d.

    The target's logits are read from the lake. Data and recipe are the experiment's and its target's but for what is given;
    runs that are committed are not trained again.

    \b
    Example:
      losslake collect distilled --lake my-lake --experiment digits --count 32
    """
    from .distilled import collect_distilled

    _collect(lake, experiment, "distilled", collect_distilled, given)


@click.command("leave-one-out")
@_FLEET
@_TARGET
@click.option(
    "--sample", type=int, multiple=True, metavar="ID", help="A record to leave out; may be given many times."
)
@click.option(
    "--samples-from",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Records to leave out: a .csv, .parquet or .txt file with a column sample_id.",
)
@click.option(
    "--repeats",
    type=int,
    default=8,
    show_default=True,
    metavar="K",
    help="Models for each record, each with a seed of its own.",
)
def leave_one_out(
    lake: str, experiment: str, sample: tuple[int, ...], samples_from: Path | None, **given: Any
) -> None:
    """Train the target again without a record, several times for each of the records named, for attack-l.

    For a record that is no member of the target, with its members as they are. Data and recipe are the experiment's
    and its target's unless given; runs that are committed are not trained again.

    \b
    Example:
      losslake collect leave-one-out --lake my-lake --experiment digits --sample 5 --sample 1658 --repeats 16
    """
    from ..experiment.selection import read_sample_ids
    from .leave_one_out import collect_leave_one_out

    chosen = [*sample, *(read_sample_ids(samples_from) if samples_from is not None else ())]
    _collect(lake, experiment, "leave-one-out", partial(collect_leave_one_out, samples=chosen), given)


def _collect(
    lake: str, experiment: str, what: str, collect: Callable[..., list[Run]], given: dict[str, Any]
) -> list[Run]:
    """Call a collector with a command's options and say how many runs there are."""
    progress = ProgressLines(f"{experiment} {what}")
    progress.note(GETTING_READY)
    from ...store.upkeep.remove import unused_removed
    from ..experiment.prepare import prepare_experiment
    from .design import parse_shard
    from .meaningless import refuse_meaningless
    from .setup import any_target, stored_recipe

    given["shard"] = None if given["shard"] is None else parse_shard(given["shard"])
    given["engine"] = _engine_of(given)
    opened = Lake.open(lake, create=True)

    def of_target() -> Recipe | None:
        try:
            named = given.get("target")
            return stored_recipe(
                any_target(opened, experiment) if named is None else opened.run(experiment, named)
            )
        except (NotFound, InvalidOption):
            return None  # no target, or none that losslake trained by one recipe: the flags are all there is

    chosen = told()
    recipe = recipe_of(given, of_target)
    data = data_of(given)
    with unused_removed(opened, experiment):
        prepared = prepare_experiment(opened, experiment, **data)
        if (trained := recipe or of_target()) is not None:
            refuse_meaningless(trained, chosen, prepared.data)
        runs = collect(opened, experiment, recipe=recipe, prepared=prepared, progress=progress, **given)
    where = f"in {opened.path}, experiment {experiment}"
    if given["shard"] is None:
        click.echo(f"{len(runs)} {what} runs {where}")
    else:
        there = len(opened.runs(experiment, role=what.replace("-", "_")))
        click.echo(f"{len(runs)} {what} runs of shard {given['shard']}, {there} of all shards {where}")
    return runs


def _engine_of(given: dict[str, Any]) -> OnRay | None:
    """Take the engine's options out of a command's; None for this machine.

    Raises InvalidOption for options of Ray's without Ray, MissingExtra where Ray is not installed.
    """
    engine = given.pop("engine")
    flags = {name: given.pop(name) for name in ("address", "cpus_per_run", "gpus_per_run", "retries")}
    chosen = {name: value for name, value in flags.items() if value is not None}
    if engine == "local":
        if chosen:
            named = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
            raise InvalidOption(f"{named}: for fleets on Ray; add --engine ray, or leave it out")
        return None
    from .ray.cluster import OnRay, import_ray

    import_ray()
    return OnRay(**chosen)


FLEETS = (shadows, references, distilled, leave_one_out)
