"""The functions of scipy.special that are imported without the rest of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from losslake.analysis.statistics.special import tetragamma, trigamma


@pytest.mark.parametrize(
    ("before", "alone"),
    [
        ("", True),
        ("import scipy.special", False),
        # Another thread may be about to import it, and must not find half of it.
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", False),
        # That which says that a writer is alive imports nothing.
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, name='losslake-lease', daemon=True).start()",
            True,
        ),
    ],
)
def test_the_functions_are_those_of_scipy_which_can_be_imported_afterwards(before: str, alone: bool) -> None:
    script = f"""{before}
import os, sys
from losslake.analysis.statistics import special
alone = "scipy.special" not in sys.modules
import scipy.special
if alone:
    import scipy.optimize
same = all(getattr(special, name) is getattr(scipy.special, name) for name in special._NAMES)
print(alone, same, scipy.special.polygamma(1, 2.5) == special.trigamma(2.5), flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(alone), "True", "True"]


def test_derivatives_of_the_logarithm_of_gamma() -> None:
    from scipy.special import polygamma

    x = np.exp(np.random.default_rng(0).uniform(-8, 12, 20_000))
    assert np.array_equal(trigamma(x), polygamma(1, x))
    assert np.array_equal(tetragamma(x), polygamma(2, x))
