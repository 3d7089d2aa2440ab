"""``losslake demo``: the main job end to end, on data that ships with the install."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .analysis.statistics.metric import Metric

EXPERIMENT = "digits"
SHADOWS = 64
TOP = 0.01
FINAL = "trace[aggregate=final]"
QUERIES = (
    "select sample_id, label, score from risk where experiment = 'digits' and analysis = 'lira' and member "
    "order by score desc limit 10",
    "select label, avg(score) as memorization from risk where experiment = 'digits' "
    "and analysis = 'memorization' group by label order by 2 desc",
    "select epoch, median(loss) as typical, quantile_cont(loss, 0.99) as hardest from trace_points "
    "where run = 'target' and source = 'eval' and member group by epoch order by epoch",
)


@click.command()
@click.option(
    "--lake",
    default="losslake-demo",
    show_default=True,
    metavar="PLACE",
    help="Where the demo's lake goes: a folder or URL.",
)
@click.option(
    "--shadows",
    default=SHADOWS,
    show_default=True,
    type=click.IntRange(min=4),
    help="How many shadow models.",
)
def demo(lake: str, shadows: int) -> None:
    """Everything, end to end, on data that ships with the install.

    Trains a small network on half of 1,797 real handwritten digits, and shadow models on other halves; scores
    every digit by LT-IQR, LiRA and memorization; writes a report. Takes a minute or two on two cores.

    \b
    Example:
      losslake demo --lake demo-lake
    """
    from .analysis.evaluations.catalogue import find_evaluation, run_all, run_evaluation
    from .analysis.report.write import write_report
    from .analysis.scoring.catalogue import open_source
    from .analysis.scoring.run import FPRS
    from .collect.experiment.prepare import prepare_experiment
    from .collect.fleet.target_and_shadows import collect_shadows, collect_target
    from .collect.progress import ProgressLines
    from .collect.recipe import Recipe
    from .store.lake import Lake

    opened = Lake.open(lake, create=True)
    recipe = Recipe(model="mlp", model_options={"widths": (256, 128)}, epochs=40, batch_size=64, lr=0.05)
    prepared = prepare_experiment(opened, EXPERIMENT, dataset="digits", population=0.1)
    target = collect_target(
        opened,
        EXPERIMENT,
        recipe=recipe,
        prepared=prepared,
        queries="original",
        progress=ProgressLines("target"),
    )[0]
    collect_shadows(
        opened,
        EXPERIMENT,
        count=shadows,
        recipe=recipe,
        prepared=prepared,
        queries="original",
        progress=ProgressLines("shadows"),
    )
    with open_source(opened, EXPERIMENT) as source:
        scored = {told.title: told.metrics for told in run_all(source, FPRS)}
        finding = run_evaluation(
            source,
            find_evaluation("compare"),
            ("lt-iqr", FINAL, "memorization", "privacy-score"),
            {"fpr": 0.01},
        )
    report = _report_of(lake)
    write_report(opened, EXPERIMENT, report)

    lira = {(m.metric, m.parameters.get("fpr")): m for m in scored["lira"]}
    auc, caught = lira["auc", None], lira["tpr_at_fpr", 0.01]
    top = {
        m.parameters["score"]: m
        for m in finding.metrics
        if m.metric == "precision_at_k" and m.parameters["k"] == TOP
    }
    found = next(m for m in finding.metrics if m.metric == "vulnerable")
    click.echo(
        f"\n{target.members} of {prepared.experiment.samples} digits trained the target "
        f"(test accuracy {target.info.test_accuracy:.3f}); {shadows} shadow models trained on other halves.\n"
        f"LiRA        AUC {_share(auc, '.3f')}; at 1% FPR it finds {_share(caught)} of the members\n"
        f"LT-IQR      without any shadow model, {_share(top['lt-iqr'])} of its top 1% are among these; "
        f"picking at random, {found.value:.1%} would be\n"
        f"final loss  {_share(top[FINAL])} of its top 1%\n\n"
        f"Report: {report}\n\nGo on with SQL:"
    )
    for query in QUERIES:
        click.echo(f'  losslake sql --lake {shlex.quote(lake)} "{query}"')


def _report_of(lake: str) -> Path:
    """Beside a lake in a folder; of one at a URL, where the command runs."""
    place = lake.rstrip("/")
    return Path(f"{place.rpartition('/')[2] if '://' in place else place}-report.html")


def _share(metric: Metric, form: str = ".0%") -> str:
    if metric.value is None:
        return "an unknown share"
    return f"{metric.value:{form}} (95%: {metric.ci_low:{form}} to {metric.ci_high:{form}})"
