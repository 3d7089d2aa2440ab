"""The fast network: whitening from a run's own records only, its recipe, and the augmentation that goes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from losslake.collect.data.training import (
    DeviceData,
    TrainingData,
    channel_statistics,
    cut_windows,
)
from losslake.collect.models.build import build_model
from losslake.collect.models.fast import Whitening, fit_to_members
from losslake.collect.recipe import PRESETS, Recipe, from_json, load_recipe
from losslake.collect.train.loop import flips_of
from losslake.collect.train.optimizers import learning_rate
from losslake.collect.train.step import TrainStep
from losslake.store.errors import InvalidInput, InvalidOption, NotFound

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(n: int = 60, channels: int = 3, side: int = 16) -> TrainingData:
    """Noisy stripes whose direction is the class: neighbouring pixels are alike."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    row, column = np.indices((side, side))
    stripes = np.stack([row % 4 < 2, column % 4 < 2, (row + column) % 4 < 2]) * 100
    x = (stripes[y][:, None] + rng.integers(0, 100, (n, channels, side, side))).astype(np.uint8)
    mean, std = channel_statistics(x, np.arange(n))
    return TrainingData("made", 3, x, y, np.zeros(n, dtype=bool), mean, std)


def patches(x: torch.Tensor) -> np.ndarray:
    """All 2 x 2 patches of pictures (B, C, H, W), one a row, by slices."""
    parts = [
        x[:, c, i : x.shape[2] - 1 + i, j : x.shape[3] - 1 + j]
        for c in range(x.shape[1])
        for i in (0, 1)
        for j in (0, 1)
    ]
    return torch.stack([part.reshape(-1) for part in parts], dim=1).double().numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated(channels: int) -> None:
    held = DeviceData(pictures(channels=channels), CPU, normalize=True)
    model = build_model("fast", input_shape=(channels, 16, 16), classes=3, options={"widths": (8,)})
    whitening = next(m for m in model.modules() if isinstance(m, Whitening))
    fit_to_members(model, held, torch.arange(60))
    x = held.inputs(held.x)
    half = len(whitening.weight) // 2
    assert torch.equal(whitening.weight[half:], -whitening.weight[:half])
    with torch.no_grad():
        out = whitening(x)[:, :half].movedim(1, 0).reshape(half, -1).double()
    second = (out @ out.T / out.shape[1]).numpy()
    # By the definition: each direction's variance s becomes s / (s + 5e-4 mean s).
    p = patches(x)
    variances = np.linalg.eigvalsh(p.T @ p / len(p))[::-1]
    np.testing.assert_allclose(second, np.diag(variances / (variances + 5e-4 * variances.mean())), atol=1e-4)
    assert np.all(np.diag(second) > 0.9)


def test_only_the_records_of_the_run_make_the_filters() -> None:
    data = pictures()
    members = torch.arange(0, 60, 2)
    others = data.x.copy()
    others[1::2] = 255 - others[1::2] // 3
    recipe = Recipe(model="fast", model_options={"widths": (8,)})
    found = []
    for x in (data.x, others):
        held = DeviceData(replace(data, x=x), CPU, normalize=True)
        torch.manual_seed(0)
        found.append(TrainStep(held, recipe).start(members).state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    held = DeviceData(data, CPU, normalize=True)
    torch.manual_seed(0)
    one_less = TrainStep(held, recipe).start(members[:-1]).state_dict()
    assert not torch.equal(found[0]["trunk.0.weight"], one_less["trunk.0.weight"]), "every member counts"
    torch.manual_seed(0)
    backwards = TrainStep(held, recipe).start(members.flip(0)).state_dict()
    torch.testing.assert_close(backwards["trunk.0.weight"], found[0]["trunk.0.weight"], rtol=1e-5, atol=1e-6)


def test_filters_are_no_parameters_and_other_models_are_left_alone() -> None:
    model = build_model("fast", input_shape=(3, 32, 32), classes=10, options={})
    assert "trunk.0.weight" not in dict(model.named_parameters())
    assert "trunk.0.weight" in model.state_dict()
    held = DeviceData(pictures(), CPU, normalize=True)
    cnn = build_model("cnn", input_shape=(3, 16, 16), classes=3, options={})
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    fit_to_members(cnn, held, torch.arange(5))
    assert all(torch.equal(before[name], value) for name, value in cnn.state_dict().items())


@pytest.mark.parametrize("value", [0, 7])
def test_pictures_of_one_colour_have_finite_filters(value: int) -> None:
    data = pictures(n=6)
    held = DeviceData(replace(data, x=np.full_like(data.x, value)), CPU, normalize=False)
    model = build_model("fast", input_shape=(3, 16, 16), classes=3, options={"widths": (8,)})
    fit_to_members(model, held, torch.arange(6))
    with torch.no_grad():
        assert torch.isfinite(model(held.inputs(held.x))).all()


def test_refusals() -> None:
    with pytest.raises(InvalidOption, match="widths of model fast is empty"):
        build_model("fast", input_shape=(3, 32, 32), classes=10, options={"widths": ()})
    with pytest.raises(InvalidInput, match="model fast takes pictures"):
        build_model("fast", input_shape=(30,), classes=10, options={})


# --- its recipe -------------------------------------------------------------------------------------------------


def test_the_preset_is_a_recipe_that_flags_and_options_change() -> None:
    recipe = load_recipe(Path("fast"), {})
    assert recipe == Recipe(**PRESETS["fast"])
    assert recipe.model == "fast"
    small = load_recipe(Path("fast"), {"epochs": 3, "model_options": {"widths": (8, 8)}})
    assert (small.epochs, small.lr, small.model_options) == (3, recipe.lr, {"widths": (8, 8)})
    assert load_recipe(Path("fast"), {}) == recipe, "the preset itself is as it was"
    with pytest.raises(NotFound, match="no recipe file fastest, and no preset of this name; presets: fast"):
        load_recipe(Path("fastest"), {})
    for name, value, message in (
        ("flip_order", "sometimes", "one of random, alternate"),
        ("crop_border", "wrap", "one of zeros, reflect"),
        ("bias_lr", 0, "a number above 0"),
    ):
        with pytest.raises(InvalidOption, match=f"recipe field {name} is .*{message}"):
            from_json({name: value})


def test_it_learns_in_few_steps() -> None:
    data = pictures(n=120)
    held = DeviceData(data, CPU, normalize=True)
    recipe = load_recipe(
        Path("fast"),
        {"batch_size": 20, "lr": 0.05, "precision": "fp32", "model_options": {"widths": (8, 16)}},
    )
    torch.manual_seed(0)
    step = TrainStep(held, recipe)
    model = step.start(torch.arange(60))
    order = torch.Generator().manual_seed(0)
    for number in range(30):
        ids = torch.randint(0, 60, (20,), generator=order)
        for group in step.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, number, 3) * group.get("lr_factor", 1.0)
        step.optimizer.zero_grad()
        step.loss(step.logits(held.x[ids]), ids, held.y[ids], None).backward()
        step.optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(held.inputs(held.x[60:])).argmax(1) == held.y[60:]
    assert float(right.float().mean()) > 0.9


def test_one_cycle_rises_and_falls_in_straight_lines() -> None:
    recipe = Recipe(lr=1.0, epochs=10, warmup_epochs=2, schedule="one-cycle")
    rates = np.array([learning_rate(recipe, step, 5) for step in range(50)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 11)
    np.testing.assert_allclose(rates[10:], 1 - np.arange(40) / 40)
    assert learning_rate(replace(recipe, warmup_epochs=0), 25, 5) == pytest.approx(0.5)


# --- its augmentation --------------------------------------------------------------------------------------------


def test_alternate_flips_show_both_views_in_two_epochs() -> None:
    held = DeviceData(pictures(), CPU, normalize=True)
    recipe = Recipe(flip=True, flip_order="alternate")
    flips = flips_of(held, recipe, torch.Generator().manual_seed(0))
    ids = torch.randperm(60)
    epochs = [flips(ids, epoch) for epoch in (1, 2, 3, 4)]
    assert all(isinstance(each, torch.Tensor) for each in epochs)
    assert torch.equal(epochs[0], ~epochs[1])  # type: ignore[arg-type,operator]
    assert torch.equal(epochs[0], epochs[2])  # type: ignore[arg-type]
    assert torch.equal(epochs[1], epochs[3])  # type: ignore[arg-type]
    assert 15 < int(epochs[0].sum()) < 45, "about half begin mirrored"  # type: ignore[union-attr]
    x, mirrored = held.augmented(held.x[ids], flip=epochs[0], crop=0, generator=torch.Generator())
    assert mirrored is epochs[0]
    for row, flipped in enumerate(mirrored.tolist()):  # type: ignore[union-attr]
        expected = held.x[ids[row]].flip(2) if flipped else held.x[ids[row]]
        assert torch.equal(x[row], expected)
    assert flips_of(held, replace(recipe, flip_order="random"), torch.Generator())(ids, 1) is True
    assert flips_of(held, replace(recipe, flip=False), torch.Generator())(ids, 1) is False


@pytest.mark.parametrize("pixels", [1, 2, 7])
def test_reflected_borders_are_numpys(pixels: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 3, 8, 9)).astype(np.uint8))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (pixels,) * 2, (pixels,) * 2), mode="reflect")
    for top, left in ((0, 0), (pixels, pixels), (2 * pixels, 1)):
        at = torch.tensor([top, top]), torch.tensor([left, left])
        found = cut_windows(x, *at, pixels, border="reflect")
        assert np.array_equal(found.numpy(), padded[:, :, top : top + 8, left : left + 9])
    with pytest.raises(InvalidOption, match="8 x 9 cannot be reflected 8 pixels"):
        cut_windows(x, torch.tensor([0, 0]), torch.tensor([0, 0]), 8, border="reflect")
