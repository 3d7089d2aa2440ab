"""What is said of rates that the non-members do not resolve, or hardly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.lake import Lake

FPRS = (0.001, 0.01, 0.02, 0.1)


@pytest.mark.parametrize("others", [9, 10, 49, 50, 51, 99, 100, 249, 250, 499, 500, 999, 1000])
def test_every_rate_is_resolved_or_said_not_to_be(lake_of: Callable[..., Lake], others: int) -> None:
    member = np.arange(others + 30) < 30
    score = np.random.default_rng(0).normal(size=(1, len(member)))
    with open_source(lake_of(member[None], score), "tests") as source:
        found = run_analysis(source, find("loss"), fprs=FPRS)
    rates = {m.parameters["fpr"]: m for m in found.metrics if m.metric == "tpr_at_fpr"}
    told = {"cannot resolve": "", "hardly resolve": ""}
    for note in found.notes:
        for words in told:
            if words in note:
                assert note.startswith(f"{others} non-members {words} an FPR of ")
                told[words] = note.split(" of ")[1].split(":")[0]
    expected: dict[str, list[str]] = {"cannot resolve": [], "hardly resolve": []}
    for fpr in FPRS:
        above = round(others * fpr, 9)
        assert (rates[fpr].value is None) == (above < 1)
        if above < 5:
            expected["cannot resolve" if above < 1 else "hardly resolve"].append(f"{fpr:g}")
    assert told == {words: ", ".join(fprs) for words, fprs in expected.items()}
