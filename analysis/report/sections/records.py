"""Sections on single records: the most exposed, LT-IQR beside the attack, memorization beside the privacy score."""

from __future__ import annotations

import numpy as np
import polars as pl

from ...charts.axes import axis_for, number, percent
from ...charts.pairs import Pairs, pairs_chart
from ...charts.scores import MEMORIZED, Group, grouped_histogram, memorization_histogram
from ...charts.style import BLUE, VERMILION
from ...statistics.metric import Metric
from ..data import LOSSES, Report, Scored, correlation, label_of, metric_of
from ..parts import Figure, Figures, Gallery, Part, Section, Table, brush_of, plural
from ..trust import FEW_SHADOWS, with_article
from ..verdict import chance_explains, easy_first, explanation, judge

EASY_FIRST = (
    "This attack looks at one model, and the highest scores are those of easy records, seldom of those most at risk: these stand out beside shadow "
    "models, or by LT-IQR, where losses are recorded after each epoch."
)


def exposed(report: Report) -> Section | None:
    """The records with the highest scores, themselves."""
    if not report.exposed:
        return None
    what = "training records" if report.exposed[0].found is not None or report.target else "samples"
    title, doubt = "The most exposed records", ""
    ranking = next((one for one in report.attacks if one.label == report.ranked_by), None)
    memorized = report.memorization
    if (
        memorized is not None
        and report.ranked_by == memorized.label
        and chance_explains(memorized.scores.metrics)
    ):
        title, doubt = "The records with the highest scores", " Chance alone would give such scores."
    why = explanation(judge([ranking], ranking, report.judgement.warned)) if ranking is not None else None
    if why is not None:
        title, doubt = "The records with the highest scores", f" They are explained by {why}."
    if ranking is not None and easy_first(ranking.scored.name):
        title = "The records with the highest scores"
        doubt += f" {EASY_FIRST}"
    lead = report.judgement.attack
    if (
        report.headline is None
        and report.judgement.tpr is not None
        and lead is not None
        and lead.label != report.ranked_by
    ):
        doubt += f" Those that {with_article(lead.label)} names are not marked: without shadow models it may name easy ones."
    typical = tuple(report.traces.band.median.tolist()) if report.traces else ()
    spark = (
        " The small curve is the record's loss over training; grey, the median member's." if typical else ""
    )
    return Section(
        "exposed",
        "Exposed records",
        title,
        f"The {len(report.exposed)} {what} with the highest {report.ranked_by}, the highest first; ranks (#) are among all of them.{doubt}{spark}",
        (Gallery(report.exposed, typical),),
    )


def lt_iqr(report: Report) -> Section | None:
    """LT-IQR of the records that the attack finds and of the others, and one against the other."""
    if report.lt_iqr is None:
        return None
    drawn = [_spread(report, report.lt_iqr)]
    if report.headline is not None:
        attack = report.headline.attack
        rho = correlation(report.comparison, report.lt_iqr.name, attack.scored.name)
        title = f"LT-IQR against {attack.label}"
        drawn.append(_linked(report, "lt-iqr-attack", report.lt_iqr, attack.scored, title, rho, members=True))
    parts: list[Part] = [Figures(tuple(drawn))]
    table = _precision_table(report)
    if table is not None:
        parts.append(table)
    return Section(
        "lt-iqr",
        "LT-IQR",
        "LT-IQR: exposure without shadow models",
        "LT-IQR, the interquartile range of a record's loss over training, comes free with training the model. "
        + (
            "The more of the records that the attack finds have a high LT-IQR, the better it stands in for the attack."
            if report.headline is not None
            else "The higher, the further the record's loss moved over training; whether an attack would find the same records was not measured."
        ),
        tuple(parts),
    )


def memorization(report: Report) -> Section | None:
    """Memorization, and the privacy score against it."""
    if report.memorization is None:
        return None
    drawn = [Figure("memorization", memorization_histogram(report.memorization.scores))]
    if report.privacy_score is not None:
        rho = correlation(report.pairing, "memorization", "privacy-score")
        title = "Memorization against privacy score"
        drawn.append(
            _linked(report, "privacy", report.memorization, report.privacy_score, title, rho, members=False)
        )
    return Section(
        "memorization",
        "Memorization",
        "Memorization and privacy score",
        "Both come from the shadow models alone, whatever the target trained on: memorization is how much the label "
        "depends on having seen the record (how often models get it right with it, less how often without); the privacy "
        f"score is how far apart models with and without it lie.{_coarse(report, report.memorization)}",
        (Figures(tuple(drawn)),),
    )


def _coarse(report: Report, memorized: Scored) -> str:
    """A caution where so few models there are, with and without a record, that its memorization is mostly chance."""
    few = len(report.shadows)
    if not few or few >= FEW_SHADOWS:
        return ""
    told = f" A caution: each estimate rests on {plural(few, 'shadow model')} in all, with the record and without it, so that it takes few values and says little of a single record"
    for metric in memorized.scores.metrics:
        if metric.parameters.get("threshold") == MEMORIZED and "by_chance" in metric.parameters:
            by_chance = round(metric.parameters["by_chance"] * (metric.n or 0))
            if by_chance:
                told += f". Were nothing memorized, about {plural(by_chance, 'record')} would lie above {MEMORIZED} all the same"
    return f"{told}."


def _precision_table(report: Report) -> Table | None:
    """Precision and recall among the top k of LT-IQR and of plain losses; None where nothing was compared."""
    head, comparison = report.headline, report.comparison
    vulnerable = metric_of(comparison, "vulnerable")
    if head is None or comparison is None or vulnerable is None or report.lt_iqr is None:
        return None
    names = (report.lt_iqr.name, *LOSSES)
    labels = [label_of(name) for name in names]
    wanted = [m for m in comparison.metrics if m.metric == "precision_at_k"]
    rows = []
    for share in dict.fromkeys(float(m.parameters["k"]) for m in wanted):
        at = [metric_of(comparison, "precision_at_k", score=name, k=share) for name in names]
        back = [metric_of(comparison, "recall_at_k", score=name, k=share) for name in names]
        records = next((int(m.parameters["records"]) for m in at if m), 0)
        rows.append((f"{percent(share)} ({records:,})", *map(_share, at), *map(_share, back)))
    return Table(
        (
            "top k of the members",
            *(f"precision, {label}" for label in labels),
            *(f"recall, {label}" for label in labels),
        ),
        tuple(rows),
        (False, *[True] * (2 * len(labels))),
        f"Of the k members with the highest score, the share that {head.attack.label} finds at FPR {percent(head.fpr)} "
        f"(precision), and the share of those it finds that are among them (recall). Picking at random: precision "
        f"{percent(vulnerable.value)}. 95% intervals in brackets.",
    )


def _share(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "–"
    return (
        f"{metric.value:.2f} ({metric.ci_low or 0:.2f}–{1 if metric.ci_high is None else metric.ci_high:.2f})"
    )


def _spread(report: Report, scored: Scored) -> Figure:
    """Histogram of LT-IQR: of the members that the attack finds and of the others, or of all members."""
    frame = scored.scores.frame
    values = frame["score"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    member = frame["member"].fill_null(value=False).to_numpy()
    head = report.headline
    if head is not None and head.fpr is not None and head.found:
        found = np.isin(frame["sample_id"].to_numpy(), list(head.found))
        groups = [
            Group(f"other members ({int((member & ~found).sum()):,})", values[member & ~found], BLUE),
            Group(f"{head.found_name} ({len(head.found):,})", values[found], VERMILION),
        ]
        name = f"{head.found_name[:1].upper()}{head.found_name[1:]}"
        subtitle = [f"{name}: {head.attack.label} at FPR {percent(head.fpr)}."]
        title = f"LT-IQR of records {head.found_name}, and of the others"
    else:
        groups, subtitle = [Group("members", values[member], BLUE)], []
        title = "LT-IQR of the members"
    axis = axis_for(np.concatenate([group.values for group in groups]))
    return Figure(
        "lt-iqr", grouped_histogram(groups, title, f"LT-IQR{report.nats}", subtitle=subtitle, axis=axis)
    )


def _linked(
    report: Report, name: str, first: Scored, second: Scored, title: str, rho: Metric | None, *, members: bool
) -> Figure:
    """Two scores against each other; a selection in the chart narrows the records that the page shows."""
    pairs = _pair(report, first, second, members_only=members)
    said = _say_correlation(rho, "members" if members else "samples")
    chart = pairs_chart(pairs, title, said, brush=brush_of(name))
    tip = "Draw a rectangle to list the records in it; a double click takes it away."
    return Figure(name, chart, (first.label, second.label), tip)


def _pair(report: Report, first: Scored, second: Scored, *, members_only: bool) -> Pairs:
    head = report.headline
    found = head.found if head else frozenset()
    one = first.scores.frame.select("sample_id", "member", pl.col("score").alias("x"))
    both = one.join(
        second.scores.frame.select("sample_id", pl.col("score").alias("y")),
        on="sample_id",
        maintain_order="left",
    )
    if members_only:
        both = both.filter(pl.col("member"))
    both = both.drop_nulls(["x", "y"]).sort("sample_id")
    ids = both["sample_id"].to_numpy().astype(np.int64)
    return Pairs(
        ids,
        both["x"].cast(pl.Float64).to_numpy(),
        both["y"].cast(pl.Float64).to_numpy(),
        np.isin(ids, list(found)) if found else np.zeros(len(ids), dtype=bool),
        first.label,
        second.label,
        head.found_name if head else "",
        "members" if members_only else "samples",
        tuple(report.about[sample] for sample in ids.tolist()) if report.about else (),
    )


def _say_correlation(rho: Metric | None, what: str) -> str:
    if rho is None or rho.value is None:
        return ""
    spread = f"{number(rho.ci_low, 2)} to {number(rho.ci_high, 2)}"
    return f"Spearman's ρ {number(rho.value, 2)} (95%: {spread}) over {rho.n:,} {what}: {rho.parameters['strength']}."
