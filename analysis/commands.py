"""Commands made from the declared analyses: ``losslake analyze ...``."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from ..store.command_options import choose_experiment, engine_options, experiment_option, lake_option
from ..store.lake import Lake
from ..store.shell.output import format_of, write_frame
from .declare import Analysis, Declaration, Evaluation, Option
from .evaluations.catalogue import EVALUATIONS, run_all, run_evaluation
from .output import aligned, leading_figures, metric_lines, write_text
from .scores import Scores
from .scoring.catalogue import ANALYSES, find, open_source
from .scoring.on_spark import check_evaluation_on_spark, check_on_spark
from .scoring.run import FPRS, Outcome, run_analysis
from .source import Source
from .statistics.metric import Metric

if TYPE_CHECKING:
    from .report.verdict import Judgement

SHOWN = 10
"""How many of the most exposed records a command prints."""

target_option = click.option("--target", metavar="RUN", help="The run to look at; default: the only target.")
fpr_option = click.option(
    "--fpr", type=float, multiple=True, default=FPRS, show_default=True, help="False-positive rates."
)
metrics_option = click.option(
    "--metrics",
    type=click.Path(path_type=Path),
    help="Write the metrics as JSON to this file; - is standard output.",
)


class _Analyses(click.Group):
    """Knows the declared analyses by name and makes a command only to run it, so that it loads what that one needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, "gate", *(entry.name for entry in (*ANALYSES, *EVALUATIONS))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            made = _command_of(cmd_name)
            if made is None:
                return None
            self.add_command(made)
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self.list_commands(ctx))
            meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise click.UsageError(
                f"No such command {args[0]!r}.{meant} 'losslake analyze list' names them all.", ctx
            ) from error


@click.group(name="analyze", cls=_Analyses)
def analyze_group() -> None:
    """Score every record, and judge the scores.

    Results are printed and kept in the lake (views scores and metrics).
    """


@analyze_group.command(name="list")
def list_analyses() -> None:
    """Every analysis with what it says.

    \b
    Example:
      losslake analyze list
    """
    entries: tuple[Declaration, ...] = (*ANALYSES, *EVALUATIONS)
    width = max(len(entry.name) for entry in entries) + 2
    for entry in entries:
        click.echo(f"{entry.name:<{width}}{entry.description.splitlines()[0]}")


@analyze_group.command(name="all")
@lake_option
@experiment_option
@target_option
@fpr_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that compute side by side; default: one a core, at most 4, fewer where memory is short, 1 for a small lake.",
)
def analyze_all(
    lake: str, experiment: str | None, target: str | None, fpr: tuple[float, ...], jobs: int | None
) -> None:
    """Every analysis and evaluation with its default options, a line each; what lacks data is left out and named.

    A line has at most two leading figures, of rates at false-positive rates the lowest that is resolved; all of them, and the
    most exposed records, are told by the analysis's own command and kept in the lake (view metrics). What is found does not
    depend on --jobs. Each process takes up to about as much memory as one alone would, and fetches by itself what it reads from an object store.

    \b
    Example:
      losslake analyze all --lake my-lake --experiment digits
    """
    from .evaluations.side_by_side import jobs_for, run_side_by_side

    opened = Lake.open(lake)
    with open_source(opened, choose_experiment(opened, experiment), target) as source:
        jobs = jobs or jobs_for(source)
        with closing(run_all(source, fpr) if jobs == 1 else run_side_by_side(source, fpr, jobs)) as parts:
            for told in parts:
                if told.missing:
                    click.echo(f"{told.title}: left out, {told.missing}", err=True)
                else:
                    click.echo(f"{told.title:<{_TITLE}}  {leading_figures(told.metrics)}".rstrip())
                for note in told.notes:
                    click.echo(f"note: {told.title}: {note}", err=True)


_TITLE = max(len(entry.name) for entry in (*ANALYSES, *EVALUATIONS))


def _tell(title: str, metrics: tuple[Metric, ...], notes: tuple[str, ...]) -> None:
    click.echo(title)
    for line in metric_lines(metrics) if metrics else ():
        click.echo(f"  {line}")
    for note in notes:
        click.echo(f"note: {title}: {note}", err=True)


def _write_metrics(path: Path | None, metrics: tuple[Metric, ...]) -> bool:
    """Write the metrics as JSON; True when they went to standard output."""
    if path is None:
        return False
    text = json.dumps([metric.to_json() for metric in metrics], indent=1)
    if str(path) == "-":
        click.echo(text)
        return True
    write_text(path, text)
    return False


def _opened(
    lake: str, experiment: str | None, target: str | None, engine: str, spark_master: str | None
) -> Source:
    opened = Lake.open(lake)
    chosen = choose_experiment(opened, None) if experiment is None else experiment  # to open it looks for it
    if engine == "spark":
        from ..store.spark.connection import spark_session
        from .scoring.spark_source import SparkSource

        spark_session(spark_master)  # a process has one, which the source then finds
        return SparkSource.open(opened, chosen, target, find=find)
    return open_source(opened, chosen, target)


def _analysis_command(analysis: Analysis) -> click.Command:
    @click.command(analysis.name)
    @lake_option
    @experiment_option
    @target_option
    @metrics_option
    @engine_options
    @click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Write the scores to this file (.csv, .json, .parquet).",
    )
    @fpr_option
    def command(
        lake: str,
        experiment: str | None,
        target: str | None,
        fpr: tuple[float, ...],
        out: Path | None,
        metrics: Path | None,
        engine: str,
        spark_master: str | None,
        **options: Any,
    ) -> None:
        wanted = format_of(out, None) if out is not None else None
        if engine == "spark":
            check_on_spark(analysis.name)
        with _opened(lake, experiment, target, engine, spark_master) as source:
            outcome = run_analysis(source, analysis, options, fprs=fpr)
            exposed = _exposed(source, outcome.scores)
            shadows = sum(run.info.role == "shadow" and run.run != source.target_name for run in source.runs)
            told = _cautions(source) if analysis.attack and engine != "spark" else ()
            judged = _judged(analysis, outcome, [name for name, _ in told])
        if out is not None and wanted is not None:
            write_frame(outcome.scores.frame, out, wanted)
        if not _write_metrics(metrics, outcome.metrics):
            _tell(outcome.label, outcome.metrics, ())
            click.echo(f"\n{_heading(outcome, judged)}")
            for line in aligned(exposed.rows(), exposed.columns, shorten="key"):
                click.echo(f"  {line}")
        for note in (*outcome.notes, *(f"{name}: {text}" for name, text in told)):
            click.echo(f"note: {note}", err=True)
        if judged is not None:
            click.echo(f"verdict: {_verdict_line(judged, shadows)}", err=True)
        elif any(metric.metric == "auc" for metric in outcome.metrics):
            click.echo(
                f"note: {analysis.name} orders records by exposure and is no attack: its AUC and TPR say how far members score "
                "higher than non-members, not how well it finds the records at risk",
                err=True,
            )

    command.params += [_click_option(option) for option in analysis.options]
    example = f"losslake analyze {analysis.name} --lake my-lake --experiment {analysis.example} --out {analysis.name}.csv"
    return _described(command, analysis.description, example)


def _exposed(source: Source, scores: Scores) -> pl.DataFrame:
    from .report.records import exposed_table

    return exposed_table(source, scores, SHOWN)


def _cautions(source: Source) -> tuple[tuple[str, str], ...]:
    from .evaluations.likeness import cautions

    return cautions(source)


def _judged(analysis: Analysis, outcome: Outcome, warned: list[str]) -> Judgement | None:
    """The report's verdict on this attack alone; None of what is no attack, or has no members and non-members to tell apart."""
    from .report.verdict import as_attack, judge

    metrics = [metric for metric in outcome.metrics if metric.metric in ("auc", "tpr_at_fpr")]
    if not analysis.attack or not metrics:
        return None
    attack = as_attack(outcome.label, outcome.scores, metrics)
    return None if attack is None else judge([attack], attack, warned)


def _heading(outcome: Outcome, judged: Judgement | None) -> str:
    """What to call the records with the highest scores: exposed only where they differ from others, and chance does not explain it."""
    from .report.verdict import chance_explains, easy_first, explanation

    if outcome.scores.frame["score"].drop_nulls().n_unique() < 2:
        return "the first of all records, which have the same score"
    why = "chance" if chance_explains(outcome.metrics) else None
    if judged is not None:
        why = explanation(judged) or why
    if why:
        return f"highest scores; explained by {why}"
    return (
        "highest scores; easy records more than exposed ones" if easy_first(outcome.label) else "most exposed"
    )


def _verdict_line(judged: Judgement, shadows: int) -> str:
    from .report.words import title_of

    return title_of(judged, shadows)


def _evaluation_command(evaluation: Evaluation) -> click.Command:
    @click.command(evaluation.name)
    @lake_option
    @experiment_option
    @target_option
    @metrics_option
    @engine_options
    def command(
        lake: str,
        experiment: str | None,
        target: str | None,
        scores: tuple[str, ...],
        metrics: Path | None,
        engine: str,
        spark_master: str | None,
        **options: Any,
    ) -> None:
        if engine == "spark":
            check_evaluation_on_spark(evaluation.name)
        with _opened(lake, experiment, target, engine, spark_master) as source:
            finding = run_evaluation(source, evaluation, scores, options)
        if not _write_metrics(metrics, finding.metrics):
            _tell(evaluation.name, finding.metrics, ())
        for note in finding.notes:
            click.echo(f"note: {note}", err=True)

    defaults = evaluation.default_scores
    metavar = "[SCORE]..." if defaults else "SCORE..."
    command.params.append(click.Argument(["scores"], nargs=-1, required=not defaults, metavar=metavar))
    command.params += [_click_option(option) for option in evaluation.options]
    named = " ".join(defaults) or 'lt-iqr "trace[aggregate=final]" lira'
    example = f"losslake analyze {evaluation.name} {named} --lake my-lake"
    text = f"{evaluation.description}\n\nA SCORE is an analysis, NAME or NAME[option=value,...]."
    if defaults:
        text += f" Without one: {', '.join(defaults)}."
    return _described(command, text, example)


def _described(command: click.Command, text: str, example: str) -> click.Command:
    command.help = f"{text}\n\n\b\nExample:\n  {example}"
    command.short_help = text.splitlines()[0]
    return command


def _click_option(option: Option) -> click.Option:
    switch = f"/--no-{option.name}" if option.kind is bool else ""
    return click.Option(
        [f"--{option.name}{switch}", option.keyword],
        type=click.Choice(option.choices) if option.choices else option.kind,
        default=option.default,
        multiple=option.many,
        show_default=option.default is not None,
        help=f"{option.help[0].upper()}{option.help[1:]}.",
    )


def _command_of(name: str) -> click.Command | None:
    if name == "gate":
        from .gate.command import gate

        return gate
    for analysis in ANALYSES:
        if analysis.name == name:
            return _analysis_command(analysis)
    for evaluation in EVALUATIONS:
        if evaluation.name == name:
            return _evaluation_command(evaluation)
    return None
