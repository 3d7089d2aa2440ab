"""The Lightning callback: what it records is what each step computed, and Lightning does not notice."""

from __future__ import annotations

import copy
import logging
import os
import shlex
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from recorded import check_seen, trace
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from two_processes import check_two_epochs, kept_by_both
from warm import HANGS, LIGHTNING, warm_python

lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra losslake[lightning]")

import losslake  # noqa: E402

N = 60
DIGITS = load_digits()
X = torch.tensor(DIGITS.data[:N] / 16, dtype=torch.float32)
Y = torch.tensor(DIGITS.target[:N])
MEMBERS = np.random.default_rng(0).permutation(N)[
    :31
]  # in this order in the data set; the last batch is short


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are far too small for more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


class Digits(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """An MLP with dropout that notes what each training step computed: the oracle."""

    def __init__(self, returns: str = "loss", manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 10))
        self.loss_fn: Any = nn.CrossEntropyLoss(weight=torch.linspace(1, 2, 10))
        self.returns = returns
        self.automatic_optimization = not manual
        self.seen: list[tuple[int, float]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch[0], batch[1]
        logits = self(x)
        loss = self.loss_fn(logits, y)
        self.note(x, logits)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return {"loss": loss, "logits": logits, "labels": y} if self.returns == "dict" else loss

    @torch.compiler.disable
    def note(self, x: torch.Tensor, logits: torch.Tensor) -> None:
        for row, z in zip(x.detach(), logits.detach().float(), strict=True):
            number = int((X - row.float()).abs().sum(1).argmin())
            self.seen.append((number, float(cross_entropy(z[None], Y[number : number + 1]))))

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss_fn(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


class Module(lightning.LightningDataModule):  # type: ignore[misc,name-defined]
    def train_dataloader(self) -> DataLoader[Any]:
        return loader()


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[MEMBERS], Y[MEMBERS]), **{"batch_size": 8, "shuffle": True, **options})


def trainer(tmp_path: Path, callbacks: list[Any], **options: Any) -> Any:
    return lightning.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        **{"max_epochs": 2, **options},
    )  # fmt: skip


def fit(tmp_path: Path, module: Digits, callbacks: list[Any], *, data: Any = None, **options: Any) -> Any:
    torch.manual_seed(7)
    made = trainer(tmp_path, callbacks, **options)
    if isinstance(data, lightning.LightningDataModule):
        made.fit(module, datamodule=data)
    else:
        made.fit(module, data if data is not None else loader(), val_dataloaders=loader(shuffle=False))
    return made


def losses_of(module: Digits) -> np.ndarray:
    inner = copy.deepcopy(module.net).eval()
    with torch.no_grad():
        return cross_entropy(inner(X), Y, reduction="none").numpy()


@pytest.mark.parametrize(
    ("criterion", "returns", "options"),
    [
        ("loss_fn", "loss", {}),
        (None, "dict", {}),
        ("loss_fn", "loss", {"accumulate_grad_batches": 3}),
        (None, "dict", {"precision": "bf16-mixed"}),
        ("loss_fn", "loss", {"data": Module()}),
        ("loss_fn", "loss", {"reload_dataloaders_every_n_epochs": 1}),
        ("loss_fn", "loss", {"data": "workers"}),
    ],
)
def test_the_trace_is_what_each_step_computed_and_training_is_the_same(
    lake: Lake, tmp_path: Path, criterion: str | None, returns: str, options: dict[str, Any]
) -> None:
    if options.get("data") == "workers":
        options = {"data": loader(num_workers=2, persistent_workers=True)}
    plain = Digits(returns)
    fit(tmp_path, plain, [], **options)
    after = torch.rand(1)

    module = Digits(returns)
    before, loss_fn, keys = losses_of(module), module.loss_fn, list(module.state_dict())
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        callback = losslake.lightning_callback(run, criterion=criterion, data=(X, Y), eval_trace=True)
        fit(tmp_path, module, [callback, Keys(keys)], **options)
        assert module.loss_fn is loss_fn
    assert torch.equal(torch.rand(1), after), "the random stream goes on as it would have"
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    check_seen(lake, module.seen, MEMBERS)
    eval_trace = np.array(trace(lake, "eval")["loss"].to_list())
    assert eval_trace.shape == (N, 3)
    np.testing.assert_allclose(eval_trace[:, 0], before, rtol=1e-5)
    np.testing.assert_allclose(eval_trace[:, 2], losses_of(module), rtol=1e-5)
    found = lake.sql("select loss, logits from signals order by sample_id")
    np.testing.assert_allclose(found["loss"], losses_of(module), rtol=1e-5)
    assert lake.runs("e")[0].info.epochs == 2


class Keys(lightning.Callback):  # type: ignore[misc,name-defined]
    """Checkpoints keep their keys while the criterion is watched, and copies of the module can be made."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert list(pl_module.state_dict()) == self.keys
        assert type(copy.deepcopy(pl_module.loss_fn)) is nn.CrossEntropyLoss


@pytest.mark.parametrize("kind", ["manual", "function", "method", "compiled", "16-true", "overfit"])
def test_other_ways_to_train(lake: Lake, tmp_path: Path, kind: str) -> None:
    module = Digits(manual=kind == "manual")
    options: dict[str, Any] = {"overfit_batches": 2} if kind == "overfit" else {}
    if kind == "function":
        module.__delattr__("loss_fn")
        module.loss_fn = cross_entropy
    if kind == "16-true":
        options["precision"] = "bf16-true"
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        name = "net_loss" if kind == "method" else "loss_fn"
        callback = losslake.lightning_callback(run, criterion=name, data=(X, Y))
        trained: Any = WithMethod() if kind == "method" else module
        fit(
            tmp_path,
            torch.compile(trained, backend="eager") if kind == "compiled" else trained,
            [callback],
            **options,
        )
    if kind == "overfit":
        rows = trace(lake)
        assert sorted(rows["sample_id"].to_list()) == sorted(MEMBERS[:16].tolist()), (
            "the sampler that was put in"
        )
        return
    check_seen(lake, trained.seen, MEMBERS)
    if kind == "function":
        assert module.__dict__["loss_fn"] is cross_entropy


class WithMethod(Digits):
    def net_loss(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0])
        self.note(batch[0], logits)
        return self.net_loss(logits, batch[1])


def test_gradient_norms(lake: Lake, tmp_path: Path) -> None:
    module = Digits()
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        run.watch_model(module.net)
        fit(
            tmp_path,
            module,
            [losslake.lightning_callback(run, criterion="loss_fn")],
            accumulate_grad_batches=2,
        )
    norms = lake.sql("select grad_norm from traces where source = 'train'")["grad_norm"]
    assert all(norm > 0 for row in norms for norm in row[1:])


def test_ids_given_and_a_limit_of_batches(lake: Lake, tmp_path: Path) -> None:
    module = Digits()
    data = DataLoader(TensorDataset(X, Y), batch_size=8)
    with start_run(lake, "e", samples=Y, members=np.arange(N)) as run:
        callback = losslake.lightning_callback(run, criterion="loss_fn", ids=np.arange(N))
        fit(tmp_path, module, [callback], data=data, limit_train_batches=3)
    rows = trace(lake)
    assert rows["loss"].list.get(1).is_not_null().sum() == 24
    got = dict(rows.select("sample_id", pl.col("loss").list.get(2)).iter_rows())
    for number, loss in module.seen[24:]:
        assert got[number] == pytest.approx(loss, rel=1e-5)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X[0], Y[0])])


class Tagged(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> Any:
        return X[position], Y[position]


class Iterates(Digits):
    def training_step(self, dataloader_iter: Any) -> Any:
        batch = next(dataloader_iter)[0]
        return self.loss_fn(self(batch[0]), batch[1])


class Silent(Digits):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            Digits,
            {"criterion": None},
            "returned a mapping of loss; let it return a dict.*criterion='loss_fn'",
        ),
        (Digits, {"criterion": "loss"}, "has no 'loss'"),
        (Digits, {"criterion": "seen"}, "no function, but list"),
        (Silent, {}, "did not call 'loss_fn'"),
        (Iterates, {}, "dataloader_iter"),
        (Digits, {"data": DataLoader(Stream())}, "IterableDataset"),
        (Digits, {"data": DataLoader(Tagged())}, "4 records.*31 members"),
        (Digits, {"data": [loader(), loader()]}, "one torch DataLoader, not list"),
        (Digits, {"data": "watched"}, "plain DataLoader"),
    ],
)
def test_wrong_uses(
    lake: Lake, tmp_path: Path, make: Callable[[], Digits], options: dict[str, Any], message: str
) -> None:
    options = {"criterion": "loss_fn", **options}
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    data = options.get("data", loader())
    if data == "watched":
        data = run.watch_loader(loader())
    module = make()
    before = module.loss_fn
    callback = losslake.lightning_callback(run, criterion=options["criterion"])
    with pytest.raises((InvalidInput, InvalidOption), match=message):
        fit(tmp_path, module, [callback], data=data)
    run.discard()
    assert module.loss_fn is before
    assert lake.runs("e") == []


def test_eval_trace_without_data(lake: Lake) -> None:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    with pytest.raises(InvalidOption, match="data="):
        losslake.lightning_callback(run, eval_trace=True)
    run.discard()


def test_going_on_with_a_training_is_refused(lake: Lake, tmp_path: Path) -> None:
    module = Digits()
    first = fit(tmp_path, module, [])
    first.save_checkpoint(tmp_path / "saved.ckpt")
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    again = trainer(tmp_path, [losslake.lightning_callback(run, criterion="loss_fn")], max_epochs=3)
    with pytest.raises(InvalidInput, match="resumes at step 8"):
        again.fit(module, loader(), ckpt_path=tmp_path / "saved.ckpt")
    run.discard()


def test_an_exception_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    class Fails(lightning.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("stop")

    module = Digits()

    def interrupted() -> None:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            fit(tmp_path, module, [losslake.lightning_callback(run, criterion="loss_fn"), Fails()])

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert lake.experiments() == []  # nor the experiment that was made for the run
    assert type(module.loss_fn) is nn.CrossEntropyLoss


DDP = """
import logging, sys, warnings
import numpy as np, torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import losslake

warnings.simplefilter("ignore")
torch.set_num_threads(1)
folder, sys.executable = sys.argv[1:]
torch.manual_seed(0)
x, y = torch.randn(30, 5), torch.arange(30) % 3

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 3)
        self.loss_fn = nn.CrossEntropyLoss()
        self.kept = []
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        a, b, at = batch
        out = self(a)
        self.kept.append((self.current_epoch + 1, at, nn.functional.cross_entropy(out.detach(), b, reduction="none")))
        return self.loss_fn(out, b)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

module = Module()
with losslake.open(folder + "/lake").start_run("e", samples=y, members=np.arange(21)) as run:
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[losslake.lightning_callback(run, criterion="loss_fn", data=(x, y), eval_trace=True)],
    )
    data = TensorDataset(x[:21], y[:21], torch.arange(21))
    trainer.fit(module, DataLoader(data, batch_size=4, shuffle=True))
torch.save(module.kept, f"{folder}/kept-{trainer.global_rank}.pt")
"""


def test_two_processes(tmp_path: Path) -> None:
    """Lightning exchanges the sampler: each process trains on its half, and what is recorded is what it trained on."""
    Lake.open(tmp_path / "lake", create=True)
    (tmp_path / "script.py").write_text(DDP)
    python = tmp_path / "python"  # what Lightning starts the second process with
    python.write_text(f'#!/bin/sh\nexec {shlex.join(warm_python(LIGHTNING))} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [str(python), "script.py", str(tmp_path), str(python)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    check_two_epochs(Lake.open(tmp_path / "lake"), "e", kept_by_both(tmp_path, "kept"))
