"""``losslake analyze gate``: limits for a pipeline with an exit code; verdicts as lines, JSON and JUnit's XML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import click

from ...store.command_options import choose_experiment, experiment_option, lake_option
from ...store.errors import InvalidOption
from ...store.lake import Lake
from ...version import __version__
from ..evaluations.dp_audit import Inclusion
from ..output import aligned, write_text
from ..scoring.catalogue import open_source
from .check import Verdict, check_rules
from .rules import DELTA, Compare, load_rules, rules_of

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, not even escaped."""


@click.command()
@lake_option
@experiment_option
@click.option("--target", metavar="RUN", help="The run to judge; default: the only target.")
@click.option(
    "--score", "scores", multiple=True, metavar="SCORE", help="NAME or NAME[option=value,...]; default: lira."
)
@click.option("--max-tpr", type=float, help="Limit of the true-positive rate at --at-fpr.")
@click.option("--at-fpr", type=float, help="The false-positive rate of --max-tpr and --max-tail.")
@click.option("--max-auc", type=float, help="Limit of the area under the ROC curve.")
@click.option("--max-epsilon", type=float, help="Limit of the one-run lower bound on epsilon (see dp-audit).")
@click.option("--delta", type=float, help=f"The delta of --max-epsilon; default: {DELTA:g}.")
@click.option(
    "--inclusion",
    type=click.Choice(get_args(Inclusion)),
    help="For --max-epsilon, how records became members (see dp-audit); default: auto.",
)
@click.option("--probability", type=float, help="The probability of --inclusion coins.")
@click.option(
    "--max-share-memorized", type=float, help="Limit of the share of records memorized above --above."
)
@click.option("--above", type=float, help="The memorization beyond which a record counts as memorized.")
@click.option(
    "--max-tail",
    type=float,
    help="Limit of what the losses' tail lets expect of LiRA's TPR at --at-fpr (see tail).",
)
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
    inclusion: Inclusion | None,
    probability: float | None,
    max_share_memorized: float | None,
    above: float | None,
    max_tail: float | None,
    rules: Path | None,
    compare: Compare,
    json_file: Path | None,
    junit: Path | None,
) -> None:
    """Stop a pipeline where a model exposes more than it may: exit code 0 when every limit is kept, else 1.

    Prints a line a rule: pass, FAIL or UNRESOLVED, the rule, the value and its 95% interval. A limit is kept when the
    upper end of the interval is not above it, so that passing is evidence; --compare value takes the plain value. What
    the data cannot tell is UNRESOLVED and fails: an FPR that the non-members cannot resolve (five of
    them must be expected above the threshold: 1% takes 500), no shadow runs, no scores.
    Single records without a score count as if they were told apart. Of epsilon the lower bound is compared: no audit has
    an upper one, so passing says that this audit found no more, and it is UNRESOLVED where it could not have, and where the
    lake does not know how members were drawn and --inclusion does not say. --compare value takes its estimate.

    Limits of tpr, auc and epsilon hold for every --score. Without shadow models --max-tail holds an
    estimate of LiRA's rate against a limit. A file of --rules has tables [[rule]] with the keys metric (tpr,
    auc, epsilon, share, tail), score, max, and fpr (tpr, tail), above (share), delta, inclusion, probability (epsilon), compare where they are wanted.

    \b
    Examples:
      losslake analyze gate --lake my-lake --max-tpr 0.01 --at-fpr 0.001 --max-auc 0.6 --score lira --score rmia
      losslake analyze gate --lake my-lake --rules privacy.toml --junit gate.xml --json gate.json
    """
    wanted = rules_of(
        scores,
        max_tpr=max_tpr,
        at_fpr=at_fpr,
        max_auc=max_auc,
        max_epsilon=max_epsilon,
        delta=delta,
        inclusion=inclusion,
        probability=probability,
        max_share_memorized=max_share_memorized,
        above=above,
        max_tail=max_tail,
        compare=compare,
    )
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
    to_standard_output = str(json_file) == "-"
    if json_file is not None and not to_standard_output:
        write_text(json_file, gate_json(verdicts, *about))
    click.echo(gate_json(verdicts, *about) if to_standard_output else "\n".join(gate_lines(verdicts)))
    notes = (f"{verdict.rule.score}: {note}" for verdict in verdicts for note in verdict.notes)
    for note in dict.fromkeys(notes):
        click.echo(f"note: {note}", err=True)
    if not passed(verdicts):
        raise SystemExit(1)


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Whether every rule was kept, and there was one."""
    return bool(verdicts) and all(verdict.status == "pass" for verdict in verdicts)


def gate_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One aligned line a rule: status, rule, value, 95% interval, and why it was not kept."""
    return aligned([_cells(verdict) for verdict in verdicts])


def _cells(verdict: Verdict) -> tuple[str, ...]:
    metric, value, interval = verdict.metric, "-", "-"
    if metric is not None and metric.value is not None:
        value = f"{metric.value:.4f}"
    if metric is not None and metric.ci_low is not None:
        high = "any" if metric.ci_high is None else f"{metric.ci_high:.4f}"
        interval = f"{metric.ci_low:.4f} to {high}"
    return verdict.status, verdict.rule.name, value, interval, verdict.reason.replace("\n", " ")


def gate_json(verdicts: Sequence[Verdict], experiment: str, target: str) -> str:
    """One object: passed, experiment, target, version, and rules with what each was compared with and why."""
    whole = {
        "passed": passed(verdicts),
        "experiment": experiment,
        "target": target or None,
        "losslake": __version__,
        "rules": [_json(verdict) for verdict in verdicts],
    }
    return json.dumps(whole, indent=1, allow_nan=False)


def _json(verdict: Verdict) -> dict[str, Any]:
    rule, metric = verdict.rule, verdict.metric
    told = {} if metric is None else metric.to_json()
    about = {name: getattr(rule, name) for name in ("fpr", "above", "delta")}
    return {
        "rule": rule.name,
        "status": verdict.status,
        "metric": rule.metric,
        "score": rule.score,
        **{name: value for name, value in about.items() if value is not None},
        "max": rule.max,
        "compare": rule.compare,
        "compared": verdict.compared,
        **{name: told.get(name) for name in ("value", "ci_low", "ci_high", "n")},
        "reason": verdict.reason or None,
        "notes": list(verdict.notes),
    }


def gate_junit(verdicts: Sequence[Verdict], experiment: str, target: str) -> str:
    """A test suite with a case a rule: a broken one is a failure, one that cannot be told an error."""
    statuses = [verdict.status for verdict in verdicts]
    suite = ElementTree.Element(
        "testsuite",
        name="losslake gate",
        tests=str(len(verdicts)),
        failures=str(statuses.count("FAIL")),
        errors=str(statuses.count("UNRESOLVED")),
        skipped="0",
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_xml(f"{experiment}.{target or 'no target'}"),
            name=_xml(verdict.rule.name),
        )
        line = _xml("  ".join(filter(None, _cells(verdict))))
        if verdict.status != "pass":
            kind = "failure" if verdict.status == "FAIL" else "error"
            ElementTree.SubElement(case, kind, message=_xml(verdict.reason), type=verdict.status).text = line
        said = "\n".join((line, *verdict.notes))
        ElementTree.SubElement(case, "system-out").text = _xml(said)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
