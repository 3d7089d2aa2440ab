"""Making experiments from data sets, and collecting targets and shadow fleets on them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet import runs as fleet_runs
from losslake.collect.fleet.setup import target_recipe
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.recipe import Recipe, to_json
from losslake.collect.train import trainer
from losslake.store.errors import AlreadyExists, InvalidOption, NotFound, OlderFormat, TrainingFailed
from losslake.store.lake import Lake
from places import LAKES

RECIPE = Recipe(model="mlp", model_options={"widths": (8,)}, epochs=2, batch_size=64, lr=0.05)


class Watching:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.total, self.done, self.notes, self.finished = 0, 0, [], 0  # type: ignore[var-annotated]

    def start(self, total: int, unit: str) -> None:
        assert unit == "epochs"
        self.total = total

    def advance(self, n: int, note: str) -> None:
        self.done += n
        self.notes.append(note)

    def finish(self) -> None:
        self.finished += 1


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def prepare(lake: Lake, **options: Any) -> Any:
    return prepare_experiment(
        lake, "e", **{"dataset": "digits", "samples": 120, "population": 0.1, **options}
    )


def test_prepare_and_load_again(lake: Lake) -> None:
    made = prepare(lake, seed=4, fraction=0.4)
    table = lake.samples("e")
    assert table["label"].to_pylist() == made.data.y.tolist()
    assert np.bincount(made.data.y).tolist() == [12] * 10
    assert (
        table["pool"].to_numpy(zero_copy_only=False) == "population"
    ).tolist() == made.data.population.tolist()
    assert made.data.population.sum() == 12
    again = prepare_experiment(lake, "e")
    assert again.experiment == made.experiment
    assert again.options == made.options
    assert (again.options["seed"], again.options["fraction"], again.options["spec"]) == (4, 0.4, "digits")
    assert again.options["classes"] == [str(digit) for digit in range(10)]
    np.testing.assert_array_equal(again.data.x, made.data.x)
    np.testing.assert_array_equal(again.data.mean, made.data.mean)


def test_pictures_are_the_samples(lake: Lake) -> None:
    import io

    from PIL import Image

    made = prepare(lake)
    for sample, png in lake.pictures("e", [0, 77]).items():
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), made.data.x[sample, 0])
    other = prepare_experiment(lake, "bare", dataset="digits", samples=20, pictures=False)
    assert lake.pictures(other.experiment.name, [0]) == {}


def test_columns_of_the_source_are_kept(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    rows = 30
    frame = pl.DataFrame(
        {"age": np.arange(rows) * 1.0, "label": np.arange(rows) % 2, "city": ["x", "y", "z"] * 10}
    )
    frame.write_parquet(path)
    made = prepare_experiment(lake, "e", dataset=str(path), group="city")
    assert lake.samples("e")["group"].to_pylist() == ["x", "y", "z"] * 10
    assert not made.data.pictures
    # The same file of other content is not the same experiment.
    frame.with_columns(age=pl.col("age") ** 2).write_parquet(path)
    with pytest.raises(AlreadyExists, match="does not hold what"):
        prepare_experiment(lake, "e")


def test_of_the_population_those_of_group_canary_are_candidates(lake: Lake, tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": range(30), "label": [0, 1] * 15, "kind": ["x", "y", "canary"] * 10})
    path = tmp_path / "kinds.csv"
    rows.write_csv(path)
    made = prepare_experiment(lake, "e", dataset=str(path), group="kind", population=0.5)
    called = np.array(lake.samples("e")["group"].to_pylist()) == "canary"
    assert 0 < (called & made.data.population).sum() < called.sum()
    assert (made.data.candidates == (called & made.data.population)).all()
    assert (made.data.outsiders == (made.data.population & ~called)).all()


def test_the_key_of_a_table_is_kept_with_the_experiment(lake: Lake, tmp_path: Path) -> None:
    rows = 40
    names = [f"P{(row * 7) % rows:02d}" for row in range(rows)]
    frame = pl.DataFrame({"age": np.arange(rows) ** 2.0, "label": np.arange(rows) % 2, "Key": names})
    frame.write_csv(tmp_path / "people.csv")
    made = prepare_experiment(lake, "e", dataset=str(tmp_path / "people.csv"), key="Key", samples=20)
    table = lake.samples("e")
    assert "source_Key" not in table.column_names
    assert made.data.x.shape == (20, 1)
    taken = table["key"].to_pylist()
    assert table["age"].to_pylist() == [names.index(name) ** 2 for name in taken]
    again = prepare_experiment(lake, "e")
    assert again.options == made.options
    assert again.options["key"] == "Key"
    np.testing.assert_array_equal(again.data.x, made.data.x)
    with pytest.raises(AlreadyExists, match="was made with key Key, not age"):
        prepare_experiment(lake, "e", key="age")
    # Records are left out by the same names.
    (tmp_path / "out.txt").write_text("\n".join(taken[:3]))
    prepare_experiment(
        lake,
        "less",
        dataset=str(tmp_path / "people.csv"),
        key="Key",
        samples=20,
        without=tmp_path / "out.txt",
    )
    assert lake.samples("less")["key"].to_pylist() == taken[3:]
    assert prepare_experiment(lake, "less").data.x.shape == (17, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 100}, "samples 120, not 100"),
        ({"population": 0.2}, "population 0.1"),
        ({"seed": 1}, "seed 0, not 1"),
    ],
)
def test_other_options_than_before(lake: Lake, options: dict[str, Any], message: str) -> None:
    prepare(lake)
    with pytest.raises(AlreadyExists, match=message):
        prepare(lake, **options)


def test_neither_experiment_nor_data(lake: Lake) -> None:
    with pytest.raises(NotFound, match="name a data set"):
        prepare_experiment(lake, "e")


def test_target_and_duals(lake: Lake) -> None:
    prepared = prepare(lake)
    watch = Watching()
    runs = collect_target(
        lake, "e", recipe=RECIPE, prepared=prepared, duals=1, jobs=1, device="cpu", progress=watch
    )
    assert [run.run for run in runs] == ["target", "target-dual-1"]
    assert [run.info.parent for run in runs] == [None, "target"]
    assert (watch.total, watch.done, watch.finished) == (4, 4, 1)
    members = lake.sql(
        "select run, list(sample_id order by sample_id) as ids from signals where member and query = 0 group by run"
    )
    ids = dict(members.iter_rows())
    assert ids["target"] == ids["target-dual-1"]
    labels = prepared.data.y[ids["target"]]
    assert len(labels) == 54
    assert set(np.bincount(labels)) <= {5, 6}, "half of each class"
    losses = lake.sql("select run, loss from signals where query = 0 order by run, sample_id")[
        "loss"
    ].to_numpy()
    assert not np.array_equal(losses[:120], losses[120:]), "duals have other weights"
    assert runs[0].info.recipe == to_json(RECIPE)
    assert runs[0].tables() == {"signals", "traces"}
    # Once more: nothing to do.
    watch = Watching()
    again = collect_target(lake, "e", recipe=RECIPE, duals=1, device="cpu", progress=watch)
    assert again == runs
    assert (watch.total, watch.notes, watch.finished) == (0, ["2 of 2 runs are in the lake already"], 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": replace(RECIPE, lr=0.1)}, "lr = 0.05, not 0.1"),
        ({"seed": 3}, "seed = 0, not 3"),
        ({"fraction": 0.3}, "fraction = 0.5, not 0.3"),
        ({"features": True}, "features = False, not True"),
    ],
)
def test_a_target_with_other_options(lake: Lake, options: dict[str, Any], message: str) -> None:
    prepared = prepare(lake)
    collect_target(lake, "e", recipe=RECIPE, prepared=prepared, device="cpu")
    with pytest.raises(AlreadyExists, match=message):
        collect_target(lake, "e", **{"recipe": RECIPE, "prepared": prepared, "device": "cpu", **options})


def shadow_members(lake: Lake, count: int) -> np.ndarray:
    rows = lake.sql(
        "select run, member from signals where run like 'shadow%' and query = 0 order by run, sample_id"
    )
    return rows["member"].to_numpy().reshape(count, -1)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were trained in this process."""
    trained: list[str] = []
    real = fleet_runs.train_run

    def train_run(
        lake: Lake, experiment: str, data: Any, recipe: Any, plan: Any, *args: Any, **kwargs: Any
    ) -> Any:
        trained.append(plan.run)
        return real(lake, experiment, data, recipe, plan, *args, **kwargs)

    monkeypatch.setattr(fleet_runs, "train_run", train_run)
    return trained


def test_shadows_in_blocks(lake: Lake, counted: list[str]) -> None:
    prepared = prepare(lake)
    collect = lambda count, **options: collect_shadows(  # noqa: E731
        lake, "e", count=count, recipe=RECIPE, prepared=prepared, jobs=1, device="cpu", **options
    )
    assert [run.run for run in collect(2)] == ["shadow-0000", "shadow-0001"]
    assert [run.run for run in collect(6)] == [f"shadow-{number:04d}" for number in range(6)]
    assert counted == [f"shadow-{number:04d}" for number in range(6)], "each was trained once"
    members = shadow_members(lake, 6)
    audit = ~prepared.data.population
    assert not members[:, ~audit].any()
    assert set(members[:2, audit].sum(0)) == {1}
    assert set(members[2:, audit].sum(0)) == {2}
    designs = lake.designs("e", "shadow")
    assert [(d["design"], d["count"], d["first"], d["probability"]) for d in designs] == [
        ("balanced", 2, 0, 0.5),
        ("balanced", 4, 2, 0.5),
    ]
    assert len({run.info.seed for run in lake.runs("e")}) == 6
    assert {run.info.role for run in lake.runs("e")} == {"shadow"}
    counted.clear()
    assert len(collect(4)) == 4
    assert counted == []
    with pytest.raises(InvalidOption, match="laid out with design balanced"):
        collect(6, design="bernoulli")


def test_an_impossible_design_is_not_laid_down(lake: Lake) -> None:
    prepared = prepare(lake)
    with pytest.raises(InvalidOption, match="even number"):
        collect_shadows(lake, "e", count=3, design="paired", recipe=RECIPE, prepared=prepared)
    assert lake.designs("e", "shadow") == []


def test_the_recipe_of_the_target(lake: Lake) -> None:
    prepared = prepare(lake)
    with pytest.raises(NotFound, match="no target"):
        collect_shadows(lake, "e", count=1, prepared=prepared)
    collect_target(lake, "e", recipe=RECIPE, prepared=prepared, device="cpu")
    assert target_recipe(lake, "e") == RECIPE
    collect_target(lake, "e", recipe=replace(RECIPE, lr=0.2), run="other", prepared=prepared, device="cpu")
    with pytest.raises(InvalidOption, match="different recipes"):
        target_recipe(lake, "e")


def in_process(lake: Lake, count: int, **options: Any) -> list[Any]:
    return collect_shadows(lake, "e", count=count, recipe=RECIPE, device="cpu", jobs=1, **options)


def test_workers_train_what_this_process_would(lake: Lake, tmp_path: Path) -> None:
    prepared = prepare(lake)
    watch = Watching()
    runs = collect_shadows(
        lake,
        "e",
        count=3,
        recipe=RECIPE,
        prepared=prepared,
        jobs=2,
        device="cpu",
        traces=True,
        progress=watch,
    )
    assert (watch.total, watch.done, watch.finished) == (6, 6, 1)
    assert [run.run for run in runs] == ["shadow-0000", "shadow-0001", "shadow-0002"]
    other = Lake.open(tmp_path / "other", create=True)
    prepare(other)
    in_process(other, 3, traces=True)
    for query in (
        "select * from signals order by run, sample_id, query",
        "select * from traces order by run, sample_id, source",
    ):
        # Bit for bit, as this process has one thread too.
        assert lake.sql(query).equals(other.sql(query))


def test_one_run_fails_and_the_others_go_on(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(lake)
    real: Callable[..., Any] = trainer._train

    def fail_one(setup: Any, *args: Any) -> Any:
        if setup.plan.run == "shadow-0001":
            raise TrainingFailed("run 'shadow-0001' diverged in epoch 1")
        return real(setup, *args)

    monkeypatch.setattr(trainer, "_train", fail_one)
    watch = Watching()
    with pytest.raises(
        TrainingFailed, match=r"1 of 3 runs failed; the others are in the lake: run .shadow-0001. diverged"
    ):
        in_process(lake, 3, progress=watch)
    assert [run.run for run in lake.runs("e")] == ["shadow-0000", "shadow-0002"]
    assert watch.done == watch.total == 6
    monkeypatch.undo()
    assert len(in_process(lake, 3)) == 3


@pytest.mark.usefixtures("warm_workers")
def test_workers_that_diverge(lake: Lake) -> None:
    prepare(lake)
    with pytest.raises(TrainingFailed, match=r"2 of 2 runs failed: run .shadow-0000. diverged in epoch"):
        collect_shadows(lake, "e", count=2, recipe=replace(RECIPE, lr=1e30), jobs=2, device="cpu")
    assert lake.runs("e") == []
    assert [lake.files.list(folder) for folder in ("staging", "signals", "traces")] == [[], [], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 1, "jobs": 0}, "jobs is 0"),
        ({"count": 1, "device": "abacus"}, "abacus"),
    ],
)
def test_options_that_make_no_sense(lake: Lake, options: dict[str, Any], message: str) -> None:
    prepare(lake)
    with pytest.raises(InvalidOption, match=message):
        collect_shadows(lake, "e", recipe=RECIPE, **options)


def test_a_lake_of_an_older_format_says_to_migrate_it_before_any_work(tmp_path: Path) -> None:
    with tarfile.open(LAKES / "format-1.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(OlderFormat, match="losslake lake migrate"):
        prepare_experiment(Lake.open(tmp_path / "format-1"), "new", dataset="no such thing")
