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


def rising_root(
    function: Callable[[float], float], start: float, slope: float, *, xtol: float, rtol: float
) -> float:
    """The zero of a function that rises from below 0 at 0 to above 0 at 1, from near ``start`` where its slope is about ``slope``.

    Secants, which a good guess brings home in five evaluations; one that leaves what holds the zero for certain, or gets
    no nearer, gives way to halving that. Off by ``xtol`` + ``rtol`` of the value at most, as far as the function is smooth.
    """
    low, high = 0.0, 1.0
    here = start if low < start < high else 0.5
    before = f_before = None
    last = math.inf
    while True:
        f_here = function(here)
        if f_here == 0:
            return here
        low, high = (here, high) if f_here < 0 else (low, here)
        if before is not None and f_before is not None:
            slope = (f_here - f_before) / (here - before)
        there = here - f_here / slope if slope > 0 else math.inf
        if not low < there < high or abs(there - here) > last / 2:
            there = (low + high) / 2
        last = abs(there - here)
        if last == 0 or (before is not None and last <= xtol + rtol * abs(there)):
            return there
        before, f_before, here = here, f_here, there
