"""``losslake report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ...store.command_options import choose_experiment, experiment_option, lake_option
from ...store.lake import Lake

if TYPE_CHECKING:
    from .document import Paper

SHOWN = 20
"""Numbers that differ, of which a check prints no more."""


@click.command()
@lake_option
@experiment_option
@click.option("--target", metavar="RUN", help="The run to report on; default: the only target.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The file to write: .html or .pdf, the report; .png or .svg, a sheet of its charts; .json, its numbers.",
)
@click.option(
    "--pictures/--no-pictures", default=True, show_default=True, help="Show pictures of the exposed records."
)
@click.option(
    "--paper", type=click.Choice(["A4", "Letter"]), default="A4", show_default=True, help="Paper of a .pdf."
)
@click.option(
    "--with",
    "defended",
    metavar="EXPERIMENT",
    help="Another experiment of the same records, trained with a defence, to set beside this one.",
)
@click.option(
    "--compare",
    metavar="MODEL",
    multiple=True,
    help="Another model, to follow risk from model to model: EXPERIMENT, EXPERIMENT/RUN, or another target RUN; can be given many times.",
)
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write nothing: say whether the lake still gives the numbers of this report, an .html or .json.",
)
@click.pass_context
def report(
    context: click.Context,
    lake: str,
    experiment: str | None,
    target: str | None,
    out: Path,
    pictures: bool,
    paper: Paper,
    defended: str | None,
    compare: tuple[str, ...],
    checked: Path | None,
) -> None:
    """One file that says which records the model exposes, and how far to trust it.

    With --check: exit code 0 where every number of that report comes out again (to six digits), 1 where one does not; what differs is
    listed, and whether data, recipe or losslake are others. Where none are, its text is compared too: 1 where a line is not what losslake
    writes of these numbers. Charts and pictures are not looked at. It takes the report's own experiment, target and options.

    \b
    Examples:
      losslake report --lake my-lake --experiment digits --out report.html
      losslake report --lake my-lake --experiment digits --with digits-dp --no-pictures --out report.pdf
      losslake report --lake my-lake --experiment march --compare april --compare may --out risk.json
      losslake report --lake my-lake --check report.html
    """
    if checked is not None:
        given = [
            name
            for name in ("experiment", "target", "out", "pictures", "paper", "defended", "compare")
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if given:
            raise click.UsageError(
                "--check takes experiment, target and options from the report; leave out all but --lake"
            )
        context.exit(_check(Lake.open(lake), checked))
    from .sections.over_time import lines_over_time
    from .words import verdict
    from .write import write_report

    opened = Lake.open(lake)
    chosen = choose_experiment(opened, experiment)
    made = write_report(
        opened,
        chosen,
        out,
        target=target,
        pictures=pictures,
        defended=defended,
        compare=compare,
        paper=paper,
        shell=True,
    )
    told = verdict(made)
    click.echo(str(out))
    click.echo(f"verdict: {told.title}. {told.text}", err=True)
    for step in told.next_steps:
        click.echo(f"what to do: {step.what}{f'  {step.command}' if step.command else ''}", err=True)
    if made.compared is not None:
        for line in lines_over_time(made.compared):
            click.echo(f"over time: {line}", err=True)
    click.echo(f"audit: {made.audit.line}", err=True)


def _check(lake: Lake, path: Path) -> int:
    """Print what a report says that the lake does not say any more; the exit code."""
    from .check import check_report

    found = check_report(lake, path)
    click.echo(f"audit: {found.audit.line}")
    for told in found.told:
        click.echo(f"changed: {told}")
    for told in found.differs[:SHOWN]:
        click.echo(f"differs: {told}")
    if len(found.differs) > SHOWN:
        click.echo(f"differs: and {len(found.differs) - SHOWN:,} more")
    if found.differs:
        click.echo(
            f"{len(found.differs):,} of the {found.numbers:,} numbers of {path} do not come out of this lake"
        )
        return 1
    click.echo(f"all {found.numbers:,} numbers of {path} come out of this lake")
    for line in (found.strange or ())[:SHOWN]:
        click.echo(f"not of losslake: {line}")
    if found.strange:
        lines = f"{len(found.strange):,} line{'s are' if len(found.strange) > 1 else ' is'}"
        click.echo(f"{lines} in {path} that losslake does not write of these numbers")
        return 1
    return 0
