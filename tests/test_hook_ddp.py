"""The hook in two processes that train one model: every sample's value arrives, and one of them writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from losslake.store.lake import Lake

SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from losslake.collect.hook import start_run
from losslake.store.lake import Lake

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
x, y = torch.randn(30, 5), torch.arange(30) % 3
members = np.arange(21)  # an odd number: the sampler pads
inner = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
model = DistributedDataParallel(inner)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sampler = DistributedSampler(range(21), seed=4)
with start_run(Lake.open(folder / "lake", create=True), "e", samples=y, members=members) as run:
    loader = run.watch_loader(DataLoader(TensorDataset(x[:21], y[:21], torch.arange(21)), batch_size=4, sampler=sampler))
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    run.trace_eval(model, (x, y))
    kept = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        for a, b, at in loader:
            out = model(a)
            kept.append((epoch, at, nn.functional.cross_entropy(out.detach(), b, reduction="none")))
            optimizer.zero_grad()
            criterion(out, b).backward()
            optimizer.step()
        run.trace_eval(model, (x, y))
    run.evaluate(model, (x, y))
torch.save(kept, folder / f"kept-{rank}.pt")
distributed.destroy_process_group()
"""


def run_twice(script: str, folder: Path) -> dict[tuple[int, int], list[float]]:
    """Run it as two processes: what they kept of each (sample, epoch)."""
    Lake.open(folder / "lake", create=True)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    for process in started:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    seen: dict[tuple[int, int], list[float]] = {}
    for rank in (0, 1):
        for epoch, positions, losses in torch.load(folder / f"kept-{rank}.pt", weights_only=True):
            for position, loss in zip(positions.tolist(), losses.tolist(), strict=True):
                seen.setdefault((position, epoch), []).append(loss)
    return seen


def test_two_processes(tmp_path: Path) -> None:
    seen = run_twice(SCRIPT, tmp_path)
    assert len(seen) == 42
    assert sum(len(each) for each in seen.values()) == 44, "the sampler padded once an epoch"
    lake = Lake.open(tmp_path / "lake")
    assert [run.run for run in lake.runs("e")] == ["target"]
    rows = lake.sql("select sample_id, loss from traces where source = 'train' order by sample_id")
    assert rows["sample_id"].to_list() == list(range(21))
    for sample, loss in rows.iter_rows():
        for epoch in (1, 2):
            np.testing.assert_allclose(loss[epoch], np.mean(seen[sample, epoch]), rtol=1e-5)
    assert lake.sql("select count(*) from signals").item() == 30
    assert lake.sql("select min(len(loss)) from traces where source = 'eval'").item() == 3


NORMS = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from losslake.collect.grad_norm_pass import per_sample_grad_norms
from losslake.collect.hook import start_run
from losslake.store.lake import Lake

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
x, y = torch.randn(30, 5), torch.arange(30) % 3
inner = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))
model = DistributedDataParallel(inner)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sampler = DistributedSampler(range(21), seed=4)
with start_run(Lake.open(folder / "lake", create=True), "e", samples=y, members=np.arange(21)) as run:
    loader = run.watch_loader(DataLoader(TensorDataset(x[:21], y[:21], torch.arange(21)), batch_size=4, sampler=sampler))
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    kept = []
    again = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    run.watch_model(model)
    for a, b, at in loader:
        again.load_state_dict(inner.state_dict())
        kept.append((1, at, per_sample_grad_norms(again, a, b).norms))
        optimizer.zero_grad()
        criterion(model(a), b).backward()
        optimizer.step()
torch.save(kept, folder / f"kept-{rank}.pt")
distributed.destroy_process_group()
"""


def test_gradient_norms_of_two_processes(tmp_path: Path) -> None:
    seen = run_twice(NORMS, tmp_path)
    rows = Lake.open(tmp_path / "lake").sql("select sample_id, grad_norm from traces order by sample_id")
    assert rows["sample_id"].to_list() == list(range(21))
    for sample, norms in rows.iter_rows():
        np.testing.assert_allclose(norms[1], np.mean(seen[sample, 1]), rtol=1e-4)
