"""Shadow runs of a loop of one's own: balanced, laid down once, skipped where they are committed, split over jobs."""

from __future__ import annotations

from pathlib import Path

import losslake
import numpy as np
import pytest
import torch
from losslake.api import Lake
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.store.errors import InvalidOption, NotEnoughData, NotFound
from torch import nn
from torch.nn import functional

N = 24
torch.manual_seed(0)
X, Y = torch.randn(N, 5), torch.arange(N) % 2
POOL = ["audit"] * 20 + ["population"] * 4


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = losslake.open(tmp_path / "lake")
    with lake.start_run("e", samples={"label": Y, "pool": POOL}, members=range(10)) as run:
        run.evaluate(trained(run.members, 1), (X, Y))
    return lake


def trained(members: np.ndarray, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    model = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(model(X[members]), Y[members]).backward()
        optimizer.step()
    return model


def train(run: RecordedRun) -> None:
    run.evaluate(trained(run.members, run.seed or 0), (X, Y))


def membership(lake: Lake) -> np.ndarray:
    """Bool (runs, samples), as stored."""
    rows = lake.sql(
        "select run, sample_id, member from signals where run like 'shadow%' order by run, sample_id"
    )
    return rows["member"].to_numpy().reshape(-1, N)


def test_members_are_balanced_and_what_is_stored_is_what_the_model_says(lake: Lake) -> None:
    seen = {}
    for run in lake.shadow_runs("e", count=8):
        with run:
            train(run)
        seen[run.name] = (run.members, run.seed)
    assert list(seen) == [f"shadow-{number:04d}" for number in range(8)]
    assert len({seed for _, seed in seen.values()}) == 8
    kept = membership(lake)
    assert np.array_equal(kept, np.stack([members for members, _ in seen.values()]))
    assert kept[:, :20].sum(0).tolist() == [4] * 20
    assert not kept[:, 20:].any()
    losses = lake.sql("select loss from signals where run = 'shadow-0003' order by sample_id")[
        "loss"
    ].to_numpy()
    model = trained(*seen["shadow-0003"])  # type: ignore[arg-type]
    with torch.no_grad():
        assert losses == pytest.approx(
            functional.cross_entropy(model(X), Y, reduction="none").numpy(), abs=1e-6
        )
    assert lake.run("e", "shadow-0003").info.extra["design"]["design"] == "balanced"
    assert lake.analyze("lira", experiment="e").scores.frame["score"].null_count() < N


def test_what_is_committed_is_skipped_and_what_failed_is_done_again(lake: Lake) -> None:
    def some() -> None:
        for number, run in enumerate(lake.shadow_runs("e", count=6)):
            if number == 2:
                raise RuntimeError("out of memory")
            train(run)  # without a block

    with pytest.raises(RuntimeError):
        some()
    done = [run.run for run in lake.runs("e", role="shadow")]
    assert done == ["shadow-0000", "shadow-0001"]

    def broken() -> None:
        for run in lake.shadow_runs("e", count=6):
            with run:
                train(run)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    rest = []
    for run in lake.shadow_runs("e", count=6):
        rest.append(run.name)
        train(run)
    assert rest == [f"shadow-{number:04d}" for number in range(2, 6)]
    assert membership(lake)[:, :20].sum(0).tolist() == [3] * 20
    assert list(lake.shadow_runs("e", count=6)) == []
    for run in lake.shadow_runs("e", count=10):  # a block of its own
        train(run)
    assert membership(lake)[6:, :20].sum(0).tolist() == [2] * 20


def test_shards_are_all_runs_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(**options: str) -> list[str]:
        found = []
        for run in lake.shadow_runs("e", count=7, **options):  # type: ignore[arg-type]
            found.append(run.name)
            run.discard()
        return found

    parts = [names(shard=f"{part}/3") for part in (1, 2, 3)]
    assert parts[0] == ["shadow-0000", "shadow-0003", "shadow-0006"]
    assert sorted(name for part in parts for name in part) == names()
    monkeypatch.setenv("LOSSLAKE_SHARD", "2/3")
    assert names() == parts[1]


def test_messages_about_missing_shadows_know_whose_loop_it_is(lake: Lake) -> None:
    with pytest.raises(NotEnoughData, match=r"for run in lake\.shadow_runs\('e', count=32\)"):
        lake.analyze("lira", experiment="e")


def test_wrong_uses(lake: Lake) -> None:
    with pytest.raises(NotFound):
        lake.shadow_runs("nobody", count=2)
    with pytest.raises(InvalidOption, match="shard"):
        lake.shadow_runs("e", count=2, shard="3/2")
    with pytest.raises(InvalidOption, match="even number"):
        lake.shadow_runs("e", count=3, design="paired")
    lake.shadow_runs("e", count=2)
    with pytest.raises(InvalidOption, match="laid out with"):
        lake.shadow_runs("e", count=2, design="bernoulli")
