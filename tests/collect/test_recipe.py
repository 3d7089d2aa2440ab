"""Recipes: what a file and flags make of the defaults, and what they may not say."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_target
from losslake.collect.presets import PUBLISHED
from losslake.collect.recipe import Recipe, changed, from_json, load_recipe, to_json
from losslake.store.errors import InvalidInput, InvalidOption, NotFound
from losslake.store.lake import Lake

FILE = """
model = "mlp"
lr = 1
schedule = "step"
step_epochs = [30, 60]
clip_norm = 2.5
[model_options]
widths = [512, 256]
dropout = 0.5
"""


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(FILE)
    recipe = load_recipe(path, {"epochs": 80, "clip_norm": None, "model_options": {"dropout": 0.1}})
    assert recipe == Recipe(
        model="mlp",
        lr=1.0,
        schedule="step",
        step_epochs=(30, 60),
        epochs=80,
        model_options={"widths": (512, 256), "dropout": 0.1},
    )
    assert isinstance(recipe.lr, float)
    nested = tmp_path / "nested.toml"
    nested.write_text("[recipe]\n" + FILE.replace("[model_options]", "[recipe.model_options]"))
    assert load_recipe(nested, {}) == load_recipe(path, {})
    assert load_recipe(None, {}) == Recipe()


def test_round_trip_through_json_text() -> None:
    recipe = Recipe(
        model="package.module:function",
        model_options={"widths": [1, (2, 3)], "a": None, "b": True, "c": "text", "d": 0.25},
        optimizer="adamw",
        schedule="step",
        step_epochs=(3, 9),
        clip_norm=1,
        precision="bf16",
        flip=True,
        crop=4,
    )
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
    # forward and estimator stand in a run where there is one, so that other runs, their digests and checkpoints stay as they were.
    names = {field.name for field in dataclasses.fields(Recipe)} - {"estimator"}
    assert set(to_json(recipe)) == names - {"forward"}
    assert set(to_json(dataclasses.replace(recipe, forward="my:forward"))) == names
    assert from_json({}) == Recipe()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0, "a number above 0"),
        ("lr", "0.1", "a number above 0"),
        ("lr", float("nan"), "a number above 0"),
        ("lr", True, "a number above 0"),
        ("momentum", 1.0, "at least 0 and below 1"),
        ("weight_decay", -1e-4, "at least 0"),
        ("optimizer", "rmsprop", "one of sgd, adam, adamw"),
        ("schedule", "linear", "one of cosine, step, constant"),
        ("precision", "fp64", "one of fp32, bf16, fp16"),
        ("epochs", 0, "a whole number of at least 1"),
        ("epochs", 1.5, "a whole number of at least 1"),
        ("batch_size", True, "a whole number of at least 1"),
        ("warmup_epochs", 101, "at most epochs, 100"),
        ("step_epochs", [5, 5], "ascending order"),
        ("step_epochs", 5, "a list of whole numbers"),
        ("step_gamma", 0, "above 0 and at most 1"),
        ("clip_norm", 0, "a number above 0, or none"),
        ("flip", 1, "true or false"),
        ("crop", -1, "at least 0"),
        ("label_smoothing", 1, "below 1"),
        ("normalize", "yes", "true or false"),
        ("model", "", "a model's name"),
        ("model_options", [1], "a table"),
        ("model_options", {"a": {"b": 1}}, "a table"),
        ("model_options", {"a": float("inf")}, "a table"),
        ("nesterov", "no", "true or false"),
        ("dp_noise", 0, "a number above 0, or none"),
        ("dp_epsilon", -1, "a number above 0, or none"),
        ("dp_clip", float("inf"), "a number above 0, or none"),
        ("dp_delta", 1, "a number above 0 and below 1, or none"),
        ("early_stop", 0, "a whole number of at least 1, or none"),
    ],
)
def test_wrong_values_name_field_and_range(field: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=f"recipe field {field} is .*{message}"):
        Recipe(**{field: value})


def test_fields_that_contradict_each_other() -> None:
    with pytest.raises(InvalidOption, match="step_epochs is empty"):
        Recipe(schedule="step")
    with pytest.raises(InvalidOption, match="nesterov"):
        Recipe(nesterov=True, momentum=0)
    with pytest.raises(InvalidOption, match="nesterov"):
        Recipe(nesterov=True, optimizer="adam")
    assert Recipe(nesterov=True).nesterov


def test_recipes_for_dp_sgd() -> None:
    assert not Recipe().private
    assert Recipe(dp_noise=1).dp_clip == 1.0
    recipe = Recipe(dp_epsilon=8, dp_clip=0.1, dp_delta=1e-6)
    assert recipe.private
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
    for values, message in (
        ({"dp_clip": 1.0}, "dp_clip is part of DP-SGD, which dp_noise or dp_epsilon asks for"),
        ({"dp_delta": 1e-5}, "dp_delta is part of DP-SGD"),
        ({"dp_noise": 1, "dp_epsilon": 2}, "both given"),
        ({"dp_noise": 1, "clip_norm": 1}, "clip_norm does not go with DP-SGD"),
        ({"dp_noise": 1, "precision": "fp16"}, "take fp32 or bf16"),
    ):
        with pytest.raises(InvalidOption, match=message):
            from_json(values)


def test_an_estimator_has_the_epochs_that_were_given_and_no_default() -> None:
    sgd = Recipe(model="sklearn.linear_model:SGDClassifier", estimator="scikit-learn 1")
    assert sgd.passes is None
    assert "epochs" not in to_json(sgd)
    for given in (7, 100):  # 100 is what a network has unless told
        told = dataclasses.replace(sgd, epochs=given)
        assert told.passes == given
        assert to_json(told)["epochs"] == given
        again = from_json(json.loads(json.dumps(to_json(told))))
        assert again.passes == given
        assert changed(again, {}).passes == given
        assert changed(again, {"model": "mlp"}) == Recipe(model="mlp"), (
            "its passes are no epochs of a network"
        )
    assert from_json(json.loads(json.dumps(to_json(sgd)))).passes is None
    network = Recipe(model="mlp", epochs=30)
    assert changed(network, {"model": "cnn"}).epochs == 30
    other = changed(from_json(to_json(Recipe(model="mlp"))), {"model": sgd.model})
    assert other.passes is None, "a network's default is nobody's wish for passes"


def test_unknown_fields_and_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    for text, error, message in [
        ("learning_rat = 1", InvalidOption, "recipe field 'learning_rat'"),
        ("batchsize = 1", InvalidOption, "Did you mean 'batch_size'"),
        ("lr = 1\n[recipe]\nepochs = 2", InvalidOption, "lr stand beside"),
        ("lr = = 1", InvalidInput, "not a TOML file"),
        ("lr = 2020-01-01", InvalidOption, "recipe field lr"),
    ]:
        path.write_text(text)
        with pytest.raises(error, match=message):
            load_recipe(path, {})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="not a TOML file"):
        load_recipe(path, {})
    with pytest.raises(NotFound, match=r"no recipe file .*absent\.toml"):
        load_recipe(tmp_path / "absent.toml", {})
    with pytest.raises(InvalidOption, match="Did you mean 'epochs'"):
        load_recipe(None, {"epoch": 3})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_trains(name: str, tmp_path: Path) -> None:
    """Two epochs on a few digits: its model and all that it asks for are there, and the run says what it was trained by."""
    preset = PUBLISHED[name]
    assert preset.source
    assert preset.differs
    assert preset.data
    recipe = load_recipe(Path(name), {"epochs": 2, "batch_size": 16, "precision": "fp32", "lr": 1e-3})
    lake = Lake.open(tmp_path / "lake", create=True)
    prepared = prepare_experiment(lake, "toy", dataset="digits", samples=40, pictures=False)
    (run,) = collect_target(lake, "toy", recipe=recipe, prepared=prepared, device="cpu")
    kept = dict(run.info.recipe)
    assert {field: kept[field] for field in ("model", "optimizer", "schedule", "crop", "flip")} == {
        field: getattr(recipe, field) for field in ("model", "optimizer", "schedule", "crop", "flip")
    }
    losses = lake.sql("select loss from traces where source = 'eval'", experiment="toy")["loss"].to_list()
    assert len(losses) == 40
    assert all(len(trace) == 3 and all(map(math.isfinite, trace)) for trace in losses)


@pytest.mark.parametrize("name", ["wrn28-2", "wrn40-4", "resnet20"])
def test_the_recipe_of_the_traces_paper_is_the_papers(name: str) -> None:
    """SGD, batch 256, rate 0.1 by a cosine to 0, momentum 0.9, decay 5e-4, 100 epochs, flips and crops by 4 pixels."""
    assert load_recipe(Path(f"lt-iqr-{name}"), {}) == Recipe(
        model=name, optimizer="sgd", batch_size=256, lr=0.1, schedule="cosine", momentum=0.9, weight_decay=5e-4,
        epochs=100, flip=True, crop=4, warmup_epochs=0, precision="fp32",
    )  # fmt: skip
