"""The hook: what it records is what each step saw, and the training does not notice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from losslake.collect.hook import asked_model
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

N, F, C = 40, 6, 3


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def make_data(n: int = N, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, F, generator=generator), torch.randint(0, C, (n,), generator=generator)


X, Y = make_data()
MEMBERS = np.arange(N) % 2 == 0


def make_model(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(F, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, C)
    )


def member_loader(**options: Any) -> DataLoader[Any]:
    options = {"batch_size": 6, "shuffle": True, **options}
    return DataLoader(TensorDataset(X[MEMBERS], Y[MEMBERS]), **options)


def train(model: nn.Module, loader: Any, criterion: Any, epochs: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()


def trace(lake: Lake, run: str, source: str = "train") -> pl.DataFrame:
    return lake.sql(
        "select sample_id, member, loss, margin from traces where run = $run and source = $source order by sample_id",
        {"run": run, "source": source},
    )


class Tagged(Dataset[tuple[torch.Tensor, int]]):
    """Records that say where they stand: x[0] is the position."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(position)]), position % C


class TaggedMany(Tagged):
    def __getitems__(self, positions: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [self[position] for position in positions]


class EagerBatches:
    """A batch sampler that draws its random numbers when iter() is called, not at the first batch."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(20).reshape(5, 4).tolist())

    def __len__(self) -> int:
        return 5


class EpochSampler:
    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(20, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def __len__(self) -> int:
        return 20


def keep_first(items: list[Any]) -> dict[str, Any]:
    return {"picture": torch.stack([x for x, _ in items]), "names": [str(y) for _, y in items]}


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": lambda: DataLoader(Tagged(20), batch_size=7),
    "shuffled": lambda: DataLoader(Tagged(20), batch_size=7, shuffle=True),
    "drop last": lambda: DataLoader(Tagged(20), batch_size=7, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(
        Tagged(20), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "batch sampler": lambda: DataLoader(
        Tagged(20), batch_sampler=BatchSampler(RandomSampler(range(20)), 6, False)
    ),
    "eager batch sampler": lambda: DataLoader(Tagged(20), batch_sampler=EagerBatches()),
    "eager batch sampler, workers": lambda: DataLoader(
        Tagged(20), batch_sampler=EagerBatches(), num_workers=2
    ),
    "replacement": lambda: DataLoader(
        Tagged(20), batch_size=8, sampler=RandomSampler(range(20), replacement=True, num_samples=30)
    ),
    "one by one": lambda: DataLoader(Tagged(20), batch_size=None, shuffle=True),
    "fetches many": lambda: DataLoader(TaggedMany(20), batch_size=6, shuffle=True),
    "custom collate": lambda: DataLoader(Tagged(20), batch_size=6, shuffle=True, collate_fn=keep_first),
    "workers": lambda: DataLoader(Tagged(20), batch_size=3, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(
        Tagged(20), batch_size=3, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=3
    ),
}


def first_of(batch: Any) -> torch.Tensor:
    x = batch["picture"] if isinstance(batch, dict) else batch[0]
    return x.reshape(-1)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_are_the_same_and_their_ids_right(
    lake: Lake, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    plain = LOADERS[kind]()
    want = [batch for _ in range(3) for batch in plain]
    after = torch.rand(1)

    told: list[np.ndarray] = []
    monkeypatch.setattr(RecordedRun, "batch", lambda self, ids: told.append(np.asarray(ids)))
    run = start_run(lake, "e", samples=np.arange(40) % C, members=np.arange(20) * 2)
    torch.manual_seed(3)
    loader = LOADERS[kind]()
    watched = run.watch_loader(loader, ids=np.arange(20) * 2)
    assert len(watched) == len(loader)
    assert watched.dataset is loader.dataset
    got = []
    for _ in range(3):
        for batch in watched:
            # The ids come before the batch does, and are those of its records.
            assert told[-1].tolist() == (first_of(batch) * 2).long().tolist()
            got.append(batch)
    assert len(told) == len(got) == len(want)
    assert same(got, want)
    assert torch.equal(torch.rand(1), after), "the random stream moved"
    run.discard()


def test_set_epoch_reaches_the_sampler(lake: Lake) -> None:
    run = start_run(lake, "e", samples=np.zeros(20, dtype=int), members=np.ones(20, dtype=bool))
    loader = run.watch_loader(DataLoader(Tagged(20), batch_size=20, sampler=EpochSampler()))
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append([first_of(batch).tolist() for batch in loader])
    assert orders[0] == orders[2] != orders[1]
    run.discard()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_weights_are_bitwise_those_without_the_hook(lake: Lake, dropout: float) -> None:
    plain = make_model(dropout)
    torch.manual_seed(7)
    train(plain, member_loader(), nn.CrossEntropyLoss(label_smoothing=0.1))

    hooked = make_model(dropout)
    data = TensorDataset(X, Y)
    torch.manual_seed(7)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        loader = run.watch_loader(member_loader())
        criterion = run.watch_criterion(nn.CrossEntropyLoss(label_smoothing=0.1))
        run.trace_eval(hooked, data)
        for _ in range(3):
            train(hooked, loader, criterion, epochs=1)
            run.trace_eval(hooked, data)
        run.evaluate(hooked, data)
    assert same(dict(plain.state_dict()), dict(hooked.state_dict()))


def test_the_trace_is_what_each_step_saw(lake: Lake) -> None:
    """Oracle: the clean cross-entropy and margin of every step, kept by hand in float64."""
    want: dict[tuple[int, int], tuple[float, float]] = {}
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    order = np.flatnonzero(MEMBERS)[::-1].copy()  # the data set is in an order of its own
    data = TensorDataset(X[order], Y[order], torch.arange(len(order)))
    with start_run(lake, "e", samples={"label": Y}, members=order, seed=3, recipe={"lr": 0.2}) as run:
        loader = run.watch_loader(DataLoader(data, batch_size=6, shuffle=True))
        criterion = run.watch_criterion(nn.CrossEntropyLoss(label_smoothing=0.3))
        for epoch in (1, 2):
            for x, y, at in loader:
                logits = model(x)
                wide = logits.detach().double()
                for row, position in enumerate(at.tolist()):
                    others = torch.cat([wide[row, : y[row]], wide[row, y[row] + 1 :]])
                    loss = (wide[row].logsumexp(0) - wide[row, y[row]]).item()
                    want[int(order[position]), epoch] = loss, (wide[row, y[row]] - others.max()).item()
                optimizer.zero_grad()
                criterion(logits, y).backward()
                optimizer.step()
            with torch.no_grad():  # validation by the same criterion
                criterion(model(X), Y)
            criterion(model(X), Y)  # and once more with gradients on, but no batch noted
    rows = trace(lake, "target")
    assert rows["sample_id"].to_list() == sorted(order.tolist())
    assert rows["member"].all()
    for sample, loss, margin in rows.select("sample_id", "loss", "margin").iter_rows():
        assert len(loss) == 3
        assert loss[0] is None, "nothing was recorded before training"
        for epoch in (1, 2):
            assert loss[epoch] == pytest.approx(want[sample, epoch][0], rel=1e-4)
            assert margin[epoch] == pytest.approx(want[sample, epoch][1], rel=1e-4, abs=1e-5)
    info = lake.run("e", "target").info
    assert (info.seed, info.recipe, info.epochs, info.role) == (3, {"lr": 0.2}, 2, "target")
    assert info.seconds is not None
    assert info.seconds > 0


def test_evaluate_and_eval_trace_are_the_model_in_eval_mode(lake: Lake) -> None:
    model = make_model(dropout=0.5)
    model[1].eval()  # a frozen BatchNorm must stay frozen
    pools = ["population" if i >= 36 else "audit" for i in range(N)]
    with start_run(lake, "e", samples={"label": Y, "pool": pools}, members=np.arange(0, 30)) as run:
        run.trace_eval(model, (X, Y))
        run.evaluate(model, TensorDataset(X, Y))
    assert [module.training for module in model] == [True, False, True, True, True]
    model.eval()
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(X), Y, reduction="none").numpy()
        correct = (model(X).argmax(1) == Y).numpy()
    rows = lake.sql("select sample_id, member, label, loss, correct, logits from signals order by sample_id")
    np.testing.assert_allclose(rows["loss"].to_numpy(), losses, rtol=1e-5)
    assert rows["correct"].to_list() == correct.tolist()
    assert rows["label"].to_list() == Y.tolist()
    assert rows["member"].sum() == 30
    evaluated = trace(lake, "target", "eval")
    assert evaluated["sample_id"].to_list() == list(range(36)), "the population has no trace"
    np.testing.assert_allclose([each[0] for each in evaluated["loss"]], losses[:36], rtol=1e-5)
    info = lake.run("e", "target").info
    assert info.train_accuracy == pytest.approx(correct[:30].mean())
    assert info.test_accuracy == pytest.approx(correct[30:36].mean())


def test_flip_query(lake: Lake) -> None:
    pictures = torch.randn(8, 1, 3, 3)
    labels = torch.arange(8) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with start_run(lake, "e", samples=labels, members=np.arange(4), queries="flip,original") as run:
        run.evaluate(model, (pictures, labels))
    rows = lake.sql("select query, loss from signals order by query, sample_id")
    mirrored = torch.from_numpy(pictures.numpy()[..., ::-1].copy())
    with torch.no_grad():
        want = [nn.functional.cross_entropy(model(x), labels, reduction="none") for x in (pictures, mirrored)]
    assert rows["query"].to_list() == [0] * 8 + [1] * 8
    np.testing.assert_allclose(rows["loss"].to_numpy(), torch.cat(want).numpy(), rtol=1e-5)


def test_mixup_takes_the_label_from_the_table(lake: Lake) -> None:
    model = make_model()
    soft = nn.functional.one_hot(Y, C).float() * 0.6 + 0.4 / C
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        run.batch(torch.tensor([4, 2, 0]))
        logits = model(X[[4, 2, 0]])
        run.watch_criterion(nn.CrossEntropyLoss())(logits, soft[[4, 2, 0]])
        run.end_epoch()
    rows = trace(lake, "target")
    want = nn.functional.cross_entropy(logits.detach(), Y[[4, 2, 0]], reduction="none")
    assert rows["sample_id"].to_list() == [0, 2, 4]
    np.testing.assert_allclose([row[1] for row in rows["loss"]], want.flip(0).numpy(), rtol=1e-5)


def test_soft_targets_without_labels(lake: Lake) -> None:
    table = {"label": np.array([None] * 4, dtype=object).tolist(), "name": list("abcd")}
    import pyarrow as pa

    samples = pa.table({"label": pa.array(table["label"], pa.int32()), "name": table["name"]})
    run = start_run(lake, "e", samples=samples, members=[0, 1])
    run.batch([0, 1])
    with pytest.raises(InvalidInput, match="no labels"):
        run.watch_criterion(nn.CrossEntropyLoss())(
            torch.zeros(2, C, requires_grad=True), torch.full((2, C), 1 / C)
        )
    run.discard()


def test_binary_criterion_with_one_logit(lake: Lake) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    logits = torch.tensor([[0.5], [2.0], [-1.0], [-3.0]], requires_grad=True)
    with start_run(lake, "e", samples=labels, members=np.ones(4, dtype=bool)) as run:
        run.batch(np.arange(4))
        run.watch_criterion(nn.BCEWithLogitsLoss())(logits, labels.float()[:, None])
        run.end_epoch()
    want = nn.functional.binary_cross_entropy_with_logits(
        logits.detach()[:, 0], labels.float(), reduction="none"
    )
    np.testing.assert_allclose([row[1] for row in trace(lake, "target")["loss"]], want.numpy(), rtol=1e-5)


def test_the_criterion_returns_the_very_object(lake: Lake) -> None:
    made: list[Any] = []

    def criterion(output: torch.Tensor, target: torch.Tensor, weight: float = 1.0) -> Any:
        # A sum of the outputs is no loss of classes, and refused.
        made.append({"loss": nn.functional.cross_entropy(output, target) * weight, "target": target})
        return made[-1]

    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    watched = run.watch_criterion(criterion)
    run.batch([0, 2])
    assert (
        watched(torch.zeros(2, C, requires_grad=True), Y[[0, 2]], weight=2.0) is made[0]
    )  # later ones are losslake's own calls
    module = nn.CrossEntropyLoss(weight=torch.ones(C))
    assert [id(p) for p in run.watch_criterion(module).buffers()] == [id(module.weight)]
    run.discard()


def test_under_autocast_and_compile(lake: Lake) -> None:
    model = make_model()
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())

        @torch.compile(backend="eager")
        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return criterion(model(x), y)

        for start in (0, 8):
            ids = np.arange(start, start + 8, 2)
            run.batch(ids)
            loss_of(X[ids], Y[ids]).backward()
        run.end_epoch()
    assert trace(lake, "target")["sample_id"].to_list() == list(range(0, 16, 2))


def test_a_break_ends_the_epoch_and_the_rest_is_null(lake: Lake) -> None:
    model = make_model()
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        loader = run.watch_loader(member_loader(shuffle=False))
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for x, y in loader:
            criterion(model(x), y)
            break
        for x, y in loader:
            criterion(model(x), y)
        for _ in loader:  # a pass without the criterion is no epoch
            pass
    rows = trace(lake, "target")
    assert rows["loss"].list.len().unique().to_list() == [3]
    first = [row[1] is not None for row in rows["loss"]]
    assert first == [True] * 6 + [False] * 14
    assert lake.run("e", "target").info.epochs == 2


def test_gradient_accumulation(lake: Lake) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for step, (x, y) in enumerate(run.watch_loader(member_loader(batch_size=5))):
            (criterion(model(x), y) / 2).backward()
            if step % 2:
                optimizer.step()
    assert trace(lake, "target")["loss"].list.get(1).null_count() == 0


def test_batches_that_do_not_belong_to_their_ids(lake: Lake) -> None:
    """A loop that fetches one batch ahead: the targets give it away, and nothing is committed."""
    model = make_model()

    def fetched_ahead() -> None:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            ahead = None
            for batch in run.watch_loader(member_loader(batch_size=5)):
                if ahead is not None:
                    criterion(model(ahead[0]), ahead[1])
                ahead = batch

    with pytest.raises(InvalidInput, match=r"epoch 1 .* run\.batch\(ids\)"):
        fetched_ahead()
    assert lake.experiments() == []  # nor the experiment that was made for the run


def test_a_batch_of_another_size(lake: Lake) -> None:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    run.batch([0, 2, 4])
    with pytest.raises(InvalidInput, match="2 rows, but the batch holds 3"):
        criterion(torch.zeros(2, C, requires_grad=True), Y[:2])
    run.discard()


def files_of(lake: Lake, folder: str) -> list[str]:
    return lake.files.list(folder)


def test_evaluate_piece_by_piece_records_the_same(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are looked at some batches at a time, and a NaN in a later one leaves the model as it was."""
    x, y = make_data(1_300)
    model = make_model(dropout=0.5)
    for name in ("whole", "pieces"):
        with start_run(lake, "e", samples=y, members=np.arange(600), run=name) as run:
            run.evaluate(model, (x, y))
        monkeypatch.setattr(asked_model, "_PIECE_BYTES", 1)
    whole, pieces = (lake.run_rows(lake.run("e", name), "signals")[0] for name in ("whole", "pieces"))
    assert pieces.equals(whole)
    infos = [lake.run("e", name).info for name in ("whole", "pieces")]
    assert infos[0].test_accuracy == infos[1].test_accuracy

    x[1_200] = torch.nan
    run = start_run(lake, "e", members=np.arange(600), run="diverged")
    with pytest.raises(InvalidInput, match="of run 'diverged' of sample 1200 are NaN"):
        run.evaluate(model, (x, y))
    assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())
    run.discard()


def test_an_exception_leaves_nothing(lake: Lake) -> None:
    def interrupted() -> None:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            run.evaluate(make_model(), (X, Y))
            run.batch([0, 2])
            criterion(torch.zeros(2, C, requires_grad=True), Y[[0, 2]])
            run.end_epoch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lake.experiments() == []  # nor the experiment that was made for the run
    assert [files_of(lake, folder) for folder in ("staging", "signals", "traces", "runs")] == [[], [], [], []]


def test_an_error_of_the_writer_thread_comes_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    def recorded() -> None:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            monkeypatch.setattr(run._writer, "append_epoch", full)
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            for _ in range(20):  # more than may wait: the queue must not block for ever
                run.batch([0, 2])
                criterion(torch.zeros(2, C, requires_grad=True), Y[[0, 2]])
                run.end_epoch()

    with pytest.raises(OSError, match="No space left"):
        recorded()
    assert lake.experiments() == []  # nor the experiment that was made for the run


def test_nothing_recorded(lake: Lake) -> None:
    with (
        pytest.raises(InvalidInput, match="recorded nothing"),
        start_run(lake, "e", samples=Y, members=MEMBERS),
    ):
        pass
    assert lake.experiments() == []  # nor the experiment that was made for the run


def test_run_names_count_up(lake: Lake) -> None:
    names = []
    for role in ("target", "target", "shadow"):
        with start_run(lake, "e", samples=Y, members=MEMBERS, role=role) as run:
            run.evaluate(make_model(), (X, Y))
        names.append(run.name)
    assert names == ["target", "target-2", "shadow"]


@pytest.mark.parametrize(
    "samples",
    [
        Y,
        Y.tolist(),
        Y.numpy().astype(np.int16),
        {"label": Y},
        pl.DataFrame({"label": Y.numpy()}),
        pl.DataFrame({"label": Y.numpy()}).to_arrow(),
    ],
)
def test_samples_in_any_form_are_the_same_experiment(lake: Lake, samples: Any) -> None:
    start_run(lake, "e", samples=Y, members=MEMBERS).discard()
    start_run(lake, "e", samples=samples, members=np.flatnonzero(MEMBERS).tolist()).discard()
    start_run(lake, "e", members=torch.from_numpy(MEMBERS)).discard()
    assert lake.experiment("e").samples == N


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataLoader(Stream()), r"IterableDataset.*run\.batch\(ids\)"),
        (lambda: [1, 2], r"DataLoader, not list.*run\.batch"),
        (lambda: DataLoader(Tagged(7)), r"7 records.*20 members.*40 samples.*ids="),
        (lambda: DataLoader(Tagged(20), num_workers=1, in_order=False), "in_order"),
    ],
)
def test_loaders_that_cannot_be_watched(lake: Lake, make: Callable[[], Any], message: str) -> None:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    with pytest.raises(InvalidInput, match=message):
        run.watch_loader(make())
    run.discard()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (np.zeros(7, dtype=bool), r"\(7,\)"),
        ([0, 40], "member 40"),
        ([-1], "member -1"),
        ([3, 5, 3], "member 3 is given twice"),
        ([0.5], "float64"),
        ([], "members are none"),
    ],
)
def test_members_that_do_not_fit(lake: Lake, members: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        start_run(lake, "e", samples=Y, members=members)


def test_other_wrong_uses(lake: Lake) -> None:
    with pytest.raises(InvalidOption, match="role"):
        start_run(lake, "e", samples=Y, members=MEMBERS, role="victim")  # type: ignore[arg-type]
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    with pytest.raises(InvalidInput, match="39 records"):
        run.evaluate(make_model(), (X[:39], Y[:39]))
    with pytest.raises(InvalidInput, match="order of sample ids"):
        run.evaluate(make_model(), (X.flip(0), Y.flip(0)))
    with pytest.raises(InvalidInput, match="id 40"):
        run.batch([1, 40])
    with pytest.raises(InvalidInput, match="one for each of the 20"):
        run.watch_loader(member_loader(), ids=[1, 2])
    run.batch([0])
    with pytest.raises(InvalidInput, match="logits"):
        run.watch_criterion(nn.CrossEntropyLoss())(
            torch.zeros(1, 2, 2, requires_grad=True), torch.zeros(1, 2, 2)
        )
    run.discard()


def test_an_epoch_without_its_eval_point(lake: Lake) -> None:
    model = copy.deepcopy(make_model())
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    train(model, run.watch_loader(member_loader()), run.watch_criterion(nn.CrossEntropyLoss()), epochs=1)
    with pytest.raises(InvalidInput, match="epoch 0 was left out"):
        run.trace_eval(model, (X, Y))
    run.discard()
