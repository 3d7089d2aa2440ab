"""Gaussian differential privacy: from mu to epsilon at a delta, and back.

Source: Dong, Roth & Su 2022, "Gaussian Differential Privacy", corollary 2.13; Balle & Wang 2018, "Improving the
Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal Denoising", theorem 8.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr


def log_delta(epsilon: float, mu: float) -> float:
    """log of the least delta for which a mu-GDP mechanism (mu > 0) is (epsilon, delta)-DP.

    delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu), in logarithms so that small ones stay exact.
    """
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    # Far out in the tail the two are equal but for rounding.
    return first + math.log(-math.expm1(min(second - first, -1e-300)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The least epsilon for which a mu-GDP mechanism is (epsilon, delta)-DP; infinite for delta 0 and mu above 0."""
    if mu <= 0:
        return 0.0
    if delta <= 0:
        return math.inf
    wanted = math.log(delta)
    if log_delta(0.0, mu) <= wanted:
        return 0.0
    # From Phi(-t) <= exp(-t^2 / 2).
    most = mu * mu / 2 + mu * math.sqrt(-2 * wanted)
    return float(brentq(lambda epsilon: log_delta(epsilon, mu) - wanted, 0.0, most, xtol=1e-12))
