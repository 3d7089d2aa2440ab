"""zlib and lowercase: ratios of plain means, and no score where there is nothing to divide by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import Outcome, run_analysis
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake
from run_data import of_texts

MakeLake = Callable[..., Lake]
N = 300
KEEP = np.arange(N) % 2 == 0
BYTES = [20 + 7 * i % 90 for i in range(N)]


def lake_with(lake_of: MakeLake, tokens: dict[str, Any], **columns: Any) -> Lake:
    samples = len(tokens["token_losses"])
    return lake_of(KEEP[None, :samples], np.zeros((1, samples)), tokens=[tokens], columns=columns)


def outcome(lake: Lake, name: str) -> Outcome:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find(name))


def means(given: dict[str, Any]) -> np.ndarray:
    return np.array([np.mean(row, dtype=np.float64) for row in given["token_losses"]])


def test_they_are_ratios_of_losses(lake_of: MakeLake) -> None:
    given = of_texts(N, 1)
    lake = lake_with(lake_of, given, zlib_bytes=BYTES)
    by_size, by_case = (outcome(lake, name) for name in ("zlib", "lowercase"))
    np.testing.assert_allclose(by_size.scores.frame["score"], -means(given) / BYTES, rtol=1e-12)
    np.testing.assert_allclose(
        by_case.scores.frame["score"], -means(given) / given["lower_loss"].astype(float), rtol=1e-12
    )
    assert (by_size.scores.notes, by_case.scores.notes) == ((), ())
    for found in (by_size, by_case):
        auc = found.metrics[0]
        assert auc.ci_low is not None
        assert auc.ci_high is not None
        assert auc.ci_low < 0.5 < auc.ci_high


def test_texts_of_less_content_do_not_pass_for_members(lake_of: MakeLake) -> None:
    """Where what a text loses goes by what is in it, the loss alone names the repetitive texts."""
    rng = np.random.default_rng(0)
    size = rng.uniform(30, 300, N)
    loss = size / 50 / (1 + 0.2 * KEEP) * rng.uniform(0.95, 1.05, N)
    lake = lake_with(lake_of, {"token_losses": loss[:, None]}, zlib_bytes=size.astype(int))
    auc = outcome(lake, "zlib").metrics[0].value
    with open_source(lake, "tests") as source:
        plain = run_analysis(source, find("min-k"), {"k": 100}).metrics[0].value
    assert auc is not None
    assert plain is not None
    assert auc > 0.95 > 0.7 > plain


def test_what_cannot_be_divided_has_no_score(lake_of: MakeLake) -> None:
    given = {"token_losses": [[1.0], [2.0], [0.0], [0.0]], "lower_loss": [0.0, 2.0, 4.0, 0.0]}
    lake = lake_with(lake_of, given, zlib_bytes=[None, 4, 5, 6])
    found = outcome(lake, "zlib")
    assert found.scores.frame["score"].to_list() == [None, -0.5, 0.0, 0.0]
    assert found.scores.notes == ("1 of 4 samples have no score: they have no zlib_bytes",)
    found = outcome(lake, "lowercase")
    assert found.scores.frame["score"].to_list() == [None, -1.0, 0.0, None]
    assert "2 of 4 samples have no score" in found.scores.notes[0]
    assert "2 of 4 texts have the same loss in lower case" in found.scores.notes[1]


def test_what_is_missing_is_named(lake_of: MakeLake) -> None:
    plain = lake_of(KEEP[None], np.zeros((1, N)), columns={"zlib_bytes": BYTES})
    losses = {"token_losses": of_texts(N, 1)["token_losses"]}
    for name in ("zlib", "lowercase"):
        with pytest.raises(NotEnoughData, match="no losses of tokens"):
            outcome(plain, name)
    with pytest.raises(NotEnoughData, match=r"no column 'zlib_bytes'.*zlib\.compress"):
        outcome(lake_with(lake_of, losses), "zlib")
    with pytest.raises(NotEnoughData, match="no sample of experiment 'tests' has zlib_bytes"):
        outcome(lake_with(lake_of, losses, zlib_bytes=[None] * N), "zlib")
    with pytest.raises(NotEnoughData, match="lower case"):
        outcome(lake_with(lake_of, losses), "lowercase")
    with pytest.raises(NotEnoughData, match="loss of 0 on every text"):
        outcome(lake_with(lake_of, {**losses, "lower_loss": [0.0] * N}), "lowercase")
