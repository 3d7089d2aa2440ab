"""Warnings about shifted members and unlike shadow models: silent where all is sound, loud where it is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.charts.models import likeness_of_models
from losslake.analysis.evaluations.likeness import SHIFTED, UNLIKE, cautions, likeness
from losslake.analysis.evaluations.shifted_members import shifted_members
from losslake.analysis.evaluations.some_answers import some_answers
from losslake.analysis.evaluations.unlike_shadows import beyond, other_fields, standing_out, z_of_non_members
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.format.records import Run
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
DESIGNS = ("coin", "fixed", "balanced")


def members(rng: np.random.Generator, runs: int, samples: int, design: str) -> np.ndarray:
    """Membership (runs, samples) that knows nothing of the records."""
    if design == "coin":
        return rng.random((runs, samples)) < 0.5
    if design == "fixed":
        return np.stack([rng.permutation(samples) < samples // 2 for _ in range(runs)])
    return np.argsort(rng.random((runs, samples)), axis=0) < runs // 2


def answers(rng: np.random.Generator, keep: np.ndarray, signal: float = 1.0) -> np.ndarray:
    """phi of records that are more or less hard, under models that are more or less good."""
    hard, noise = rng.normal(0, 1.5, keep.shape[1]), np.exp(rng.normal(0, 0.3, keep.shape[1]))
    of_model = rng.normal(0, 0.15, (len(keep), 1))
    return 1 + hard + of_model + noise * rng.standard_t(4, keep.shape) + signal * keep


def unlike(phi: np.ndarray, keep: np.ndarray) -> bool:
    means, spreads = z_of_non_members(phi, keep)
    return any(beyond(standing_out(values), len(keep) - 1, 2) for values in (means, np.log(spreads)))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("shadows", [5, 15, 31])
def test_models_of_one_kind_are_called_unlike_in_1_of_100(design: str, shadows: int) -> None:
    rng = np.random.default_rng(shadows)
    called = 0
    for _ in range(200):
        keep = members(rng, shadows + 1, 200, design)
        called += unlike(answers(rng, keep), keep)
    assert called <= 7  # 2 are expected; more than 7 come by chance once in 1,000


@pytest.mark.parametrize("shadows", [5, 15, 31])
def test_a_logit_scale_of_3_is_flagged(shadows: int) -> None:
    rng = np.random.default_rng(shadows)
    called = 0
    for _ in range(40):
        keep = members(rng, shadows + 1, 300, "coin")
        phi = answers(rng, keep)
        phi[0] *= 3
        called += unlike(phi, keep)
    assert called >= 36


def test_z_is_standard_normal_of_models_of_one_kind() -> None:
    rng = np.random.default_rng(0)
    keep = members(rng, 33, 4000, "coin")
    means, spreads = z_of_non_members(rng.normal(0, 2, keep.shape) + rng.normal(0, 3, 4000), keep)
    assert np.abs(means).max() < 0.1
    assert np.abs(spreads - 1).max() < 0.1


@pytest.mark.parametrize("design", DESIGNS)
def test_members_drawn_by_chance_are_not_called_shifted(lake_of: MakeLake, design: str) -> None:
    errors = []
    for seed in range(12):
        rng = np.random.default_rng([seed, DESIGNS.index(design)])
        keep = members(rng, 8, 300, design)
        with open_source(lake_of(keep, answers(rng, keep)), "tests") as source:
            shift = shifted_members(some_answers(source, source.need_target(), source.need_shadows()))
        assert shift is not None
        errors.append(shift.errors)
    assert abs(np.mean(errors)) < 3 / np.sqrt(len(errors))
    assert np.sum(np.abs(errors) > 2.576) <= 1


def test_easy_members_are_told_with_the_attacks_that_this_voids(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(3)
    keep = members(rng, 16, 400, "coin")
    phi = answers(rng, keep, signal=0.0)
    easy = np.arange(400) % 2 == 0
    phi[:, easy] += 1.5
    keep[0] = easy
    with open_source(lake_of(keep, phi), "tests") as source:
        told = dict(cautions(source))
    assert set(told) == {SHIFTED}
    assert "What these find is void: loss, attack-p" in told[SHIFTED]
    with open_source(lake_of(keep, phi), "tests") as source:
        said = likeness(source, ("lira", "loss", "lira[mode=offline]"))
    ends = "such a difference between members and non-members for a leak"
    assert f"lira takes less of {ends}" in said.notes
    assert f"loss takes {ends}" in said.notes
    assert f"lira[mode=offline] takes {ends}" in said.notes
    # By hand: the mean loss over runs without a record, the target being none of them.
    loss = np.where(keep[1:], 0, np.logaddexp(0, -phi[1:])).sum(axis=0) / (~keep[1:]).sum(axis=0)
    below = (loss[easy][:, None] < loss[~easy][None]).mean()
    auc = next(m for m in said.metrics if m.metric == "auc_untrained")
    assert auc.value == pytest.approx(below, abs=1e-4)
    assert sum(m.metric == "z_mean" for m in said.metrics) == len(keep)
    drawn = likeness_of_models(said).to_dict()
    assert "Members against others by models trained on neither: AUC 0.7" in drawn["title"]["subtitle"][1]
    assert likeness_of_models(Finding(())).to_dict()
    assert "easier" in told[SHIFTED]


def test_another_scale_is_told_of_a_lake(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(4)
    keep = members(rng, 12, 400, "coin")
    phi = answers(rng, keep)
    phi[0] *= 3
    with open_source(lake_of(keep, phi), "tests") as source:
        told = dict(cautions(source))
    assert UNLIKE in told
    assert "z-scores" in told[UNLIKE]


def test_recipes_are_compared_field_by_field() -> None:
    class Info:
        def __init__(self, recipe: dict[str, object]) -> None:
            self.recipe = recipe

    class Trained:
        def __init__(self, **recipe: object) -> None:
            self.info = Info(recipe)

    def trained(**recipe: object) -> Run:
        return Trained(**recipe)  # type: ignore[return-value]

    target = trained(optimizer="sgd", epochs=25, lr=0.1)
    shadows = [trained(optimizer="adamw", epochs=25, lr=0.1), trained(optimizer="sgd", epochs=25)]
    assert other_fields(target, shadows) == {"optimizer": ('"sgd"', '"adamw"', 1), "lr": ("0.1", "null", 1)}
    assert other_fields(target, [target]) == {}
