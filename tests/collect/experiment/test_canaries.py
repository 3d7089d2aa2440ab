"""Canaries: what is planted, that it is planted again alike, and that fair coins put it in the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.experiment.canaries import Canaries, canary_mask, parse_canaries, plant_canaries
from losslake.collect.experiment.membership import coin_members
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.recipe import Recipe
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binom, chisquare

RECIPE = Recipe(model="mlp", model_options={"widths": (8,)}, epochs=1, batch_size=64, lr=0.05)
CLASSES = 4


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def records(
    n: int = 200, *, table: bool = False, groups: bool = False
) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    rng = np.random.default_rng(0)
    if table:
        x = rng.normal([1, 5, 0], [1, 3, 0], (n, 3)).astype(np.float32)
    else:
        x = rng.integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    y = rng.integers(0, CLASSES, n)
    columns: dict[str, Any] = {
        "label": y.astype(np.int32),
        "pool": np.where(np.arange(n) % 5 == 0, "population", "audit").tolist(),
        "split": ["train"] * n,
        "key": [f"train/{row}" for row in range(n)],
        "age": np.arange(n),
    }
    if groups:
        columns["group"] = pa.array([None if row % 3 else "odd" for row in range(n)])
    return x, y, pa.table(columns)


def plant(text: str, given: tuple[np.ndarray, np.ndarray, pa.Table], seed: int = 0) -> Any:
    return plant_canaries(parse_canaries(text), *given, classes=CLASSES, seed=seed)


@pytest.mark.parametrize("groups", [False, True])
def test_mislabelled(groups: bool) -> None:
    x, y, samples = records(groups=groups)
    before = y.copy()
    x2, y2, table = plant("mislabelled:60", (x, y, samples))
    mask = canary_mask(table)
    assert mask.sum() == 60
    assert x2 is x
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(mask, y2 != y)
    assert y2.min() >= 0
    assert y2.max() < CLASSES
    assert not mask[samples["pool"].to_numpy(zero_copy_only=False) == "population"].any()
    np.testing.assert_array_equal(table["label"].to_numpy(), y2)
    kept = samples["group"].to_pylist() if groups else [None] * len(y)
    assert table["group"].to_pylist() == ["canary" if c else g for c, g in zip(mask, kept)]
    assert table.drop(["label", "group"]).equals(samples.drop(["label", "group"] if groups else ["label"]))


def test_other_labels_are_equally_likely() -> None:
    x, y, samples = records(4000)
    _, y2, table = plant("mislabelled:3000", (x, np.zeros_like(y), samples))
    counts = np.bincount(y2[canary_mask(table)], minlength=CLASSES)
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 0.001


@pytest.mark.parametrize("kind", ["blank", "noise"])
@pytest.mark.parametrize("table", [False, True])
def test_new_records(kind: str, table: bool) -> None:
    x, y, samples = records(table=table, groups=True)
    x2, y2, after = plant(f"{kind}:50", (x, y, samples))
    assert x2.dtype == x.dtype
    assert x2.shape == (250, *x.shape[1:])
    np.testing.assert_array_equal(x2[:200], x)
    np.testing.assert_array_equal(y2[:200], y)
    assert set(y2[200:]) == set(range(CLASSES))
    assert canary_mask(after).tolist() == [False] * 200 + [True] * 50
    assert after["group"].to_pylist()[:200] == samples["group"].to_pylist()
    last = after.slice(200)
    assert set(last["pool"].to_pylist()) == {"audit"}
    assert last["key"].to_pylist() == [f"canary/{number}" for number in range(50)]
    assert last["age"].null_count == 50
    assert after.schema.field("age").type == samples.schema.field("age").type
    fresh = x2[200:]
    assert len(np.unique(fresh.reshape(50, -1), axis=0)) == 50, "no two are alike"
    if kind == "noise" and table:
        assert (fresh >= x.min(axis=0)).all()
        assert (fresh <= x.max(axis=0)).all()
        assert fresh[:, 1].std() > 3
    elif kind == "noise":
        assert fresh.min() == 0
        assert fresh.max() == 255
    elif table:
        audit = x[np.arange(200) % 5 != 0].astype(float)
        away = (fresh[:, :2] - audit.mean(axis=0)[:2]) / audit.std(axis=0)[:2]
        np.testing.assert_allclose(away[:, 0], away[:, 1], atol=1e-5)
        np.testing.assert_allclose(np.sort(away[:, 0]), np.linspace(-2, 2, 50), atol=1e-5)
        assert (fresh[:, 2] == 0).all(), "a column that does not vary stays as it is"
    else:
        assert (fresh == fresh[:, :, :1, :1]).all()


@pytest.mark.parametrize("text", ["mislabelled:20", "blank:20", "noise:20", "blank:1"])
@pytest.mark.parametrize("table", [False, True])
def test_the_same_seed_plants_the_same(text: str, table: bool) -> None:
    one, again, other = (plant(text, records(table=table), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert one[2].equals(again[2])
    if text.endswith("20"):
        assert not np.array_equal(one[1], other[1])


@pytest.mark.parametrize(
    "text", ["", "mislabelled", "noise:0", "noise:-3", "noise:1.5", "noise:many", "noise: 5"]
)
def test_what_is_no_canary(text: str) -> None:
    with pytest.raises(InvalidOption):
        parse_canaries(text)


def test_what_cannot_be_planted() -> None:
    with pytest.raises(InvalidOption, match="mislabelled, blank, noise"):
        parse_canaries("dull:5")
    assert str(parse_canaries("noise:5")) == "noise:5"
    x, y, samples = records()
    with pytest.raises(NotEnoughData, match="there are 160 audit records"):
        plant("mislabelled:161", (x, y, samples))
    with pytest.raises(NotEnoughData, match="256 colours"):
        plant("blank:257", (x[:, :1], y, samples))
    assert len(plant("blank:256", (x[:, :1], y, samples))[0]) == 456
    with pytest.raises(InvalidInput, match="group 'canary' of its own"):
        plant("noise:1", (x, y, samples.append_column("group", pa.array(["canary"] * 200))))
    with pytest.raises(InvalidOption, match="single class"):
        plant_canaries(Canaries("noise", 1), x, y, samples, classes=1, seed=0)


def test_coins_are_fair_and_independent() -> None:
    coins = np.array([coin_members(100, seed=seed) for seed in range(400)])
    low, high = binom.ppf([0.0005, 0.9995], coins.size, 0.5)
    assert low <= coins.sum() <= high
    # A class-balanced choice would have no variance here.
    assert coins.sum(axis=1).var() == pytest.approx(25, rel=0.3)
    np.testing.assert_array_equal(coin_members(100, seed=5), coins[5])


def prepare(lake: Lake, **options: Any) -> Any:
    return prepare_experiment(
        lake,
        "e",
        **{"dataset": "digits", "samples": 120, "population": 0.1, "canaries": "mislabelled:30", **options},
    )


@pytest.mark.parametrize("kind", ["mislabelled", "blank", "noise"])
def test_an_experiment_is_prepared_again_with_its_canaries(lake: Lake, kind: str) -> None:
    made = prepare(lake, canaries=f"{kind}:30")
    again = prepare_experiment(lake, "e")
    assert again.experiment == made.experiment
    assert again.options["canaries"] == f"{kind}:30"
    for name in ("x", "y", "population"):
        np.testing.assert_array_equal(getattr(again.data, name), getattr(made.data, name))
    np.testing.assert_array_equal(again.canary, made.canary)
    table = lake.samples("e")
    np.testing.assert_array_equal(canary_mask(table), made.canary)
    assert made.canary.sum() == 30
    assert len(made.data) == len(table) == (120 if kind == "mislabelled" else 150)
    assert table["label"].to_pylist() == made.data.y.tolist()
    assert len(lake.pictures("e", [len(table) - 1])) == 1


def test_members_of_a_target(lake: Lake) -> None:
    made = prepare(lake, canaries="noise:40")
    counts = []
    for seed in range(30):
        members = made.target_members(fraction=0.25, seed=seed)
        natural = ~made.canary
        assert not members[made.data.population].any()
        assert members[natural].sum() == 27
        assert set(np.bincount(made.data.y[members & natural], minlength=10)) <= {2, 3}, "class-balanced"
        counts.append(int(members[made.canary].sum()))
    assert len(set(counts)) > 5
    assert 16 < np.mean(counts) < 24, "fair coins, whatever the fraction"


def test_canaries_change_what_the_experiment_is(lake: Lake) -> None:
    prepare(lake)
    with pytest.raises(AlreadyExists, match="canaries mislabelled:30, not noise:5"):
        prepare(lake, canaries="noise:5")
    bare = Lake.open(f"{lake.path}-bare", create=True)
    assert not prepare(bare, canaries=None).canary.any()
    assert bare.experiment("e").digest != lake.experiment("e").digest
    with pytest.raises(AlreadyExists, match="canaries None"):
        prepare(bare, canaries="noise:5")


def test_a_table_with_groups_of_its_own(lake: Lake, tmp_path: Path) -> None:
    rows = 40
    path = tmp_path / "x.csv"
    lines = [f"{row / 7},{'abc'[row % 3]},{row % 2}" for row in range(rows)]
    path.write_text("\n".join(["age,city,label", *lines]))
    made = prepare_experiment(lake, "e", dataset=str(path), group="city", canaries="noise:10")
    groups = lake.samples("e")["group"].to_pylist()
    assert groups[:rows] == list("abc" * 14)[:rows]
    assert groups[rows:] == ["canary"] * 10
    assert made.data.x.shape[0] == rows + 10


def test_targets_and_shadows_train_on_them(lake: Lake) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prepared = prepare(lake, canaries="noise:30")
        collect_target(lake, "e", recipe=RECIPE, prepared=prepared, device="cpu", jobs=1, queries="original")
        # From the experiment alone.
        collect_shadows(lake, "e", count=2, recipe=RECIPE, device="cpu", jobs=1, queries="original")
    finally:
        torch.set_num_threads(before)
    rows = lake.sql(
        "select run, list(member order by sample_id) as members, list(label order by sample_id) as labels "
        "from signals group by run order by run"
    )
    members = np.array(rows["members"].to_list())
    assert all(labels == prepared.data.y.tolist() for labels in rows["labels"].to_list())
    assert rows["run"].to_list() == ["shadow-0000", "shadow-0001", "target"]
    np.testing.assert_array_equal(members[0, prepared.canary], ~members[1, prepared.canary])
    np.testing.assert_array_equal(members[2], prepared.target_members(fraction=0.5, seed=0))
    design = lake.run("e", "target").info.extra["design"]
    assert design["design"] == "target", "an audit tells by it that canaries had coins"


def test_command(tmp_path: Path) -> None:
    arguments = [
        *("collect", "target", "--lake", str(tmp_path / "lake"), "--experiment", "e", "--dataset", "digits"),
        *(
            "--samples",
            "60",
            "--model",
            "mlp",
            "--widths",
            "4",
            "--epochs",
            "1",
            "--jobs",
            "1",
            "--device",
            "cpu",
        ),
    ]
    refused = CliRunner().invoke(cli, [*arguments, "--canaries", "dull:3"])
    assert refused.exit_code != 0
    done = CliRunner().invoke(cli, [*arguments, "--canaries", "blank:6"])
    assert done.exit_code == 0, done.output
    lake = Lake.open(tmp_path / "lake")
    assert lake.experiment("e").samples == 66
    assert lake.experiment("e").dataset["canaries"] == "blank:6"
