"""Zeros of functions, against scipy's Brent and against what the zero is by construction."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.statistics.roots import rising_root, root
from scipy.optimize import brentq
from scipy.special import betainc

SHAPES: dict[str, Callable[[float, float], float]] = {
    "line": lambda x, z: x - z,
    "steep": lambda x, z: math.exp(20 * (x - z)) - 1,
    "step": lambda x, z: math.atan(1e4 * (x - z)),
    "log": lambda x, z: math.log((z + 1e-9) / (x + 1e-9)),
    "flat": lambda x, z: (x - z) ** 3 + 1e-3 * (x - z),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_root_is_that_of_scipy(shape: str) -> None:
    function = SHAPES[shape]
    for zero in np.random.default_rng(0).uniform(1e-6, 1 - 1e-6, 500).tolist():
        calls = [0, 0]

        def counted(x: float, which: int, zero: float = zero, calls: list[int] = calls) -> float:
            calls[which] += 1
            return function(x, zero)

        theirs = brentq(counted, 0.0, 1.0, args=(0,))
        found = root(lambda x: counted(x, 1), 0.0, 1.0)
        assert found == pytest.approx(zero, abs=1e-11)
        assert found == pytest.approx(theirs, abs=4e-12)
        assert calls[1] <= calls[0] + 3


def test_a_tolerance_is_kept_and_saves_calls() -> None:
    seen: list[float] = []

    def cubic(x: float) -> float:
        seen.append(x)
        return x**3 - 0.2

    assert root(cubic, 0.0, 1.0, xtol=1e-3) == pytest.approx(0.2 ** (1 / 3), abs=1e-3)
    coarse = len(seen)
    seen.clear()
    root(cubic, 0.0, 1.0)
    assert coarse < len(seen)


def test_zeros_at_the_ends_and_none_between() -> None:
    assert root(lambda x: x, 0.0, 1.0) == 0.0
    assert root(lambda x: x - 1, 0.0, 1.0) == 1.0
    with pytest.raises(ValueError, match="one sign at both"):
        root(lambda x: x + 1, 0.0, 1.0)


@pytest.mark.parametrize("shape", ["line", "steep", "step", "flat"])
def test_a_rising_root_is_found_from_anywhere(shape: str) -> None:
    function = SHAPES[shape]
    rng = np.random.default_rng(1)
    for zero, start, slope in rng.uniform([1e-6, -1, 1e-3], [1 - 1e-6, 2, 100], (500, 3)).tolist():
        found = rising_root(lambda x, zero=zero: function(x, zero), start, slope, xtol=1e-12, rtol=1e-8)
        assert found == pytest.approx(zero, abs=2e-8)


def test_a_rising_root_of_mixed_distributions_takes_few_calls() -> None:
    rng = np.random.default_rng(2)
    calls = []
    for apart in (1.0, 1.0, 1.3, 5.0, 100.0):
        for _ in range(100):
            a, b = rng.uniform(0.5, 60, 30), rng.uniform(0.5, 400, 30)
            a[::2] *= apart  # far apart, there is next to nothing between the two halves
            level = rng.choice([0.025, 0.3, 0.975])  # at half, the gap between two halves is all root
            seen: list[float] = []

            def excess(x: float, a=a, b=b, level=level, seen=seen) -> float:  # type: ignore[no-untyped-def]
                seen.append(x)
                return float(betainc(a, b, x).mean()) - level

            expected = brentq(excess, 0.0, 1.0, xtol=1e-15)
            seen.clear()
            mean = a / (a + b)
            spread = float(np.sqrt((mean * (1 - mean) / (a + b + 1)).mean() + mean.var()))
            found = rising_root(excess, float(mean.mean()), 0.4 / spread, xtol=1e-12, rtol=1e-8)
            assert found == pytest.approx(expected, rel=2e-8, abs=1e-11)
            calls.append(len(seen))
    assert np.median(calls) <= 12
    assert max(calls) <= 60
