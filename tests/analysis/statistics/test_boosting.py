"""Boosting by scikit-learn's compiled parts alone, before and after the whole of it is imported, and where that is not possible."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from losslake.analysis.statistics import boosting

ANSWERS = """
import sys, threading
import numpy as np
from losslake.analysis.statistics.boosting import log_odds
random = np.random.default_rng(0)
known, asked = random.normal(size=(2, 900, 3))
member = random.random(900) < 0.4 + 0.1 * known[:, 0]
answer = lambda: log_odds(known, member, asked)
"""


@pytest.mark.parametrize(
    ("before", "alone"),
    [
        ("", True),
        ("import sklearn.utils", False),
        # The thread that says that a writer is alive imports nothing.
        ("threading.Thread(target=threading.Event().wait, name='losslake-lease', daemon=True).start()", True),
        # Another thread may be about to import it, and must not find half of it.
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", False),
    ],
)
def test_the_same_bits_as_the_classifier_which_can_be_imported_afterwards(before: str, alone: bool) -> None:
    script = f"""{ANSWERS}{before}
import os
first, whole = answer(), "sklearn.base" in sys.modules
from sklearn.ensemble import HistGradientBoostingClassifier
import sklearn.cluster, sklearn.neighbors
share = member.mean()
model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, learning_rate=0.08, early_stopping=False)
model.fit(known, member, sample_weight=np.where(member, 0.5 / share, 0.5 / (1 - share)))
same = np.array_equal(model.decision_function(asked), first) and np.array_equal(answer(), first)
print(not whole, same, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(alone), "True"]


@pytest.mark.parametrize("failure", [ImportError, AttributeError])
def test_a_version_whose_parts_lie_otherwise(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    known, asked = random.normal(size=(2, 300, 2))
    member = random.random(300) < 0.5
    expected = boosting.log_odds(known, member, asked)

    def absent() -> None:
        raise failure("no such part")

    monkeypatch.setattr(boosting, "_parts", absent)
    np.testing.assert_array_equal(boosting.log_odds(known, member, asked), expected)
