"""How fast the one-run bound on epsilon is, beside the theorem's sum taken term by term for each epsilon.

    python benchmarks/dp_audit_speed.py [--delta 1e-5]

Both find the same bound from the same numbers by halving an interval of epsilons; for each of these the loop calls a
binomial probability for every term of the sum, once. The last column is a whole audit: scores sorted, ten ways of
guessing tried.
"""

from __future__ import annotations

import argparse
import math
import platform
from functools import partial

import numpy as np
from fresh_process import timed
from losslake.analysis.evaluations.epsilon import audit_one_run, epsilon_lower
from scipy.stats import binom

SIZES = (1_000, 4_000, 50_000)
LOOPED = 2_000
"""Terms that the loop is timed on; its time grows in proportion to them."""


def looped_p_value(
    records: int, guesses: int, correct: int, epsilon: float, delta: float, terms: int
) -> float:
    """The p-value with the first ``terms`` terms of the sum."""
    right = 1 / (1 + math.exp(-epsilon))
    total = largest = 0.0
    for i in range(1, terms + 1):
        total += float(binom.pmf(correct - i, guesses, right))
        largest = max(largest, total / i)
    return float(binom.sf(correct - 1, guesses, right)) + 2 * records * delta * largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delta", type=float, default=1e-5)
    delta = parser.parse_args().delta
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, delta {delta:g}\n"
    )
    print("| m | bound | losslake | term by term | ratio | whole audit |")
    print("| --- | --- | --- | --- | --- | --- |")
    rng = np.random.default_rng(0)
    for records in SIZES:
        correct = round(0.6 * records)
        find = partial(epsilon_lower, records, records, correct, delta=delta, confidence=0.95)
        bound = find()
        ours = min(timed(find) for _ in range(5))
        terms = min(LOOPED, correct)
        once = timed(partial(looped_p_value, records, records, correct, bound, delta, terms))
        halvings = math.ceil(math.log2(max(bound, 1e-3) / 1e-9))
        loop = once * correct / terms * halvings
        member = rng.random(records) < 0.5
        score = rng.normal(size=records) + member
        guesses = [round(share * records) for share in (0.01, 0.05, 0.2, 0.5, 1.0)]
        audit = partial(
            audit_one_run,
            score,
            member,
            guesses=guesses,
            sides=("both", "members"),
            delta=delta,
            confidence=0.95,
            seed=0,
        )
        whole = min(timed(audit) for _ in range(3))
        print(
            f"| {records:,} | {bound:.4f} | {ours:.4f} s | {loop:.1f} s | {loop / ours:,.0f}x | {whole:.3f} s |"
        )


if __name__ == "__main__":
    main()
