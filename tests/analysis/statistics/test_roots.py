"""Zeros of functions, against scipy's Brent and against what the zero is by construction."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.statistics.roots import root
from scipy.optimize import brentq

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
