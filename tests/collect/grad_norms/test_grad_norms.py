"""Per-sample gradient norms, beside a batch-size-one oracle that is obviously correct, but slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from losslake.collect.grad_norms import conv as grad_norm_conv
from losslake.collect.grad_norms import linear as grad_norm_linear
from losslake.collect.grad_norms import use as grad_norm_use
from losslake.collect.grad_norms.conv import conv_route
from losslake.collect.grad_norms.hooks import GradNormWatcher
from losslake.collect.grad_norms.linear import matrix_route
from losslake.collect.grad_norms.normalization import with_statistics
from losslake.collect.grad_norms.use import row_norms
from losslake.store.errors import InvalidOption
from torch import nn
from torch.nn import functional

B, C = 5, 3


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def obviously_correct_but_slow(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The norm of each sample's gradient (B,), each from a batch of that sample alone."""
    norms = []
    for i in range(len(x)):
        model.zero_grad()
        loss(model(x[i : i + 1]), y[i : i + 1]).backward()
        # A parameter that two modules share comes once.
        squares = [
            p.grad.to_dense().double().square().sum() for p in model.parameters() if p.grad is not None
        ]
        norms.append(torch.stack(squares).sum().sqrt())
    model.zero_grad()
    return torch.stack(norms)


def watched(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: Callable[..., torch.Tensor] = functional.cross_entropy,
    check: bool = True,
) -> torch.Tensor:
    """The norms that the hooks find in one step, which is checked against autograd's gradients too."""
    with GradNormWatcher(model, check=check) as watcher:
        watcher.begin()
        value = loss(model(x), y)
        watcher.loss(value, torch.arange(len(x)), len(x))
        value.backward()
        (found,) = watcher.take()
    assert (found.faults is not None) == check
    if found.faults is not None:
        faults = [name for name, fault in zip(watcher.names, found.faults, strict=True) if fault]
        assert not faults, f"gradients that do not add up: {faults}"
    parts = found.parts.double().square().sum(0).sqrt()
    torch.testing.assert_close(parts, found.norms.double(), rtol=1e-5, atol=1e-7)
    return found.norms


def assert_exact(model: nn.Module, x: torch.Tensor, **options: Any) -> None:
    loss = options.pop("loss", functional.cross_entropy)
    y = torch.arange(len(x)) % C
    want = obviously_correct_but_slow(model, x, y, loss)
    got = watched(model, x, y, loss, **options)
    torch.testing.assert_close(got.double(), want.double(), rtol=1e-4, atol=1e-6)


class Head(nn.Module):
    """Whatever comes in, to logits: a mean over all but the first and last dimension, and a linear layer."""

    def __init__(self, width: int, channels_first: bool = False) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.out = nn.Linear(width, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(x)
        x = x.flatten(2).mean(2) if self.channels_first else x.flatten(1, -2).mean(1) if x.ndim > 2 else x
        logits: torch.Tensor = self.out(x)
        return logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (2,), (40,), (2, 3)])
def test_linear(lead: tuple[int, ...], bias: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.Tanh(), nn.Linear(6, 6), Head(6))
    assert_exact(model, torch.randn(B, *lead, 4))


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
    "1d, stride, padding": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, bias=False), (4, 9)),
    "1d, same, even kernel": (lambda: nn.Conv1d(4, 6, 4, padding="same"), (4, 9)),
    "1d, circular": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), (4, 9)),
    "1d, one position": (lambda: nn.Conv1d(4, 6, 5), (4, 5)),
    "2d": (lambda: nn.Conv2d(4, 6, 3), (4, 7, 8)),
    "2d, wide": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 17, 16)),
    "2d, wide, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=(1, 2)), (4, 17, 32)),
    "2d, valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), (4, 7, 8)),
    "2d, same, dilation": (lambda: nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2), (4, 7, 8)),
    "2d, stride leaves a rest": (lambda: nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(0, 2)), (4, 8, 9)),
    "2d, dilation, stride": (lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), stride=2, padding=2), (4, 9, 8)),
    "2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 6)),
    "2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 6, 6)),
    "2d, depthwise, multiplier": (lambda: nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6)),
    "2d, reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 6, 6)),
    "2d, replicate, same": (
        lambda: nn.Conv2d(4, 6, (4, 3), padding="same", padding_mode="replicate"),
        (4, 6, 6),
    ),
    "2d, 1x1": (lambda: nn.Conv2d(4, 6, 1, stride=2), (4, 6, 6)),
    "2d, few positions": (lambda: nn.Conv2d(16, 24, 3, padding=1), (16, 2, 2)),
    "2d, few positions, groups": (lambda: nn.Conv2d(16, 32, 3, padding=1, groups=2), (16, 2, 2)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 4, 4, 3)),
    "transposed, by running it again": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 3, 4)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str) -> None:
    make, shape = CONVOLUTIONS[kind]
    layer = make()
    x = torch.randn(B, *shape)
    assert_exact(nn.Sequential(layer, Head(layer(x).shape[1], channels_first=True)), x)


@pytest.mark.parametrize("route", ["gram of shifts", "gram of windows", "grouped", "shifted"])
def test_convolution_routes_agree(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm_conv, "conv_route", lambda *about: route)
    for make, shape in CONVOLUTIONS.values():
        layer = make()
        x = torch.randn(B, *shape)
        assert_exact(nn.Sequential(layer, Head(layer(x).shape[1], channels_first=True)), x)


@pytest.mark.parametrize("route", ["gram", "direct"])
@pytest.mark.parametrize("held", [1, 50, 1 << 22])
def test_linear_routes_agree(route: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm_linear, "matrix_route", lambda *about: route)
    monkeypatch.setitem(grad_norm_use.HELD_NUMBERS, "cpu", held)
    for positions in (1, 7):
        assert_exact(nn.Sequential(nn.Linear(4, 6), Head(6)), torch.randn(B, positions, 4))


def test_routes_follow_the_count_of_operations() -> None:
    assert matrix_route(1, 10, 10) == "gram"
    # 2 T^2 (p + d) operations against 2 T p d: equal at T = p d / (p + d).
    assert [matrix_route(t, 10, 10) for t in (2, 5, 6, 100)] == ["gram", "gram", "direct", "direct"]
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert conv_route(1024, 16, 16, 1024, (3, 3), cpu) == "grouped"
    assert conv_route(1024, 16, 16, 1024, (3, 3), gpu) == "shifted"
    assert conv_route(64, 64, 32, 256, (3, 3), cpu) == "shifted"
    # One Gram matrix of 64 positions, or one for each element of a kernel that leaves no two outputs an input.
    assert (
        conv_route(64, 64, 64, 64, (3, 3), cpu)
        == conv_route(64, 64, 64, 64, (3, 3), gpu)
        == "gram of windows"
    )
    assert conv_route(16, 256, 3, 1024, (8, 8), cpu) == "gram of shifts"


class Tokens(nn.Module):
    """Token and position embeddings, a projection, and a head that may share the table's weight."""

    def __init__(self, *, tied: bool, twice: bool = False, **options: Any) -> None:
        super().__init__()
        self.twice = twice
        self.table = nn.Embedding(7, 4, **options)
        self.position = nn.Embedding(6, 4)
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1]).expand(len(ids), -1)
        x = self.table(ids) + self.position(places)
        if self.twice:
            x = x + self.table(ids.flip(1) // 2)
        logits: torch.Tensor = self.head(torch.tanh(self.middle(x)))
        return logits.mean(1)


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        *((options, tied) for options in ({}, {"padding_idx": 2}, {"twice": True}) for tied in (False, True)),
        # PyTorch adds no sparse to dense gradients, and max_norm changes the weights that a head would share.
        ({"sparse": True}, False),
        ({"max_norm": 1.0}, False),
    ],
)
def test_embeddings(options: dict[str, Any], tied: bool) -> None:
    model = Tokens(tied=tied, **options)
    assert_exact(model, torch.tensor([[0, 0, 0, 0], [1, 2, 1, 2], [3, 2, 3, 4], [6, 5, 6, 6], [2, 2, 2, 2]]))
    assert_exact(model, torch.randint(0, 7, (B, 6)))


def test_embedding_of_one_id_a_sample() -> None:
    assert_exact(nn.Sequential(nn.Embedding(7, 4), Head(4)), torch.tensor([0, 1, 1, 6, 3]))


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "layer, flat": (lambda: nn.LayerNorm(6), (6,), False),
    "layer, sequence": (lambda: nn.LayerNorm(6, eps=0.1), (4, 6), False),
    "layer, two dimensions": (lambda: nn.LayerNorm((4, 6)), (3, 4, 6), False),
    "layer, no bias": (lambda: nn.LayerNorm(6, bias=False), (4, 6), False),
    "rms": (lambda: nn.RMSNorm(6), (4, 6), False),
    "rms, eps": (lambda: nn.RMSNorm((4, 6), eps=0.1), (3, 4, 6), False),
    "group": (lambda: nn.GroupNorm(3, 6), (6, 4, 5), True),
    "group, flat": (lambda: nn.GroupNorm(3, 6), (6,), False),
    "instance 1d": (lambda: nn.InstanceNorm1d(6, affine=True), (6, 5), True),
    "instance 2d": (lambda: nn.InstanceNorm2d(6, affine=True, eps=0.1), (6, 5, 3), True),
    "instance, running": (
        lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True).eval(),
        (6, 5, 3),
        True,
    ),
    "batch 1d, eval": (lambda: nn.BatchNorm1d(6).eval(), (6,), False),
    "batch 2d, eval": (lambda: nn.BatchNorm2d(6, eps=0.1).eval(), (6, 5, 3), True),
    "no affine": (lambda: nn.LayerNorm(6, elementwise_affine=False), (4, 6), False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norm_layers(kind: str) -> None:
    make, shape, channels_first = NORMS[kind]
    layer = make()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1, 1)
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)) and layer.track_running_stats:
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(0.5, 2)
    assert_exact(nn.Sequential(layer, Head(6, channels_first)), 3 + 2 * torch.randn(B, *shape))


def test_channels_last() -> None:
    layers = [nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True)]
    model = nn.Sequential(*layers, Head(6, True)).to(memory_format=torch.channels_last)
    assert_exact(model, torch.randn(B, 4, 5, 3).to(memory_format=torch.channels_last))


class Conv1D(nn.Module):
    """What GPT-2 has for linear layers: the class of this name in the transformers package."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return out.view(*x.shape[:-1], self.nf)


@pytest.mark.parametrize("lead", [(), (3,), (40,)])
def test_the_transposed_linear_layer_of_gpt2(lead: tuple[int, ...]) -> None:
    model = nn.Sequential(Conv1D(6, 4), Head(6))
    assert grad_norm_linear.is_transposed_linear(model[0])
    assert not grad_norm_linear.is_transposed_linear(nn.Conv1d(4, 6, 3))
    assert_exact(model, torch.randn(B, *lead, 4))


class Twice(nn.Module):
    """One layer used twice, so that its two gradients add up within a sample."""

    def __init__(self, layer: nn.Module, after: nn.Module | None = None, times: int = 2) -> None:
        super().__init__()
        self.layer, self.after, self.times = layer, after or nn.Identity(), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.after(self.layer(x)))
        return x


class Scale(nn.Module):
    """A layer that nobody has a rule for, with a buffer that it changes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))
        self.shift = nn.ParameterList([nn.Parameter(torch.randn(width))])
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor, *, power: int = 1) -> torch.Tensor:
        self.calls += 1
        return x**power * self.scale.exp() + self.shift[0]


SHARED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(Twice(nn.Linear(4, 4)), Head(4)), (4,)),
    "linear, sequence, three times": (
        lambda: nn.Sequential(Twice(nn.Linear(4, 4), times=3), Head(4)),
        (6, 4),
    ),
    "convolution": (
        lambda: nn.Sequential(Twice(nn.Conv2d(4, 4, 3, padding=1)), Head(4, True)),
        (4, 5, 5),
    ),
    "norm": (lambda: nn.Sequential(Twice(nn.GroupNorm(2, 4), nn.Conv1d(4, 4, 1)), Head(4, True)), (4, 5)),
    "no rule": (lambda: nn.Sequential(Twice(Scale(4)), Head(4)), (3, 4)),
    "nested": (lambda: nn.Sequential(Twice(Twice(nn.Linear(4, 4))), Head(4)), (4,)),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_layer_used_more_than_once(kind: str) -> None:
    make, shape = SHARED[kind]
    assert_exact(make(), torch.randn(B, *shape))


def test_a_weight_shared_by_layers_of_different_kinds() -> None:
    linear, own = nn.Linear(4, 4, bias=False), Scale(4)
    own.scale = nn.Parameter(torch.randn(4, 4))
    linear.weight = own.scale
    assert_exact(nn.Sequential(linear, own, Head(4)), torch.randn(B, 4, 4))


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.head = Head(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, weights = self.attention(x, x, x)
        logits: torch.Tensor = self.head(mixed + weights.mean(1, keepdim=True).mean())
        return logits


class Positions(nn.Module):
    """A model with a parameter of its own beside its layers, as vision transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 4))
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Head(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(torch.cat([self.start.expand(len(x), -1, -1), x], 1))
        return logits


UNRULED: dict[str, Callable[[], nn.Module]] = {
    "own layer": lambda: nn.Sequential(nn.Linear(4, 4), Scale(4), Head(4)),
    "attention": lambda: nn.Sequential(nn.Linear(4, 4), Attention()),
    "attention, frozen in part": lambda: frozen(Attention(), "in_proj_bias"),
    "attention of two widths": lambda: Attention(kdim=4, vdim=4, bias=False, add_bias_kv=True),
    "encoder layer": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), Head(4)
    ),
    "own parameter of the model": Positions,
    "prelu": lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(), Head(4)),
    "weight norm": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), Head(4)),
    "bilinear": lambda: nn.Sequential(BilinearSelf(), Head(4)),
}


class BilinearSelf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.layer(x, input2=x.flip(2)))


def frozen(model: nn.Module, *parts: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        if any(part in name for part in parts):
            parameter.requires_grad_(False)
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", UNRULED)
def test_layers_without_a_rule_are_run_again(kind: str) -> None:
    assert_exact(UNRULED[kind](), torch.randn(B, 3, 4))


def test_running_a_layer_again_leaves_its_buffers() -> None:
    layer = Scale(4)
    watched(nn.Sequential(layer, Head(4)), torch.randn(B, 4), torch.arange(B) % C)
    assert layer.calls == 1


@pytest.mark.parametrize("parts", [("0.",), ("0.weight",), ("0.bias", "1.weight"), ("2.", "1.")])
def test_frozen_parameters_count_nothing(parts: tuple[str, ...]) -> None:
    model = frozen(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Head(4)), *parts)
    assert_exact(model, torch.randn(B, 3, 4))


def test_a_frozen_layer_may_be_of_any_kind() -> None:
    embedding = nn.Embedding(7, 4, scale_grad_by_freq=True)
    model = nn.Sequential(embedding, Head(4))
    with pytest.raises(InvalidOption, match=r"layer 0 \(Embedding\).*scale_grad_by_freq"):
        GradNormWatcher(model)
    assert_exact(frozen(model, "0."), torch.randint(0, 7, (B, 3)))
    with pytest.raises(InvalidOption, match="no trainable parameter"):
        GradNormWatcher(frozen(model, ""))


class Shifted(nn.Module):
    """Adds one number to all logits of a sample, which changes no loss, as the bias of attention's keys does."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.shift = nn.Linear(4, C), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(x) + self.shift(x)
        return logits


def test_gradients_that_are_zero_but_for_rounding() -> None:
    assert_exact(Shifted(), torch.randn(50, 4))


@pytest.mark.parametrize("number", [100, 20_000])
def test_norms_of_long_rows(number: int) -> None:
    for values in (torch.full((2, number), 0.3), torch.randn(2, number)):
        torch.testing.assert_close(
            row_norms(values).double(), values.double().norm(dim=1), rtol=1e-6, atol=0.0
        )


def test_statistics_that_autograd_has_packed_are_found_again() -> None:
    layer, x, packed = nn.GroupNorm(3, 6), 3 + 2 * torch.randn(B, 6, 4, 5), []
    y = torch.arange(B) % C
    model = nn.Sequential(layer, Head(6, True))
    want = watched(model, x, y)
    # Torch 2.6 does not tell what is packed, so that nothing saved is taken there.
    told = hasattr(layer(x).grad_fn._raw_saved_result1, "unpack_hook")
    assert (with_statistics(x, layer(x))[1] is not None) == told

    def unpack(at: int) -> torch.Tensor:
        assert torch.is_grad_enabled() is False, "unpacked in the forward pass"
        return packed[at]

    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: packed.append(value) or len(packed) - 1, unpack
    ):
        assert with_statistics(x, layer(x))[1] is None
        torch.testing.assert_close(watched(model, x, y), want)


def test_a_backward_pass_that_makes_a_graph_itself() -> None:
    model, x, y = (
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.GroupNorm(3, 6), Head(6, True)),
        torch.randn(B, 4, 9),
        torch.arange(B) % C,
    )
    want = watched(model, x, y)
    with GradNormWatcher(model) as watcher:
        watcher.begin()
        loss = functional.cross_entropy(model(x), y)
        watcher.loss(loss, torch.arange(B), B)
        torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        (found,) = watcher.take()
    assert not found.norms.requires_grad
    torch.testing.assert_close(found.norms, want)


def test_a_loss_turned_upside_down_has_the_same_norms() -> None:
    model, x, y = Head(4), torch.randn(B, 4), torch.arange(B) % C
    want = watched(model, x, y)
    with GradNormWatcher(model) as watcher:
        watcher.begin()
        loss = functional.cross_entropy(model(x), y)
        watcher.loss(loss, torch.arange(B), B)
        (-3 * loss).backward()
        (found,) = watcher.take()
    torch.testing.assert_close(found.norms, want)
    assert (found.parts >= 0).all()
