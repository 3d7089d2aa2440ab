"""How many shadow models an attack needs: its success against their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption, NotEnoughData
from ..attacks.lira_each import growing, scores_of
from ..attacks.phi_matrix import queries_of, read_phi, shadow_phi
from ..measures.memorization import estimates
from ..scores import Finding
from ..source import Source
from ..statistics.intervals import CONFIDENCE, logit_interval
from ..statistics.metric import Metric
from ..statistics.roc import evaluate, whole_part
from ..statistics.special import ndtri, stdtrit
from .compare import check_fprs

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def shadow_curve(
    source: Source,
    scores: tuple[str, ...],
    *,
    counts: Annotated[
        tuple[int, ...], "numbers of shadow runs; default: powers of two up to all of them"
    ] = (),
    draws: Annotated[int, "random draws of the shadow runs for each number"] = 10,
    top: Annotated[float, "share of members, and of non-members, that counts as memorized"] = 0.05,
    fpr: Annotated[tuple[float, ...], "false-positive rates of the TPR"] = (0.001, 0.01, 0.1),
    reach: Annotated[tuple[float, ...], "values of the AUC to reach"] = (0.6, 0.7, 0.8, 0.9),
    seed: Annotated[int, "of the draws"] = 0,
) -> Finding:
    """Success of LiRA against the number of shadow models, for all records and for highly memorized ones.

    auc and tpr_at_fpr are means over draws of so many shadow runs out of all, and their interval is what another set of as
    many shadow models would give 19 times in 20 (interval=draws): draws of n out of N runs share some, and differ by 1 - n/N
    of the variance of sets that share none. With all of them there is one draw, and the interval is that over records
    (interval=records). A record that a draw holds no run with or none without has no score in it (coverage: the share that
    has, on average).

    records=memorized are the --top share of members and of non-members with the highest memorization; that is estimated
    from all shadow runs and never from the target. Ties at its edge are broken at random. shadows_to_reach is the least
    number whose mean AUC is at least the one named; its bounds are those of the intervals.

    Needs: the target's signals; shadow runs, the more the longer the curve.

    Source: "Why Train More? Effective and Efficient Membership Inference via Memorization", section 7.2 and figure 3.
    """
    _check(draws, top, fpr, reach)
    ways = [(name, *_way(source, name)) for name in dict.fromkeys(scores)]
    target = source.need_target_table("signals")
    shadows = source.need_shadows()
    numbers = _numbers(counts, len(shadows))
    queries = queries_of(source)
    attacked = read_phi(source, [target], queries)
    matrix = shadow_phi(source, queries)
    point = attacked.phi[0].astype(np.float64)
    member = attacked.member[0]
    rng = np.random.default_rng(seed)
    groups = {"all": np.ones(len(member), dtype=bool)}
    memorized, notes = _memorized(source, matrix.sample_id, member, top, rng)
    if memorized is not None:
        groups["memorized"] = memorized

    found: dict[tuple[str, int, str], list[list[Metric]]] = {}
    covered: dict[tuple[str, int, str], list[float]] = {}
    for draw in range(draws):
        wanted = [
            number for number in numbers if number < len(shadows) or not draw
        ]  # all: every draw is the same
        for number, fits in growing(matrix.phi, matrix.member, rng.permutation(len(shadows)), wanted):
            for name, mode, variance in ways:
                score = scores_of(point, fits, mode, "bayes" if variance == "auto" else variance)
                for records, chosen in groups.items():
                    key = (name, number, records)
                    found.setdefault(key, []).append(evaluate(score[chosen], member[chosen], fpr))
                    covered.setdefault(key, []).append(float((~np.isnan(score[chosen])).mean()))
    metrics = [
        metric
        for key, drawn in found.items()
        for metric in _over_draws(key, drawn, float(np.mean(covered[key])), len(shadows))
    ]
    if not metrics:
        raise NotEnoughData(
            f"none of {draws} draws of up to {max(numbers)} shadow runs scores both a member and a non-member; take "
            "larger --counts, or collect more"
        )
    metrics += _needed(metrics, reach)
    return Finding(tuple(metrics), (*notes, *source.told()))


def _check(draws: int, top: float, fpr: Sequence[float], reach: Sequence[float]) -> None:
    if draws < 1:
        raise InvalidOption(f"at least 1 draw is needed, not {draws}")
    if not 0 < top <= 1:
        raise InvalidOption(f"top is a share of the records between 0 and 1, not {top}")
    check_fprs(*fpr)
    for level in reach:
        if not 0 < level <= 1:
            raise InvalidOption(f"an AUC to reach lies between 0 and 1, not {level}")


def _way(source: Source, name: str) -> tuple[str, str]:
    """Mode and variance of a LiRA score. Raises InvalidOption for one whose fits do not follow from sums."""
    analysis, options = source.analysis(name)
    if analysis.name != "lira" or set(options) - {"mode", "variance"}:
        raise InvalidOption(
            f"shadow-curve draws shadow runs for lira, lira[mode=...] and lira[variance=...], not for {name}"
        )
    return options.get("mode", "online"), options.get("variance", "auto")


def _numbers(counts: tuple[int, ...], shadows: int) -> list[int]:
    for count in counts:
        if not 1 <= count <= shadows:
            raise InvalidOption(f"{count} shadow runs cannot be drawn: there are {shadows}")
    powers = [2**power for power in range(shadows.bit_length()) if 2**power < shadows]
    return sorted(set(counts)) if counts else [*powers, shadows]


def _memorized(
    source: Source, sample_id: npt.NDArray[np.int64], member: Flags, top: float, rng: np.random.Generator
) -> tuple[Flags | None, list[str]]:
    """Members and non-members with the highest memorization, ``top`` of each that have one; None where none has."""
    try:
        frame = estimates(source, "correct")
    except NotEnoughData as error:
        return None, [f"no record can be said to be memorized: {error}"]
    value = np.full(int(sample_id.max(initial=-1)) + 1, np.nan)
    value[frame["sample_id"].to_numpy()] = frame["score"].fill_null(np.nan).to_numpy()
    value = value[sample_id]
    chosen = np.zeros(len(member), dtype=bool)
    for side in (member, ~member):
        known = np.flatnonzero(side & ~np.isnan(value))
        ranked = known[np.lexsort((rng.random(len(known)), -value[known]))]
        chosen[ranked[: max(1, whole_part(top, len(known)))]] = True
    lowest = float(np.min(value[chosen]))
    told = f"records=memorized are {int(chosen.sum())} with a memorization of {lowest:.2f} or more"
    return chosen, [told]


def _over_draws(
    key: tuple[str, int, str], drawn: list[list[Metric]], coverage: float, shadows: int
) -> list[Metric]:
    """Each metric's mean over the draws that have it, and what another set would give or, of one draw, its own interval."""
    name, number, records = key
    drawn = [metrics for metrics in drawn if metrics]
    made = []
    for same in zip(*drawn, strict=True):
        first = same[0]
        about = {"score": name, "shadows": number, "records": records, **first.parameters}
        about |= {"draws": len(same), "coverage": coverage}
        values = [m.value for m in same if m.value is not None]
        if len(values) < len(same):
            made.append(Metric(first.metric, None, n=first.n, parameters=about))
            continue
        if len(same) == 1:
            low, high, over = first.ci_low, first.ci_high, "records"
        else:
            low, high = another_set(values, number, shadows)
            over = "draws"
        seen = round(float(np.mean([m.n or 0 for m in same])))
        made.append(
            Metric(first.metric, float(np.mean(values)), low, high, seen, {**about, "interval": over})
        )
    return made


def another_set(values: Sequence[float], number: int, shadows: int) -> tuple[float, float]:
    """95% interval of a share that another ``number`` of shadow runs would give, from its values in draws out of ``shadows``.

    Draws without replacement share runs: their variance is 1 - number / shadows of that between sets that share none
    (as in the delete-d jackknife; Efron & Tibshirani 1993, section 11.7). To it comes the error of their mean, which all
    draws have in common, number / shadows of it.
    """
    n, used = len(values), number / shadows
    if n < 2 or used >= 1:
        return 0.0, 1.0
    variance = float(np.var(values, ddof=1)) / (1 - used)
    # The variance is uncertain by the draws, given the runs, and by the runs.
    freedom = 1 / (1 / (n - 1) + 1 / (shadows - 1))
    wider = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2) / ndtri(0.5 + CONFIDENCE / 2))
    centre = float(np.mean(values))
    if variance == 0:  # every draw said the same
        return centre, centre
    return logit_interval(centre, variance * (1 + used + (1 - used) / n) * wider**2, n)


def _needed(metrics: Sequence[Metric], reach: Sequence[float]) -> list[Metric]:
    """The least number of shadow runs with an AUC, None where no number tried has it."""
    curves: dict[tuple[str, str], list[Metric]] = {}
    for m in metrics:
        if m.metric == "auc" and m.value is not None:
            curves.setdefault((m.parameters["score"], m.parameters["records"]), []).append(m)
    needed = []
    for (name, records), curve in curves.items():
        curve.sort(key=lambda m: m.parameters["shadows"])
        for level in reach:
            value, soonest, latest = (
                next((m.parameters["shadows"] for m in curve if (getattr(m, bound) or 0) >= level), None)
                for bound in ("value", "ci_high", "ci_low")
            )
            about = {"score": name, "records": records, "auc": level}
            needed.append(Metric("shadows_to_reach", value, soonest, latest, len(curve), about))
    return needed
