"""Bounds on epsilon: the theorem against a transcription, coverage without and with a known epsilon, the evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from losslake.analysis.charts.bounds import epsilon_bounds
from losslake.analysis.evaluations.dp_audit import dp_audit
from losslake.analysis.evaluations.epsilon import (
    Guessing,
    Law,
    audit_one_run,
    audit_pairs,
    dp_law,
    epsilon_lower,
    epsilon_of_mu,
    fair_subset,
    gaussian_law,
    held_out,
    log_delta,
    p_values,
    random_pairs,
)
from losslake.analysis.output import metric_lines
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.source import Source
from losslake.analysis.statistics.metric import Metric
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from scipy.integrate import quad
from scipy.stats import binom, norm

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
MakeLake = Callable[..., Lake]

TRIALS = 200
MISSES = int(binom.ppf(0.999, TRIALS, 0.05))
"""What a bound at 95% may miss in so many trials, all but once in a thousand such tests."""


def transcribed(records: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The theorem word by word."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [binom.pmf(k, guesses, right) for k in range(guesses + 1)]
    beta = sum(pmf[correct:])
    alpha = max(sum(pmf[max(correct - i, 0) : correct]) / i for i in range(1, records + 1))
    return float(min(1.0, beta + 2 * records * delta * alpha))


@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.01, 0.2])
@pytest.mark.parametrize(
    ("records", "guesses", "correct"),
    [(1, 1, 1), (20, 10, 8), (30, 30, 25), (15, 7, 7), (12, 5, 0), (60, 40, 21)],
)
def test_p_value_is_the_theorem(records: int, guesses: int, correct: int, delta: float) -> None:
    for epsilon in (0.0, 0.3, 1.0, 4.0):
        assert p_values(records, guesses, correct, delta)(epsilon) == pytest.approx(
            transcribed(records, guesses, correct, epsilon, delta), abs=1e-12
        )


@pytest.mark.parametrize("delta", [0.0, 1e-4, 0.004])
@pytest.mark.parametrize(("records", "guesses", "correct"), [(300, 40, 38), (300, 40, 40), (300, 300, 190)])
def test_the_bound_is_where_the_p_value_reaches_the_level(
    records: int, guesses: int, correct: int, delta: float
) -> None:
    bound = epsilon_lower(records, guesses, correct, delta=delta, confidence=0.9)
    grid = np.linspace(0, 8, 400)
    refuted = np.array([p_values(records, guesses, correct, delta)(epsilon) for epsilon in grid]) < 0.1
    assert (refuted == (grid < bound)).all()
    if bound > 0:
        assert p_values(records, guesses, correct, delta)(bound) == pytest.approx(0.1, abs=1e-6)


def test_bounds_at_the_edges() -> None:
    assert epsilon_lower(50, 20, 0, delta=0, confidence=0.95) == 0
    assert epsilon_lower(50, 20, 10, delta=1e-5, confidence=0.95) == 0
    assert epsilon_lower(50, 0, 0, delta=1e-5, confidence=0.95) == 0
    # All of 20 right: q^20 = 0.05.
    share = 0.05 ** (1 / 20)
    assert epsilon_lower(50, 20, 20, delta=0, confidence=0.95) == pytest.approx(math.log(share / (1 - share)))
    bounds = [epsilon_lower(1000, 100, 95, delta=delta, confidence=0.95) for delta in (0, 1e-6, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[2] > bounds[3]


@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.003])
def test_of_pairs_the_theorem_is_held_at_twice_epsilon(delta: float) -> None:
    """Two records differ: (2 epsilon, (1 + e^epsilon) delta)."""
    for epsilon in (0.0, 0.3, 1.0):
        assert p_values(60, 40, 31, delta, swaps=True)(epsilon) == pytest.approx(
            transcribed(60, 40, 31, 2 * epsilon, (1 + math.exp(epsilon)) * delta), abs=1e-12
        )
    bound = epsilon_lower(300, 40, 38, delta=delta, confidence=0.9, swaps=True)
    grid = np.linspace(0, 4, 400)
    refuted = [p_values(300, 40, 38, delta, swaps=True)(epsilon) < 0.1 for epsilon in grid]
    assert (np.array(refuted) == (grid < bound)).all()
    if delta == 0:
        assert bound == pytest.approx(epsilon_lower(300, 40, 38, delta=0, confidence=0.9) / 2)


def guessing(score: Floats, member: Flags, **options: Any) -> Guessing:
    chosen = {"guesses": [20], "sides": ["both"], "delta": 0.0, "confidence": 0.95, "seed": 0, **options}
    return audit_one_run(score, member, **chosen)


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.5, 0.7, 0.98])
def test_what_is_kept_of_unfair_coins_had_fair_ones(probability: float) -> None:
    member = np.random.default_rng(0).random(200_000) < probability
    kept = fair_subset(member, probability, seed=3)
    side = member if probability < 0.5 else ~member
    assert kept[side].all(), "of the rarer side all are kept"
    n = int(kept.sum())
    assert abs(member[kept].mean() - 0.5) < 3.3 * math.sqrt(0.25 / n)
    assert kept.all() == (probability == 0.5)
    assert n / 200_000 == pytest.approx(2 * min(probability, 1 - probability), rel=0.05)


def test_pairs_are_a_member_and_a_non_member_of_one_stratum() -> None:
    rng = np.random.default_rng(0)
    member, stratum = rng.random(3000) < 0.7, rng.integers(0, 3, 3000).astype(str)
    stratum[stratum == "2"] = np.where(member, "only members", "only others")[stratum == "2"]
    first, second = random_pairs(member, stratum, seed=0)
    assert (member[first] != member[second]).all()
    assert (stratum[first] == stratum[second]).all()
    assert len({*first, *second}) == len(first) + len(second)
    assert set(stratum[first]) == {"0", "1"}
    assert len(first) == sum((~member & (stratum == name)).sum() for name in ("0", "1"))
    assert abs(member[first].mean() - 0.5) < 3.3 * math.sqrt(0.25 / len(first))
    # A score that never tells a pair apart is a coin's throw; one that always does is right each time.
    options: dict[str, Any] = {
        "guesses": [len(first)],
        "sides": ["both"],
        "delta": 0.0,
        "confidence": 0.95,
        "seed": 0,
    }
    for score, share in ((np.full(3000, np.inf), 0.5), (member.astype(float), 1.0)):
        found = audit_pairs(score, member, stratum, **options)
        assert (found.records, found.guesses, found.swaps) == (len(first), len(first), True)
        assert found.correct / found.guesses == pytest.approx(share, abs=0.06)
    assert audit_pairs(np.ones(4), np.ones(4, bool), np.zeros(4), **{**options, "guesses": [3]}).guesses == 0


def test_guesses_are_the_ends_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    score, member = rng.normal(size=101), rng.random(101) < 0.5
    score[::10] = np.nan  # never guessed at, but counted
    order = sorted(np.flatnonzero(~np.isnan(score)), key=lambda i: -score[i])
    for number in (1, 7, 30, 90):
        low = number // 2
        right = sum(member[order[: number - low]]) + sum(~member[order[len(order) - low :]])
        found = guessing(score, member, guesses=[number])
        assert (found.records, found.guesses, found.correct) == (101, number, right)
        one_sided = guessing(score, member, guesses=[number], sides=["members"])
        assert one_sided.guesses == min(number, 45)
        assert one_sided.correct == sum(member[order[: one_sided.guesses]])
    assert guessing(score, member, guesses=[400]).guesses == 90
    assert guessing(np.full(5, np.nan), np.arange(5) < 2).guesses == 0


def test_choosing_among_ways_is_paid_for() -> None:
    member = np.arange(200) % 2 == 0
    score = member.astype(float)
    alone = guessing(score, member, guesses=[100])
    chosen = guessing(score, member, guesses=[10, 50, 100])
    assert (alone.tried, chosen.tried, chosen.guesses) == (1, 3, 100)
    share = (0.05 / 3) ** (1 / 100)
    assert chosen.epsilon == pytest.approx(math.log(share / (1 - share)))
    assert chosen.epsilon < alone.epsilon
    assert chosen.estimate is None, "all guesses right: nothing bounds epsilon from above"
    assert guessing(score, member, guesses=[50, 50, 50.0]).tried == 1
    assert guessing(score, ~member, guesses=[100]).estimate == 0


def bounds_of(score: Floats, member: Flags, seed: int, delta: float) -> dict[str, float]:
    """Every method's bound on epsilon, or mu, at 95%."""
    several = [len(score) // 4, len(score)]
    epsilon: Law = dp_law(delta)
    return {
        "one-run": guessing(
            score, member, guesses=several, sides=["both", "members"], delta=delta, seed=seed
        ).epsilon,
        "clopper-pearson": held_out(score, member, epsilon, confidence=0.95, seed=seed)[1],
        "mu": held_out(score, member, gaussian_law, confidence=0.95, seed=seed)[1],
    }


def trials(draw: Callable[[np.random.Generator, Flags], Floats], delta: float) -> dict[str, Floats]:
    found = []
    for seed in range(TRIALS):
        rng = np.random.default_rng([7, seed])
        member = rng.random(200) < 0.5
        found.append(bounds_of(draw(rng, member), member, seed, delta))
    return {name: np.array([one[name] for one in found]) for name in found[0]}


@pytest.mark.parametrize("tied", [False, True])
def test_scores_without_signal_bound_nothing(tied: bool) -> None:
    def draw(rng: np.random.Generator, member: Flags) -> Floats:
        score = rng.normal(size=len(member))
        return np.round(score) if tied else score

    for name, found in trials(draw, 1e-5).items():
        assert (found > 0).sum() <= MISSES, name


def test_randomised_response() -> None:
    """Each bit is kept with probability e / (1 + e): epsilon is 1."""

    def draw(rng: np.random.Generator, member: Flags) -> Floats:
        return np.where(rng.random(len(member)) < math.e / (1 + math.e), member, ~member).astype(float)

    found = trials(draw, 0.0)
    for name in ("one-run", "clopper-pearson"):
        assert (found[name] > 1).sum() <= MISSES, name
        assert np.median(found[name]) > 0.3, name


def test_gaussian_mechanism() -> None:
    """Members are shifted by two of the noise's standard deviations: mu is 2, epsilon at 1e-5 about 10."""
    found = trials(lambda rng, member: rng.normal(size=len(member)) + 2 * member, 1e-5)
    assert (found["mu"] > 2).sum() <= MISSES
    assert np.median(found["mu"]) > 0.9
    assert np.median([epsilon_of_mu(mu, 1e-5) for mu in found["mu"]]) > 3.5
    for name in ("one-run", "clopper-pearson"):
        assert (found[name] > epsilon_of_mu(2, 1e-5)).sum() <= MISSES
        assert np.median(found[name]) > 0.8, name


@pytest.mark.parametrize("probability", [0.3, 0.7, 0.9, 0.98])
@pytest.mark.parametrize("truth", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("way", ["coins", "fixed number", "coins of an unknown probability"])
def test_members_need_not_be_drawn_by_fair_coins(probability: float, truth: float, way: str) -> None:
    """Randomised response of each bit; taken for fair coins the bound would be above the truth in all trials at 0.7."""
    n, keep = 400, math.exp(truth) / (1 + math.exp(truth))
    bounds = []
    for seed in range(TRIALS):
        rng = np.random.default_rng([9, seed])
        member = rng.random(n) < probability
        if way == "fixed number":
            member = rng.permutation(n) < round(n * probability)
        score = np.where(rng.random(n) < keep, member, ~member) + rng.normal(0, 1e-3, n)
        options: dict[str, Any] = {
            "guesses": [5, 20, n],
            "sides": ["both", "members"],
            "delta": 0.0,
            "confidence": 0.95,
            "seed": seed,
        }
        if way == "coins":
            kept = fair_subset(member, probability, seed)
            bounds.append(audit_one_run(score[kept], member[kept], **options).epsilon)
        else:
            bounds.append(audit_pairs(score, member, np.zeros(n), **options).epsilon)
    assert (np.array(bounds) > truth).sum() <= MISSES
    if truth == 3 and probability < 0.9:
        assert np.median(bounds) > 1, "it shows something"


@pytest.mark.parametrize(("mu", "epsilon"), [(0.3, 0.01), (1, 0), (1, 1), (2, 3), (0.5, 2.5)])
def test_delta_of_a_gaussian_mechanism(mu: float, epsilon: float) -> None:
    # The least delta is the mass by which the one density exceeds e^epsilon times the other.
    crossing = epsilon / mu + mu / 2
    mass = quad(lambda x: norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x), crossing, np.inf, epsabs=1e-14)[
        0
    ]
    assert math.exp(log_delta(epsilon, mu)) == pytest.approx(mass, rel=1e-6)
    assert epsilon_of_mu(mu, mass) == pytest.approx(epsilon, abs=1e-6)


def test_epsilon_of_mu_at_the_edges() -> None:
    assert epsilon_of_mu(1, 1e-5) == pytest.approx(4.3771781, abs=1e-6)
    assert epsilon_of_mu(0, 1e-5) == epsilon_of_mu(-1, 0) == 0
    assert epsilon_of_mu(0.1, 0.5) == 0
    assert epsilon_of_mu(1, 0) == math.inf
    assert epsilon_of_mu(20, 1e-300) > epsilon_of_mu(20, 1e-5) > 200


def test_laws() -> None:
    assert dp_law(0.01)(0.5, 0.1) == pytest.approx(math.log(4.9))
    assert dp_law(0.01)(0.01, 0.1) == -math.inf
    assert dp_law(0)(0.5, 0) == math.inf
    assert gaussian_law(norm.cdf(1), norm.cdf(-1)) == pytest.approx(2)
    assert gaussian_law(0, 0.1) == gaussian_law(1, 1) == -math.inf


def test_the_side_that_shows_more_is_named() -> None:
    rng = np.random.default_rng(1)
    member = np.arange(2000) % 2 == 0
    # A fifth of the non-members stands out low; no threshold sets members apart so well.
    score = rng.normal(size=2000) - 50 * (~member & (rng.random(2000) < 0.2))
    for sign, truth, named in ((1, member, "non-members"), (-1, ~member, "members")):
        rates, bound = held_out(sign * score, truth, dp_law(1e-5), confidence=0.95, seed=0)
        assert rates.named == named
        assert 0.1 < rates.hits / rates.of < 0.3
        assert (rates.of, rates.among) == (500, 500)
        assert bound > 2


SAMPLES, CANARIES = 160, 80


def write(path: Path, *, design: dict[str, Any] | None, planted: bool = True, shadows: int = 8) -> Lake:
    """An experiment whose last samples are canaries, leaking much, and its runs."""
    rng = np.random.default_rng(0)
    lake = Lake.open(path, create=True)
    canary = np.arange(SAMPLES) >= SAMPLES - CANARIES
    labels = np.zeros(SAMPLES, np.int32)
    lake.create_experiment(
        "tests",
        pa.table({"label": labels, "group": pa.array(np.where(canary & planted, "canary", None).tolist())}),
        dataset={"canaries": f"noise:{CANARIES}"} if planted else {},
    )
    for number in range(shadows + 1):
        member = rng.random(SAMPLES) < 0.5
        phi = rng.normal(0, 1, SAMPLES) + np.where(canary, 6, 0.2) * member
        role = "shadow" if number else "target"
        with lake.write_run("tests", f"run-{number}", members=member) as writer:
            loss = np.logaddexp(0, -phi)
            writer.append_signals(
                np.arange(SAMPLES), np.zeros(SAMPLES, np.int16), labels, loss=loss, phi=phi, correct=phi > 0
            )
            for epoch in (1, 2):
                writer.append_epoch("train", epoch, np.flatnonzero(member), loss=loss[member] / epoch)
            writer.commit(RunInfo(role=role, extra={"design": design} if design else {}))  # type: ignore[arg-type]
    return lake


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    lake = write(tmp_path_factory.mktemp("audit") / "lake", design={"design": "target", "seed": 0})
    with open_source(lake, "tests") as opened:
        yield opened


def pick(finding: Finding, method: str, metric: str = "epsilon_lower", **about: object) -> Metric:
    (found,) = [
        one
        for one in finding.metrics
        if one.metric == metric
        and one.parameters["method"] == method
        and all(one.parameters[key] == value for key, value in about.items())
    ]
    return found


def test_canaries_are_audited_where_there_are_some(source: Source) -> None:
    finding = dp_audit(source, ("lira",))
    one_run = pick(
        finding,
        "one-run",
        inclusion="coins",
        probability=0.5,
        records="canaries",
        score="lira",
        delta=1e-5,
        confidence=0.95,
        interval="one-sided",
    )
    assert one_run.n == CANARIES
    assert one_run.ci_low is not None
    assert one_run.ci_low > 1.5
    assert one_run.ci_high == math.inf
    assert one_run.to_json()["ci_high"] is None
    assert not any("one-run" in note for note in finding.notes)
    for lower in finding.metrics:
        if not lower.metric.endswith("_lower"):
            continue
        # A lower bound's value is the bound; the estimate has a name of its own.
        assert lower.value == lower.ci_low
        estimate = pick(finding, lower.parameters["method"], lower.metric.replace("_lower", "_estimate"))
        assert (estimate.ci_low, estimate.ci_high) == (lower.value, math.inf)
        assert estimate.value is None or estimate.value > (lower.value or 0)
    for method in ("clopper-pearson", "gaussian"):
        assert (pick(finding, method).ci_low or 0) > 0.5
    mu = pick(finding, "gaussian", "mu_lower")
    assert epsilon_of_mu(mu.ci_low or 0, 1e-5) == pytest.approx(pick(finding, "gaussian").ci_low)
    spec = epsilon_bounds(finding).to_dict()
    assert "one-run with lira: at least" in spec["description"]


def test_of_natural_records_a_fixed_number_was_drawn(source: Source) -> None:
    """No coins, which the bound took for an approximation before: now it guesses in pairs, which is no approximation."""
    for records, count in (("natural", SAMPLES - CANARIES), ("all", SAMPLES)):
        finding = dp_audit(source, ("loss",), records=records)  # type: ignore[arg-type]
        pairs = pick(finding, "one-run", inclusion="random", records=records).n
        assert pairs is not None
        assert count / 4 < pairs <= count / 2
        assert "in pairs of a member and a non-member" in finding.notes[0]
    natural = dp_audit(source, ("loss",), records="natural")
    assert all((metric.ci_low or 0) < 0.5 for metric in natural.metrics)


@pytest.mark.parametrize(
    ("design", "inclusion"),
    [
        (None, "unknown"),
        ({"design": "bernoulli", "probability": 0.5}, "coins"),
        ({"design": "bernoulli", "probability": 0.3}, "coins"),
        ({"design": "balanced", "probability": 0.5}, "unknown"),
        ({"design": "paired", "probability": 0.5}, "unknown"),
        ({"design": "target"}, "random"),
    ],
)
def test_what_is_known_of_the_draw(tmp_path: Path, design: dict[str, Any] | None, inclusion: str) -> None:
    lake = write(tmp_path / "lake", design=design, planted=False, shadows=0)
    with open_source(lake, "tests") as opened:
        finding = dp_audit(opened, ("loss",))
        with pytest.raises(NotEnoughData, match="no record of group"):
            dp_audit(opened, ("loss",), records="canaries")
        told = pick(dp_audit(opened, ("loss",), inclusion="coins", probability=0.6), "one-run")
        paired = pick(dp_audit(opened, ("loss",), inclusion="random"), "one-run")
    found = pick(finding, "one-run", records="all", inclusion=inclusion)
    assert told.parameters["probability"] == 0.6
    assert told.value is not None
    assert paired.parameters["inclusion"] == "random"
    assert (found.value is None) == (inclusion == "unknown")
    assert any("not claimed, because" in note for note in finding.notes) == (inclusion == "unknown")
    if found.value is None:
        # Nothing is claimed: the bound is the one that always holds, and there is no estimate either.
        assert found.ci_low == 0
        assert not any(
            m.metric == "epsilon_estimate" and m.parameters["method"] == "one-run" for m in finding.metrics
        )
    elif design is not None and inclusion == "coins":
        assert found.parameters["probability"] == design["probability"]
        assert (found.n == SAMPLES) == (design["probability"] == 0.5)
    assert epsilon_bounds(finding).to_dict()


def test_one_sided_is_said_as_one_sided(source: Source) -> None:
    finding = dp_audit(source, ("loss",), confidence=0.9)
    lines = metric_lines(finding.metrics)[1:]
    assert len(lines) == len(finding.metrics)
    assert all("or more (one-sided, 0.9)" in line for line in lines)
    # Also once they were kept as JSON, where what is not finite is null.
    assert metric_lines([Metric.from_json(one.to_json()) for one in finding.metrics])[1:] == lines


def test_guesses_are_shares_or_counts(source: Source) -> None:
    half = pick(dp_audit(source, ("loss",), guesses=(0.5,), sides="both"), "one-run")
    same = pick(dp_audit(source, ("loss",), guesses=(40,), sides="both"), "one-run")
    assert half == same
    assert half.parameters["guesses"] == 40
    assert half.parameters["tried"] == 1


def test_without_delta(source: Source) -> None:
    finding = dp_audit(source, ("lira", "loss"), delta=0.0)
    methods = [(one.metric, one.parameters["method"]) for one in finding.metrics]
    assert methods == 2 * [
        ("epsilon_lower", "one-run"),
        ("epsilon_estimate", "one-run"),
        ("epsilon_lower", "clopper-pearson"),
        ("epsilon_estimate", "clopper-pearson"),
        ("mu_lower", "gaussian"),
        ("mu_estimate", "gaussian"),
    ]
    assert any("delta 0" in note for note in finding.notes)
    assert any("several scores" in note for note in finding.notes)
    assert epsilon_bounds(finding).to_dict()


def test_a_score_of_members_alone_is_refused(source: Source) -> None:
    with pytest.raises(
        NotEnoughData, match=r"two non-members at least, and trace.* has 0 among the canaries"
    ):
        dp_audit(source, ("trace[source=train]",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.3}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
        ({"delta": -0.1}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"guesses": (0.0,)}, "guesses"),
        ({"guesses": (2.5,)}, "guesses"),
        ({"guesses": ()}, "at least one"),
        ({"probability": 0.7}, "goes with inclusion coins"),
        ({"inclusion": "coins", "probability": 1.0}, "probability"),
    ],
)
def test_options_that_make_no_sense(source: Source, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        dp_audit(source, ("loss",), **options)
