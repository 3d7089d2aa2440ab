"""Whether out-of-sample losses could correct an attack where members differ by themselves: pure shift, no membership signal.

    python benchmarks/shifted_members.py [--records 10000] [--shift 2.07]

Members are easier records by ``shift`` standard deviations, and a model's loss on a record is its difficulty and noise as large, whoever
trained on it. Corrections know each record's mean loss on so many models that did not train on it. An AUC of .5 is right.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

STRATA = 20


def area(score: Floats, member: Flags, weight: Floats | None = None) -> float:
    """Weighted area under the ROC curve; scores have no ties."""
    weight = np.ones(len(score)) if weight is None else weight
    order = np.argsort(score)
    below = np.cumsum(np.where(member, 0, weight)[order])
    inside = np.where(member, weight, 0)[order]
    return float(inside @ below / (inside.sum() * below[-1]))


def stratified(score: Floats, member: Flags, known: Floats) -> float:
    """The mean of the areas within twenty strata of the known loss, by the pairs that each holds."""
    found = []
    for part in np.array_split(np.argsort(known), STRATA):
        inside = int(member[part].sum())
        outside = len(part) - inside
        if inside and outside:
            found.append((area(score[part], member[part]), inside * outside / len(part)))
    areas, pairs = np.transpose(found)
    return float(np.average(areas, weights=pairs))


def matched(score: Floats, member: Flags, known: Floats) -> float:
    """Members and non-members whose known losses lie within .02 of each other, each once."""
    sides = [np.flatnonzero(side)[np.argsort(known[side])] for side in (member, ~member)]
    pairs: list[int] = []
    one = other = 0
    while one < len(sides[0]) and other < len(sides[1]):
        first, second = sides[0][one], sides[1][other]
        if abs(known[first] - known[second]) < 0.02:
            pairs += [int(first), int(second)]
            one, other = one + 1, other + 1
        elif known[first] < known[second]:
            one += 1
        else:
            other += 1
    return area(score[pairs], member[pairs])


def weighed(score: Floats, member: Flags, known: Floats) -> float:
    """Each record by the share of the other side among those with its known loss."""
    weight = np.empty(len(score))
    for part in np.array_split(np.argsort(known), 5 * STRATA):
        share = np.clip(member[part].mean(), 0.02, 0.98)
        weight[part] = np.where(member[part], 1 - share, share)
    return area(score, member, weight)


def main() -> None:
    """Simulate, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=10_000, help="on either side")
    parser.add_argument("--shift", type=float, default=2.07)
    parser.add_argument("--trials", type=int, default=5)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    member = np.arange(2 * given.records) < given.records
    print("| out-of-sample losses a record | as it is | stratified | matched | weighed | minus their mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    for models in (2, 4, 8, 16, 64):
        found = []
        for _ in range(given.trials):
            difficulty = rng.normal(size=len(member)) - given.shift * member
            score = -difficulty - rng.normal(size=len(member))
            known = difficulty + rng.normal(size=len(member)) / np.sqrt(models)
            corrected = [way(score, member, known) for way in (stratified, matched, weighed)]
            found.append([area(score, member), *corrected, area(score + known, member)])
        print(f"| {models} | " + " | ".join(f"{value:.3f}" for value in np.mean(found, axis=0)) + " |")


if __name__ == "__main__":
    main()
