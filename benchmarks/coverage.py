"""Whether 95% intervals hold the truth: AUC, TPR at FPR, Spearman, memorization, and lower bounds on epsilon.

    python benchmarks/coverage.py [--trials 1000]

Every line simulates scores whose truth is known, without signal and with one, and counts how often the interval holds
it (a lower bound: how often it lies at or under the truth). The bar is 93%.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
from losslake.analysis.evaluations.epsilon import (
    audit_one_run,
    dp_law,
    epsilon_of_mu,
    gaussian_law,
    held_out,
)
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.statistics.intervals import spearman_interval
from losslake.analysis.statistics.roc import auc, tpr_at_fpr
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

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


def of_spearman() -> Iterator[Case]:
    """Pairs from a normal of correlation r, whose rank correlation is 6 / pi asin(r / 2)."""
    for n in (100, 3_000):
        for r in (0.0, 0.5, 0.9):

            def trial(rng: np.random.Generator, n: int = n, r: float = r) -> Interval:
                x, y = rng.normal(size=(2, n))
                y = r * x + np.sqrt(1 - r * r) * y
                return spearman_interval(float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]), n)

            yield "Spearman", f"{n} pairs, r = {r:g}", float(6 / np.pi * np.arcsin(r / 2)), trial


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
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| interval | simulated | truth | holds it |\n| --- | --- | --- | --- |")
    worst = 1.0
    for cases in (of_auc, of_tpr, of_spearman, of_epsilon):
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
