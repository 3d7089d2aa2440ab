"""Language models beside reference models: the difference of log-perplexities, refused for another tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import Outcome, run_analysis
from losslake.analysis.source import Source
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
N = 80
KEEP = np.stack([np.arange(N) % 2 == 0, *[np.zeros(N, bool)] * 3])
ROLES = ["target", "reference", "reference", "reference"]


def texts(seed: int, longer: tuple[int, ...] = ()) -> dict[str, Any]:
    """Token losses of the same texts; those in ``longer`` have one token more."""
    rng = np.random.default_rng(seed)
    return {"token_losses": [rng.exponential(2, 3 + i % 5 + (i in longer)) for i in range(N)]}


def fleet(lake_of: MakeLake, tokens: list[dict[str, Any]]) -> tuple[Lake, np.ndarray]:
    rng = np.random.default_rng(9)
    loss = np.stack(
        [
            [np.mean(row) for row in given["token_losses"]] if given else rng.exponential(2, N)
            for given in tokens
        ]
    )
    return lake_of(KEEP, np.zeros(KEEP.shape), loss=loss, tokens=tokens, roles=ROLES), loss


def outcome(lake: Lake, name: str = "calibrated", **options: Any) -> Outcome:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find(name), options)


def test_it_is_the_difference_of_log_perplexities(lake_of: MakeLake) -> None:
    lake, loss = fleet(lake_of, [texts(seed) for seed in range(4)])
    found = outcome(lake, tau="out").scores.frame
    np.testing.assert_allclose(found["score"], loss[1:].mean(axis=0) - loss[0], rtol=1e-5)
    with pytest.raises(NotEnoughData, match="--tau out"):
        outcome(lake)


def test_another_tokenizer_is_refused_and_can_be_left_out(lake_of: MakeLake) -> None:
    lake, loss = fleet(lake_of, [texts(0), texts(1), texts(2, longer=(70, 7)), texts(3)])
    told = r"'run-0002' .*6 tokens of sample 7, and 'run-0000' of 5 \(2 texts differ so\).*--without run-0002"
    for name, options in (("calibrated", {"tau": "out"}), ("attack-r", {}), ("rmia", {"mode": "offline"})):
        with pytest.raises(NotEnoughData, match=told):
            outcome(lake, name, **options)
    found = outcome(lake, tau="out", without=("run-0002",)).scores.frame
    np.testing.assert_allclose(found["score"], loss[[1, 3]].mean(axis=0) - loss[0], rtol=1e-5)
    assert len(outcome(lake, "loss").scores.frame) == N  # compares with nobody


def test_runs_of_some_of_the_texts_are_compared(lake_of: MakeLake) -> None:
    tokens = [texts(seed) for seed in range(4)]
    held = np.ones(KEEP.shape, bool)
    held[2, 10:] = False
    loss = np.ones(KEEP.shape)
    lake = lake_of(KEEP, np.zeros(KEEP.shape), loss=loss, tokens=tokens, roles=ROLES, held=held)
    assert outcome(lake, tau="out").scores.frame["n_out"].to_list() == [3] * 10 + [2] * (N - 10)


def test_targets_beside_each_other_ask_once(lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, _ = fleet(lake_of, [texts(seed) for seed in range(4)])
    asked: list[str] = []
    sql = Source.sql
    monkeypatch.setattr(Source, "sql", lambda self, text, *more: asked.append(text) or sql(self, text, *more))
    with open_source(lake, "tests") as source:
        source.need_references()
        for run in ("run-0001", "run-0000"):
            with source.beside(run) as other:
                assert len(other.need_references()) >= 2
    assert sum("mark" in text for text in asked) == 1


def test_runs_without_token_losses_are_taken_at_their_word(lake_of: MakeLake) -> None:
    lake, _ = fleet(lake_of, [texts(0), {}, texts(2), texts(3)])
    assert outcome(lake, tau="out").scores.frame["score"].null_count() == 0
    lake, _ = fleet(lake_of, [{}, texts(1), texts(2, longer=(1,)), texts(3)])
    assert outcome(lake, tau="out").scores.frame["score"].null_count() == 0
