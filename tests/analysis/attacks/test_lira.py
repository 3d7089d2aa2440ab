"""LiRA against a loop over samples that is written from the paper, and on inputs made to break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from losslake.analysis.attacks import phi_matrix
from losslake.analysis.attacks.lira import lira
from losslake.analysis.attacks.phi_matrix import phi_medians, queries_of
from losslake.analysis.attacks.variance_prior import log_t_tail, log_variances
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import evaluate
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake
from losslake.store.query.connection import connect
from losslake.store.upkeep.compact import compact
from scipy.integrate import simpson
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import norm, t

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
MakeLake = Callable[..., Lake]

VARIANTS = list(product(("online", "offline"), ("bayes", "sample", "pooled"), ("mean", "median")))
TINY = 1e-12  # the floor of a variance


def prior_of(groups: list[Floats]) -> tuple[float, float]:
    """Degrees of freedom and scale of the variances' prior from each sample's values (Smyth 2004, section 6.2)."""
    telling = [values for values in groups if len(values) > 1 and np.var(values) > TINY]
    if not telling:
        return 2 * inverse_trigamma(1e-4), 0.0
    free = np.array([len(values) - 1.0 for values in telling])
    log_variance = np.array([np.log(np.var(values, ddof=1)) for values in telling])
    # log s2 = log sigma2 + log(chi2 / free), whose mean is digamma(free / 2) - log(free / 2) and variance trigamma(free / 2).
    level = log_variance - digamma(free / 2) + np.log(free / 2)
    middle = np.average(level, weights=free)
    spread = np.average((level - middle) ** 2 - polygamma(1, free / 2), weights=free)
    half = inverse_trigamma(min(max(spread, 1e-4), 100))
    return 2 * half, float(np.exp(middle + digamma(half) - np.log(half)))


def inverse_trigamma(value: float) -> float:
    return float(brentq(lambda x: polygamma(1, x) - value, 1e-3, 1e6, xtol=1e-14, rtol=1e-14))


def predictive(values: Floats, middle: float, prior: tuple[float, float]) -> tuple[float, float, float]:
    """Degrees of freedom, centre and scale of one more value."""
    dof, variance = prior
    free = dof + len(values) - 1
    drawn = (dof * variance + np.square(values - np.mean(values)).sum()) / free
    return free, middle, np.sqrt(max(drawn * (1 + 1 / len(values)), TINY))


def log_tail(point: float, free: float, middle: float, scale: float) -> float:
    """log Pr[T > point]; by quadrature where SciPy's probability is 0."""
    z = (point - middle) / scale
    if t.sf(z, free) > 1e-250:
        return float(t.logsf(z, free)) if z > 0 else float(np.log1p(-t.sf(-z, free)))
    steps = np.linspace(0, 60, 60_001)
    unit = 1 / free + 1 / z**2
    heights = t.logpdf(z * np.exp(steps * unit), free) + steps * unit + np.log(z * unit)
    return float(heights[0] + np.log(simpson(np.exp(heights - heights[0]), x=steps)))


def oracle(
    point: Floats, phi: Floats, keep: Mask, mode: str, variance: str, center: str, audit: Mask | None = None
) -> list[float | None]:
    """Scores from the target's phi (N, Q) and the shadow runs' phi (M, N, Q) and membership (M, N)."""
    middle = {"mean": np.mean, "median": np.median}[center]
    point, phi = point.astype(np.float32).astype(float), phi.astype(np.float32).astype(float)
    samples = [n for n in range(point.shape[0]) if audit is None or audit[n]]
    residuals: dict[bool, list[float]] = {True: [], False: []}
    groups: dict[bool, list[Floats]] = {True: [], False: []}
    for n, q, side in product(samples, range(point.shape[1]), (True, False)):
        values = phi[keep[:, n] == side, n, q]
        residuals[side] += [] if len(values) == 0 else list(values - middle(values))
        groups[side] += [values] if len(values) else []
    priors = {side: prior_of(values) for side, values in groups.items()}
    scores: list[float | None] = []
    for n in samples:
        inside, outside = keep[:, n], ~keep[:, n]
        if not outside.any() or (mode == "online" and not inside.any()):
            scores.append(None)
            continue
        evidence = []
        for q in range(point.shape[1]):
            sides: dict[bool, tuple[float, ...]] = {}
            for side, rows in ((True, inside), (False, outside)):
                if rows.any():
                    values = phi[rows, n, q]
                    if variance == "bayes":
                        sides[side] = predictive(values, middle(values), priors[side])
                        continue
                    spread = np.mean(np.square(residuals[side])) if variance == "pooled" else np.var(values)
                    sides[side] = middle(values), np.sqrt(max(spread, TINY))
            if variance == "bayes":
                evidence.append(
                    -log_tail(point[n, q], *sides[False])
                    if mode == "offline"
                    else t.logpdf(point[n, q], *sides[True]) - t.logpdf(point[n, q], *sides[False])
                )
            elif mode == "offline":
                evidence.append(-norm.logsf(point[n, q], *sides[False]))
            else:
                evidence.append(
                    norm.logpdf(point[n, q], *sides[True]) - norm.logpdf(point[n, q], *sides[False])
                )
        scores.append(float(np.mean(evidence)))
    return scores


def scores_of(lake: Lake, target: str | None = None, **options: str) -> pl.DataFrame:
    with open_source(lake, "tests", target) as source:
        return lira(source, **options).frame


def assert_scores(frame: pl.DataFrame, expected: list[float | None]) -> None:
    assert [value is None for value in frame["score"]] == [value is None for value in expected]
    want = np.array([value for value in expected if value is not None])
    assert np.isfinite(want).all()
    np.testing.assert_allclose(frame["score"].drop_nulls().to_numpy(), want, rtol=1e-6, atol=1e-10)


def random_runs(seed: int, runs: int, samples: int, queries: int) -> tuple[Floats, Mask]:
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    level = rng.normal(3, 4, (1, samples, 1))
    phi = (
        level
        + rng.gamma(1, 1, (1, samples, 1)) * keep[:, :, None]
        + rng.normal(0, 1, (runs, samples, queries))
    )
    return phi.astype(np.float32), keep


def each_side_twice(keep: Mask) -> Mask:
    keep[1:3], keep[3:5] = True, False
    return keep


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize(("seed", "runs"), [(0, 12), (1, 13)])
def test_every_variant_matches_the_oracle(lake_of: MakeLake, seed: int, runs: int, queries: int) -> None:
    phi, keep = random_runs(seed, runs + 1, 30, queries)  # 12 or 13 shadows: odd and even counts a side
    lake = lake_of(each_side_twice(keep), phi)
    with open_source(lake, "tests") as source:
        frames = {
            (mode, variance, center): lira(source, mode=mode, variance=variance, center=center).frame
            for mode, variance, center in VARIANTS
        }
    for (mode, variance, center), frame in frames.items():
        assert_scores(frame, oracle(phi[0], phi[1:], keep[1:], mode, variance, center))
        assert frame["n_in"].to_list() == keep[1:].sum(axis=0).tolist()
        assert frame["n_out"].to_list() == (~keep[1:]).sum(axis=0).tolist()
        assert frame["member"].to_list() == keep[0].tolist()


@pytest.mark.parametrize("at_once", [1, 7, 30])
def test_medians_of_some_samples_at_a_time_are_those_of_all(
    lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Over two queries, runs that lack samples, a population, and files of their own and shared ones."""
    phi, keep = random_runs(5, 9, 40, 2)
    held = np.random.default_rng(0).random(keep.shape) < 0.9
    population = np.arange(40) % 8 == 3
    lake = lake_of(keep & ~population, phi, held=held, population=population)
    for _ in range(2):
        with open_source(lake, "tests") as source:
            runs, queries = source.need_shadows(), queries_of(source)
            assert queries == [0, 1]
            monkeypatch.undo()
            whole = phi_medians(source, runs, queries)
            monkeypatch.setattr(phi_matrix, "_BLOCK_VALUES", at_once * len(runs) * len(queries))
            assert phi_medians(source, runs, queries).equals(whole)
        assert len(whole) == 2 * 35
        compact(lake, "tests", least=2)


@pytest.fixture(scope="module")
def awkward(lake_of: MakeLake) -> Iterator[tuple[Source, Floats, Mask]]:
    """Sample 0 always in, 1 never in, 2 constant, 3 tied, 4 and 5 extreme, 6 nearly constant and far off."""
    phi, keep = random_runs(7, 10, 20, 2)
    each_side_twice(keep)
    keep[:, 0], keep[:, 1] = True, False
    phi[:, 2] = 1.5
    phi[:, 3] = np.where(keep[:, 3], 2.0, 1.0)[:, None]
    phi[:, 4] = np.where(keep[:, 4], 100.0, -100.0)[:, None]
    phi[0, 5] = -100
    phi[1:, 6], phi[0, 6] = 99.5, -99.5
    with open_source(lake_of(keep, phi), "tests") as source:
        yield source, phi, keep


@pytest.mark.parametrize(("mode", "variance", "center"), VARIANTS)
def test_awkward_values_match_the_oracle(
    awkward: tuple[Source, Floats, Mask], mode: str, variance: str, center: str
) -> None:
    source, phi, keep = awkward
    frame = lira(source, mode=mode, variance=variance, center=center).frame
    assert_scores(frame, oracle(phi[0], phi[1:], keep[1:], mode, variance, center))


@pytest.mark.parametrize(("mode", "unscored"), [("online", [0, 1]), ("offline", [0])])
def test_a_side_without_runs_leaves_only_its_sample_unscored(
    awkward: tuple[Source, Floats, Mask], mode: str, unscored: list[int]
) -> None:
    scores = lira(awkward[0], mode=mode)
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == unscored
    assert scores.notes[0].startswith(f"{len(unscored)} of 20 samples have no score")


def test_a_constant_sample_has_a_score_of_no_evidence(awkward: tuple[Source, Floats, Mask]) -> None:
    frame = lira(awkward[0], variance="sample").frame
    assert frame["score"][2] == pytest.approx(0, abs=1e-9)


def test_one_shadow_run(lake_of: MakeLake) -> None:
    phi, keep = random_runs(3, 2, 10, 1)
    keep[1] = np.arange(10) < 5
    lake = lake_of(keep, phi)
    with pytest.raises(NotEnoughData, match="both in and out of the training sets of its 1 shadow runs"):
        scores_of(lake, mode="online")
    for variance, center in product(("bayes", "sample", "pooled"), ("mean", "median")):
        frame = scores_of(lake, mode="offline", variance=variance, center=center)
        assert_scores(frame, oracle(phi[0], phi[1:], keep[1:], "offline", variance, center))
        assert frame["score"].null_count() == 5


def test_no_shadow_run(lake_of: MakeLake) -> None:
    phi, keep = random_runs(3, 3, 10, 1)
    lake = lake_of(keep, phi, roles=["target", "reference", "distilled"])
    with pytest.raises(NotEnoughData, match=r"has no shadow runs beside 'run-0000'; .*collect shadows"):
        scores_of(lake)


def test_only_shadow_runs_are_fitted(lake_of: MakeLake) -> None:
    phi, keep = random_runs(4, 12, 30, 1)
    each_side_twice(keep)
    roles = ["target", *["shadow"] * 8, "reference", "distilled", "leave_one_out"]
    frame = scores_of(lake_of(keep, phi, roles=roles), variance="sample")
    assert_scores(frame, oracle(phi[0], phi[1:9], keep[1:9], "online", "sample", "mean"))


@pytest.mark.parametrize("queries", ["mean", "gaussian"])
def test_population_samples_are_never_scored_and_never_fitted(lake_of: MakeLake, queries: str) -> None:
    phi, keep = random_runs(5, 12, 30, 2)
    each_side_twice(keep)
    population = np.arange(30) % 3 == 0
    keep &= ~population
    phi[:, population] *= 50  # would swamp a variance pooled over them too
    frame = scores_of(lake_of(keep, phi, population=population), variance="pooled", queries=queries)
    assert frame["sample_id"].to_list() == np.flatnonzero(~population).tolist()
    if queries == "mean":
        assert_scores(frame, oracle(phi[0], phi[1:], keep[1:], "online", "pooled", "mean", ~population))
    else:
        other = lake_of(keep[:, ~population], phi[:, ~population])
        assert_scores(frame, scores_of(other, variance="pooled", queries=queries)["score"].to_list())


@pytest.mark.parametrize("queries", ["mean", "gaussian"])
def test_a_target_among_the_shadows_is_left_out_of_its_own_fit(lake_of: MakeLake, queries: str) -> None:
    phi, keep = random_runs(6, 12, 30, 1)
    each_side_twice(keep)
    lake = lake_of(keep, phi, roles=["shadow"] * 12)
    rest = np.arange(12) != 11
    for variance in ("bayes", "sample", "pooled"):
        frame = scores_of(lake, target="run-0011", variance=variance, queries=queries)
        expected = oracle(phi[11], phi[rest], keep[rest], "online", variance, "mean")
        got = frame["score"].to_numpy()
        np.testing.assert_allclose(got, np.array(expected, float), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shadows", [4, 64])
def test_auto_is_bayes_however_many_runs(lake_of: MakeLake, shadows: int) -> None:
    """Before it was pooled under 64 runs and sample from there on, whichever of them the data were unlike."""
    phi, keep = random_runs(8, shadows + 1, 12, 1)
    keep[1], keep[2] = True, False
    lake = lake_of(keep, phi, roles=["shadow"] * (shadows + 1))
    assert_scores(scores_of(lake, "run-0000"), oracle(phi[0], phi[1:], keep[1:], "online", "bayes", "mean"))


def varied(seed: int, runs: int, samples: int, dof: float) -> tuple[Floats, Mask]:
    """No signal; each sample's variance is drawn from a scaled inverse chi-square of scale 1; all alike for infinite dof."""
    rng = np.random.default_rng(seed)
    variance = np.ones(samples) if np.isinf(dof) else dof / rng.chisquare(dof, samples)
    return (rng.normal(0, 1, (runs, samples)) * np.sqrt(variance)).astype(np.float32), rng.random(
        (runs, samples)
    ) < 0.5


@pytest.mark.parametrize("runs", [4, 10, 40])
@pytest.mark.parametrize("dof", [1.5, 5, 30, np.inf])
def test_the_prior_that_variances_were_drawn_from_is_found(runs: int, dof: float) -> None:
    phi, _ = varied(0, runs, 40_000, dof)
    n = np.full(phi.shape[1], runs)
    prior = log_variances(n, phi.astype(float).var(axis=0) * runs, TINY, axis=None).prior()
    assert prior.variance.item() == pytest.approx(1, rel=0.03)
    # What is fitted is a spread of about 2 / dof; four values add 0.93 to it, and the standard error of 1 / dof is 0.005.
    assert 1 / prior.dof.item() == pytest.approx(1 / dof, rel=0.08, abs=0.02)


@pytest.mark.parametrize(("dof", "same_as"), [(np.inf, "pooled"), (0.3, "sample")])
def test_the_ends_of_the_family(lake_of: MakeLake, dof: float, same_as: str) -> None:
    """Variances that are all alike: one for all; ones that differ by many powers of ten: each sample's own."""
    phi, keep = varied(1, 121, 600, dof)
    with open_source(lake_of(keep, phi), "tests") as source:
        found = {kind: lira(source, variance=kind).frame["score"] for kind in ("bayes", "sample", "pooled")}
    other = "sample" if same_as == "pooled" else "pooled"
    likeness = {
        kind: np.corrcoef(found["bayes"].rank(), found[kind].rank())[0, 1] for kind in (same_as, other)
    }
    assert likeness[same_as] > 0.97
    assert likeness[other] < likeness[same_as] - 0.01


def test_samples_that_do_not_vary_tell_nothing_of_variances(lake_of: MakeLake) -> None:
    phi, keep = random_runs(8, 13, 40, 1)
    each_side_twice(keep)
    tied = np.arange(40) % 2 == 0
    phi[:, tied] = np.float32(7.25)
    with open_source(lake_of(keep, phi), "tests") as source:
        half = lira(source, variance="bayes").frame
    assert_scores(half, oracle(phi[0], phi[1:], keep[1:], "online", "bayes", "mean"))
    alone = scores_of(lake_of(keep[:, ~tied], phi[:, ~tied]), variance="bayes")["score"]
    np.testing.assert_allclose(half["score"].to_numpy()[~tied], alone, rtol=1e-9)
    assert np.isfinite(half["score"].to_numpy()[tied]).all()


def test_all_tied_is_no_evidence(lake_of: MakeLake) -> None:
    phi, keep = random_runs(8, 9, 20, 1)
    lake = lake_of(each_side_twice(keep), np.full_like(phi, 3.5))
    for mode, expected in (("online", 0.0), ("offline", np.log(2))):
        score = scores_of(lake, mode=mode, variance="bayes")["score"].to_numpy()
        np.testing.assert_allclose(score, expected, atol=0.2 if mode == "online" else 1e-9)


def test_samples_that_some_runs_have_no_signals_of(lake_of: MakeLake) -> None:
    phi, keep = random_runs(9, 14, 20, 2)
    each_side_twice(keep)
    held = np.ones(keep.shape, bool)
    held[5:, 3] = held[9, :] = False  # sample 3 is known to four shadow runs only
    held[9, :10] = True
    held[0, 19] = False  # and the target does not know sample 19
    lake = lake_of(keep, phi, held=held)
    frame = scores_of(lake, variance="sample")
    assert frame["sample_id"].to_list() == list(range(19))
    for n in range(19):
        rows = np.flatnonzero(held[1:, n]) + 1
        expected = oracle(
            phi[0, n : n + 1], phi[rows, n : n + 1], keep[rows, n : n + 1], "online", "sample", "mean"
        )
        assert frame["score"][n] == pytest.approx(expected[0], rel=1e-6)


def test_other_experiments_of_the_lake_do_not_count(lake_of: MakeLake) -> None:
    phi, keep = random_runs(10, 9, 20, 1)
    each_side_twice(keep)
    lake = lake_of(keep, phi)
    lake_of(~keep, phi * 3, lake=lake, experiment="another")
    assert_scores(
        scores_of(lake, variance="pooled"), oracle(phi[0], phi[1:], keep[1:], "online", "pooled", "mean")
    )


def test_duals_of_the_target_are_no_shadows(lake_of: MakeLake) -> None:
    phi, keep = random_runs(11, 9, 20, 1)
    each_side_twice(keep)
    names = ["target", *[f"s{m}" for m in range(7)], "target-dual"]
    roles = ["target", *["shadow"] * 7, "target"]
    lake = lake_of(keep, phi, names=names, roles=roles, parents=[*[None] * 8, "target"])
    assert_scores(
        scores_of(lake, variance="sample"), oracle(phi[0], phi[1:8], keep[1:8], "online", "sample", "mean")
    )


# --- what the scores say ------------------------------------------------------------------------------


def test_planted_members_rank_first(lake_of: MakeLake) -> None:
    """24 runs x 300 samples; members' phi is 12 sigma higher on every tenth sample."""
    rng = np.random.default_rng(1)
    keep = rng.random((24, 300)) < 0.5
    phi = rng.normal(2, 1, keep.shape) + 12 * keep * (np.arange(300) % 10 == 0)
    exposed = {n for n in range(0, 300, 10) if keep[0, n]}
    with open_source(lake_of(keep, phi), "tests") as source:
        for mode, queries in (("online", "mean"), ("offline", "mean"), ("online", "gaussian")):
            frame = lira(source, mode=mode, queries=queries).frame.sort("score", descending=True)
            assert set(frame["sample_id"].head(len(exposed))) == exposed


def test_members_score_higher(lake_of: MakeLake) -> None:
    phi, keep = random_runs(12, 20, 300, 1)
    with open_source(lake_of(keep, phi), "tests") as source:
        for mode in ("online", "offline"):
            auc = run_analysis(source, find("lira"), {"mode": mode}).metrics[0]
            assert auc.metric == "auc"
            assert auc.ci_low is not None
            assert auc.ci_low > 0.55


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(5)
    keep = rng.random((13, 40 * 400)) < 0.5
    with open_source(lake_of(keep, rng.normal(2, 1, keep.shape)), "tests") as source:
        score, member = lira(source).arrays()
    aucs = [evaluate(score[part], member[part], ())[0] for part in np.split(np.arange(len(score)), 40)]
    inside = sum(auc.ci_low <= 0.5 <= auc.ci_high for auc in aucs)  # type: ignore[operator]
    assert inside >= 34  # of 40 intervals at 95%: fewer hold once in a hundred
    assert np.mean([auc.value for auc in aucs]) == pytest.approx(0.5, abs=0.02)


# --- tails of the normal and of Student's t -----------------------------------------------------------------


def test_log_normal_tail_is_accurate_in_both_tails(lake_of: MakeLake) -> None:
    phi, keep = random_runs(0, 1, 2, 1)
    z = np.concatenate([np.linspace(-40, 40, 40_001), np.linspace(-1e-3, 1e-3, 101), [-6.8, -6.79, -5, 0.0]])
    with connect(lake_of(keep, phi)) as connection:
        got = connection.sql(
            "select z, log_normal_tail(z) as tail from (select unnest($z) as z)", params={"z": z.tolist()}
        ).fetchnumpy()
        # Under -37.5 the probability that is left has no full precision in a double any more.
        np.testing.assert_allclose(got["tail"], norm.logsf(got["z"]), rtol=1e-6, atol=1e-307)
        far = connection.sql("select log_normal_tail(1e8), log_normal_tail(-1e8)").fetchall()[0]
    assert far[0] == pytest.approx(norm.logsf(1e8), rel=1e-6)
    assert far[1] == 0


def test_log_t_tail_is_accurate_in_both_tails(lake_of: MakeLake) -> None:
    """Of SQL and of NumPy, against SciPy where it has digits, and against quadrature beyond."""
    phi, keep = random_runs(0, 1, 2, 1)
    dof = np.array([0.2, 0.7, 1, 2, 3.3, 8, 31, 33.5, 200, 2e4])
    z = np.array([-1e3, -40, -8, -3, -1, -1e-4, 0, 1e-4, 0.5, 1, 2, 4, 8, 20, 40, 1e3])
    at, free = (grid.ravel() for grid in np.meshgrid(z, dof))
    expected = [log_tail(*pair, 0.0, 1.0) for pair in zip(at, free, strict=True)]
    with connect(lake_of(keep, phi)) as connection:
        got = connection.sql(
            "select log_t_tail(z, dof) as tail from (select unnest($z) as z, unnest($dof) as dof)",
            params={"z": at.tolist(), "dof": free.tolist()},
        ).fetchnumpy()["tail"]
    np.testing.assert_allclose(log_t_tail(at, free), expected, rtol=1e-8, atol=1e-300)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-300)


def test_functions_of_the_prior_have_their_digits(lake_of: MakeLake) -> None:
    phi, keep = random_runs(0, 1, 2, 1)
    x = np.concatenate([np.arange(1, 300) / 2, np.geomspace(0.1, 1e4, 50)])
    with connect(lake_of(keep, phi)) as connection:
        got = connection.sql(
            "select digamma(x) as d, trigamma(x) as t, tetragamma(x) as tt, inverse_trigamma(trigamma(x)) as x "
            "from (select unnest($x) as x)",
            params={"x": x.tolist()},
        ).fetchnumpy()
    for name, expected in {"d": digamma(x), "t": polygamma(1, x), "tt": polygamma(2, x), "x": x}.items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-9, atol=1e-10, err_msg=name)
