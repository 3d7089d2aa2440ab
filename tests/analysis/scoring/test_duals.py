"""A score averaged over a target and its duals equals the mean of the scores of each, attacked alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from losslake.analysis.evaluations.compare import compare
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.scoring.stored import keep_scores
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
NAMES = ("t", "t-dual-1", "t-dual-2", *(f"s{number}" for number in range(12)))
ROLES = ("target",) * 3 + ("shadow",) * 12
PARENTS = (None, "t", "t") + (None,) * 12
LIRA = find("lira")


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = rng.random((15, 80)) < 0.5
    keep[1:3] = keep[0]
    return keep, rng.normal(0, 1, keep.shape) + 1.5 * keep


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    return lake_of(*arrays(), names=NAMES, roles=ROLES, parents=PARENTS)


def scores(lake: Lake, target: str, **options: object) -> pl.DataFrame:
    with open_source(lake, "tests", target) as source:
        return run_analysis(source, LIRA, options).scores.frame


def test_it_is_the_mean_of_each_attacked_alone(lake: Lake) -> None:
    alone = np.stack([scores(lake, name)["score"].to_numpy() for name in NAMES[:3]])
    together = scores(lake, "t", duals=True)
    np.testing.assert_allclose(together["score"], alone.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(together["sd"], alone.std(axis=0, ddof=1), atol=1e-12)
    assert together["member"].to_list() == arrays()[0][0].tolist()
    # Asked of a dual it is the same mean.
    np.testing.assert_allclose(scores(lake, "t-dual-2", duals=True)["score"], together["score"], atol=1e-12)


def test_it_is_a_variant_that_other_evaluations_can_name(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        outcome = run_analysis(source, LIRA, {"duals": True})
        assert outcome.label == "lira[duals=true]"  # as it is asked for
        assert "mean over 3 runs: t, t-dual-1, t-dual-2" in outcome.notes
        kept = keep_scores(source, ["lira[duals=true]", "lira"])
        assert (
            kept["lira[duals=true]"].scores.frame["score"].to_list()
            == outcome.scores.frame["score"].to_list()
        )
        assert kept["lira"].scores.frame["score"].to_list() != outcome.scores.frame["score"].to_list()
        assert compare(source, ("lira",), against="lira[duals=true]", fpr=0.1).metrics


def test_averaging_finds_more_than_one_run(lake_of: MakeLake) -> None:
    keep, phi = arrays(1)
    lake = lake_of(keep, phi, names=NAMES, roles=ROLES, parents=PARENTS)
    with open_source(lake, "tests") as source:
        alone, mean = (
            run_analysis(source, LIRA, {"duals": duals}).metrics[0].value for duals in (False, True)
        )
    assert alone is not None
    assert mean is not None
    assert mean > alone


def test_a_sample_without_a_score_in_one_of_them_has_none(lake_of: MakeLake) -> None:
    keep, phi = arrays()
    held = np.ones(keep.shape, bool)
    held[1, 7] = False
    lake = lake_of(keep, phi, held=held, names=NAMES, roles=ROLES, parents=PARENTS)
    frame = scores(lake, "t", duals=True)
    assert frame.filter(pl.col("score").is_null())["sample_id"].to_list() == [7]


def test_what_cannot_be_averaged_is_refused(lake_of: MakeLake) -> None:
    keep, phi = arrays()
    single = lake_of(keep[2:], phi[2:])
    with pytest.raises(NotEnoughData, match=r"has no duals to average over.*--duals K"):
        scores(single, "run-0000", duals=True)
    keep[1] = ~keep[1]
    mixed = lake_of(keep, phi, names=NAMES, roles=ROLES, parents=PARENTS)
    with pytest.raises(NotEnoughData, match="have different members"):
        scores(mixed, "t", duals=True)
