"""The named models: sizes that are published, shapes, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from losslake.collect.models.build import MODEL_NAMES, MODELS, build_model
from losslake.store.errors import InvalidInput, InvalidOption
from torch import nn


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("lenet5", (1, 28, 28), 10, 61_706),
        ("lenet5", (3, 32, 32), 10, 62_006),
        ("resnet20", (3, 32, 32), 10, 269_722),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("wrn28-2", (3, 32, 32), 10, 1_467_610),
        ("wrn40-4", (3, 32, 32), 10, 8_949_210),
        ("resnet9", (3, 32, 32), 10, 6_573_130),
        # 28 -> 14 -> 7; 320 + 18,496 + 3136 * 128 + 128 + 1290
        ("cnn", (1, 28, 28), 10, 421_642),
        # Purchase100: 600 * 512 + 512 * 256 + 256 * 100 weights, and the biases
        ("mlp", (600,), 100, 307_200 + 131_072 + 25_600 + 868),
    ],
)
def test_sizes(name: str, shape: tuple[int, ...], classes: int, parameters: int) -> None:
    assert size(build_model(name, input_shape=shape, classes=classes, options={})) == parameters


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 11, 19)])
def test_shapes_and_features(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build_model(name, input_shape=shape, classes=7, options={})
    model.eval()
    x = torch.randn(3, *shape)
    with torch.no_grad():
        logits = model(x)
        features = model.features(x)  # type: ignore[operator]
        assert logits.shape == (3, 7)
        assert features.ndim == 2
        torch.testing.assert_close(model.head(features), logits)  # type: ignore[operator]
        assert torch.isfinite(logits).all()
        # Every record on its own, and every pixel counts somewhere.
        torch.testing.assert_close(model(x[1:2]), logits[1:2], rtol=1e-3, atol=1e-4)
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, input_shape=(3, 8, 8), classes=4, options={})
    loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.arange(8) % 4)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


NORMS = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm, "none": None}


@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name, kind in MODELS.items() for norm in kind.norms]
)
def test_norms(name: str, norm: str) -> None:
    kind = NORMS[norm]
    model = build_model(name, input_shape=(1, 8, 8), classes=3, options={"norm": norm})
    found = {type(module) for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))}
    assert found == ({kind} if kind else set())
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if "dropout" in kind.defaults])
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    # Group norm where there is one, so that two passes in train mode differ by dropout alone.
    options: dict[str, object] = {"dropout": 0.5}
    if MODELS[name].norms:
        options["norm"] = "group"
    model = build_model(name, input_shape=(1, 8, 8), classes=3, options=options)
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_widths() -> None:
    model = build_model("mlp", input_shape=(6,), classes=2, options={"widths": [5, 4, 3]})
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [5, 4, 3, 2]
    linear = build_model("mlp", input_shape=(6,), classes=2, options={"widths": ()})
    assert size(linear) == 14


def test_building_leaves_the_model_in_train_mode_with_fresh_statistics() -> None:
    model = build_model("vgg", input_shape=(3, 16, 16), classes=3, options={})
    for module in model.modules():
        assert module.training
        if isinstance(module, nn.BatchNorm2d):
            assert int(module.num_batches_tracked) == 0  # type: ignore[arg-type]
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))  # type: ignore[arg-type]


def test_weights_follow_the_global_seed() -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(build_model("cnn", input_shape=(1, 8, 8), classes=3, options={}).state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not all(torch.equal(made[0][key], made[2][key]) for key in made[0])


@pytest.mark.parametrize(
    ("name", "shape", "options", "error", "message"),
    [
        (
            "resnet19",
            (3, 32, 32),
            {},
            InvalidOption,
            r"'resnet19'\. Did you mean 'resnet\d+'\? valid: mlp, lenet5",
        ),
        (
            "cnn",
            (3, 32, 32),
            {"drop": 0.1},
            InvalidOption,
            r"option of model cnn 'drop'\. Did you mean 'dropout'\?",
        ),
        ("resnet20", (3, 32, 32), {"widths": [3]}, InvalidOption, r"'widths'; valid: norm"),
        ("cnn", (3, 32, 32), {"dropout": 1.0}, InvalidOption, r"dropout of model cnn is 1\.0"),
        ("cnn", (3, 32, 32), {"dropout": True}, InvalidOption, "dropout of model cnn is True"),
        (
            "resnet9",
            (3, 32, 32),
            {"norm": "none"},
            InvalidOption,
            "norm of model resnet9 'none'.* valid: batch, group",
        ),
        ("mlp", (4,), {"widths": [8, 0]}, InvalidOption, r"widths of model mlp is \[8, 0\]"),
        ("mlp", (4,), {"widths": 8}, InvalidOption, "must be a list"),
        ("cnn", (30,), {}, InvalidInput, r"takes pictures, these records have shape \(30,\); use mlp"),
        ("cnn", (1, 7, 30), {}, InvalidInput, "8 x 8 or more, these are 7 x 30"),
    ],
)
def test_refusals(
    name: str, shape: tuple[int, ...], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_model(name, input_shape=shape, classes=10, options=options)


USER_MODULE = """
from torch import nn
def linear(*, input_shape, classes, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], classes, bias=bias))
def wrong(*, input_shape, classes):
    return "not a model"
"""


def test_user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_models.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert (
        size(build_model("my_own_models:linear", input_shape=(5,), classes=2, options={"bias": False})) == 10
    )
    with pytest.raises(InvalidOption, match=r"cannot be called .*'width'"):
        build_model("my_own_models:linear", input_shape=(5,), classes=2, options={"width": 3})
    with pytest.raises(InvalidInput, match="returned str"):
        build_model("my_own_models:wrong", input_shape=(5,), classes=2, options={})
