"""The least value of a distribution within bands, against HiGHS and against distributions that are known to be within."""

from __future__ import annotations

import numpy as np
import pytest
from losslake.analysis.statistics import reestimation
from losslake.analysis.statistics.linear_program import least
from losslake.analysis.statistics.reestimation import GRID, Outcomes, shares_beyond
from scipy.optimize import linprog

Floats = np.ndarray


def by_highs(costs: Floats, rows: Floats, bands: Floats) -> float | None:
    solved = linprog(
        costs,
        A_ub=np.concatenate([rows, -rows]),
        b_ub=np.concatenate([bands[:, 1], -bands[:, 0]]),
        A_eq=np.ones((1, len(costs))),
        b_eq=[1.0],
        bounds=(0, 1),
    )
    return float(solved.fun) if solved.status == 0 else None


@pytest.mark.parametrize("width", [3, 40, 300])
@pytest.mark.parametrize("whole", [True, False], ids=["tied costs", "costs"])
def test_as_by_highs(width: int, whole: bool) -> None:
    rng = np.random.default_rng([width, whole])
    answered = 0
    for trial in range(28):
        height = int(rng.integers(1, 14))
        rows = rng.random((height, width)) * 10.0 ** -rng.integers(0, 3, height)[:, None]
        costs = rng.integers(-1, 2, width).astype(float) if whole else rng.normal(size=width)
        inside = rows @ rng.dirichlet(np.ones(width)) if trial % 4 else rng.random(height)
        spread = 0.1 ** rng.integers(0, 3) * rows.max(axis=1)
        bands = np.stack([inside - spread * rng.random(height), inside + spread * rng.random(height)], axis=1)
        found, expected = least(costs, rows, bands), by_highs(costs, rows, bands)
        if trial % 4:  # some distribution is within, though HiGHS does not always find one
            assert found is not None
        if expected is None:
            assert found is None or trial % 4
        else:
            assert found == pytest.approx(expected, abs=1e-5)
            answered += 1
    assert answered > 18


def test_no_distribution_within_costs_less() -> None:
    rng = np.random.default_rng(0)
    rows, costs = rng.random((8, 50)), rng.normal(size=50)
    within = rng.dirichlet(np.ones(50), 200)
    came_to = rows @ within.T
    bands = np.stack([came_to.min(axis=1), came_to.max(axis=1)], axis=1)
    assert least(costs, rows, bands) <= (within @ costs).min()


def test_bands_that_hold_no_distribution() -> None:
    rows = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]])
    assert least(np.ones(3), rows, np.array([[0.8, 1.0], [0.8, 1.0]])) is None
    assert least(np.ones(3), rows, np.array([[1.1, 1.2], [0.0, 1.0]])) is None


@pytest.mark.parametrize("runs", [3, 16, 128])
def test_shares_of_records_are_bounded_as_by_highs(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(runs)
    n_in = np.clip(rng.binomial(runs, 0.5, 700), 1, runs - 1)
    outcomes = Outcomes(
        rng.binomial(n_in, rng.beta(5, 0.3, 700)), n_in, rng.binomial(runs - n_in, 0.7), runs - n_in
    )
    # The fit of the distribution has no part in the bounds, but that they hold its share.
    even = np.full((len(GRID), len(GRID)), 1 / len(GRID) ** 2)
    monkeypatch.setattr(reestimation, "distribution", lambda *_, **__: even)
    asked: list[tuple[float | None, float | None]] = []

    def both(costs: Floats, rows: Floats, bands: Floats) -> float | None:
        asked.append((least(costs, rows, bands), by_highs(costs, rows, bands)))
        return asked[-1][0]

    monkeypatch.setattr(reestimation, "least", both)
    shares_beyond(outcomes, [0.0, 0.25, 0.5, 0.8])
    found, expected = zip(*asked, strict=True)
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(asked) == 8
