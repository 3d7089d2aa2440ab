"""Lower bounds on a training's epsilon from how well attacks tell its members from its non-members."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import CANARY
from ..scores import Finding, Scores
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.metric import Metric
from .epsilon import (
    Guessing,
    Law,
    Rates,
    Sides,
    audit_one_run,
    audit_pairs,
    dp_law,
    epsilon_of_mu,
    fair_subset,
    gaussian_law,
    held_out,
)

Records = Literal["auto", "all", "canaries", "natural"]
Inclusion = Literal["auto", "coins", "random"]
Flags = npt.NDArray[np.bool_]

WHAT = {"all": "records", "canaries": "canaries", "natural": "natural records"}


@dataclass(frozen=True)
class Draw:
    """How the audited records came to be members: coins of ``probability`` each, at random, or in a way not known.

    random: within records of one label (canaries apart) every set of members of the same size was as likely. ``why`` says,
    of a draw that is not known, what is missing.
    """

    kind: Literal["coins", "random", "unknown"]
    probability: float | None = None
    why: str = ""


@dataclass(frozen=True)
class _Audit:
    """Records to audit with one score: score (n,), NaN where there is none, membership and stratum (n,); options."""

    score: npt.NDArray[np.float64]
    member: Flags
    stratum: npt.NDArray[np.str_]
    confidence: float
    delta: float
    seed: int
    about: dict[str, Any]

    def bounded(
        self, what: str, method: str, bound: float, estimate: float | None, n: int, **more: Any
    ) -> list[Metric]:
        """The lower bound, and the estimate with this bound for the end of its one-sided interval."""
        parameters = {"method": method, **self.about, "interval": "one-sided", **more}
        low = max(0.0, bound)
        plain = estimate if estimate is None or math.isfinite(estimate) else None
        return [
            Metric(f"{what}_lower", low, low, math.inf, n, parameters),
            Metric(f"{what}_estimate", plain, low, math.inf, n, parameters),
        ]


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
    inclusion: Annotated[
        Inclusion,
        "one-run: how records became members: each by a coin of its own, or at random, which is any draw that does not "
        "tell records of one label apart; auto: as the lake knows it",
    ] = "auto",
    probability: Annotated[
        float | None, "of the coins, with --inclusion coins; default: as the lake knows it, else 0.5"
    ] = None,
    seed: Annotated[int, "of random halves, pairs and subsets, and of the order of ties"] = 0,
) -> Finding:
    """Lower bounds on the epsilon of the target's training by three methods.

    epsilon_lower is the bound: epsilon is at least that, at --confidence, one-sided; no audit bounds it from above, so that
    the high end of its interval is open. epsilon_estimate is what the guesses or rates come to without any allowance for
    chance, above the truth as often as below (more often, as one-run takes the best of several ways to guess); without
    a wrong guess there is none. mu_lower and mu_estimate likewise. The methods:

    one-run (Steinke, Nasr & Jagielski 2023): the share of right guesses at the membership of the highest and the lowest
    scores. It holds for one training run as it is, where each record was a member by a fair coin of its own. Coins of
    another known probability: of the likelier side only so many are kept, at random, that the rest had fair coins; n is
    what was kept. A draw at random, such as of a fixed number: pairs of a member and a non-member of one label, and the
    guess is which of them is the member; n is the number of pairs, and the bound is half of what single coins would
    give, since a pair differs in two records. Where the lake does not know the draw (imported runs) or the other runs
    tell of it (balanced and paired fleets) nothing is claimed: the value is missing, and a note says why; --inclusion
    says what you know.

    clopper-pearson: ln((TPR - delta) / FPR) with Clopper-Pearson bounds of both, or the same for naming non-members;
    threshold and side are chosen on one half of the records and measured on the other, and the reverse. It takes the
    records of the one model for independent trials, and members and non-members for draws from one source, which no
    theorem grants.

    gaussian (Dong, Roth & Su 2022): mu_lower = Phi^-1(TPR) - Phi^-1(FPR) likewise, and the epsilon of a Gaussian
    mechanism with this mu. It holds for training whose privacy is that of a Gaussian mechanism, as that of DP-SGD nearly
    is, and for the same trials.

    Needs: what the scores need; for the canaries, an experiment collected with --canaries.

    Source: Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run"; Dong, Roth & Su 2022,
    "Gaussian Differential Privacy".
    """
    _check(confidence, delta, guesses)
    _check_coins(inclusion, probability)
    target = source.need_target()
    canary = _canaries(source)
    if records == "auto":
        records = "canaries" if canary.any() else "all"
    if records == "canaries" and not canary.any():
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no record of group {CANARY!r}; plant some with --canaries when "
            "collecting, or audit --records all"
        )
    draw = _draw(source, records) if inclusion == "auto" else _said(source, records, inclusion, probability)
    tried: tuple[Sides, ...] = ("both", "members") if sides == "either" else (sides,)
    stratum = _strata(source, canary)
    metrics: list[Metric] = []
    notes = _notes(draw, records, len(scores), delta)
    for name, kept in keep_scores(source, scores).items():
        about = {"score": name, "delta": delta, "confidence": confidence, "records": records}
        rows, score, member = _audited(kept.scores, canary, records, name, target.run)
        audit = _Audit(score, member, stratum[rows], confidence, delta, seed, about)
        metrics += [*_one_run(audit, guesses, tried, draw), *_clopper_pearson(audit), *_gaussian(audit)]
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


def _check_coins(inclusion: Inclusion, probability: float | None) -> None:
    if probability is None:
        return
    if inclusion != "coins":
        raise InvalidOption(f"probability is that of coins; it goes with inclusion coins, not {inclusion}")
    if not 0 < probability < 1:
        raise InvalidOption(f"probability lies between 0 and 1, not at {probability}")


def _draw(source: Source, records: Records) -> Draw:
    """How the target is known to have got these records."""
    name = source.target_name
    design = source.need_target().info.extra.get("design") or {}
    kind = design.get("design")
    if kind == "target":
        planted = source.lake.experiment(source.experiment).dataset.get("canaries")
        return Draw("coins", 0.5) if records == "canaries" and planted else Draw("random")
    if kind == "bernoulli" and design.get("probability") is not None:
        return Draw("coins", float(design["probability"]))
    if kind in ("balanced", "paired"):
        return Draw(
            "unknown", why=f"in a {kind} fleet the members of the other runs tell those of run {name!r}"
        )
    return Draw("unknown", why=f"the lake does not know how the members of run {name!r} were drawn")


def _said(source: Source, records: Records, inclusion: Inclusion, probability: float | None) -> Draw:
    """The draw as the user tells it; the probability is the lake's where only that was left out."""
    if inclusion == "random":
        return Draw("random")
    known = _draw(source, records).probability
    return Draw("coins", probability or known or 0.5)


def _strata(source: Source, canary: Flags) -> npt.NDArray[np.str_]:
    """Of every sample of the experiment the label, and whether it is a canary: str (N,)."""
    labels = source.lake.samples(source.experiment)["label"].to_pylist()
    return np.array([f"{label} {planted}" for label, planted in zip(labels, canary, strict=True)])


def _audited(
    scores: Scores, canary: Flags, records: Records, name: str, target: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], Flags]:
    """Sample, score and membership of the records to audit. Raises NotEnoughData where one side has too few."""
    known = scores.frame["member"].is_not_null().to_numpy()
    rows = scores.frame["sample_id"].to_numpy()[known]
    marked = canary[rows]
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
    return rows[chosen], score, member


def _one_run(audit: _Audit, guesses: tuple[float, ...], sides: tuple[Sides, ...], draw: Draw) -> list[Metric]:
    if draw.kind == "unknown":
        about = {"method": "one-run", **audit.about, "interval": "one-sided", "inclusion": draw.kind}
        return [Metric("epsilon_lower", None, 0.0, math.inf, len(audit.score), about)]
    found = _guess(audit, guesses, sides, draw)
    return audit.bounded(
        "epsilon",
        "one-run",
        found.epsilon,
        found.estimate if found.guesses else None,
        found.records,
        guesses=found.guesses,
        correct=found.correct,
        sides=found.sides,
        tried=found.tried,
        most=found.most,
        inclusion=draw.kind,
        **({"probability": draw.probability} if draw.kind == "coins" else {}),
    )


def _guess(audit: _Audit, guesses: tuple[float, ...], sides: tuple[Sides, ...], draw: Draw) -> Guessing:
    """Guesses at records, or in pairs, whose membership was a fair coin each."""
    score, member, seed = audit.score, audit.member, audit.seed
    options: dict[str, Any] = {"sides": sides, "delta": audit.delta, "confidence": audit.confidence}
    if draw.kind == "random":
        pairs = sum(
            min(int((member & there).sum()), int((~member & there).sum()))
            for there in (audit.stratum == value for value in np.unique(audit.stratum))
        )
        options["guesses"] = _counts(guesses, pairs)
        return audit_pairs(score, member, audit.stratum, seed=seed, **options)
    assert draw.probability is not None
    kept = fair_subset(member, draw.probability, seed)
    options["guesses"] = _counts(guesses, int(kept.sum()))
    return audit_one_run(score[kept], member[kept], seed=seed, **options)


def _counts(guesses: tuple[float, ...], n: int) -> list[int]:
    return [max(1, round(number * n)) if number <= 1 else int(number) for number in guesses]


def _clopper_pearson(audit: _Audit) -> list[Metric]:
    law = dp_law(audit.delta)
    rates, bound = _held_out(audit, law)
    n = rates.of + rates.among
    return audit.bounded(
        "epsilon", "clopper-pearson", bound, max(0.0, rates.estimate(law)), n, **_told(rates)
    )


def _gaussian(audit: _Audit) -> list[Metric]:
    rates, bound = _held_out(audit, gaussian_law)
    low, mu, n = max(0.0, bound), max(0.0, rates.estimate(gaussian_law)), rates.of + rates.among
    told = _told(rates)
    of_mu = audit.bounded("mu", "gaussian", low, mu, n, **told)
    if audit.delta == 0:
        return of_mu  # no Gaussian mechanism is (epsilon, 0)-DP
    estimate = epsilon_of_mu(mu, audit.delta) if math.isfinite(mu) else None
    return [
        *of_mu,
        *audit.bounded("epsilon", "gaussian", epsilon_of_mu(low, audit.delta), estimate, n, **told),
    ]


def _held_out(audit: _Audit, law: Law) -> tuple[Rates, float]:
    return held_out(audit.score, audit.member, law, confidence=audit.confidence, seed=audit.seed)


def _told(rates: Rates) -> dict[str, Any]:
    right, wrong = rates.hits / rates.of, rates.alarms / rates.among
    return {"named": rates.named, "right": right, "wrong": wrong}


def _notes(draw: Draw, records: Records, scores: int, delta: float) -> list[str]:
    notes = [
        "clopper-pearson and gaussian take the records of one model for independent trials, and members and non-members "
        "for draws from one source; gaussian holds for training whose privacy is that of a Gaussian mechanism, such as "
        "DP-SGD"
    ]
    what = WHAT[records]
    if draw.kind == "unknown":
        notes.insert(
            0,
            f"one-run: not claimed, because {draw.why}, and the bound rests on it; say it with --inclusion coins "
            "--probability P, or --inclusion random where any draw at random was made, or audit canaries (--canaries "
            "when collecting)",
        )
    elif draw.kind == "random":
        notes.insert(
            0,
            f"one-run: the {what} were drawn at random and not each by a coin: the bound guesses in pairs of a member and "
            "a non-member, which gives half of what canaries (--canaries when collecting) can show",
        )
    elif draw.probability != 0.5:
        notes.insert(
            0,
            f"one-run: the {what} were drawn by coins of {draw.probability:g}: of the likelier side only so many are kept, "
            "at random, that membership was a fair coin for the rest",
        )
    if delta == 0:
        notes.append("no Gaussian mechanism has a finite epsilon at delta 0: only its mu is given")
    if scores > 1:
        notes.append(
            "each bound holds by itself; the greatest of several scores' holds at a lower confidence"
        )
    return notes
