"""The built-in trainer: repeatable, honest about what it stores, and nothing of a run that diverged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from losslake.collect.data.training import DeviceData, TrainingData, channel_statistics
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train import run as trained_run
from losslake.collect.train.loop import split
from losslake.collect.train.optimizers import learning_rate
from losslake.collect.train.run import RunPlan
from losslake.collect.train.step import TrainStep
from losslake.collect.train.trainer import train_run
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption, TrainingFailed
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from torch import nn
from trainer_data import lake_with, pictures

N, CLASSES = 90, 3
RECIPE = Recipe(
    model="mlp", model_options={"widths": (16,)}, epochs=3, batch_size=16, lr=0.05, flip=True, crop=2
)
PLAN = RunPlan("target", "target", seed=5)
FULL = Recording(("original", "flip"), traces=True, logits="float32", features=True)


DATA = pictures(N, classes=CLASSES, audit=80)
TESTED = replace(DATA, test_x=DATA.x[:7] // 2, test_y=DATA.y[:7])
MEMBERS = (np.arange(N) % 2 == 0) & ~DATA.population


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_with(DATA, tmp_path / "lake")


def values(lake: Lake, run: str) -> list[dict[str, list[Any]]]:
    """All signals and all traces of a run."""
    queries = (
        "select * exclude (run) from signals where run = $run order by sample_id, query",
        "select * exclude (run) from traces where run = $run order by source, sample_id",
    )
    return [lake.sql(query, {"run": run}).to_dict(as_series=False) for query in queries]


def train(lake: Lake, run: str, recipe: Recipe = RECIPE, data: TrainingData = DATA, **options: Any) -> Run:
    plan = options.pop("plan", replace(PLAN, run=run))
    return train_run(lake, "e", data, recipe, plan, MEMBERS, **{"recording": FULL, **options})


@pytest.mark.parametrize(
    "changes", [{}, {"model": "cnn", "model_options": {"dropout": 0.3}, "optimizer": "adamw", "lr": 0.001}]
)
def test_a_run_repeats_exactly(lake: Lake, changes: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **changes)
    train(lake, "first", recipe)
    torch.manual_seed(99)  # whatever the global stream is at
    before = torch.get_rng_state()
    train(lake, "second", recipe)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random stream moved"
    assert values(lake, "first") == values(lake, "second")
    train(lake, "other", recipe, plan=replace(PLAN, run="other", seed=6))
    assert values(lake, "first")[0]["loss"] != values(lake, "other")[0]["loss"]


def test_recording_does_not_change_the_model(lake: Lake) -> None:
    recipe = replace(RECIPE, model="cnn", model_options={"norm": "batch", "dropout": 0.2})
    train(lake, "full", recipe)
    train(lake, "bare", recipe, recording=Recording(("original",), logits="none"))
    full, bare = (values(lake, run)[0] for run in ("full", "bare"))
    original = [loss for loss, query in zip(full["loss"], full["query"], strict=True) if query == 0]
    assert original == bare["loss"]
    assert set(bare["logits"]) == set(bare["features"]) == {None}


def test_what_is_stored_agrees_with_itself(lake: Lake) -> None:
    run = train(lake, "target")
    signals = lake.sql("select * from signals where query = 0 order by sample_id")
    traces = {
        source: lake.sql("select * from traces where source = $s order by sample_id", {"s": source})
        for source in ("eval", "train")
    }
    audit = np.flatnonzero(~DATA.population)
    assert signals["sample_id"].to_list() == list(range(N))
    assert signals["label"].to_list() == DATA.y.tolist()
    assert signals["member"].to_list() == MEMBERS.tolist()
    assert traces["eval"]["sample_id"].to_list() == audit.tolist()
    assert traces["train"]["sample_id"].to_list() == np.flatnonzero(MEMBERS).tolist()
    # The last eval point is the finished model on the original view.
    last = np.array([each[-1] for each in traces["eval"]["loss"]])
    np.testing.assert_allclose(last, signals["loss"].to_numpy()[audit], rtol=1e-4, atol=1e-6)
    assert {len(each) for each in traces["eval"]["loss"]} == {RECIPE.epochs + 1}
    assert {each[0] for each in traces["train"]["loss"]} == {None}
    logits = np.array(signals["logits"].to_list())
    assert signals["correct"].to_list() == (logits.argmax(1) == DATA.y).tolist()
    assert len(signals["features"][0]) == 16
    assert run.info.train_accuracy == pytest.approx(signals["correct"].to_numpy()[MEMBERS].mean())
    assert run.info.train_accuracy > 0.8, "three separable classes"
    outside = ~MEMBERS & ~DATA.population
    assert run.info.test_accuracy == pytest.approx(signals["correct"].to_numpy()[outside].mean())
    assert run.info.extra["tested_on"] == "audit samples that are no members"


def test_the_flip_query_is_the_mirrored_picture(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train(lake, "target")
    mirrored = replace(DATA, x=np.ascontiguousarray(DATA.x[..., ::-1]))
    # The same training, asked about mirrored pictures instead.
    held = DeviceData(DATA, torch.device("cpu"), normalize=True)
    held_mirrored = DeviceData(mirrored, torch.device("cpu"), normalize=True)
    asked = trained_run.outputs

    def outputs(model: nn.Module, _: DeviceData, x: torch.Tensor, **options: Any) -> Any:
        return asked(model, held_mirrored, held_mirrored.x, **options)

    monkeypatch.setattr(trained_run, "outputs", outputs)
    train(lake, "mirrored", step=TrainStep(held, RECIPE))
    flip = lake.sql("select loss from signals where run = 'target' and query = 1 order by sample_id")
    original = lake.sql("select loss from signals where run = 'mirrored' and query = 0 order by sample_id")
    assert flip["loss"].to_list() == original["loss"].to_list()


def test_tested_on_the_test_split(lake: Lake) -> None:
    run = train(lake, "target", data=TESTED)
    assert run.info.extra["tested_on"] == "test split"
    assert run.info.test_accuracy is not None


@pytest.mark.parametrize(("stored", "kind"), [("float16", np.float16), ("float32", np.float32)])
def test_logits_are_stored_as_asked(lake: Lake, stored: Any, kind: type) -> None:
    import pyarrow.parquet as pq

    run = train(lake, "target", recording=Recording(("original",), logits=stored))
    path = next(file.path for file in run.files if file.table == "signals")
    column = pq.read_table(lake.files.location(path))["logits"]
    assert column.type.value_type == pa.from_numpy_dtype(kind)


def test_divergence_leaves_nothing(lake: Lake) -> None:
    with pytest.raises(TrainingFailed, match=r"'target' diverged in epoch \d of 3.*lr"):
        train(lake, "target", replace(RECIPE, lr=1e30))
    assert lake.runs("e") == []
    assert [lake.files.list(folder) for folder in ("staging", "signals", "traces")] == [[], [], []]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"clip_norm": 0.5, "nesterov": True},
        {"optimizer": "adam", "lr": 0.003, "schedule": "step", "step_epochs": (1, 2)},
        {"label_smoothing": 0.2, "normalize": False, "warmup_epochs": 5, "schedule": "constant", "lr": 0.2},
        {"batch_size": 39},  # 40 members: the rest of one joins the batch before it
    ],
)
def test_recipes_learn(lake: Lake, changes: dict[str, Any]) -> None:
    run = train(lake, "target", replace(RECIPE, epochs=25, **changes))
    assert run.info.train_accuracy is not None
    assert run.info.train_accuracy > 0.75
    assert values(lake, "target")[1]["sample_id"]


def test_tables_of_features(lake: Lake) -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(N, 5)) + DATA.y[:, None] * 3 + 100).astype(np.float32)
    x[:, 4] = 7.0  # a column that does not vary
    mean, std = channel_statistics(x, np.flatnonzero(~DATA.population))
    np.testing.assert_allclose(mean, x[~DATA.population].mean(0), rtol=1e-5)
    assert std[4] == 1.0
    data = TrainingData("made", CLASSES, x, DATA.y, DATA.population, mean, std)
    run = train(lake, "target", data=data, recipe=replace(RECIPE, epochs=10), recording=Recording())
    assert run.info.train_accuracy is not None
    assert run.info.train_accuracy > 0.8


def test_a_committed_run_is_not_touched(lake: Lake) -> None:
    train(lake, "target")
    with pytest.raises(AlreadyExists):
        train(lake, "target")


def test_population_members_are_refused(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="population"):
        train_run(lake, "e", DATA, RECIPE, PLAN, np.ones(N, dtype=bool))


def test_features_of_a_model_without_them(lake: Lake) -> None:
    recipe = replace(RECIPE, model=f"{__name__}:bare_model", model_options={})
    with pytest.raises(InvalidOption, match="features"):
        train(lake, "target", recipe)


def bare_model(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), classes))


# --- batches --------------------------------------------------------------------------------------------------


def test_crops_are_windows_of_the_padded_picture_and_all_of_them_occur() -> None:
    held = DeviceData(DATA, torch.device("cpu"), normalize=True)
    x = held.x[:1].repeat(600, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    augmented, mirrored = held.augmented(x, flip=True, crop=1, generator=generator)
    found = augmented.numpy()
    padded = np.pad(DATA.x[0], ((0, 0), (1, 1), (1, 1)))
    windows = {}
    for dy in range(3):
        for dx in range(3):
            window = padded[:, dy : dy + 8, dx : dx + 8]
            windows[window.tobytes()] = (dy, dx, False)
            windows[window[..., ::-1].tobytes()] = (dy, dx, True)
    seen = [windows[np.ascontiguousarray(each).tobytes()] for each in found]
    counts = {key: seen.count(key) for key in set(seen)}
    assert len(counts) == 18
    assert max(counts.values()) < 3 * min(counts.values()), counts  # 33 expected of each
    assert mirrored is not None
    assert [flipped for _, _, flipped in seen] == mirrored.tolist()
    same, mirrored = held.augmented(x, flip=False, crop=0, generator=generator)
    assert torch.equal(same, x)
    assert mirrored is None


def test_inputs_are_normalised_by_channel() -> None:
    held = DeviceData(DATA, torch.device("cpu"), normalize=True)
    x = held.inputs(held.x[~torch.from_numpy(DATA.population)])
    np.testing.assert_allclose(x.mean(dim=(0, 2, 3)).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(dim=(0, 2, 3), correction=0).numpy(), 1, atol=1e-5)
    raw = DeviceData(DATA, torch.device("cpu"), normalize=False)
    np.testing.assert_allclose(raw.inputs(raw.x[:4]).numpy(), DATA.x[:4] / 255.0, rtol=1e-6)


def test_data_survives_its_files(tmp_path: Path) -> None:
    for data in (DATA, TESTED):
        data.save(tmp_path)
        back = TrainingData.load(tmp_path)
        for name in ("x", "y", "population", "mean", "std"):
            np.testing.assert_array_equal(getattr(back, name), getattr(data, name))
        assert (back.dataset, back.classes) == (data.dataset, data.classes)
    assert back.test_x is not None


@pytest.mark.parametrize(
    ("n", "size", "want"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (4, 4, [4]), (3, 1, [1, 2])]
)
def test_split(n: int, size: int, want: list[int]) -> None:
    parts = split(torch.arange(n), size)
    assert [len(part) for part in parts] == want
    assert torch.cat(parts).tolist() == list(range(n))


def test_learning_rates() -> None:
    cosine = replace(RECIPE, lr=1.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(cosine, step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)  # half-way between step 10 and step 50
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    step = replace(RECIPE, lr=1.0, epochs=10, schedule="step", step_epochs=(3, 6), step_gamma=0.1)
    assert [learning_rate(step, s, 2) for s in (0, 5, 6, 11, 12, 19)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    constant = replace(RECIPE, lr=0.3, schedule="constant")
    assert {learning_rate(constant, s, 2) for s in range(6)} == {0.3}
