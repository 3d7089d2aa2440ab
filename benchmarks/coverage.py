"""Whether 95% intervals hold the truth: rates and how much they moved, precision, correlations, memorization, and lower bounds on epsilon.

    python benchmarks/coverage.py [--trials 200]

Every line simulates scores whose truth is known, without signal and with one, and counts how often the interval holds
it (a lower bound: how often it lies at or under the truth). The bar is 93%.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from losslake.analysis.evaluations.compare import expected_hits
from losslake.analysis.evaluations.epsilon import (
    audit_one_run,
    dp_law,
    epsilon_of_mu,
    gaussian_law,
    held_out,
)
from losslake.analysis.evaluations.shadow_curve import another_set
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.statistics.alike import Fronts, alike_and_shared, shared_tops
from losslake.analysis.statistics.change import added_to_auc, added_to_tpr, change, correlation_of_errors
from losslake.analysis.statistics.correlation import Ranked, rank_correlation
from losslake.analysis.statistics.reestimation import Outcomes, shares_beyond
from losslake.analysis.statistics.roc import auc, split, tpr_at_fpr
from losslake.analysis.statistics.top_k import Truth, precision_and_recall
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from scipy.special import ndtr, ndtri

BAR = 0.93
DELTA = 1e-5
Interval = tuple[float, float]
Trial = Callable[[np.random.Generator], Interval]
Case = tuple[str, str, float, Trial]


def of_auc() -> Iterator[Case]:
    """Members and non-members normal, d standard deviations apart; also with a spread four times as wide."""
    for members, others in ((500, 500), (3_000, 3_000), (25, 200)):
        for d, spread in ((0.0, 1.0), (1.0, 1.0), (2.5, 1.0), (2.0, 4.0)):

            def trial(
                rng: np.random.Generator,
                n: tuple[int, int] = (members, others),
                d: float = d,
                s: float = spread,
            ) -> Interval:
                return _ends(auc(np.sort(rng.normal(d, s, n[0])), np.sort(rng.normal(0, 1, n[1]))))

            truth = float(ndtr(d / np.hypot(1, spread)))
            yield "AUC", f"{members} + {others} records, {d:g} apart, spread {spread:g}", truth, trial


def of_tpr() -> Iterator[Case]:
    """The same, the threshold measured on the non-members; also with scores rounded to halves, so that most are tied."""
    for members, others in ((200, 200), (3_000, 3_000), (50_000, 50_000), (25, 3_000), (5_000, 200)):
        for fpr, d, tied in product((0.001, 0.01, 0.1), (0.0, 2.0, 4.0), (False, True)):
            if tied and members != others:
                continue

            def trial(
                rng: np.random.Generator,
                n: tuple[int, int] = (members, others),
                fpr: float = fpr,
                d: float = d,
                tied: bool = tied,
            ) -> Interval:
                inside, outside = np.sort(rng.normal(d, 1, n[0])), np.sort(rng.normal(0, 1, n[1]))
                if tied:
                    inside, outside = np.rint(inside * 2) / 2, np.rint(outside * 2) / 2
                return _ends(tpr_at_fpr(inside, outside, fpr))

            threshold = -float(ndtri(fpr))
            if tied:  # the lowest border between two of the rounded scores that no more non-members lie above
                threshold = np.ceil((threshold - 0.25) * 2) / 2 + 0.25
            yield (
                "TPR",
                f"{members} + {others} records, FPR {fpr:g}, {d:g} apart" + (", tied" if tied else ""),
                float(ndtr(d - threshold)),
                trial,
            )


def of_top_k() -> Iterator[Case]:
    """One member in seven is exposed; the attack sees that, and so does a cheap score. Precision and recall of its top."""
    for shape, members, others, fpr, share in (
        ("normal", 900, 900, 0.01, 0.1),
        ("normal", 3_000, 3_000, 0.001, 0.1),
        ("normal", 25_000, 25_000, 0.001, 0.1),
        ("normal", 60, 2_000, 0.01, 0.2),
        ("normal", 2_000, 200, 0.03, 0.1),
        ("heavy tails", 1_000, 1_000, 0.01, 0.05),
        ("ties", 2_000, 2_000, 0.01, 0.1),
    ):
        attack, score = _exposed(np.random.default_rng(1), 2_000_000, shape)
        true = attack > ndtri(1 - fpr)
        top = int(share * len(score))
        precision = expected_hits(score, true, top) / top
        truths = ("precision@k", precision), ("recall@k", precision * share / float(true.mean()))
        for place, (what, truth) in enumerate(truths):

            def trial(
                rng: np.random.Generator,
                n: tuple[int, int] = (members, others),
                shape: str = shape,
                fpr: float = fpr,
                share: float = share,
                place: int = place,
            ) -> Interval:
                attack, score = _exposed(rng, n[0], shape)
                found = Truth.of(attack, np.sort(rng.normal(size=n[1])), fpr)
                return precision_and_recall(Ranked.of(score), found, share)[place]

            yield what, f"{members} + {others} records, FPR {fpr:g}, top {share:.0%}, {shape}", truth, trial


def _exposed(rng: np.random.Generator, n: int, shape: str) -> tuple[np.ndarray, np.ndarray]:
    exposed = np.where(rng.random(n) < 0.15, rng.gamma(2, 2.0, n), 0)
    attack, score = rng.normal(0, 1, n) + exposed, exposed + rng.normal(0, 1, n)
    if shape == "heavy tails":
        score = exposed + rng.standard_t(2, n)
    return attack, np.round(score) if shape == "ties" else score


def of_alike() -> Iterator[Case]:
    """Two attacks that share none, half or most of their noise: how alike they answer of members, and what both rank highest."""
    for members, others, fpr, effect, likeness in (
        (300, 300, 0.01, 1.0, 0.0),
        (300, 300, 0.1, 1.0, 0.0),
        (300, 300, 0.1, 2.0, 0.9),
        (300, 300, 0.3, 0.0, 0.5),
        (3_000, 3_000, 0.01, 1.0, 0.5),
        (3_000, 300, 0.1, 1.5, 0.5),
    ):
        one, other = _two_attacks(np.random.default_rng(1), 1_000_000, effect, likeness)
        threshold = -float(ndtri(fpr))
        first, second = one > threshold, other > threshold
        as_many = other > np.quantile(other, 1 - first.mean())
        truths = (
            ("agreement", float((first == second).mean())),
            ("jaccard", (first & second).sum() / (first | second).sum()),
            ("agreement of the tops", (first & as_many).sum() / (first | as_many).sum()),
        )
        for place, (what, truth) in enumerate(truths):

            def trial(
                rng: np.random.Generator,
                n: tuple[int, int] = (members, others),
                fpr: float = fpr,
                shape: tuple[float, float] = (effect, likeness),
                place: int = place,
            ) -> Interval:
                inside, outside = _two_attacks(rng, n[0], *shape), _two_attacks(rng, n[1], 0.0, shape[1])
                if place < 2:
                    return alike_and_shared(inside, outside, fpr)[place]
                places = [np.argsort(np.argsort(-score)) for score in inside]
                return shared_tops(places[0], places[1], Fronts.of(inside[0], np.sort(outside[0]), fpr))

            where = f"{members} + {others} records, FPR {fpr:g}, {effect:g} apart, {likeness:.0%} of the noise shared"
            yield what, where, float(truth), trial


def _two_attacks(
    rng: np.random.Generator, n: int, effect: float, likeness: float
) -> tuple[np.ndarray, np.ndarray]:
    noise = rng.normal(size=(3, n))
    shared, own = np.sqrt(likeness), np.sqrt(1 - likeness)
    return shared * noise[0] + own * noise[1] + effect, shared * noise[0] + own * noise[2] + effect


def of_change() -> Iterator[Case]:
    """How much AUC and TPR moved between two models over the same records, as in `report --compare`: without a change and with one.

    A record's scores under the two are as alike as they may be (0: independent). Members of the second are those of the first, drawn anew, or
    the others; membership adds the same to all members, or five standard deviations to a tenth of the records.
    """
    for records, fpr in ((120, 0.1), (600, 0.02), (3_000, 0.01)):
        for members, alike, (before, now, exposed) in product(
            ("the same members", "members drawn anew", "members the others"),
            (0.0, 0.64),
            ((0.0, 0.0, 1.0), (2.0, 2.0, 1.0), (2.0, 1.0, 1.0), (5.0, 5.0, 0.1), (5.0, 3.0, 0.1)),
        ):
            rates = [exposed * float(ndtr(d - ndtri(1 - fpr))) + (1 - exposed) * fpr for d in (before, now)]
            areas = [exposed * float(ndtr(d / np.sqrt(2))) + (1 - exposed) / 2 for d in (before, now)]
            where = f"{records} records, {members}, alike {alike:g}, {before:g} then {now:g} on {exposed:g}"
            for what, truth in (("TPR", rates), ("AUC", areas)):
                at = fpr if what == "TPR" else None
                trial = partial(
                    _moved,
                    n=records,
                    members=members,
                    alike=alike,
                    adds=(before, now),
                    exposed=exposed,
                    fpr=at,
                )
                name = f"change of {what}" + (f" at FPR {fpr:g}" if at else "")
                yield name, where, truth[1] - truth[0], trial


def _moved(
    rng: np.random.Generator,
    n: int,
    members: str,
    alike: float,
    adds: tuple[float, float],
    exposed: float,
    fpr: float | None,
) -> Interval:
    common, open_to_it, inside = rng.normal(size=n), rng.random(n) < exposed, rng.random(n) < 0.5
    now = {"the same members": inside, "members the others": ~inside}.get(members, rng.random(n) < 0.5)
    metrics, added = [], []
    for adds_here, member in zip(adds, (inside, now), strict=True):
        own = np.sqrt(alike) * common + np.sqrt(1 - alike) * rng.normal(size=n)
        score = own + adds_here * (member & open_to_it)
        both = split(score, member)
        metrics.append(auc(*both) if fpr is None else tpr_at_fpr(*both, fpr))
        added.append(added_to_auc(score, member) if fpr is None else added_to_tpr(score, member, fpr))
    everybody = np.arange(n)
    found = change(metrics[0], metrics[1], correlation_of_errors(added[0], added[1], (everybody, everybody)))
    assert found is not None
    return _ends(found)


def of_spearman() -> Iterator[Case]:
    """Normal pairs, of which the truth is 6 / pi asin(r / 2); pairs of which some are equal; a spread that grows; ties."""
    shapes: dict[str, Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]] = {
        "some pairs equal": _some_equal,
        "spread grows": lambda rng, n: (x := rng.gamma(1, 1, n), x * rng.normal(1, 1, n)),
        "rounded, half of one side equal": _rounded,
    }
    for r in (0.0, 0.5, 0.9):
        shapes[f"normal, r = {r:g}"] = partial(_normal, r=r)
    for shape, draw in shapes.items():
        drawn = draw(np.random.default_rng(1), 300_000)
        truth = float(rank_correlation(*drawn, {}).value or 0)
        if shape.startswith("normal"):
            truth = float(6 / np.pi * np.arcsin(float(shape.split()[-1]) / 2))
        for n in (30, 100, 3_000):

            def trial(rng: np.random.Generator, n: int = n, draw: Any = draw) -> Interval:
                one, other = draw(rng, n)
                return _ends(rank_correlation(one, other, {}))

            yield "Spearman", f"{n} pairs, {shape}", truth, trial


def _normal(rng: np.random.Generator, n: int, r: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = rng.normal(size=(2, n))
    return x, r * x + np.sqrt(1 - r * r) * y


def _some_equal(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.exponential(1, n)
    return x, np.where(rng.random(n) < 0.3, rng.exponential(1, n), x)


def _rounded(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = _normal(rng, n, 0.6)
    return np.round(x), np.maximum(y, 0.0)


def of_shadow_curve() -> Iterator[Case]:
    """Success that is a mean over shadow models: whether a new set of them lies in the interval from draws of one fleet."""
    for shadows, number in ((32, 16), (32, 4), (12, 9)):

        def trial(rng: np.random.Generator, shadows: int = shadows, number: int = number) -> Interval:
            runs = rng.gamma(2, 0.05, shadows)
            low, high = another_set(
                [rng.permutation(runs)[:number].mean() for _ in range(10)], number, shadows
            )
            new = rng.gamma(2, 0.05, number).mean()
            return low - new, high - new

        yield "shadow-curve", f"10 draws of {number} of {shadows} models", 0.0, trial


def of_share_above() -> Iterator[Case]:
    """The share of records whose memorization exceeds 0.4: none, or one in twenty beside others that vary."""
    for kind, truth in (("none memorized", 0.0), ("5% memorized", 0.05)):
        for runs in (5, 16, 64):

            def trial(rng: np.random.Generator, runs: int = runs, kind: str = kind) -> Interval:
                outside = rng.beta(5, 1, 1_000)
                inside = outside
                if kind != "none memorized":
                    chosen = rng.random(1_000) < 0.05
                    outside = np.where(chosen, 0.05, np.maximum(outside, 0.6))
                    inside = np.where(chosen, 0.97, np.maximum(outside, 0.95))
                n_in = np.full(1_000, runs // 2)
                n_out = runs - n_in
                counts = Outcomes(rng.binomial(n_in, inside), n_in, rng.binomial(n_out, outside), n_out)
                (found,) = shares_beyond(counts, (0.4,))
                return found.low, found.high

            yield "share_above", f"1,000 records, {runs} models, {kind}", truth, trial


def of_epsilon() -> Iterator[Case]:
    """Scores without signal, of randomised response, and of a Gaussian mechanism; 1,000 records by fair coins."""
    for name, truth, draw in (
        ("no signal", 0.0, lambda rng, member: rng.normal(size=len(member))),
        ("randomised response, epsilon 1", 1.0, _randomised_response),
        (
            "Gaussian, mu 1",
            epsilon_of_mu(1.0, DELTA),
            lambda rng, member: member + rng.normal(size=len(member)),
        ),
    ):

        def rates(rng: np.random.Generator, draw: _Draw = draw) -> Interval:
            return -np.inf, max(
                0.0, held_out(*_drawn(rng, draw), dp_law(DELTA), confidence=0.95, seed=_seed(rng))[1]
            )

        def one_run(rng: np.random.Generator, draw: _Draw = draw) -> Interval:
            score, member = _drawn(rng, draw)
            found = audit_one_run(
                score,
                member,
                guesses=(20, 100, 400),
                sides=("both",),
                delta=DELTA,
                confidence=0.95,
                seed=_seed(rng),
            )
            return -np.inf, found.epsilon

        yield "epsilon, Clopper-Pearson", name, truth, rates
        yield "epsilon, one run", name, truth, one_run
    for mu in (0.0, 1.0):

        def gaussian(rng: np.random.Generator, mu: float = mu) -> Interval:
            score, member = _drawn(rng, lambda rng, member: mu * member + rng.normal(size=len(member)))
            return -np.inf, max(
                0.0, held_out(score, member, gaussian_law, confidence=0.95, seed=_seed(rng))[1]
            )

        yield "mu, Gaussian-DP", f"Gaussian, mu {mu:g}", mu, gaussian


_Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def _randomised_response(rng: np.random.Generator, member: np.ndarray) -> np.ndarray:
    told = rng.random(len(member)) < np.e / (1 + np.e)
    return np.where(told, member, ~member) + rng.random(len(member)) / 2


def _drawn(rng: np.random.Generator, draw: _Draw) -> tuple[np.ndarray, np.ndarray]:
    member = rng.random(1_000) < 0.5
    return draw(rng, member).astype(np.float64), member


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 30))


def _ends(metric: object) -> Interval:
    return metric.ci_low, metric.ci_high  # type: ignore[attr-defined]


def memorization(trials: int, seed: int) -> Iterator[tuple[str, str, float, float]]:
    """One lake a line: each of its samples is a trial of a known memorization, over 16 or 64 shadow models."""
    rng = np.random.default_rng(seed)
    for runs in (16, 64):
        for right_in, right_out in ((0.9, 0.9), (1.0, 0.5), (0.95, 0.1), (1.0, 0.0)):
            with tempfile.TemporaryDirectory() as folder:
                lake = Lake.open(Path(folder) / "lake", create=True)
                lake.create_experiment("e", pa.table({"label": np.zeros(trials, np.int32)}))
                half = rng.permuted(np.tile(np.arange(runs) < runs // 2, (trials, 1)), axis=1).T
                for number in range(runs):
                    member = np.ascontiguousarray(half[number])
                    right = rng.random(trials) < np.where(member, right_in, right_out)
                    with lake.write_run("e", f"run-{number:04d}", members=member) as writer:
                        nothing = np.zeros(trials, np.int32)
                        writer.append_signals(
                            np.arange(trials),
                            nothing,
                            nothing,
                            loss=nothing.astype(np.float32),
                            phi=nothing.astype(np.float32),
                            correct=right,
                        )
                        writer.commit(RunInfo(role="shadow"))
                with open_source(lake, "e") as source:
                    frame = find("memorization").compute(source).frame
            truth = right_in - right_out
            held = (frame["ci_low"].to_numpy() <= truth + 1e-12) & (
                truth - 1e-12 <= frame["ci_high"].to_numpy()
            )
            yield (
                "memorization",
                f"{runs} models, right {right_in:g} in, {right_out:g} out",
                truth,
                float(held.mean()),
            )


def main() -> None:
    """Simulate, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| interval | simulated | truth | holds it |\n| --- | --- | --- | --- |")
    worst = 1.0
    for cases in (
        of_auc,
        of_tpr,
        of_top_k,
        of_alike,
        of_change,
        of_spearman,
        of_shadow_curve,
        of_share_above,
        of_epsilon,
    ):
        for number, (what, where, truth, trial) in enumerate(cases()):
            rng = np.random.default_rng([given.seed, number])
            held = 0
            for _ in range(given.trials):
                low, high = trial(rng)
                held += high <= truth + 1e-12 if what.startswith(("epsilon", "mu")) else low <= truth <= high
            worst = min(worst, held / given.trials)
            print(f"| {what} | {where} | {truth:.3f} | {held / given.trials:.1%} |", flush=True)
    for what, where, truth, share in memorization(given.trials, given.seed):
        worst = min(worst, share)
        print(f"| {what} | {where} | {truth:.3f} | {share:.1%} |", flush=True)
    print(f"\nThe least of these is {worst:.1%}; the bar is {BAR:.0%}.")


if __name__ == "__main__":
    main()
