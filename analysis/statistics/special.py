"""The functions of scipy.special that analyses call, without the array API around them, which takes longer to import than engines do.

`scipy.special` wraps its compiled functions for arrays of other libraries, and to do so imports all of NumPy, its Fortran compiler and
its test tools among them: .14 s of processor where the functions themselves take .02 s. A command asks for a few of these functions on NumPy's
arrays. They are the very same objects, so that every bit is as by `scipy.special`, which is imported as a whole where it has been already,
where other threads run that may be about to, and where SciPy lays its parts out otherwise.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

_WHOLE = "scipy.special"

_OWN = "losslake-"
"""Threads that the lake starts are named so; they import nothing that is not imported yet."""


def _compiled() -> ModuleType:
    """The module of compiled functions. Raises ImportError where SciPy has none of that name."""
    import scipy

    package = ModuleType(_WHOLE)
    package.__path__ = [os.path.join(folder, "special") for folder in scipy.__path__]
    sys.modules[_WHOLE] = package
    try:
        return importlib.import_module(f"{_WHOLE}._ufuncs")
    finally:
        del sys.modules[_WHOLE]


def _others_import() -> bool:
    """Whether another thread runs that may be about to import it, and would find a half of it."""
    return any(
        thread is not threading.current_thread() and not thread.name.startswith(_OWN)
        for thread in threading.enumerate()
    )


def _functions() -> dict[str, Any]:
    if _WHOLE not in sys.modules and not _others_import():
        try:
            found = vars(_compiled())
            return {name: found[name] for name in _NAMES} | {"zeta": found["_zeta"]}
        except (ImportError, KeyError):
            pass
    found = vars(importlib.import_module(_WHOLE))
    return {name: found[name] for name in (*_NAMES, "zeta")}


_NAMES = (
    *("bdtr", "bdtrc", "bdtrik", "betainc", "betaincinv", "expit", "gammaln", "log_ndtr", "ndtri"),
    *("psi", "stdtr", "stdtrit", "xlog1py", "xlogy"),
)

_found = _functions()

bdtr, bdtrc, bdtrik = _found["bdtr"], _found["bdtrc"], _found["bdtrik"]
betainc, betaincinv = _found["betainc"], _found["betaincinv"]
expit, gammaln, psi = _found["expit"], _found["gammaln"], _found["psi"]
log_ndtr, ndtri = _found["log_ndtr"], _found["ndtri"]
stdtr, stdtrit = _found["stdtr"], _found["stdtrit"]
xlog1py, xlogy = _found["xlog1py"], _found["xlogy"]
_zeta = _found["zeta"]


def trigamma(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The second derivative of log Gamma, polygamma(1, x)."""
    return np.asarray(_zeta(2, x), np.float64)


def tetragamma(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The third derivative of log Gamma, polygamma(2, x)."""
    return np.asarray(-2 * _zeta(3, x), np.float64)
