"""Collecting into an experiment that has forgotten samples: nobody trains on them, and all other draws stay."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from losslake.collect.data.training import DeviceData
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet import many_runs
from losslake.collect.fleet.distilled import collect_distilled
from losslake.collect.fleet.leave_one_out import collect_leave_one_out
from losslake.collect.fleet.references import collect_references
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.hook.start import start_run
from losslake.collect.importers.arrays import import_arrays
from losslake.collect.recipe import Recipe
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption
from losslake.store.format.records import unpack_samples
from losslake.store.lake import Lake
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.verify import verify
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

RECIPE = Recipe(model="mlp", model_options={"widths": (8,)}, epochs=2, batch_size=64, lr=0.05)
HERE: dict[str, Any] = {"device": "cpu", "jobs": 1}
N = 100

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target and a shadow of four on 110 digits: 20 of them population, and 10 canaries."""
    path = tmp_path_factory.mktemp("made") / "lake"
    lake = Lake.open(path, create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=N, population=0.2, canaries="noise:10")
    collect_target(lake, "e", recipe=RECIPE, prepared=prepared, logits="float32", **HERE)
    collect_shadows(lake, "e", count=1, prepared=prepared, **HERE)
    return path


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    return Lake.open(shutil.copytree(made, tmp_path / "lake"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Who would train in which run; nobody does."""
    seen: dict[str, np.ndarray] = {}

    def train_fleet(fleet: Any, plans: Any, records: Callable[..., Any], **_: Any) -> list[Any]:
        seen.update({plan.run: records(number) for number, plan in enumerate(plans)})
        return []

    monkeypatch.setattr(many_runs, "train_fleet", train_fleet)
    return seen


def some(lake: Lake) -> tuple[int, ...]:
    """A member, a stranger, one of the population and a canary that is a member."""
    table = lake.sql(
        "select s.sample_id, s.pool, s.group, g.member from samples s join signals g using (sample_id) "
        "where run = 'target' and query = 0 order by sample_id"
    )
    found = {}
    for sample, pool, group, member in table.rows():
        found.setdefault((pool, group == "canary" and member, member), sample)
    return tuple(sorted(found.values()))


def test_members_are_drawn_as_before_less_the_forgotten(lake: Lake, drawn: dict[str, np.ndarray]) -> None:
    def draw() -> dict[str, np.ndarray]:
        drawn.clear()
        collect_target(lake, "e", recipe=RECIPE, **HERE)
        collect_shadows(lake, "e", count=4, **HERE)
        collect_distilled(lake, "e", count=2, **HERE)
        return dict(drawn)

    before = draw()
    gone = some(lake)
    assert len(gone) == 4
    forget(lake, "e", gone)
    after = draw()
    assert before.keys() == after.keys()
    out = np.isin(np.arange(N + 10), gone)
    for run, records in after.items():
        assert not records[out].any(), run
        assert np.array_equal(records, before[run] & ~out), run
    assert any(records[out].any() for records in before.values())


def test_the_other_fleets(lake: Lake, drawn: dict[str, np.ndarray]) -> None:
    gone = some(lake)
    forget(lake, "e", gone)
    collect_references(lake, "e", count=3, **HERE)
    left = next(i for i in range(N) if i not in gone and lake.samples("e")["pool"][i].as_py() == "audit")
    collect_leave_one_out(lake, "e", samples=[left], repeats=1, **HERE)
    assert len(drawn) == 4
    assert all(not records[list(gone)].any() for records in drawn.values())
    with pytest.raises(InvalidOption, match=f"sample {gone[0]} .* was forgotten"):
        collect_leave_one_out(lake, "e", samples=[gone[0]], repeats=1, **HERE)


def test_collecting_goes_on_and_records_nothing(lake: Lake) -> None:
    gone = some(lake)
    forget(lake, "e", gone)
    prepared = prepare_experiment(lake, "e")
    assert np.flatnonzero(prepared.data.forgotten).tolist() == list(gone)
    held = DeviceData(prepared.data, torch.device("cpu"), normalize=True)
    assert not set(held.donors.tolist()) & set(gone)
    assert not held.population[list(gone)].any()
    assert len(collect_shadows(lake, "e", count=3, prepared=prepared, **HERE)) == 3  # one was there
    collect_distilled(lake, "e", count=1, prepared=prepared, **HERE)
    told = lake.run("e", "distilled-0000").info.extra["distilled_on"]["samples"]
    assert not unpack_samples(told, N + 10)[list(gone)].any()
    seen = lake.sql("select distinct sample_id from signals union select distinct sample_id from traces")
    assert not set(seen["sample_id"]) & set(gone)
    found = verify(lake)
    assert (found.damage, found.remembered) == ((), ())


def test_an_experiment_made_without_others_asks_for_the_list(lake: Lake, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(lake.samples("e")["key"][3].as_py() + "\n")
    prepare_experiment(lake, "w", dataset="digits", samples=N, without=keys, pictures=False)
    forget(lake, "w", [7])
    with pytest.raises(InvalidOption, match="say again which the first were, with --without"):
        prepare_experiment(lake, "w")
    assert prepare_experiment(lake, "w", without=keys).data.forgotten[7]
    with pytest.raises(AlreadyExists):
        prepare_experiment(lake, "w", dataset="digits", samples=N - 1, without=keys)


# --- the hook and imports ----------------------------------------------------------------------------------

X, Y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


def hooked(lake: Lake) -> None:
    lake.create_experiment("h", pa.table({"label": Y.numpy()}))
    forget(lake, "h", [4, 9])


def test_the_hook_refuses_a_batch_and_records_the_others(lake: Lake) -> None:
    hooked(lake)
    with pytest.raises(InvalidInput, match=r"sample 4 .* was forgotten"):
        start_run(lake, "h", samples=Y, members=np.arange(10))
    members = np.array([0, 1, 2, 3, 5, 6])
    model, criterion = nn.Linear(4, 2), nn.CrossEntropyLoss()
    with (
        pytest.raises(InvalidInput, match=r"a batch of run 'target' holds sample 4"),
        start_run(lake, "h", samples=Y, members=members) as run,
    ):
        for _ in run.watch_loader(DataLoader(TensorDataset(X, Y), batch_size=5)):
            pass
    with start_run(lake, "h", samples=Y, members=members) as run:
        with pytest.raises(InvalidInput, match="holds sample 9"):
            run.batch(torch.tensor([1, 9]))
        watched = run.watch_criterion(criterion)
        run.trace_eval(model, (X, Y))
        for x, y in run.watch_loader(DataLoader(TensorDataset(X[members], Y[members]), batch_size=3)):
            watched(model(x), y).backward()
        run.trace_eval(model, (X, Y))
        run.evaluate(model, (X, Y))
    right = (model(X).argmax(1) == Y).numpy()
    out = ~np.isin(np.arange(20), [4, 9, *members])
    told = lake.run("h", "target").info
    assert (told.train_accuracy, told.test_accuracy) == (right[members].mean(), right[out].mean())
    counted = "select count(distinct sample_id) from signals where experiment = 'h'"
    assert lake.sql(counted).item() == 18
    assert lake.sql("select sample_id from traces where experiment = 'h' and sample_id in (4, 9)").is_empty()


def test_imports_leave_it_out(lake: Lake, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keep = np.ones((3, 12), dtype=bool)
    arrays = {
        "labels": np.arange(12) % 2,
        "logits": rng.normal(size=(3, 12, 2)),
        "traces": rng.random((3, 12, 3)),
    }
    for count in (1, 3):
        part = {name: values if name == "labels" else values[:count] for name, values in arrays.items()}
        np.savez(tmp_path / f"{count}.npz", keep=keep[:count], **part)
    import_arrays(lake, "i", tmp_path / "1.npz")
    forget(lake, "i", [4])
    runs = import_arrays(lake, "i", tmp_path / "3.npz")
    assert [run.members for run in runs] == [11, 11, 11]
    rows = lake.sql(
        "select run, count(*) filter (sample_id = 4), count(*) from signals where experiment = 'i' group by run"
    )
    assert [row[1:] for row in rows.rows()] == [(0, 11)] * 3
    assert verify(lake).remembered == ()
