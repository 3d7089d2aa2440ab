"""``losslake analyze gate``: limits for a pipeline, with an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from ...store.command_options import choose_experiment, experiment_option, lake_option
from ...store.errors import InvalidOption
from ...store.lake import Lake
from ..output import write_text
from ..scoring.catalogue import open_source
from .check import check_rules
from .output import gate_json, gate_junit, gate_lines, passed
from .rules import DELTA, Compare, Rule, load_rules


@click.command()
@lake_option
@experiment_option
@click.option("--target", metavar="RUN", help="The run to judge; default: the only target.")
@click.option(
    "--score", "scores", multiple=True, metavar="SCORE", help="NAME or NAME[option=value,...]; default: lira."
)
@click.option("--max-tpr", type=float, help="Limit of the true-positive rate at --at-fpr.")
@click.option("--at-fpr", type=float, help="The false-positive rate of --max-tpr.")
@click.option("--max-auc", type=float, help="Limit of the area under the ROC curve.")
@click.option("--max-epsilon", type=float, help="Limit of the one-run lower bound on epsilon (see dp-audit).")
@click.option("--delta", type=float, help=f"The delta of --max-epsilon; default: {DELTA:g}.")
@click.option(
    "--max-share-memorized", type=float, help="Limit of the share of records memorized above --above."
)
@click.option("--above", type=float, help="The memorization beyond which a record counts as memorized.")
@click.option("--rules", type=click.Path(path_type=Path), metavar="FILE", help="More rules, from TOML.")
@click.option(
    "--compare",
    type=click.Choice(get_args(Compare)),
    default="upper",
    show_default=True,
    help="What is held against a limit: the upper end of the 95% interval, or the value.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="Write the verdicts as JSON; - is standard output.",
)
@click.option(
    "--junit", type=click.Path(path_type=Path), help="Write the verdicts as JUnit XML to this file."
)
def gate(
    lake: str,
    experiment: str | None,
    target: str | None,
    scores: tuple[str, ...],
    max_tpr: float | None,
    at_fpr: float | None,
    max_auc: float | None,
    max_epsilon: float | None,
    delta: float | None,
    max_share_memorized: float | None,
    above: float | None,
    rules: Path | None,
    compare: Compare,
    json_file: Path | None,
    junit: Path | None,
) -> None:
    """Stop a pipeline where a model exposes more than it may: exit code 0 when every limit is kept, else 1.

    Prints a line a rule: pass, FAIL or UNRESOLVED, the rule, the value and its 95% interval. A limit is kept when the
    upper end of the interval is not above it, so that passing is evidence; --compare value takes the plain value. What
    the data cannot tell is UNRESOLVED and fails: an FPR that the non-members cannot resolve, no shadow runs, no scores.
    Single records without a score count as if they were told apart. Of epsilon the lower bound is compared: no audit has
    an upper one, so passing says that this audit found no more, and it is UNRESOLVED where it could not have.

    Limits of tpr, auc and epsilon hold for every --score. A file of --rules has tables [[rule]] with the keys metric (tpr,
    auc, epsilon, share), score, max, and fpr (tpr), above (share), delta (epsilon), compare where they are wanted.

    \b
    Examples:
      losslake analyze gate --lake my-lake --max-tpr 0.01 --at-fpr 0.001 --max-auc 0.6 --score lira --score rmia
      losslake analyze gate --lake my-lake --rules privacy.toml --junit gate.xml --json gate.json
    """
    given = {"tpr": max_tpr, "auc": max_auc, "epsilon": max_epsilon}
    wanted = [
        Rule(
            metric=metric,  # type: ignore[arg-type]
            score=score,
            max=most,
            fpr=at_fpr if metric == "tpr" else None,
            delta=delta if metric == "epsilon" else None,
            compare=compare,
        )
        for score in scores or ("lira",)
        for metric, most in given.items()
        if most is not None
    ]
    if max_share_memorized is not None:
        wanted.append(Rule("share", "memorization", max_share_memorized, above=above, compare=compare))
    _check_pairs(wanted, {"at-fpr": at_fpr, "delta": delta, "above": above, "score": scores or None})
    if rules is not None:
        wanted += load_rules(rules, compare)
    if not wanted:
        raise InvalidOption("there is no rule to hold; give a limit such as --max-auc 0.6, or --rules FILE")
    opened = Lake.open(lake)
    with open_source(opened, choose_experiment(opened, experiment), target) as source:
        verdicts = check_rules(source, wanted)
        about = (source.experiment, source.target_name)
    if junit is not None:
        write_text(junit, gate_junit(verdicts, *about))
    to_standard_output = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_standard_output:
        write_text(json_file, gate_json(verdicts, *about))
    click.echo(gate_json(verdicts, *about) if to_standard_output else "\n".join(gate_lines(verdicts)))
    for note in dict.fromkeys(
        f"{verdict.rule.score}: {note}" for verdict in verdicts for note in verdict.notes
    ):
        click.echo(f"note: {note}", err=True)
    if not passed(verdicts):
        raise SystemExit(1)


def _check_pairs(rules: list[Rule], given: dict[str, object]) -> None:
    """A companion of a limit that was not given is a mistake: the limit it was meant for would not be held."""
    metrics = {rule.metric for rule in rules}
    for name, limits in {
        "at-fpr": {"tpr"},
        "delta": {"epsilon"},
        "above": {"share"},
        "score": {"tpr", "auc", "epsilon"},
    }.items():
        if given[name] is not None and not limits & metrics:
            wanted = {
                "tpr": "max-tpr",
                "epsilon": "max-epsilon",
                "share": "max-share-memorized",
                "auc": "max-auc",
            }
            listed = " or ".join(f"--{wanted[limit]}" for limit in sorted(limits))
            raise InvalidOption(f"--{name} goes with {listed}, which was not given")
