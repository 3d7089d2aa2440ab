"""What NumPy adds up run after run, held against the SQL texts that say what it means; and the sums themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from in_sql import InSql
from losslake.analysis.attacks import attack_r_d_l, in_and_out
from losslake.analysis.attacks.in_and_out import Sums, as_table
from losslake.analysis.attacks.run_answers import answers_of
from losslake.analysis.evaluations.some_answers import is_drawn, some_answers
from losslake.analysis.scoring.catalogue import find
from losslake.analysis.source import Source
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact

MakeLake = Callable[..., Lake]


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("lira", {"mode": mode, "variance": variance, "center": center})
        for mode in ("online", "offline")
        for variance in ("bayes", "sample", "pooled")
        for center in ("mean", "median")
    ),
    ("rmia", {"a": None}),
    ("rmia", {"rank": "share", "gamma": 1.5}),
    ("rmia", {"mode": "offline"}),
    ("rmia", {"mode": "offline", "a": 0.4, "queries": "original"}),
    ("ramia", {}),
    ("ramia", {"mode": "offline", "ranges": "crop"}),
    ("calibrated", {}),
    ("calibrated", {"tau": "out"}),
    ("memorization", {}),
    ("memorization", {"of": "probability"}),
    ("privacy-score", {}),
    ("hellinger", {}),
]


def odd_lake(make: MakeLake, design: str, queries: int) -> Lake:
    """Samples never in, never out, in or out once; ties, infinite losses, equal phi; runs with some samples alone."""
    rng = np.random.default_rng(queries)
    runs, samples = 13, 60
    keep = rng.random((runs, samples)) < 0.5
    if design == "balanced":
        keep = np.argsort(rng.random((runs, samples)), axis=0) < runs // 2
    population = np.arange(samples) >= 48
    keep[:, population] = False
    keep[1:, 0], keep[1:, 1] = True, False
    keep[1:, 2], keep[1:, 3] = np.arange(runs - 1) == 4, np.arange(runs - 1) != 4
    specs = ("original", "flip", "crop:3:4")[: 1 if queries == 1 else 3]
    views = {1: 1, 3: 5}[queries]
    level = rng.normal(2, 4, (1, samples, 1))
    phi = (
        level + rng.gamma(1, 1, (1, samples, 1)) * keep[:, :, None] + rng.normal(0, 1, (runs, samples, views))
    ).astype(np.float32)
    phi[:, 4], phi[1:, 5] = 3.25, 30.0
    loss = np.logaddexp(0, -phi.astype(np.float64)).astype(np.float32)
    loss[3, 6] = loss[1:, 7] = loss[0, 8] = np.inf
    loss[:, 9] += 700
    loss[1:, 10] = 900
    held = np.ones((runs, samples), dtype=bool)
    if design == "holes":
        held = rng.random((runs, samples)) < 0.8
        held[0, 11] = False
        held[1:, 12] = False
    return make(
        keep,
        phi[:, :, 0] if views == 1 else phi,
        loss=loss[:, :, 0] if views == 1 else loss,
        population=population,
        held=held,
        recorded=[specs] * runs,
        roles=["target", "reference", *["shadow"] * (runs - 2)],
    )


@pytest.fixture(scope="module")
def lakes() -> dict[tuple[str, int], Lake]:
    return {}


@pytest.fixture(params=[("coin", 1), ("holes", 1), ("balanced", 1), ("coin", 3), ("holes", 3)], ids=str)
def lake(request: pytest.FixtureRequest, lake_of: MakeLake) -> Lake:
    return odd_lake(lake_of, *request.param)


@pytest.fixture
def both(lake: Lake) -> Iterator[tuple[Source, Source]]:
    with Source.open(lake, "tests", find=find) as summed, InSql.open(lake, "tests", find=find) as in_sql:
        yield summed, in_sql


def test_the_two_plans_have_one_answer(both: tuple[Source, Source]) -> None:
    compared = 0
    for name, options in VARIANTS:
        if name == "ramia" and len(both[0].need_target().info.extra["recording"]["queries"]) == 1:  # type: ignore[index,arg-type]
            continue
        summed, in_sql = (find(name).compute(source, **options) for source in both)
        assert summed.notes == in_sql.notes
        assert_alike(summed.frame, in_sql.frame, f"{name} {options}")
        assert [m.metric for m in summed.metrics] == [m.metric for m in in_sql.metrics]
        for one, other in zip(summed.metrics, in_sql.metrics, strict=True):
            assert one.value == pytest.approx(other.value, rel=1e-8), name
        compared += len(summed.frame)
    assert compared > 500


@pytest.mark.parametrize("at_once", [7, 48, 1000])
def test_in_parts_the_answers_are_the_same(
    lake_of: MakeLake, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = odd_lake(lake_of, "holes", 1)
    asked = [one for one in VARIANTS if one[0] in ("calibrated", "memorization", "privacy-score")]
    asked += [("attack-r", {"interpolate": interpolate}) for interpolate in (False, True)]
    with Source.open(lake, "tests", find=find) as source:
        whole = [find(name).compute(source, **options).frame for name, options in asked]
    for module in (in_and_out, attack_r_d_l):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
    with Source.open(lake, "tests", find=find) as source:
        parts = [find(name).compute(source, **options).frame for name, options in asked]
    for one, other in zip(parts, whole, strict=True):
        assert one.equals(other, null_equal=True)
        assert one.schema == other.schema


def assert_alike(summed: pl.DataFrame, in_sql: pl.DataFrame, what: str) -> None:
    assert set(summed.columns) == set(in_sql.columns), what
    for name in in_sql.columns:
        one, other = summed[name], in_sql[name]
        assert np.flatnonzero(one.is_null()).tolist() == np.flatnonzero(other.is_null()).tolist(), (
            f"{what}: {name}"
        )
        if one.dtype.is_numeric():
            found, expected = (column.cast(pl.Float64).drop_nulls().to_numpy() for column in (one, other))
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10, err_msg=f"{what}: {name}")
        else:
            assert one.to_list() == other.to_list(), f"{what}: {name}"


def test_some_answers_are_the_same_records(
    both: tuple[Source, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("losslake.analysis.evaluations.some_answers.LOOKED_AT", 20)
    found = [some_answers(source, source.need_target(), source.need_shadows()) for source in both]
    summed, in_sql = ((one.phi, one.loss, np.where(np.isnan(one.phi), False, one.member)) for one in found)
    for one, other in zip(summed, in_sql, strict=True):
        # Of what nobody has an answer to SQL has no column; what it passes over, it does not show.
        there = ~np.isnan(found[0].phi).all(axis=0)
        shown = ~np.isnan(in_sql[0])
        assert 5 < there.sum() < 40
        np.testing.assert_array_equal(np.where(shown, one[:, there], 0), np.where(shown, other, 0))


def test_the_draw_is_the_macros(everything: Lake) -> None:
    ids = np.array([0, 1, 7, 12345, 2**31 - 1])
    with Source.open(everything, "tests", find=find) as source:
        for share in (0.0, 0.2, 0.5, 1.0):
            asked = source.sql(
                "select is_drawn(id::integer, $share) as drawn from (select unnest($ids) as id)",
                {"share": share, "ids": ids.tolist()},
            )
            assert asked["drawn"].to_list() == is_drawn(ids, share).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_means_and_variances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs, shape = 9, (40_000 // (seed + 1), seed + 1)
    values = rng.normal(rng.normal(0, 1e4, shape), 10.0 ** rng.integers(-6, 2, shape), (runs, *shape)).astype(
        np.float32
    )
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 0] = 0.1
    inside = rng.random((runs, shape[0])) < 0.5
    sums = Sums.of(shape)
    for run in range(runs):
        sums.add(values[run], inside[run])
    for fit, used in zip(sums.fits(), (inside, ~inside), strict=True):
        seen = used[:, :, None] & ~np.isnan(values)
        n = seen.sum(axis=0)
        assert (fit.n == n).all()
        own = np.where(seen, values.astype(np.longdouble), 0)
        mean = own.sum(axis=0) / np.maximum(n, 1)
        squares = (np.where(seen, values - mean, 0) ** 2).sum(axis=0)
        np.testing.assert_allclose(fit.mean[n > 0], mean[n > 0].astype(float), rtol=1e-14)
        np.testing.assert_allclose(fit.squares, squares.astype(float), rtol=1e-9, atol=1e-30)
        assert (fit.squares[0] == 0).all()


def test_a_side_without_runs_is_null() -> None:
    sums = Sums.of((2, 1))
    sums.add(np.array([[1.0], [2.0]], np.float32), np.array([True, False]))
    rows = as_table(np.array([5, 9]), sums.fits()).to_pylist()
    assert [(row["sample_id"], row["n_in"], row["mean_in"], row["mean_out"]) for row in rows] == [
        (5, 1, 1.0, None),
        (9, 0, None, 2.0),
    ]
    assert [row["right_out"] for row in rows] == [None, 2]


@pytest.mark.parametrize("design", ["coin", "holes"])
def test_answers_are_where_their_rows_say(lake_of: MakeLake, design: str) -> None:
    lake = odd_lake(lake_of, design, 3)
    compact(lake, "tests")
    with Source.open(lake, "tests", find=find) as source:
        sample_id, queries = np.array([3, 4, 11, 12, 50]), [0, 1025]
        rows = source.sql("select run, sample_id, query, member, phi, correct from signals")
        for run, answers in zip(
            source.runs,
            answers_of(source, source.runs, ["phi", "correct"], sample_id, queries, passing_over=False),
            strict=True,
        ):
            own = rows.filter(pl.col("run") == run.run)
            for at, sample in enumerate(sample_id):
                for column, query in enumerate(queries):
                    row = own.filter((pl.col("sample_id") == sample) & (pl.col("query") == query))
                    if row.is_empty():
                        assert np.isnan(answers.columns[0][at, column])
                        continue
                    assert answers.columns[0][at, column] == row["phi"].item()
                    assert answers.columns[1][at, column] == row["correct"].item()
                    assert answers.member[at] == row["member"].item()
