"""Min-K% against a plain loop over the texts, from signal and from noise, and with odd texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import Outcome, run_analysis
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from run_data import of_texts

MakeLake = Callable[..., Lake]
N = 400
KEEP = np.arange(N) % 3 == 0


def lake_with(lake_of: MakeLake, tokens: dict[str, Any], keep: np.ndarray = KEEP, **more: Any) -> Lake:
    return lake_of(keep[None], np.zeros((1, len(keep))), tokens=[tokens], **more)


def outcome(lake: Lake, **options: Any) -> Outcome:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find("min-k"), options)


@pytest.mark.parametrize("k", [20, 5.0, 33.3, 60, 100])
@pytest.mark.parametrize("plus_plus", [False, True])
def test_it_is_the_mean_of_the_least_likely_tokens(lake_of: MakeLake, k: float, plus_plus: bool) -> None:
    given = of_texts(N, 1)
    population = np.arange(N) >= 390
    lake = lake_with(lake_of, given, KEEP & ~population, population=population)
    frame = outcome(lake, k=k, plus_plus=plus_plus).scores.frame
    assert frame["sample_id"].to_list() == list(range(390))
    for row in frame.iter_rows(named=True):
        losses, z = (np.asarray(given[name][row["sample_id"]], float) for name in ("token_losses", "token_z"))
        chosen = max(1, int(len(losses) * k / 100))
        expected = np.sort(z if plus_plus else -losses)[:chosen].mean()
        assert row["score"] == pytest.approx(expected, rel=1e-12)
        assert (row["tokens"], row["chosen"]) == (len(losses), chosen)


def test_half_of_ten_tokens_are_five_whatever_binary_fractions_say(lake_of: MakeLake) -> None:
    lake = lake_with(lake_of, {"token_losses": [np.arange(n) for n in range(1, 201)]}, KEEP[:200])
    for k in (7, 29, 57, 58):  # n * (k / 100) lies below the whole number for some
        chosen = outcome(lake, k=k).scores.frame["chosen"].to_list()
        assert chosen == [max(1, n * k // 100) for n in range(1, 201)]


def test_members_show_where_there_is_something_and_nobody_where_there_is_not(lake_of: MakeLake) -> None:
    found = outcome(lake_with(lake_of, of_texts(N, 2, members=KEEP))).metrics[0]
    none = [outcome(lake_with(lake_of, of_texts(N, seed))).metrics[0] for seed in range(3, 6)]
    assert found.ci_low is not None
    assert found.ci_low > 0.6
    assert all(one.ci_low < 0.5 < one.ci_high for one in none if one.ci_low and one.ci_high)


def test_certain_tokens_have_a_log_probability_of_zero(lake_of: MakeLake) -> None:
    lake = lake_with(lake_of, {"token_losses": [[0.0], [0.0, 3.0]]}, np.array([True, False]))
    assert outcome(lake).scores.frame["score"].to_list() == [0, -3]


def test_what_is_missing_is_named(lake_of: MakeLake) -> None:
    plain = lake_of(KEEP[None], np.zeros((1, N)))
    with pytest.raises(NotEnoughData, match=r"'run-0000'.*no losses of tokens"):
        outcome(plain)
    losses = {"token_losses": of_texts(N, 1)["token_losses"]}
    some = lake_with(lake_of, losses)
    assert len(outcome(some).scores.frame) == N
    with pytest.raises(NotEnoughData, match="token_z"):
        outcome(some, plus_plus=True)
    for k in (0, -1, 100.5, float("nan")):
        with pytest.raises(InvalidOption, match="per cent of the tokens"):
            outcome(some, k=k)
