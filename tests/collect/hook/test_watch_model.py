"""Gradient norms recorded by a training loop: exact whatever the loop does, and the training does not notice."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.grad_norms.eval_pass import per_sample_grad_norms
from losslake.collect.grad_norms.hooks import GradNormWatcher
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

N, F, C = 26, 6, 3
MEMBERS = np.arange(N) % 2 == 0
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, F, generator=generator), torch.randint(0, C, (N,), generator=generator)
WEIGHT = torch.tensor([0.2, 1.0, 3.0])

Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


@pytest.fixture
def run(lake: Lake) -> Iterator[RecordedRun]:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    yield run
    run.discard()


def make_model(
    norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(8), dropout: float = 0.0
) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(F, 8), norm(), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(8, C))


def member_loader(batch_size: int = 5) -> DataLoader[Any]:
    data = TensorDataset(X[MEMBERS], Y[MEMBERS], torch.arange(N)[MEMBERS])
    return DataLoader(data, batch_size=batch_size, shuffle=True)


def slow_norms(model: nn.Module, x: torch.Tensor, y: torch.Tensor, losses: Losses) -> list[float]:
    """Obviously correct, but slow: each sample's own loss, in a batch of its own."""
    norms = []
    for i in range(len(x)):
        loss = losses(model(x[i : i + 1]), y[i : i + 1]).sum()
        grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        norms.append(float(torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()))
    return norms


def recorded(lake: Lake, source: str = "train") -> dict[int, list[float]]:
    rows = lake.sql("select sample_id, grad_norm from traces where source = $s", {"s": source})
    return dict(rows.iter_rows())


def cross_entropy(**options: Any) -> Losses:
    return functools.partial(functional.cross_entropy, reduction="none", **options)


# What the loop's criterion is, how its result becomes what is differentiated, and the sample's own loss.
LOOPS: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[Any], Any], Losses]] = {
    "mean": (nn.CrossEntropyLoss(), {}, lambda loss: loss, cross_entropy()),
    "function": (functional.cross_entropy, {}, lambda loss: loss, cross_entropy()),
    "scaled, accumulated": (nn.CrossEntropyLoss(), {}, lambda loss: loss / 4 * 1024, cross_entropy()),
    "label smoothing": (
        nn.CrossEntropyLoss(label_smoothing=0.2),
        {},
        lambda loss: loss,
        cross_entropy(label_smoothing=0.2),
    ),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), {}, lambda loss: loss, cross_entropy()),
    "each apart": (nn.CrossEntropyLoss(reduction="none"), {}, lambda loss: loss.mean() * 3, cross_entropy()),
    "each apart, weighed by hand": (
        nn.CrossEntropyLoss(reduction="none"),
        {},
        lambda loss: (loss * torch.linspace(1, 2, len(loss))).sum(),
        cross_entropy(),
    ),
    "class weights": (
        nn.CrossEntropyLoss(weight=WEIGHT),
        {},
        lambda loss: loss,
        cross_entropy(weight=WEIGHT),
    ),
    "class weights, smoothing, partial": (
        functools.partial(functional.cross_entropy, weight=WEIGHT, label_smoothing=0.1),
        {},
        lambda loss: loss,
        cross_entropy(weight=WEIGHT, label_smoothing=0.1),
    ),
    "own function": (
        lambda z, y: functional.cross_entropy(z, y, reduction="sum"),
        {"reduction": "sum"},
        lambda loss: loss,
        cross_entropy(),
    ),
    "own function of another loss": (
        lambda z, y: functional.multi_margin_loss(z, y),
        {},
        lambda loss: loss,
        functools.partial(functional.multi_margin_loss, reduction="none"),
    ),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_each_steps_norms_are_those_of_batches_of_one(lake: Lake, kind: str) -> None:
    criterion, options, total, losses = LOOPS[kind]
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    want: dict[tuple[int, int], float] = {}
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        loader = run.watch_loader(member_loader())
        watched = run.watch_criterion(criterion, **options)
        oracle = make_model()
        run.watch_model(model)
        for epoch in (1, 2):
            for x, y, at in loader:
                oracle.load_state_dict(model.state_dict())
                norms = slow_norms(oracle, x, y, losses)
                want |= {(int(i), epoch): norm for i, norm in zip(at, norms, strict=True)}
                optimizer.zero_grad()
                total(watched(model(x), y)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
    got = recorded(lake)
    assert sorted(got) == np.flatnonzero(MEMBERS).tolist()
    for sample, norms in got.items():
        assert norms[0] is None
        for epoch in (1, 2):
            assert norms[epoch] == pytest.approx(want[sample, epoch], rel=1e-4, abs=1e-6)
    assert not model._forward_pre_hooks
    assert not any(module._forward_hooks for module in model.modules())


def train(model: nn.Module, loader: Any, criterion: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(3):
        for step, (x, y, _) in enumerate(loader):
            (criterion(model(x), y) / 2).backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()


def test_weights_are_bitwise_those_without_it(lake: Lake) -> None:
    plain, hooked = make_model(dropout=0.5), make_model(dropout=0.5)
    torch.manual_seed(7)
    train(plain, member_loader(), nn.CrossEntropyLoss())
    after = torch.get_rng_state()
    torch.manual_seed(7)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        run.watch_model(hooked)
        train(hooked, run.watch_loader(member_loader()), run.watch_criterion(nn.CrossEntropyLoss()))
    assert torch.equal(torch.get_rng_state(), after), "the random stream moved"
    for name, value in plain.state_dict().items():
        assert torch.equal(value, hooked.state_dict()[name])
    assert all(np.isfinite(norms[1:]).all() for norms in recorded(lake).values())


def one_epoch(
    run: RecordedRun, model: nn.Module, loss_of: Callable[[torch.Tensor, torch.Tensor], Any]
) -> None:
    """Samples 0, 2, 4, 6 in two batches, by hand."""
    for ids in ([0, 2, 4], [6]):
        run.batch(ids)
        loss_of(X[ids], Y[ids]).backward()
    run.end_epoch()


def norms_by_hand(model: nn.Module, losses: Losses | None = None) -> list[float]:
    ids = [0, 2, 4, 6]
    return slow_norms(model, X[ids], Y[ids], losses or cross_entropy())


def check_epoch(lake: Lake, want: list[float], rel: float = 1e-4) -> None:
    got = recorded(lake)
    assert [got[i][1] for i in (0, 2, 4, 6)] == pytest.approx(want, rel=rel, abs=1e-6)


def test_a_criterion_called_twice_a_batch_is_the_weighted_mean(lake: Lake) -> None:
    model = make_model()

    def mixed(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        each = functional.cross_entropy(z, y, reduction="none")
        return 0.3 * each + 0.7 * functional.cross_entropy(z, (y + 1) % C, reduction="none")

    want = norms_by_hand(model, mixed)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            z = model(x)
            loss: torch.Tensor = 8 * (0.3 * criterion(z, y) + 0.7 * criterion(z, (y + 1) % C))
            return loss

        one_epoch(run, model, loss_of)
    check_epoch(lake, want)


def test_soft_targets(lake: Lake) -> None:
    model = make_model()

    def soft(y: torch.Tensor) -> torch.Tensor:
        return functional.one_hot(y, C).float() * 0.6 + 0.4 / C

    want = norms_by_hand(model, lambda z, y: functional.cross_entropy(z, soft(y), reduction="none"))
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss(weight=torch.ones(C)))
        run.watch_model(model)
        one_epoch(run, model, lambda x, y: criterion(model(x), soft(y)))
    check_epoch(lake, want)


def test_other_passes_in_between_do_not_count(lake: Lake) -> None:
    """Validation with and without gradients, a pass nobody differentiates, and SAM's second pass of a batch."""
    model = make_model()
    want = norms_by_hand(model)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                criterion_of_validation(model(X), Y)
            model(X[:3])
            loss: torch.Tensor = criterion(model(x), y)
            loss.backward()
            criterion(model(x + 1), y).backward()
            with torch.no_grad():
                model(X)
            return torch.zeros((), requires_grad=True)

        criterion_of_validation = nn.CrossEntropyLoss()
        one_epoch(run, model, loss_of)
    check_epoch(lake, want)


def test_two_batches_in_one_backward_pass(lake: Lake) -> None:
    model = make_model()
    want = norms_by_hand(model)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)
        total = torch.zeros(())
        for ids in ([0, 2, 4], [6]):
            run.batch(ids)
            total = total + criterion(model(X[ids]), Y[ids])
        total.backward()
    check_epoch(lake, want)


def test_a_batch_without_a_backward_pass_has_no_norm(lake: Lake) -> None:
    model = make_model()
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)
        for ids in ([0, 2], [4]):
            run.batch(ids)
            loss = criterion(model(X[ids]), Y[ids])
        loss.backward()
    got = recorded(lake)
    assert np.isnan([got[0][1], got[2][1]]).all()
    assert got[4][1] > 0


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_checkpoints(lake: Lake, reentrant: bool, shared: bool) -> None:
    first, middle, last = nn.Linear(F, F), nn.Sequential(nn.Linear(F, F), nn.Tanh()), nn.Linear(F, C)

    class Model(nn.Module):
        def __init__(self, saving: bool) -> None:
            super().__init__()
            self.first, self.middle, self.last, self.saving = first, middle, last, saving

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for _ in range(2 if shared else 1):
                x = checkpoint(self.middle, x, use_reentrant=reentrant) if self.saving else self.middle(x)
            logits: torch.Tensor = self.last(x)
            return logits

    want = norms_by_hand(Model(False))
    model = Model(True)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)
        one_epoch(run, model, lambda x, y: criterion(model(x), y))
    check_epoch(lake, want)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_under_autocast_with_a_loss_scale(lake: Lake, dtype: torch.dtype, rel: float) -> None:
    model = make_model()
    want = norms_by_hand(model)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype):
                loss: torch.Tensor = criterion(model(x), y) * 1024
            return loss

        one_epoch(run, model, loss_of)
    check_epoch(lake, want, rel)


def test_a_compiled_model(lake: Lake) -> None:
    torch._dynamo.reset()
    model = make_model()
    want = norms_by_hand(model)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        faster = torch.compile(model, backend="aot_eager")
        run.watch_model(faster)
        one_epoch(run, model, lambda x, y: criterion(faster(x), y))
    check_epoch(lake, want)


def test_a_model_that_was_compiled_before(lake: Lake) -> None:
    """Some versions of PyTorch run such a model without the hooks: that is an error, never a smaller norm."""
    torch._dynamo.reset()
    model = make_model()
    want = norms_by_hand(model)
    faster = torch.compile(model, backend="eager")
    faster(X)
    refusal = ""
    try:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            run.watch_model(faster)
            one_epoch(run, model, lambda x, y: criterion(faster(x), y))
    except InvalidInput as error:
        refusal = str(error)
    if lake.runs("e"):
        check_epoch(lake, want)
    else:
        assert "before torch.compile" in refusal


def test_inputs_are_let_go_after_the_backward_pass(run: RecordedRun) -> None:
    """A loop holds its last loss, and so the graph, while the next forward pass runs."""
    model = nn.Sequential(nn.Linear(F, 8), nn.Linear(8, C))
    seen: list[weakref.ref[torch.Tensor]] = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(weakref.ref(args[0])))
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    run.watch_model(model)
    run.batch([0, 2])
    loss = criterion(model(X[[0, 2]]), Y[[0, 2]])
    assert seen[0]() is not None
    loss.backward()
    gc.collect()
    assert seen[0]() is None


def test_eval_mode_leaves_training_alone(lake: Lake) -> None:
    model = make_model(lambda: nn.BatchNorm1d(8), dropout=0.5)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        with pytest.raises(InvalidOption, match=r'layer 1 \(BatchNorm1d\).*mode="eval"'):
            run.watch_model(model)
        run.watch_model(model, mode="eval")
        loader, criterion = run.watch_loader(member_loader()), run.watch_criterion(nn.CrossEntropyLoss())
        run.trace_eval(model, (X, Y))
        for x, y, _ in loader:
            criterion(model(x), y).backward()
        before = [parameter.grad.clone() for parameter in model.parameters()]
        random = torch.get_rng_state()
        run.trace_eval(model, (X, Y))
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(a, b.grad) for a, b in zip(before, model.parameters(), strict=True))
        assert all(module.training for module in model.modules())
    model.eval()
    got = recorded(lake, "eval")
    want = slow_norms(model, X, Y, cross_entropy())
    assert [got[i][1] for i in range(N)] == pytest.approx(want, rel=1e-4)
    assert {len(each) for each in got.values()} == {2}
    assert all(each is None for each in recorded(lake).values()), "the train trace has no norms"


def test_eval_norms_beside_training_norms(lake: Lake) -> None:
    model = make_model(dropout=0.5)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        run.watch_model(model)
        loader, criterion = run.watch_loader(member_loader()), run.watch_criterion(nn.CrossEntropyLoss())
        run.trace_eval(model, (X, Y), grad_norm=True)
        for x, y, _ in loader:
            criterion(model(x), y).backward()
        run.trace_eval(model, (X, Y), grad_norm=True)
    want = slow_norms(model.eval(), X, Y, cross_entropy())
    assert [recorded(lake, "eval")[i][1] for i in range(N)] == pytest.approx(want, rel=1e-4)
    assert all(norms[1] > 0 for norms in recorded(lake).values())


class Past(nn.Module):
    """Uses a layer's weight without calling the layer, as tying by hand does."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(F, F), nn.Linear(F, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(functional.linear(self.into(x), self.into.weight.t()))
        return logits


def test_gradients_that_do_not_add_up(lake: Lake) -> None:
    def trained(**options: Any) -> None:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            model = Past()
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            run.watch_model(model, **options)
            one_epoch(run, model, lambda x, y: criterion(model(x), y))

    with pytest.raises(InvalidInput, match=r"epoch 1.*into\.weight do not add up"):
        trained()
    assert lake.experiments() == []  # nor the experiment that was made for the run
    # Without the sums the norm of a single record still tells: what was recorded here until then was wrong.
    with pytest.raises(InvalidInput, match=r"not that of its own loss, in into\.weight"):
        trained(check=False)
    with pytest.raises(InvalidInput, match=r"into\.weight do not add up"):
        per_sample_grad_norms(Past(), X, Y)


def test_a_penalty_past_the_criterion(lake: Lake) -> None:
    model = make_model()
    want = norms_by_hand(model)

    def trained(**options: Any) -> None:
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            run.watch_model(model, **options)
            one_epoch(
                run,
                model,
                lambda x, y: criterion(model(x), y) + sum(p.square().sum() for p in model.parameters()),
            )

    with pytest.raises(InvalidInput, match=r"check=False"):
        trained()
    trained(check=False)
    check_epoch(lake, want)


class Merged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.out = nn.Linear(2, 4), nn.Linear(4, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.each(x.reshape(-1, 2))
        logits: torch.Tensor = self.out(rows.reshape(len(x), 3, 4).mean(1))
        return logits


class Placed(nn.Module):
    """Multiplies all samples by the same row; adding it, as position embeddings are, is another test's."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.out = nn.Embedding(1, F), nn.Linear(F, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(x * self.place(torch.zeros(1, dtype=torch.int64)))
        return logits


def each_class(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -functional.one_hot(y, C) * z.log_softmax(1)


def backward_twice(loss: torch.Tensor) -> torch.Tensor:
    loss.backward(retain_graph=True)
    return loss


@pytest.mark.parametrize(
    ("make", "criterion", "after", "message"),
    [
        (
            Merged,
            nn.CrossEntropyLoss(),
            lambda loss: loss,
            r"layer each \(Linear\) gave.*\(9, 4\).*3 samples",
        ),
        (Placed, nn.CrossEntropyLoss(), lambda loss: loss, r"layer place \(Embedding\) gave.*\(1, 6\)"),
        (make_model, nn.CrossEntropyLoss(), backward_twice, r"layer 4 \(Linear\) was differentiated twice"),
        (
            make_model,
            lambda z, y: {"loss": functional.cross_entropy(z, y)},
            lambda loss: loss["loss"],
            "returned a dict",
        ),
        (make_model, each_class, lambda loss: loss.sum(), r"returned \(3, 3\) for 3 samples"),
        (lambda: make_model(nn.Identity), nn.CrossEntropyLoss(), lambda loss: loss, None),
        (
            lambda: nn.Sequential(nn.Linear(F, F), nn.RReLU(), Noisy()),
            nn.CrossEntropyLoss(),
            lambda loss: loss,
            r"layer 2 \(Noisy\) has no rule.*random",
        ),
    ],
)
def test_what_cannot_be_told(
    run: RecordedRun, make: Any, criterion: Any, after: Any, message: str | None
) -> None:
    model = make()
    watched = run.watch_criterion(criterion)
    run.watch_model(model)
    if message is None:
        one_epoch(run, model, lambda x, y: after(watched(model(x), y)))
        return
    with pytest.raises(InvalidInput, match=message):
        one_epoch(run, model, lambda x, y: after(watched(model(x), y)))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(F, C))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + torch.randn_like(x[:, :C])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_model(lambda: nn.BatchNorm1d(8)), r"layer 1 \(BatchNorm1d\) in train mode mixes"),
        (lambda: make_model(lambda: nn.BatchNorm1d(8, affine=False)), r"layer 1 \(BatchNorm1d\)"),
        (
            lambda: nn.MultiheadAttention(4, 2),
            r"\(the model itself\) \(MultiheadAttention\).*batch_first=True",
        ),
        (lambda: nn.Sequential(nn.GRU(4, 4)), r"layer 0 \(GRU\).*batch_first=True"),
        (lambda: nn.Sequential(nn.EmbeddingBag(4, 4)), r"layer 0 \(EmbeddingBag\)"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), r"layer 0 \(LazyLinear\).*first"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))),
            r"0\.parametrizations\.weight \(ParametrizationList\).*parametrization",
        ),
    ],
)
def test_models_that_cannot_be_watched(run: RecordedRun, make: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        run.watch_model(make())


def test_batch_norm_that_is_switched_to_train_mode_later(run: RecordedRun) -> None:
    model = make_model(lambda: nn.BatchNorm1d(8))
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    run.watch_model(model.eval())
    run.batch([0, 2])
    criterion(model(X[[0, 2]]), Y[[0, 2]]).backward()
    model.train()
    with pytest.raises(InvalidOption, match="mixes the samples"):
        model(X)


def test_wrong_uses(run: RecordedRun) -> None:
    model = make_model()
    with pytest.raises(InvalidOption, match="mode"):
        run.watch_model(model, mode="test")  # type: ignore[arg-type]
    run.watch_model(model)
    with pytest.raises(InvalidInput, match="ModuleList"):
        run.watch_model(model)
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    other = make_model()
    run.batch([0, 2])
    with pytest.raises(InvalidInput, match="watch the model that is trained"):
        criterion(other(X[[0, 2]]), Y[[0, 2]])


def test_norms_of_one_batch_and_their_parts() -> None:
    model = make_model()
    found = per_sample_grad_norms(model, X, Y)
    assert found.norms.tolist() == pytest.approx(slow_norms(model, X, Y, cross_entropy()), rel=1e-4)
    assert list(found.parameters) == ["4.weight", "4.bias", "1.weight", "1.bias", "0.weight", "0.bias"]
    want = slow_norms(model[4:], model[:4](X).detach(), Y, cross_entropy())
    last = (found.parameters["4.weight"].square() + found.parameters["4.bias"].square()).sqrt()
    assert last.tolist() == pytest.approx(want, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
    other = per_sample_grad_norms(model, X, Y, losses=lambda z, y: 2 * cross_entropy()(z, y))
    torch.testing.assert_close(other.norms, 2 * found.norms)


def test_a_watcher_by_hand_skips_what_it_does_not_wait_for() -> None:
    model = make_model()
    with GradNormWatcher(model) as watcher:
        watcher.begin()
        watcher.loss(functional.cross_entropy(model(X), Y), torch.arange(N), N)
        assert watcher.take(last=True) == []


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(self.table(x).transpose(1, 2)).transpose(1, 2)
        logits: torch.Tensor = self.out(torch.relu(self.norm(hidden)).mean(1))
        return logits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_step_waits_for_the_device(lake: Lake) -> None:
    torch.manual_seed(0)
    x, model = torch.randint(0, 20, (N, 6)), Words().cuda()
    want = slow_norms(model, x.cuda(), Y.cuda(), cross_entropy())
    with start_run(lake, "e", samples=Y, members=np.arange(N)) as run:
        data = DataLoader(TensorDataset(x, Y), batch_size=5, shuffle=True, pin_memory=True)
        loader, criterion = run.watch_loader(data), run.watch_criterion(nn.CrossEntropyLoss())
        run.watch_model(model)
        for epoch in (1, 2):
            for number, (a, b) in enumerate(loader):
                a, b = a.cuda(non_blocking=True), b.cuda(non_blocking=True)
                # The first step moves the labels to the device, once a run.
                torch.cuda.set_sync_debug_mode("error" if (epoch, number) > (1, 0) else "default")
                criterion(model(a), b).backward()
                torch.cuda.set_sync_debug_mode("default")
    got = recorded(lake)
    for epoch in (1, 2):
        assert [got[i][epoch] for i in range(N)] == pytest.approx(want, rel=1e-2)
