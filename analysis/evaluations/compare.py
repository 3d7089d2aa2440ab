"""How well cheap scores find the records that an attack finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Finding, Scores
from ..scoring.stored import SCORE, keep_scores
from ..source import Source
from ..statistics.alike import Fronts, shared_tops
from ..statistics.correlation import Ranked, correlation_of, rank_correlations
from ..statistics.metric import Metric
from ..statistics.roc import split, threshold_at_fpr, tpr_at_fpr, whole_part
from ..statistics.top_k import Truth, precision_alone, precision_and_recall

Among = Literal["all", "members", "non-members"]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def compare(
    source: Source,
    scores: tuple[str, ...],
    *,
    against: Annotated[str, "the attack whose findings are the truth"] = "lira",
    fpr: Annotated[float, "false-positive rate at which it finds them"] = 0.001,
    k: Annotated[tuple[float, ...], "shares of the members to look at"] = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5),
    among: Annotated[Among, "which samples the correlations are over"] = "members",
) -> Finding:
    """Precision and recall of scores against the records an attack finds, correlations, agreement.

    Vulnerable are the target's members whose score under --against exceeds its threshold at the FPR, measured on the
    target's own non-members. precision_at_k = |top k members by score, vulnerable| / k with k = int(share x
    members); recall_at_k divides by the number of vulnerable ones; members tied at the edge of the top k count by
    their expected share. agreement is |both| / |either| of the members that two scores rank highest, as many of each as
    are vulnerable (at least one), ties in the order of sample ids.

    vulnerable counts the records that the attack finds; it is the attack's TPR among these records and has its interval. The
    intervals of precision_at_k and recall_at_k are of what endlessly many records like these would give: they are over the members, over
    which of them come highest, and over the non-members that set the threshold; so is that of agreement. spearman is the rank
    correlation of each pair of scores.

    Needs: two or more scores; what the attack under --against needs.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    names = tuple(dict.fromkeys((*scores, against)))
    if not scores:
        raise InvalidOption("name at least one score to compare")
    check_k(*k)
    check_fprs(fpr)
    source.need_target()
    table, notes = side_by_side(
        {name: kept.scores for name, kept in keep_scores(source, names, SCORE).items()}
    )
    member = table["member"].to_numpy()
    columns = {name: table[name].to_numpy() for name in names}
    others = split(columns[against], member)[1]
    threshold = threshold_at_fpr(others, fpr) if len(others) else np.inf
    attacked = columns[against][member]
    vulnerable = attacked > threshold
    truth = Truth.of(attacked, others, fpr)
    rate = tpr_at_fpr(np.sort(attacked), others, fpr)
    non_members = int((~member).sum())
    if non_members * fpr < 1:
        notes.append(
            f"{non_members} non-members cannot resolve an FPR of {fpr:g}: vulnerable means above every one of them"
        )
    metrics = [
        Metric(
            "vulnerable",
            float(vulnerable.mean()),
            rate.ci_low,
            rate.ci_high,
            n=len(vulnerable),
            parameters={"against": against, "fpr": fpr, "records": int(vulnerable.sum())},
        )
    ]
    ranked = {name: Ranked.of(columns[name][member]) for name in names}
    for name in names:
        if name != against:
            about = {"score": name, "against": against, "fpr": fpr}
            for share in k:
                metrics += _at_k(columns[name][member], ranked[name], vulnerable, truth, share, about)
    places = {name: _places(columns[name][member]) for name in names}
    fronts = Fronts.of(attacked, others, fpr)
    for first, second in combinations(names, 2):
        between = shared_tops(places[first], places[second], fronts)
        pair = {"first": first, "second": second}
        metrics.append(
            _agreement(places[first], places[second], max(int(vulnerable.sum()), 1), between, pair)
        )
    if among != "members":
        chosen = ~member if among == "non-members" else np.ones(len(member), dtype=bool)
        ranked = {name: Ranked.of(column[chosen]) for name, column in columns.items()}
    correlations = rank_correlations(ranked, {"among": among})
    metrics += correlations
    if any(metric.value is None for metric in correlations):
        notes.append("a score that never varies has no correlation")
    return Finding(tuple(metrics), tuple(notes))


def side_by_side(scores: dict[str, Scores]) -> tuple[pl.DataFrame, list[str]]:
    """One row a sample that every score knows, with its membership and a column a score."""
    table: pl.DataFrame | None = None
    notes = []
    for name, one in scores.items():
        part = one.frame.select("sample_id", "member", pl.col("score").alias(name))
        part = part.filter(pl.col(name).is_not_null())
        table = (
            part if table is None else table.join(part.drop("member"), on="sample_id", maintain_order="left")
        )
        notes += [f"{name}: {note}" for note in one.notes]
    assert table is not None
    table = table.filter(pl.col("member").is_not_null())
    if not table["member"].any():
        raise NotEnoughData("no member of the target has all of these scores")
    largest = max(len(one.frame) for one in scores.values())
    if len(table) < largest:
        notes.append(f"{len(table)} of {largest} samples have all of these scores; the rest is left out")
    return table, notes


@dataclass(frozen=True, eq=False)
class FoundBy:
    """An attack's ``score`` by sample id (NaN: none) its ``others`` (the target's non-members' scores, sorted), and its
    ``threshold`` at the FPR on these.
    """

    name: str
    fpr: float
    score: Floats
    others: Floats
    threshold: float
    notes: tuple[str, ...]

    def among(self, sample_id: npt.NDArray[np.int64]) -> FoundAmong:
        """What it finds among these members (n,)."""
        attacked = self.score[sample_id]
        known = ~np.isnan(attacked)
        attacked = attacked[known]
        truth = Truth.of(attacked, self.others, self.fpr)
        return FoundAmong(self, known, Ranked.of(attacked), attacked > self.threshold, truth)


@dataclass(frozen=True, eq=False)
class FoundAmong:
    """What an attack finds among members: which of them it has a score of, and of these the ranks and whom it finds."""

    by: FoundBy
    known: Mask
    ranked: Ranked
    vulnerable: Mask
    truth: Truth

    def judge(self, value: Floats, k: float, parameters: dict[str, object]) -> list[Metric]:
        """precision_at_k of a score of these members, ``value`` (n,) without NaN, and its Spearman correlation with the attack's.

        Members that the attack has no score of are left out. Precision is that of `compare`: members tied at the edge of
        the top k count by their expected share.
        """
        value = value[self.known]
        ranked = Ranked.of(value)
        about = {**parameters, "against": self.by.name}
        at_fpr = {**about, "fpr": self.by.fpr}
        precision = _precision_at_k(value, ranked, self.vulnerable, self.truth, k, at_fpr)
        return [precision, correlation_of(ranked, self.ranked, {**about, "among": "members"})]


def found_by(source: Source, attack: str, fpr: float) -> FoundBy:
    """What an attack finds in the target at an FPR. Raises NotEnoughData where it cannot be computed."""
    check_fprs(fpr)
    scores = keep_scores(source, (attack,), SCORE)[attack].scores
    score = np.full(source.lake.experiment(source.experiment).samples, np.nan)
    score[scores.frame["sample_id"].to_numpy()] = scores.frame["score"].fill_null(np.nan).to_numpy()
    others = split(*scores.arrays())[1]
    threshold = threshold_at_fpr(others, fpr) if len(others) else np.inf
    coarse = len(others) * fpr < 1
    told = f"{len(others)} non-members cannot resolve an FPR of {fpr:g}: found means above every one of them"
    return FoundBy(attack, fpr, score, others, threshold, (told,) if coarse else ())


def check_fprs(*fprs: float) -> None:
    """Raises InvalidOption for a false-positive rate outside 0..1."""
    for fpr in fprs:
        if not 0 < fpr < 1:
            raise InvalidOption(f"a false-positive rate lies between 0 and 1, not {fpr}")


def check_k(*shares: float) -> None:
    """Raises InvalidOption for a share of the members outside 0..1."""
    for k in shares:
        if not 0 < k <= 1:
            raise InvalidOption(f"k is a share of the members between 0 and 1, not {k}")


def _at_k(
    score: Floats,
    ranked: Ranked,
    vulnerable: Mask,
    truth: Truth,
    share: float,
    parameters: dict[str, object],
) -> tuple[Metric, Metric]:
    """precision_at_k and recall_at_k of a score of members; no value where the share is of less than one."""
    k, total = whole_part(share, len(score)), int(vulnerable.sum())
    about = {**parameters, "k": share, "records": k}
    if k == 0:
        return _no_precision(about), Metric("recall_at_k", None, n=total, parameters=about)
    hits = expected_hits(score, vulnerable, k)
    recall = hits / total if total else None
    of_precision, of_recall = precision_and_recall(ranked, truth, share)
    return (
        Metric("precision_at_k", hits / k, *of_precision, k, about),
        Metric("recall_at_k", recall, *of_recall, total, about),
    )


def _precision_at_k(
    score: Floats,
    ranked: Ranked,
    vulnerable: Mask,
    truth: Truth,
    share: float,
    parameters: dict[str, object],
) -> Metric:
    """The first of these, for half of the time."""
    k = whole_part(share, len(score))
    about = {**parameters, "k": share, "records": k}
    if k == 0:
        return _no_precision(about)
    hits = expected_hits(score, vulnerable, k)
    return Metric("precision_at_k", hits / k, *precision_alone(ranked, truth, share), k, about)


def _no_precision(about: dict[str, object]) -> Metric:
    return Metric("precision_at_k", None, n=0, parameters=about)


def expected_hits(score: Floats, vulnerable: Mask, k: int) -> float:
    """Vulnerable records among the top ``k``; those tied at its edge count by the share of them that fits in."""
    edge = np.partition(score, len(score) - k)[len(score) - k]
    above = score > edge
    tied = score == edge
    room = (k - above.sum()) / tied.sum()
    return float(vulnerable[above].sum() + room * vulnerable[tied].sum())


def _places(score: Floats) -> npt.NDArray[np.int64]:
    """The place of each record from 0, the highest score first, ties in order."""
    places = np.empty(len(score), dtype=np.int64)
    places[np.argsort(-score, kind="stable")] = np.arange(len(score))
    return places


def _agreement(
    one: npt.NDArray[np.int64],
    other: npt.NDArray[np.int64],
    count: int,
    interval: tuple[float, float],
    pair: Mapping[str, object],
) -> Metric:
    both = int(((one < count) & (other < count)).sum())
    either = 2 * count - both
    about = {**pair, "records": count, "both": both}
    return Metric("agreement", both / either, *interval, n=either, parameters=about)
