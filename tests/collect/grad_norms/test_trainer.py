"""Gradient norms of the built-in trainer: in the train or the eval trace, of the right loss, and training as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.cli import main
from losslake.collect.data.training import TrainingData, channel_statistics
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train.run import RunPlan
from losslake.collect.train.trainer import train_run
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake

N, MEMBERS = 40, np.arange(40) % 2 == 0


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.arange(N) % 3}))
    return lake


def train(lake: Lake, run: str, grad_norms: Any, **changes: Any) -> dict[str, dict[str, list[Any]]]:
    """The traces of a run by source, and its signals."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, (N, 1, 8, 8)).astype(np.uint8)
    mean, std = channel_statistics(x, np.arange(N))
    data = TrainingData("made", 3, x, np.arange(N) % 3, np.zeros(N, dtype=bool), mean, std)
    recipe = Recipe(**{"model": "cnn", "epochs": 2, "batch_size": 8, "lr": 0.05, "clip_norm": 1.0, **changes})
    recording = Recording(traces=True, grad_norms=grad_norms)
    train_run(lake, "e", data, recipe, RunPlan(run, "target", 5), MEMBERS, recording=recording)
    found = {
        source: lake.sql(
            "select sample_id, loss, grad_norm from traces where run = $run and source = $source order by sample_id",
            {"run": run, "source": source},
        ).to_dict(as_series=False)
        for source in ("train", "eval")
    }
    found["signals"] = lake.sql(
        "select loss, phi from signals where run = $run order by sample_id", {"run": run}
    ).to_dict(as_series=False)
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_train_and_eval_norms(lake: Lake, precision: str) -> None:
    plain = train(lake, "plain", "none", precision=precision)
    in_steps = train(lake, "in-steps", "train", precision=precision)
    after = train(lake, "after", "eval", precision=precision)
    for found in (in_steps, after):
        assert found["signals"] == plain["signals"], "training took another course"
        assert found["eval"]["loss"] == plain["eval"]["loss"]
    assert set(plain["train"]["grad_norm"]) == set(in_steps["eval"]["grad_norm"]) == {None}
    assert in_steps["train"]["sample_id"] == np.flatnonzero(MEMBERS).tolist()
    for norms in in_steps["train"]["grad_norm"]:
        assert norms[0] is None
        assert np.isfinite(norms[1:]).all()
    norms = np.array(after["eval"]["grad_norm"])
    assert norms.shape == (N, 3)
    losses = np.array(after["eval"]["loss"])
    # |p - y| bounds the last layer's part from below; it grows with the loss.
    assert (np.corrcoef(losses[:, 1], norms[:, 1]) > 0.3).all()


def test_one_step_of_everything_is_the_eval_point_before_it(lake: Lake) -> None:
    """With the whole set in one step, its norms are those of the untrained model: epoch 0 of the eval trace."""
    in_steps = train(lake, "in-steps", "train", batch_size=64, epochs=1)
    after = train(lake, "after", "eval", batch_size=64, epochs=1)
    want = np.array(after["eval"]["grad_norm"])[MEMBERS, 0]
    np.testing.assert_allclose(np.array(in_steps["train"]["grad_norm"])[:, 1].astype(float), want, rtol=1e-4)


def test_batch_norm_has_norms_in_eval_mode_only(lake: Lake) -> None:
    with pytest.raises(InvalidOption, match=r"BatchNorm2d.*--grad-norms eval"):
        train(lake, "no", "train", model_options={"norm": "batch"})
    found = train(lake, "yes", "eval", model_options={"norm": "batch"})
    assert np.isfinite(np.array(found["eval"]["grad_norm"])).all()


def test_recordings_that_cannot_be() -> None:
    with pytest.raises(InvalidOption, match="part of the traces"):
        Recording(grad_norms="eval")
    with pytest.raises(InvalidOption, match="grad_norms"):
        Recording(traces=True, grad_norms="both")  # type: ignore[arg-type]


def test_from_the_command_line_to_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = str(tmp_path / "lake")

    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--lake", lake, "--experiment", "digits"])
        caught = capsys.readouterr()
        return int(ended.value.code or 0), caught.out + caught.err

    common = ["--dataset", "digits", "--samples", "60", "--epochs", "2", "--device", "cpu", "--jobs", "1"]
    refused = call("collect", "target", *common, "--model", "vgg", "--grad-norms", "train")
    assert refused[0] == 2
    assert "BatchNorm2d" in refused[1]
    assert "failed" not in refused[1], "found before any training"
    for _ in range(2):  # the second finds the first one's run
        made = call("collect", "target", *common, "--model", "mlp", "--widths", "8", "--grad-norms", "train")
        assert made[0] == 0, made[1]
    scored = call(
        "analyze",
        "trace",
        "--target",
        "target",
        "--signal",
        "grad_norm",
        "--source",
        "train",
        "--aggregate",
        "mean",
    )
    assert scored[0] == 0, scored[1]
    assert "signal=grad_norm" in scored[1]
