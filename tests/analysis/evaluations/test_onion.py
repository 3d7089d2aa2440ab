"""Exposure before and after a removal, against counting key by key, on planted effects and on none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from findings import pick
from losslake.analysis.attacks.lira import lira
from losslake.analysis.charts.experiments import onion_chart
from losslake.analysis.evaluations.onion import onion
from losslake.analysis.measures.memorization import memorization
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import InvalidInput, InvalidOption, NotEnoughData, NotFound
from losslake.store.lake import Lake
from scipy.stats import binomtest, norm, spearmanr

MakeLake = Callable[..., Lake]
SAMPLES = 120


def write(
    lake_of: MakeLake,
    lake: Lake | None,
    name: str,
    keys: list[str],
    right_in: Any,
    right_out: Any,
    seed: int,
    shadows: int = 16,
) -> Lake:
    """Runs that get record n right at these rates, trained on it and not; phi says the same with some noise."""
    rng = np.random.default_rng(seed)
    keep = rng.random((shadows + 1, len(keys))) < 0.5
    right = rng.random(keep.shape) < np.where(keep, right_in, right_out)
    phi = np.where(right, 1.0, -1.0) * rng.gamma(4, 0.5, keep.shape)
    made = lake or lake_of(keep[:, :1], phi[:, :1], experiment="other")
    made.create_experiment(name, pa.table({"label": np.zeros(len(keys), np.int32), "key": keys}))
    return lake_of(keep, phi.astype(np.float32), lake=made, experiment=name)


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    """The records 0 to 19 are memorized and removed; 20 to 39 are memorized only then."""
    keys = [f"train/{n}" for n in range(SAMPLES)]
    outside = np.full(SAMPLES, 0.95)
    outside[:20] = 0.05
    made = write(lake_of, None, "whole", keys, 0.97, outside, 0)
    outside[20:40] = 0.05
    stay = np.arange(SAMPLES)[::-1][:-20]  # in another order
    return write(lake_of, made, "peeled", [keys[n] for n in stay], 0.97, outside[stay], 1)


def by_key(lake: Lake, experiment: str, compute: Any, target: str | None = None) -> dict[str, dict[str, Any]]:
    keys = lake.samples(experiment)["key"].to_pylist()
    with open_source(lake, experiment, target) as source:
        rows = compute(source).frame.iter_rows(named=True)
        return {keys[row["sample_id"]]: row for row in rows if row["score"] is not None}


def test_counts_by_key(lake: Lake) -> None:
    with open_source(lake, "peeled") as source:
        finding = onion(source, ("memorization",), before="whole", threshold=(0.4, 0.7))
    old, new = by_key(lake, "whole", memorization), by_key(lake, "peeled", memorization)
    stayed = sorted(set(old) & set(new))
    removed = pick(finding, "removed")
    assert (removed.value, removed.n) == (pytest.approx(len(set(old) - set(new)) / len(old)), len(old))
    a, b = (np.array([one[key]["score"] for key in stayed]) for one in (old, new))
    rho = pick(finding, "spearman")
    assert rho.value == pytest.approx(spearmanr(a, b).statistic)
    mean = pick(finding, "mean_change")
    reach = norm.ppf(0.975) * np.std(b - a, ddof=1) / np.sqrt(len(a))
    assert (mean.value, mean.ci_low, mean.ci_high) == pytest.approx(
        (np.mean(b - a), np.mean(b - a) - reach, np.mean(b - a) + reach)
    )
    for level in (0.4, 0.7):
        was, is_now = a > level, b > level
        for name, hits, trials in (
            ("exposed_with_removed", sum(row["score"] > level for row in old.values()), len(old)),
            ("exposed_before", was.sum(), len(a)),
            ("exposed_after", is_now.sum(), len(a)),
            ("newly_exposed", (is_now & ~was).sum(), (~was).sum()),
            ("no_longer_exposed", (was & ~is_now).sum(), was.sum()),
        ):
            found = pick(finding, name, threshold=level)
            interval = binomtest(int(hits), int(trials)).proportion_ci(method="exact") if trials else None
            assert found.n == trials
            assert found.value == (pytest.approx(hits / trials) if trials else None)
            assert (found.ci_low, found.ci_high) == (
                pytest.approx((interval.low, interval.high)) if interval else (0, 1)
            )


def test_a_planted_second_layer_shows(lake: Lake) -> None:
    with open_source(lake, "peeled") as source:
        finding = onion(source, ("memorization",), before="whole")
    at = {"threshold": 0.6}
    before, after = pick(finding, "exposed_before", **at), pick(finding, "exposed_after", **at)
    change = pick(finding, "change_of_exposed", **at)
    assert before.value == pytest.approx(0, abs=0.05)
    assert after.value == pytest.approx(0.2, abs=0.05)
    assert change.ci_low is not None
    assert change.ci_low > 0.08
    newly, chance = pick(finding, "newly_exposed", **at), pick(finding, "newly_by_chance", **at)
    assert newly.ci_low is not None
    assert chance.value is not None
    assert newly.ci_low > 3 * chance.value


def test_without_an_effect_what_is_new_is_what_chance_gives(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(3)
    size = 800
    keys = [str(n) for n in range(size)]
    inside, outside = rng.uniform(0.9, 1, size), rng.beta(1, 1, size)
    made = write(lake_of, None, "whole", keys, inside, outside, 4)
    most = by_key(made, "whole", memorization)
    stay = sorted((n for n in range(size)), key=lambda n: most[keys[n]]["score"])[:-100]
    made = write(lake_of, made, "peeled", [keys[n] for n in stay], inside[stay], outside[stay], 5)
    with open_source(made, "peeled") as source:
        finding = onion(source, ("memorization",), before="whole", threshold=(0.6, 0.8))
    for level in (0.6, 0.8):
        newly, chance = (
            pick(finding, "newly_exposed", threshold=level),
            pick(finding, "newly_by_chance", threshold=level),
        )
        assert newly.value is not None
        assert chance.value is not None
        assert newly.value > 0.01  # noise alone brings some over the threshold
        error = np.sqrt(newly.value * (1 - newly.value) / (newly.n or 1))
        assert chance.value == pytest.approx(newly.value, abs=3.5 * error)


def exposed_by_hand(lake: Lake, experiment: str, fpr: float) -> tuple[dict[str, bool], set[str]]:
    rows = by_key(lake, experiment, lira)
    others = [row["score"] for row in rows.values() if not row["member"]]
    threshold = min(s for s in others if sum(o > s for o in others) <= fpr * len(others) + 1e-9)
    return {key: row["score"] > threshold for key, row in rows.items()}, {
        key for key, row in rows.items() if row["member"]
    }


def test_attacks_have_a_threshold_in_each_experiment(lake: Lake) -> None:
    with open_source(lake, "peeled") as source:
        finding = onion(source, ("lira",), before="whole", fpr=(0.2,))
    (was, members), (now, members_now) = (exposed_by_hand(lake, name, 0.2) for name in ("whole", "peeled"))
    both = sorted(members & members_now)
    for name, hits, n in (
        ("exposed_before", sum(was[key] for key in both), len(both)),
        ("exposed_after", sum(now[key] for key in both), len(both)),
        ("exposed_with_removed", sum(was[key] for key in members), len(members)),
    ):
        found = pick(finding, name, fpr=0.2)
        assert (found.value, found.n) == (pytest.approx(hits / n), n)
    change = pick(finding, "change_of_exposed")
    up, down = sum(now[k] and not was[k] for k in both), sum(was[k] and not now[k] for k in both)
    m = len(both) + 2
    spread = norm.ppf(0.975) * np.sqrt(up + down + 1 - (up - down) ** 2 / m) / m
    assert (change.ci_low, change.ci_high) == pytest.approx(
        ((up - down) / m - spread, (up - down) / m + spread)
    )
    assert not [m for m in finding.metrics if m.metric == "newly_by_chance"]


def test_the_earlier_experiment_is_found(lake: Lake) -> None:
    with open_source(lake, "peeled") as source:
        assert onion(source, ("memorization",)) == onion(source, ("memorization",), before="whole")
    with (
        open_source(lake, "whole") as source,
        pytest.raises(NotEnoughData, match="no other experiment holds"),
    ):
        onion(source, ("memorization",))


def test_several_earlier_experiments(lake_of: MakeLake) -> None:
    keep: npt.NDArray[np.bool_] = np.array([[True, False], [False, True], [True, False]])
    made = lake_of(keep, np.ones((3, 2)), experiment="small")
    for name, size in (("a", 3), ("b", 4)):
        lake_of(np.ones((1, size), bool), np.ones((1, size)), lake=made, experiment=name)
    with open_source(made, "small") as source, pytest.raises(NotFound, match=r"several experiments \(a, b\)"):
        onion(source, ("memorization",))


def test_what_cannot_be_done(lake: Lake, lake_of: MakeLake) -> None:
    with open_source(lake, "peeled") as source:
        for options, text in (
            ({"before": "peeled"}, "cannot be compared with itself"),
            ({"fpr": (1.0,)}, "false-positive rate"),
        ):
            with pytest.raises(InvalidOption, match=text):
                onion(source, ("memorization",), **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match="privacy-score is no attack: say with --threshold"):
            onion(source, ("privacy-score",))
        assert onion(source, ("privacy-score",), threshold=(0.5,)).metrics
        with pytest.raises(NotFound, match="no experiment 'none'"):
            onion(source, ("memorization",), before="none")
        write(lake_of, lake, "apart", ["x", "y", "z"], 0.9, 0.5, 9)
        with pytest.raises(NotEnoughData, match="no record has memorization in both"):
            onion(source, ("memorization",), before="apart")
        lake.create_experiment("twice", pa.table({"label": [0, 0], "key": ["a", "a"]}))
        lake_of(np.eye(5, 2, dtype=bool), np.ones((5, 2)), lake=lake, experiment="twice")
        with pytest.raises(InvalidInput, match="do not name one record each"):
            onion(source, ("memorization",), before="twice")


def test_chart(lake: Lake) -> None:
    with open_source(lake, "peeled") as source:
        spec = onion_chart(onion(source, ("memorization",), before="whole")).to_dict()
        assert "Newly exposed among those that were not" in spec["title"]["subtitle"][0]
        assert "after, those that stayed at 0.4" in spec["description"]
        assert "at FPR 0.1" in str(onion_chart(onion(source, ("lira",), before="whole")).to_dict()["title"])
    assert onion_chart(Finding(())).to_dict()
