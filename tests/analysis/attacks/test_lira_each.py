"""LiRA on every run in turn against the SQL analysis asked run by run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.attacks import lira_each as module
from losslake.analysis.attacks.lira import lira
from losslake.analysis.attacks.lira_each import lira_each
from losslake.analysis.attacks.phi_matrix import read_phi
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
WAYS = list(product(("online", "offline"), ("bayes", "sample", "pooled")))


def in_turn(lake: Lake, queries: int, mode: str, variance: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    with open_source(lake, "tests", "run-0000") as source:
        matrix = read_phi(source, source.runs, range(queries))
        shadow = np.array([run.info.role == "shadow" for run in source.runs])
        scores = lira_each(matrix, shadow, np.arange(len(shadow)), mode=mode, variance=variance)
        return [run.run for run in source.runs], scores


def one_by_one(lake: Lake, run: str, samples: int, mode: str, variance: str) -> npt.NDArray[np.float64]:
    found = np.full(samples, np.nan)
    with open_source(lake, "tests", run) as source:
        try:
            frame = lira(source, mode=mode, variance=variance).frame  # type: ignore[arg-type]
        except NotEnoughData:
            return found
        found[frame["sample_id"].to_numpy()] = frame["score"].cast(float).fill_null(np.nan).to_numpy()
        audit = source.lake.samples("tests")["pool"].to_numpy(zero_copy_only=False) == "audit"
    return found[audit]


def check(lake: Lake, samples: int, queries: int, mode: str, variance: str, every: int = 1) -> None:
    audit = lake.samples("tests")["pool"].to_pylist().count("audit")
    runs, scores = in_turn(lake, queries, mode, variance)
    for run, row in list(zip(runs, scores, strict=True))[::every]:
        expected = one_by_one(lake, run, samples, mode, variance)
        np.testing.assert_allclose(row, expected[:audit], rtol=1e-6, atol=1e-9, err_msg=run)


@pytest.fixture(scope="module")
def awkward(lake_of: MakeLake) -> Lake:
    """Two targets, seven shadow runs, two queries; constant samples, sides of one run and none, missing signals."""
    rng = np.random.default_rng(5)
    keep = rng.random((9, 40)) < 0.5
    phi = rng.normal(3, 2, (9, 40, 2)) + 2 * keep[:, :, None]
    phi[:, 0] = 5.0  # never varies
    phi[:, 1] = 5.0
    phi[4, 1] = 1e6  # varies but for one run
    keep[:, 2], keep[:, 3] = True, False  # never out, never in
    keep[:, 4], keep[3, 4] = True, False  # out of one run alone
    keep[2:, 5], keep[3:5, 5] = False, True  # in two runs
    phi[:, 6] = 1e7 + rng.normal(0, 1, (9, 2))  # far from 0
    keep[:, 36:] = False
    held = np.ones((9, 40), bool)
    held[5, 10:20], held[:, 7], held[6, :30] = False, False, False
    held[0, 7] = True
    return lake_of(
        keep,
        phi.astype(np.float32),
        population=np.arange(40) >= 36,
        held=held,
        roles=["target", "target", *["shadow"] * 7],
    )


@pytest.mark.parametrize(("mode", "variance"), WAYS)
def test_every_run_in_turn_scores_as_the_analysis_does(awkward: Lake, mode: str, variance: str) -> None:
    check(awkward, 40, 2, mode, variance, every=2)


@pytest.mark.parametrize("variance", ["bayes", "pooled"])
def test_fits_that_are_kept_or_made_twice_give_equal_scores(
    awkward: Lake, variance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    blocks = module._blocks
    monkeypatch.setattr(module, "_blocks", lambda *of: made.append(1) or blocks(*of))
    _, kept = in_turn(awkward, 2, "online", variance)
    monkeypatch.setattr(module, "_KEPT", 0)
    _, twice = in_turn(awkward, 2, "online", variance)
    np.testing.assert_array_equal(kept, twice)
    assert len(made) == 3


@pytest.mark.parametrize(("mode", "variance"), WAYS)
def test_blocks_do_not_show(awkward: Lake, mode: str, variance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_turn(awkward, 2, mode, variance)[1]
    monkeypatch.setattr(module, "_BLOCK_VALUES", 130)  # seven samples a block
    np.testing.assert_allclose(in_turn(awkward, 2, mode, variance)[1], whole, rtol=1e-12)


@pytest.mark.parametrize("shadows", [1, 2, 3])
@pytest.mark.parametrize(("mode", "variance"), WAYS)
def test_few_shadow_runs(lake_of: MakeLake, shadows: int, mode: str, variance: str) -> None:
    rng = np.random.default_rng(shadows)
    keep = rng.random((shadows + 1, 25)) < 0.5
    phi = rng.normal(0, 1, keep.shape).astype(np.float32)
    check(lake_of(keep, phi), 25, 1, mode, variance)


def test_a_shadow_alone_leaves_nothing_to_fit(lake_of: MakeLake) -> None:
    keep = np.array([[True, False], [True, False]])
    lake = lake_of(keep, np.zeros((2, 2), np.float32))
    _, scores = in_turn(lake, 1, "offline", "pooled")
    assert np.isnan(scores).tolist() == [[True, False], [True, True]]
