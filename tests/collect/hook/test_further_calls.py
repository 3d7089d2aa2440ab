"""A criterion that is called more than once a batch, or after the last one, and how it is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_data import KEYS, MEMBERS, C, N, X, Y, check_trace, loader_of_members
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

OTHERS = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.main, self.second = nn.Linear(5, 6), nn.Linear(6, C), nn.Linear(6, C)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x).tanh()
        return self.main(hidden), self.second(hidden)


class Loop:
    """Two epochs; notes what each member's loss is in a batch of its own, before each step."""

    def __init__(self, lake: Lake, samples: Any) -> None:
        self.lake, self.samples, self.model = lake, samples, Heads()
        self.want = [np.full(N, np.nan) for _ in range(2)]

    def __call__(self, step: Callable[[Any, Heads, torch.Tensor, torch.Tensor], torch.Tensor | None]) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        with start_run(self.lake, "e", samples=self.samples, members=MEMBERS) as run:
            loader = run.watch_loader(loader_of_members(), ids=MEMBERS)
            criterion = run.watch_criterion(nn.CrossEntropyLoss())
            for epoch in range(2):
                for x, y in loader:
                    self.note(epoch, x, y)
                    optimizer.zero_grad()
                    loss = step(criterion, self.model, x, y)
                    if loss is not None:
                        loss.backward()
                    optimizer.step()

    def note(self, epoch: int, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            for row in range(len(x)):
                own = int((x[row] == X).all(1).nonzero()[0])
                logits = self.model(x[row : row + 1])[0]
                self.want[epoch][own] = functional.cross_entropy(logits, y[row : row + 1])

    def check(self) -> None:
        check_trace(self.lake, self.want)


# --- which call is the records' ------------------------------------------------------------------------------


def heads_of_two_tasks(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    first, second = m(x)
    loss: torch.Tensor = c(first, y) + c(second, (y + 1) % C)
    return loss


def generated_records(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = c(m(OTHERS)[0], torch.zeros(4, dtype=torch.long)) + c(m(x)[0], y)
    return loss


def a_step_each(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> None:
    c(m(x)[0], y).backward()
    c(m(x)[1], (y + 1) % C).backward()


def validation_with_gradients(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    c(m(OTHERS)[0], torch.ones(4, dtype=torch.long))
    loss: torch.Tensor = c(m(x)[0], y)
    return loss


def soft_targets_of_others(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    guess = m(OTHERS)[0]
    loss: torch.Tensor = c(guess, guess.softmax(1).detach()) + c(m(x)[0], y)
    return loss


@pytest.mark.parametrize(
    ("samples", "step"),
    [
        (KEYS, heads_of_two_tasks),
        (KEYS, generated_records),
        (KEYS, a_step_each),
        (KEYS, validation_with_gradients),
        (Y, soft_targets_of_others),
    ],
)
def test_calls_that_nothing_tells_apart_are_refused(lake: Lake, samples: Any, step: Any) -> None:
    with pytest.raises(InvalidInput, match=r"different outputs and targets.*watch_criterion an object"):
        Loop(lake, samples)(step)
    assert not lake.experiments()


def test_the_remedy_is_right(lake: Lake) -> None:
    """The plain criterion for all that is not the records'."""
    plain = nn.CrossEntropyLoss()
    loop = Loop(lake, KEYS)
    loop(lambda c, m, x, y: plain(m(OTHERS)[0], torch.zeros(4, dtype=torch.long)) + c(m(x)[0], y))
    loop.check()


def mixup(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    logits = m(x)[0]
    loss: torch.Tensor = 0.7 * c(logits, y) + 0.3 * c(logits, y.flip(0))
    return loss


def sharpness_aware(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> None:
    c(m(x)[0], y).backward()
    with torch.no_grad():
        m.body.weight += 0.1
    c(m(x)[0], y.clone()).backward()


def adversarial(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    moved = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(c(m(moved)[0], y), moved)
    loss: torch.Tensor = c(m((x + 0.1 * gradient.sign()).detach())[0], y)
    return loss


@pytest.mark.parametrize("samples", [Y, KEYS], ids=["labels", "no labels"])
@pytest.mark.parametrize("step", [mixup, sharpness_aware, adversarial])
def test_the_same_loss_once_more_is_let_be(
    lake: Lake, step: Any, samples: Any, recwarn: pytest.WarningsRecorder
) -> None:
    loop = Loop(lake, samples)
    loop(step)
    loop.check()
    assert not [str(each.message) for each in recwarn if "criterion" in str(each.message)]


def compiled(step: Any) -> Any:
    """The whole of a step's losses as one graph, with none of the tensors that Python holds."""
    made: list[Any] = []

    def call(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not made:
            made.append(torch.compile(lambda x, y: step(c, m, x, y), backend="aot_eager"))
        loss: torch.Tensor = made[0](x, y)
        return loss

    return call


@pytest.mark.parametrize("step", [heads_of_two_tasks, generated_records])
def test_compiled_calls_that_nothing_tells_apart_are_refused_too(lake: Lake, step: Any) -> None:
    with pytest.raises(InvalidInput, match=r"different outputs and targets.*watch_criterion an object"):
        Loop(lake, KEYS)(compiled(step))
    assert not lake.experiments()


@pytest.mark.parametrize("samples", [Y, KEYS], ids=["labels", "no labels"])
@pytest.mark.parametrize("of", ["mixup", "two views", "once more"])
def test_compiled_calls_for_the_same_records_are_let_be(lake: Lake, of: str, samples: Any) -> None:
    def two_views(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = c(m(x)[0], y) + c(m(x + 0.1)[0], y.clone())
        return loss

    plain = compiled(lambda c, m, x, y: c(m(x)[0], y))

    def once_more(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> None:
        for _ in range(2):
            plain(c, m, x, y.clone()).backward()

    loop = Loop(lake, samples)
    loop({"mixup": compiled(mixup), "two views": compiled(two_views), "once more": once_more}[of])
    loop.check()


def test_labels_tell_the_records_own_head(lake: Lake, recwarn: pytest.WarningsRecorder) -> None:
    loop = Loop(lake, Y)
    loop(heads_of_two_tasks)
    loop.check()
    assert not [str(each.message) for each in recwarn if "criterion" in str(each.message)]


def test_an_auxiliary_head_is_told_of_once(lake: Lake) -> None:
    def both(c: Any, m: Heads, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        main, second = m(x)
        loss: torch.Tensor = c(main, y) + 0.4 * c(second, y)
        return loss

    loop = Loop(lake, Y)
    with pytest.warns(UserWarning, match="auxiliary heads") as told:
        loop(both)
    assert sum("auxiliary" in str(each.message) for each in told) == 1
    loop.check()


@pytest.mark.parametrize("first", [False, True])
def test_of_two_watched_criteria_the_recorded_one_asks(lake: Lake, first: bool) -> None:
    """Whichever of them was watched last."""
    model = Heads()
    whole = TensorDataset(X, Y)
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        if first:
            other: Any = run.watch_criterion(nn.MSELoss())
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        if not first:
            other = run.watch_criterion(nn.MSELoss())
        run.batch(MEMBERS)
        logits = model(X[MEMBERS])[0]
        (criterion(logits, Y[MEMBERS]) + other(logits, functional.one_hot(Y[MEMBERS], C).float())).backward()
        run.evaluate(nn.Sequential(model.body, nn.Tanh(), model.main), whole)
    want = functional.cross_entropy(model(X)[0], Y, reduction="none").detach().numpy()
    found = lake.sql("select loss from signals order by sample_id")["loss"].to_numpy()
    np.testing.assert_allclose(found, want, rtol=1e-4)


# --- calls after the last batch ------------------------------------------------------------------------------


def fetched_ahead(loader: Any) -> Iterator[Batch]:
    batches = iter(loader)
    ahead = next(batches)
    while ahead is not None:
        now, ahead = ahead, next(batches, None)
        yield now


@pytest.mark.parametrize("ahead", [fetched_ahead, list])
def test_batches_fetched_ahead_without_labels_are_refused(lake: Lake, ahead: Any) -> None:
    with pytest.raises(InvalidInput, match=r"fetches batches ahead.*run.batch"):
        record(lake, ahead, samples=KEYS)


def record(lake: Lake, passes: Callable[[Any], Any], *, samples: Any, epochs: int = 1) -> None:
    model = Heads()
    with start_run(lake, "e", samples=samples, members=MEMBERS) as run:
        loader = run.watch_loader(loader_of_members(), ids=MEMBERS)
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for _ in range(epochs):
            for x, y in passes(loader):
                criterion(model(x)[0], y).backward()


def test_skipped_batches_are_no_fault(lake: Lake) -> None:
    """A loop may leave out a batch; what comes after it is its own."""
    record(lake, lambda loader: itertools.compress(loader, [True, False, True]), samples=KEYS, epochs=2)
    assert lake.runs("e")[0].info.epochs == 2


@pytest.mark.parametrize("samples", [Y, KEYS], ids=["labels", "no labels"])
def test_batches_kept_from_an_earlier_pass_are_told_of(lake: Lake, samples: Any) -> None:
    with pytest.warns(UserWarning, match=r"after the last batch of an epoch.*itertools.cycle"):
        record(lake, lambda loader: itertools.islice(itertools.cycle(loader), 7), samples=samples)


# --- how a criterion is called -------------------------------------------------------------------------------


def named(logits: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    return weight * functional.cross_entropy(logits, labels)


class Named(nn.Module):
    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
        return named(logits, labels, weight)


@pytest.mark.parametrize("criterion", [named, Named()])
@pytest.mark.parametrize("places", [0, 1, 2])
def test_arguments_under_names_of_the_criterions_own(lake: Lake, criterion: Any, places: int) -> None:
    model = Heads()
    logits = model(X[MEMBERS])[0]
    given = {"weight": 2.0, "labels": Y[MEMBERS], "logits": logits}
    by_place = [given.pop(name) for name in ("logits", "labels")[:places]]
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        run.batch(MEMBERS)
        run.watch_criterion(criterion)(*by_place, **given).backward()
    check_trace(lake, [functional.cross_entropy(model(X)[0], Y, reduction="none").detach().numpy()])


@pytest.mark.parametrize("samples", [Y, KEYS], ids=["labels", "no labels"])
def test_targets_that_come_first_are_told_of(lake: Lake, samples: Any) -> None:
    run = start_run(lake, "e", samples=samples, members=MEMBERS)
    run.batch(MEMBERS)
    with pytest.raises(InvalidInput, match="first argument is to be the outputs"):
        run.watch_criterion(lambda y, z: functional.cross_entropy(z, y))(Y[MEMBERS], Heads()(X[MEMBERS])[0])
    run.discard()


@pytest.mark.parametrize("kind", ["classes", "binary", "regression"])
@pytest.mark.parametrize("norms", [False, True])
def test_a_last_batch_of_one_that_the_loop_squeezes(lake: Lake, kind: str, norms: bool) -> None:
    classes = kind == "classes"
    torch.manual_seed(0)
    model = nn.Linear(5, C if classes else 1)
    target = Y if classes else (Y > 0).float()
    plain = {"classes": nn.CrossEntropyLoss(), "binary": nn.BCEWithLogitsLoss(), "regression": nn.MSELoss()}[
        kind
    ]
    want, wanted_norms = np.full(N, np.nan), []
    for own in range(N):
        loss = plain(model(X[own]) if classes else model(X[own])[0], target[own])
        want[own] = loss.item()
        found = torch.autograd.grad(loss, list(model.parameters()))
        wanted_norms.append(float(torch.cat([each.flatten() for each in found]).norm()))
    samples = {"classes": Y, "binary": (Y > 0).long(), "regression": KEYS}[kind]
    with start_run(lake, "e", samples=samples, members=MEMBERS) as run:
        criterion = run.watch_criterion(plain)
        if norms:
            run.watch_model(model)
        for ids in MEMBERS.split([4, 4, 3, 1]):
            run.batch(ids)
            criterion(model(X[ids]).squeeze(), target[ids].squeeze()).backward()
    check_trace(lake, [want])
    if norms:
        rows = lake.sql("select sample_id, grad_norm[-1] as norm from traces")
        found_norms = dict(zip(rows["sample_id"], rows["norm"], strict=True))
        assert all(found_norms[own] == pytest.approx(wanted_norms[own], rel=1e-4) for own in MEMBERS.tolist())


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, None])
def test_a_criterion_that_is_none(lake: Lake, criterion: Any) -> None:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    with pytest.raises(InvalidInput, match="give a loss function"):
        run.watch_criterion(criterion)
    with pytest.raises(InvalidInput, match="give the torch module"):
        run.watch_model(Heads)  # type: ignore[arg-type]
    run.discard()


@pytest.mark.parametrize("one_by_one", [False, True])
def test_transforms_of_torch_func_are_refused(lake: Lake, one_by_one: bool) -> None:
    model = Heads()
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    criterion = run.watch_criterion(nn.CrossEntropyLoss())

    def loss(parameters: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = (x[None], y[None]) if one_by_one else (x, y)
        found: torch.Tensor = criterion(torch.func.functional_call(model, parameters, (x,))[0], y)
        return found

    gradient = torch.func.grad(loss)
    if one_by_one:
        gradient = torch.func.vmap(gradient, (None, 0, 0))
    run.batch(MEMBERS)
    with pytest.raises(InvalidInput, match=r"transform of torch.func.*run\.record"):
        gradient(dict(model.named_parameters()), X[MEMBERS], Y[MEMBERS])
    run.discard()
