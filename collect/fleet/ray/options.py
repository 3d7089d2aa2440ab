"""Where a fleet runs: the options of the commands, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ....store.errors import InvalidOption
from ...command_options import option_set

if TYPE_CHECKING:
    from .cluster import OnRay

ENGINE = option_set(
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


def engine_of(given: dict[str, Any]) -> OnRay | None:
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
    from .cluster import OnRay, import_ray

    import_ray()
    return OnRay(**chosen)
