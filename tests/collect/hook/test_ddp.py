"""The hook in two processes that train one model: every sample's value arrives, and one of them writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from losslake.store.lake import Lake
from two_processes import check_two_epochs, kept_by_both, run_both

SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from losslake.collect.grad_norms.eval_pass import per_sample_grad_norms
from losslake.collect.hook.start import start_run
from losslake.store.lake import Lake

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
x, y = torch.randn(30, 5), torch.arange(30) % 3
members = np.arange(21)  # an odd number: the sampler pads
sampler = DistributedSampler(range(21), seed=4)
data = DataLoader(TensorDataset(x[:21], y[:21], torch.arange(21)), batch_size=4, sampler=sampler)

def record_losses(run, model, optimizer):
    loader = run.watch_loader(data)
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    run.trace_eval(model, (x, y))
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        for a, b, at in loader:
            out = model(a)
            yield epoch, at, nn.functional.cross_entropy(out.detach(), b, reduction="none")
            optimizer.zero_grad()
            criterion(out, b).backward()
            optimizer.step()
        run.trace_eval(model, (x, y))
    run.evaluate(model, (x, y))

def record_norms(run, model, optimizer):
    loader = run.watch_loader(data)
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    again = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    run.watch_model(model)
    for a, b, at in loader:
        again.load_state_dict(model.module.state_dict())
        yield 1, at, per_sample_grad_norms(again, a, b).norms
        optimizer.zero_grad()
        criterion(model(a), b).backward()
        optimizer.step()

for name, record, norm in (("losses", record_losses, nn.BatchNorm1d(8)), ("norms", record_norms, nn.LayerNorm(8))):
    model = DistributedDataParallel(nn.Sequential(nn.Linear(5, 8), norm, nn.Linear(8, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with start_run(Lake.open(folder / "lake"), name, samples=y, members=members) as run:
        kept = list(record(run, model, optimizer))
    torch.save(kept, folder / f"{name}-{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left that recorded the losses of a training, and then gradient norms of another."""
    folder = tmp_path_factory.mktemp("both")
    run_both(SCRIPT, folder)
    return folder


def test_losses(folder: Path) -> None:
    check_two_epochs(Lake.open(folder / "lake"), "losses", kept_by_both(folder, "losses"))


def test_gradient_norms(folder: Path) -> None:
    seen = kept_by_both(folder, "norms")
    query = "select sample_id, grad_norm from traces where experiment = 'norms' order by sample_id"
    rows = Lake.open(folder / "lake").sql(query)
    assert rows["sample_id"].to_list() == list(range(21))
    for sample, norms in rows.iter_rows():
        np.testing.assert_allclose(norms[1], np.mean(seen[sample, 1]), rtol=1e-4)
