"""Exposure against ranks counted one by one; what chance gives, ties, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from in_sql import InSql
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import Outcome, run_analysis
from losslake.analysis.source import Source
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
N = 240
GROUPS = ["canary" if i % 3 else None for i in range(N)]
CANARY = np.arange(N) % 3 > 0


def outcome(lake: Lake, **options: Any) -> Outcome:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find("exposure"), options)


def lake_with(lake_of: MakeLake, keep: np.ndarray, loss: np.ndarray, **more: Any) -> Lake:
    given = {"columns": {"group": GROUPS[: len(keep)]}, **more}
    return lake_of(keep[None], np.zeros((1, len(keep))), loss=loss[None], **given)


def counted(loss: np.ndarray, keep: np.ndarray, canary: np.ndarray, i: int) -> tuple[float, int, int]:
    """Rank, candidates and ties of one more canary with the loss of i, in a list with those not trained on."""
    candidates = [loss[j] for j in np.flatnonzero(canary & ~keep)]
    ranks = [rank for rank, other in enumerate(sorted([*candidates, loss[i]]), 1) if other == loss[i]]
    return sum(ranks) / len(ranks), len(candidates) + 1, len(ranks) - 1


@pytest.mark.parametrize("tokens", [False, True], ids=["of one loss", "of tokens"])
def test_it_counts_who_stands_before_a_canary(lake_of: MakeLake, tokens: bool) -> None:
    rng = np.random.default_rng(1)
    population = np.arange(N) >= 210
    keep = (rng.random(N) < 0.5) & ~population
    loss = np.round(rng.exponential(2, N), 1).astype(np.float32)  # some are equal
    texts = {"token_losses": [np.full(1 + i % 2, loss[i] / (1 + i % 2)) for i in range(N)]}
    more: dict[str, Any] = {"tokens": [texts]} if tokens else {}
    lake = lake_with(lake_of, keep, loss if not tokens else loss * 0 + 1, population=population, **more)
    found = outcome(lake)
    rows = list(found.scores.frame.iter_rows(named=True))
    assert [row["sample_id"] for row in rows] == np.flatnonzero(CANARY & ~population).tolist()
    assert any(row["ties"] for row in rows)
    for row in rows:
        rank, of, ties = counted(loss, keep, CANARY, row["sample_id"])
        assert (row["rank"], row["candidates"], row["ties"]) == (rank, of, ties)
        assert row["score"] == pytest.approx(np.log2(of) - np.log2(rank), abs=1e-12)
        assert row["p_value"] == pytest.approx((rank + ties / 2) / of)
        assert row["member"] == keep[row["sample_id"]]
    named = {metric.metric: metric for metric in found.scores.metrics}
    members = [row["score"] for row in rows if row["member"]]
    assert named["mean_exposure"].value == pytest.approx(np.mean(members))
    assert named["mean_exposure"].n == len(members)
    assert named["most_exposure"].value == pytest.approx(np.log2((CANARY & ~keep).sum() + 1))
    assert "no exposure above" in found.notes[0]
    assert "share the mean of the ranks" in found.notes[1]


@pytest.mark.parametrize("kind", [Source, InSql])
def test_candidates_are_no_references(lake_of: MakeLake, kind: type[Source]) -> None:
    rng = np.random.default_rng(2)
    population = np.arange(N) >= 120
    keep = (rng.random((6, N)) < 0.5) & ~population
    # What canaries say is easier than all else, so that they would stand before every record.
    loss = rng.exponential(2, (6, N)).astype(np.float32)
    loss[:, CANARY & population] /= 100
    traces = {"loss": np.cumsum(rng.random((N, 6)), axis=1)[:, ::-1]}
    there = ~(CANARY & population)

    def scored(kept: np.ndarray, name: str, **options: Any) -> list[float]:
        lake = lake_of(
            keep[:, kept],
            -loss[:, kept],
            loss=loss[:, kept],
            population=population[kept],
            columns={"group": [group for group, stays in zip(GROUPS, kept, strict=True) if stays]},
            traces={name: values[kept] for name, values in traces.items()},
        )
        with kind.open(lake, "tests", find=find) as source:
            frame = run_analysis(source, find(name), options).scores.frame
        assert frame["sample_id"].to_list() == list(range(120))
        return frame["score"].to_list()

    everybody = np.ones(N, dtype=bool)
    asked = [("attack-p", {}), ("rmia", {"rank": "share", "mode": "offline"}), ("rmia", {"rank": "share"}), ("residual", {}), ("trajectory", {})]  # fmt: skip
    for name, options in asked:
        assert scored(everybody, name, **options) == scored(there, name, **options)


def test_memorized_canaries_reach_the_bound_and_chance_gives_less_than_two_bits(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(2)
    keep = rng.random(N) < 0.5
    found = outcome(lake_with(lake_of, keep, np.where(keep, 0.1, 3.0) + rng.random(N)))
    metrics = {metric.metric: metric.value for metric in found.metrics}
    assert metrics["mean_exposure"] == metrics["most_exposure"]
    assert metrics["auc"] == 1
    assert f"{(CANARY & keep).sum()} of {(CANARY & keep).sum()} canaries stand first" in found.notes[0]


def test_chance_alone_claims_nothing(lake_of: MakeLake) -> None:
    """A model that knows none of 6,000 canaries: 1.44 bits in the mean on both sides, and p-values that hold."""
    rng = np.random.default_rng(3)
    keep = rng.random(6_000) < 0.5
    found = outcome(lake_with(lake_of, keep, rng.random(6_000), columns={"group": ["canary"] * 6_000}))
    metrics = {metric.metric: metric for metric in found.metrics}
    assert metrics["mean_exposure"].value == pytest.approx(1 / np.log(2), abs=0.1)
    ranks = np.arange(1, metrics["most_exposure"].n + 1)  # type: ignore[operator]
    by_chance = np.log2(len(ranks) / ranks).mean()
    assert metrics["mean_exposure_by_chance"].value == pytest.approx(by_chance)
    assert by_chance == pytest.approx(1 / np.log(2), abs=0.01)
    assert abs(metrics["auc"].value - 0.5) < 0.03  # type: ignore[operator]
    p = found.scores.frame.filter(found.scores.frame["member"])["p_value"].to_numpy()
    for level in (0.01, 0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * (level / len(p)) ** 0.5)


def test_a_model_that_says_the_same_of_all_exposes_nobody(lake_of: MakeLake) -> None:
    keep = np.arange(N) % 2 == 0
    found = outcome(lake_with(lake_of, keep, np.ones(N)))
    frame = found.scores.frame
    assert frame["p_value"].to_list() == [1.0] * len(frame)
    assert frame["score"].max() < 1.01  # type: ignore[operator]
    auc = found.metrics[0]
    assert auc.value == 0.5


def test_other_groups_can_be_named(lake_of: MakeLake) -> None:
    keep, loss = np.array([True, False, False, True]), np.array([1.0, 2, 3, 0.5])
    lake = lake_with(lake_of, keep, loss, columns={"group": ["a", "a", "b", "b"]})
    frame = outcome(lake, group="a").scores.frame
    assert frame.select("sample_id", "score", "candidates").rows() == [
        (0, 1.0, 2),
        (1, pytest.approx(np.log2(2 / 1.5)), 2),
    ]


def test_infinite_losses_stand_last(lake_of: MakeLake) -> None:
    # Were they left out, the mean would be of those canaries alone that the model knows: here 2 and not 1.10.
    keep, loss = np.array([True, True, False, False, False]), np.array([1.0, np.inf, 2, 3, np.inf])
    found = outcome(lake_with(lake_of, keep, loss, columns={"group": ["canary"] * 5}))
    assert found.scores.frame["rank"].to_list() == [1, 3.5, 1.5, 2.5, 3.5]
    assert found.scores.frame["candidates"].to_list() == [4] * 5
    mean = {each.metric: each.value for each in found.metrics}["mean_exposure"]
    assert mean == pytest.approx((2 + np.log2(4 / 3.5)) / 2)


@pytest.mark.parametrize(
    ("keep", "groups", "named"),
    [
        ([True, False], [None, None], "of no sample of group 'canary'.*--canaries"),
        ([False, False], ["canary", "canary"], "trained on no canary"),
        ([True, True], ["canary", "canary"], "trained on every canary"),
        ([True, False], ["canary", None], "trained on every canary"),
    ],
)
def test_what_cannot_be_told_is_said(
    lake_of: MakeLake, keep: list[bool], groups: list[str | None], named: str
) -> None:
    lake = lake_with(lake_of, np.array(keep), np.array([1.0, 2.0]), columns={"group": groups})
    with pytest.raises(NotEnoughData, match=named):
        outcome(lake)


def test_texts_are_ranked_by_all_their_tokens(lake_of: MakeLake) -> None:
    given = {"token_losses": [[1.0] * 3, [2.0]]}
    lake = lake_with(
        lake_of,
        np.array([True, False]),
        np.array([1.0, 2]),
        tokens=[given],
        columns={"group": ["canary"] * 2},
    )
    assert outcome(lake).scores.frame["rank"].to_list() == [2.0, 1.5]
