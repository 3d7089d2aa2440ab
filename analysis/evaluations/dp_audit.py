"""Lower bounds on a training's epsilon from how well attacks tell its members from its non-members."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Finding, Scores
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.metric import Metric
from .epsilon import Rates, Sides, audit_one_run, dp_law, epsilon_of_mu, gaussian_law, held_out

Records = Literal["auto", "all", "canaries", "natural"]
Flags = npt.NDArray[np.bool_]

CANARY = "canary"
"""The group of records that were planted to be audited."""

WHAT = {"all": "records", "canaries": "canaries", "natural": "natural records"}


@dataclass(frozen=True)
class _Audit:
    """Records to audit with one score: score (n,), NaN where there is none, and membership (n,); options."""

    name: str
    score: npt.NDArray[np.float64]
    member: Flags
    confidence: float
    delta: float
    seed: int
    about: dict[str, Any]

    def metric(self, method: str, bound: float, estimate: float | None, n: int, **more: Any) -> Metric:
        value = estimate if estimate is None or math.isfinite(estimate) else None
        parameters = {"method": method, **self.about, **more}
        low = max(0.0, bound)
        return Metric("epsilon_lower", value, low, math.inf, n, parameters)


def dp_audit(
    source: Source,
    scores: tuple[str, ...],
    *,
    confidence: Annotated[float, "at which each bound holds"] = 0.95,
    delta: Annotated[float, "the delta of (epsilon, delta)-differential privacy"] = 1e-5,
    records: Annotated[Records, "which to audit; auto: the canaries, or all where there is none"] = "auto",
    guesses: Annotated[
        tuple[float, ...],
        "one-run: how many guesses, a share up to 1 or a count; of several the best, corrected for choosing",
    ] = (0.01, 0.05, 0.2, 0.5, 1.0),
    sides: Annotated[
        Literal["either", "both", "members"],
        "one-run: guess at both ends of the scores, at the members' alone, or try either and correct",
    ] = "either",
    seed: Annotated[int, "of random halves and of the order of ties"] = 0,
) -> Finding:
    """Lower bounds on the epsilon of the target's training by three methods.

    epsilon_lower has the bound at --confidence as the low end of its interval (the high end is open: no audit bounds
    epsilon from above) and the plain estimate, without any allowance for chance, as its value. The methods:

    one-run (Steinke, Nasr & Jagielski 2023): the share of right guesses at the membership of the highest and the lowest
    scores. It holds for one training run as it is, where each record was a member by a fair coin of its own.

    clopper-pearson: ln((TPR - delta) / FPR) with Clopper-Pearson bounds of both, or the same for naming non-members;
    threshold and side are chosen on one half of the records and measured on the other, and the reverse. It takes the
    records of the one model for independent trials, which no theorem grants.

    gaussian (Dong, Roth & Su 2022): mu_lower = Phi^-1(TPR) - Phi^-1(FPR) likewise, and the epsilon of a Gaussian
    mechanism with this mu. It holds for training whose privacy is that of a Gaussian mechanism, as that of DP-SGD nearly
    is, and for the same trials.

    Needs: what the scores need; for the canaries, an experiment collected with --canaries.

    Source: Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run"; Dong, Roth & Su 2022,
    "Gaussian Differential Privacy".
    """
    _check(confidence, delta, guesses)
    target = source.need_target()
    canary = _canaries(source)
    if records == "auto":
        records = "canaries" if canary.any() else "all"
    if records == "canaries" and not canary.any():
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no record of group {CANARY!r}; plant some with --canaries when "
            "collecting, or audit --records all"
        )
    by_coin = _by_coin(source, records)
    tried: tuple[Sides, ...] = ("both", "members") if sides == "either" else (sides,)
    metrics: list[Metric] = []
    notes = _notes(source, records, by_coin, len(scores), delta)
    for name, kept in keep_scores(source, scores).items():
        about = {"score": name, "delta": delta, "confidence": confidence, "records": records}
        score, member = _audited(kept.scores, canary, records, name, target.run)
        audit = _Audit(name, score, member, confidence, delta, seed, about)
        metrics += [_one_run(audit, guesses, tried, by_coin), _clopper_pearson(audit), *_gaussian(audit)]
        notes += [f"{name}: {note}" for note in kept.scores.notes]
    return Finding(tuple(metrics), tuple(notes))


def _check(confidence: float, delta: float, guesses: tuple[float, ...]) -> None:
    if not 0.5 <= confidence < 1:
        raise InvalidOption(f"confidence lies between 0.5 and 1, not {confidence}")
    if not 0 <= delta < 1:
        raise InvalidOption(f"delta lies between 0 and 1, not {delta}")
    for number in guesses:
        if not (0 < number <= 1 or (number > 1 and float(number).is_integer())):
            raise InvalidOption(f"guesses are a share up to 1, or a whole number from 2 on, not {number:g}")
    if not guesses:
        raise InvalidOption("give at least one number of guesses")


def _canaries(source: Source) -> Flags:
    """Which samples of the experiment are canaries: bool (N,)."""
    group = source.lake.samples(source.experiment)["group"].to_pylist()
    return np.array([name == CANARY for name in group], dtype=bool)


def _by_coin(source: Source, records: Records) -> bool:
    """Whether the target is known to have got each of these records by a fair coin that nothing else depends on."""
    design = source.need_target().info.extra.get("design") or {}
    planted = source.lake.experiment(source.experiment).dataset.get("canaries")
    if design.get("design") == "target":
        return records == "canaries" and bool(planted)
    # In a balanced or paired fleet the other runs' members tell this one's.
    return bool(design.get("design") == "bernoulli" and design.get("probability") == 0.5)


def _audited(
    scores: Scores, canary: Flags, records: Records, name: str, target: str
) -> tuple[npt.NDArray[np.float64], Flags]:
    """Score and membership of the records to audit. Raises NotEnoughData where one side has too few."""
    known = scores.frame["member"].is_not_null().to_numpy()
    marked = canary[scores.frame["sample_id"].to_numpy()[known]]
    chosen = {"all": np.ones(len(marked), bool), "canaries": marked, "natural": ~marked}[records]
    score, member = (values[chosen] for values in scores.arrays())
    what = WHAT[records]
    for side, flags in (("members", member), ("non-members", ~member)):
        # A score of members alone is no attack: it has been told who they are.
        scored = int((~np.isnan(score[flags])).sum())
        if scored < 2:
            raise NotEnoughData(
                f"an audit needs scores of two {side} at least, and {name} has {scored} among the {what} of run {target!r}"
            )
    return score, member


def _one_run(audit: _Audit, guesses: tuple[float, ...], sides: tuple[Sides, ...], by_coin: bool) -> Metric:
    n = len(audit.score)
    counts = [max(1, round(number * n)) if number <= 1 else int(number) for number in guesses]
    found = audit_one_run(
        audit.score,
        audit.member,
        guesses=counts,
        sides=sides,
        delta=audit.delta,
        confidence=audit.confidence,
        seed=audit.seed,
    )
    return audit.metric(
        "one-run",
        found.epsilon,
        found.estimate,
        n,
        guesses=found.guesses,
        correct=found.correct,
        sides=found.sides,
        tried=found.tried,
        coins=by_coin,
    )


def _clopper_pearson(audit: _Audit) -> Metric:
    law = dp_law(audit.delta)
    rates, bound = held_out(audit.score, audit.member, law, confidence=audit.confidence, seed=audit.seed)
    return audit.metric(
        "clopper-pearson", bound, max(0.0, rates.estimate(law)), rates.of + rates.among, **_told(rates)
    )


def _gaussian(audit: _Audit) -> list[Metric]:
    rates, bound = held_out(
        audit.score, audit.member, gaussian_law, confidence=audit.confidence, seed=audit.seed
    )
    low, mu, n = max(0.0, bound), max(0.0, rates.estimate(gaussian_law)), rates.of + rates.among
    told = _told(rates)
    lower = Metric(
        "mu_lower",
        mu if math.isfinite(mu) else None,
        low,
        math.inf,
        n,
        {"method": "gaussian", **audit.about, **told},
    )
    if audit.delta == 0:
        return [lower]  # no Gaussian mechanism is (epsilon, 0)-DP
    estimate = epsilon_of_mu(mu, audit.delta) if math.isfinite(mu) else None
    return [lower, audit.metric("gaussian", epsilon_of_mu(low, audit.delta), estimate, n, **told)]


def _told(rates: Rates) -> dict[str, Any]:
    right, wrong = rates.hits / rates.of, rates.alarms / rates.among
    return {"named": rates.named, "right": right, "wrong": wrong}


def _notes(source: Source, records: Records, by_coin: bool, scores: int, delta: float) -> list[str]:
    notes = [
        "clopper-pearson and gaussian take the records of one model for independent trials; gaussian holds for training "
        "whose privacy is that of a Gaussian mechanism, such as DP-SGD"
    ]
    if not by_coin:
        notes.insert(
            0,
            f"the {WHAT[records]} that run {source.target_name!r} trained on are not known to "
            "have been drawn by independent fair coins, which the one-run bound rests on: take it for an approximation; "
            "canaries (--canaries when collecting) and runs of a bernoulli design are drawn so",
        )
    if delta == 0:
        notes.append("no Gaussian mechanism has a finite epsilon at delta 0: only its mu is given")
    if scores > 1:
        notes.append(
            "each bound holds by itself; the greatest of several scores' holds at a lower confidence"
        )
    return notes
