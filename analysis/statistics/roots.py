"""Where a function of one number is zero."""

from __future__ import annotations

import math
from collections.abc import Callable


def root(
    function: Callable[[float], float],
    low: float,
    high: float,
    *,
    xtol: float = 2e-12,
    rtol: float = 4 * 2.0**-52,
) -> float:
    """A zero of a continuous function between ``low`` and ``high``, where its signs differ or it is zero itself.

    Brent's method (1973, "Algorithms for Minimization without Derivatives", chapter 4): off by at most ``xtol`` + ``rtol`` of
    the value, with the defaults of scipy.optimize.brentq, whose import alone takes longer than any interval.
    Raises ValueError where both ends have one sign.
    """
    before, here = low, high
    f_before, f_here = function(low), function(high)
    if f_before == 0:
        return low
    if f_here == 0:
        return high
    if math.copysign(1.0, f_before) == math.copysign(1.0, f_here):
        raise ValueError(f"the function has one sign at both {low} and {high}")
    other, f_other = before, f_before  # zero lies between here and there
    step = last = here - before
    while True:
        if math.copysign(1.0, f_here) == math.copysign(1.0, f_other):
            other, f_other = before, f_before
            step = last = here - before
        if abs(f_other) < abs(f_here):
            before, here, other = here, other, here
            f_before, f_here, f_other = f_here, f_other, f_here
        tolerance = (xtol + rtol * abs(here)) / 2
        half = (other - here) / 2
        if f_here == 0 or abs(half) <= tolerance:
            return here
        if abs(last) < tolerance or abs(f_before) <= abs(f_here):
            step = last = half
        else:
            slope = f_here / f_before
            if before == other:  # a secant
                p, q = 2 * half * slope, 1 - slope
            else:  # an inverse parabola through three points
                ratio, rise = f_before / f_other, f_here / f_other
                p = slope * (2 * half * ratio * (ratio - rise) - (here - before) * (rise - 1))
                q = (ratio - 1) * (rise - 1) * (slope - 1)
            p, q = (p, -q) if p > 0 else (-p, q)
            if 2 * p < min(3 * half * q - abs(tolerance * q), abs(last * q)):
                last, step = step, p / q
            else:
                step = last = half
        before, f_before = here, f_here
        here += step if abs(step) > tolerance else math.copysign(tolerance, half)
        f_here = function(here)
