"""Options that many commands share, and finding the lake they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .errors import InvalidOption, NotEnoughData

if TYPE_CHECKING:
    from .lake import Lake

Command = Callable[..., Any]


def lake_option(function: Command) -> Command:
    """``--lake PLACE``, also from the environment variable LOSSLAKE_LAKE."""
    return click.option(
        "--lake",
        envvar="LOSSLAKE_LAKE",
        required=True,
        metavar="PLACE",
        help="The lake's folder or URL (or set LOSSLAKE_LAKE).",
    )(function)


def experiment_option(function: Command) -> Command:
    """``--experiment NAME``; a lake with one experiment needs none."""
    return click.option(
        "--experiment", metavar="NAME", help="The experiment; may be left out where the lake has only one."
    )(function)


def engine_options(function: Command) -> Command:
    """``--engine`` and ``--spark-master``: which engine answers queries."""
    engine = click.option(
        "--engine",
        type=click.Choice(("duckdb", "spark")),
        default="duckdb",
        show_default=True,
        help="What computes: DuckDB in this process, or Spark.",
    )
    master = click.option(
        "--spark-master",
        metavar="URL",
        help="Spark's master, such as local[4] or spark://HOST:7077; default: Spark's own configuration.",
    )
    return engine(master(function))


def choose_experiment(lake: Lake, name: str | None) -> str:
    """The experiment that is meant. Raises where a lake has none, or several and no name was given."""
    if name is not None:
        return lake.experiment(name).name
    known = lake.experiments()
    if not known:
        raise NotEnoughData(
            f"the lake {lake.path} holds no experiment yet; start with 'losslake collect target'"
        )
    if len(known) > 1:
        raise InvalidOption(
            f"the lake {lake.path} holds several experiments ({', '.join(known)}); add --experiment"
        )
    return known[0]
