"""DP-SGD in the built-in trainer: each record's gradient clipped, noise added to their sum, batches drawn by Poisson sampling.

Clipping, noise, sampling and accounting are Opacus', an optional dependency: the extra ``dp``.

Its secure mode is off: the noise comes from torch's generator, seeded like everything else of a run, so that a run
repeats. Whoever knows the seed, which the lake keeps, can take the noise off again. The epsilon is that of the
algorithm, for measuring what it protects; a model to be released wants noise that nobody can repeat. The mean and standard
deviation that inputs are normalised by are of all audit samples and not charged.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ...store.errors import InvalidOption, MissingExtra
from ..recipe import Recipe

ACCOUNTANT = "rdp"
"""Rényi DP (Mironov 2017): an upper bound that is quick and exists for every noise; PRV is tighter and does not."""

_TOLERANCE = 0.01
"""Share of a wanted epsilon that the noise found for it may leave unused."""

_LARGEST_DELTA = 1e-5


@dataclass(frozen=True)
class Budget:
    """What a run spends, for neighbouring training sets that differ by one record added or removed.

    ``epsilon`` at ``delta`` follows from ``noise`` (standard deviation of the noise over ``clip``, the largest norm of a
    record's gradient), ``sample_rate`` (the chance of a record to be in a batch) and ``steps`` by the ``accountant``. It is
    an upper bound; None where that is infinite.
    """

    epsilon: float | None
    delta: float
    noise: float
    clip: float
    accountant: str
    sample_rate: float
    steps: int


def budget_of(recipe: Recipe, members: int) -> Budget:
    """What training ``members`` records by a recipe with DP spends; known beforehand.

    delta is by default the largest power of ten that is at most 1 / members, 1e-5 at most. As in Opacus an epoch has
    ceil(members / batch size) steps, and the sample rate is 1 over that. A run that stops early is charged all epochs of the recipe:
    when to stop was found out by looking at the model, and a bound for fewer steps does not hold for a number of steps
    that is chosen so. Raises InvalidOption for an epsilon that no noise reaches, MissingExtra without Opacus.
    """
    opacus = _opacus()
    delta = recipe.dp_delta
    if delta is None:
        delta = min(_LARGEST_DELTA, 10.0 ** -math.ceil(math.log10(max(members, 1)) - 1e-9))
    an_epoch = max(1, math.ceil(members / recipe.batch_size))
    rate, steps = 1 / an_epoch, an_epoch * recipe.epochs
    noise, clip = recipe.dp_noise, recipe.dp_clip
    assert clip is not None  # a recipe with DP has one
    with warnings.catch_warnings():
        # That a further order of the accountant might give a tighter bound.
        warnings.filterwarnings("ignore", message="Optimal order is")
        if noise is None:
            noise = _noise_for(opacus, recipe, delta, rate, steps)
        accountant = opacus.accountants.create_accountant(mechanism=ACCOUNTANT)
        accountant.history = [(noise, rate, steps)]
        try:
            epsilon = float(accountant.get_epsilon(delta=delta))
        except ArithmeticError:  # next to no noise
            epsilon = math.inf
    return Budget(epsilon if math.isfinite(epsilon) else None, delta, noise, clip, ACCOUNTANT, rate, steps)


def check_private(model: nn.Module) -> None:
    """Raises InvalidOption for a model that has no gradient of a single record, as with BatchNorm; MissingExtra."""
    errors = _opacus().validators.ModuleValidator.validate(model.train())
    if not errors:
        return
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise InvalidOption(
            "DP-SGD cannot train a model with BatchNorm, which mixes the records of a batch; take another norm: --norm group "
            "(model_options = { norm = 'group' } in a recipe) for the named models"
        )
    raise InvalidOption(f"DP-SGD cannot train this model: {str(errors[0]).strip().splitlines()[0]}")


class PrivateSteps:
    """DP-SGD for one run: wraps its optimizer, draws its batches, and listens to its model for each record's gradient.

    ``sampling`` draws the batches, ``noise`` (on the model's device) the noise. The gradients of all records of a batch
    are in memory at once. Raises as `check_private` and `budget_of` do.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        members: int,
        *,
        sampling: torch.Generator,
        noise: torch.Generator,
    ) -> None:
        check_private(model)
        opacus = _opacus()
        self.budget = budget_of(recipe, members)
        self.steps = self.budget.steps // recipe.epochs
        """Steps an epoch."""
        _lay_out_plainly(model)
        self._listening = opacus.GradSampleModule(model)
        self._listening.remove_hooks()
        self.optimizer = opacus.optimizers.DPOptimizer(
            optimizer,
            noise_multiplier=self.budget.noise,
            max_grad_norm=self.budget.clip,
            expected_batch_size=max(1, int(members * self.budget.sample_rate)),
            generator=noise,
        )
        self._sampler = opacus.utils.uniform_sampler.UniformWithReplacementSampler(
            num_samples=members, sample_rate=self.budget.sample_rate, generator=sampling, steps=self.steps
        )

    def batches(self, ids: torch.Tensor) -> Iterator[torch.Tensor]:
        """The batches of an epoch, of ids (members,): each record is in each of them by a chance of its own.

        So a record may come several times in an epoch or not at all, and a batch may be empty. The model has Opacus' hooks
        until the last batch is used up, and none in between, where it is asked about its records.
        """
        self._listening.add_hooks()
        try:
            with warnings.catch_warnings():
                # A first layer's input has no gradient; Opacus does not ask for it.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                for chosen in self._sampler:
                    yield ids[torch.tensor(chosen, dtype=torch.int64, device=ids.device)]
        finally:
            self._listening.remove_hooks()

    def step_on_nothing(self) -> None:
        """The step of an empty batch: noise alone."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.optimizer.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        self.optimizer.step()

    def report(self) -> dict[str, Any]:
        """What the run tells of it: the budget and whose noise it was."""
        return {**asdict(self.budget), "sampling": "poisson", "library": f"opacus {_opacus().__version__}"}


def _lay_out_plainly(model: nn.Module) -> None:
    """Channels first, for the weights and for what convolutions are given.

    Opacus takes a convolution's input to lie so in memory; of one with channels last it computes wrong gradients (1.6,
    measured against single records: wholly wrong, without a warning).
    """
    model.to(memory_format=torch.contiguous_format)
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.register_forward_pre_hook(_channels_first)


def _channels_first(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.contiguous() if isinstance(each, torch.Tensor) else each for each in given)


def _noise_for(opacus: ModuleType, recipe: Recipe, delta: float, rate: float, steps: int) -> float:
    wanted = recipe.dp_epsilon
    assert wanted is not None  # a recipe with DP has a noise or an epsilon
    try:
        return float(
            opacus.accountants.utils.get_noise_multiplier(
                target_epsilon=wanted,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant=ACCOUNTANT,
                epsilon_tolerance=_TOLERANCE * wanted,
            )
        )
    except ValueError as error:
        raise InvalidOption(
            f"no noise gives dp_epsilon {wanted:g} at delta {delta:g} over {steps} steps by the accountant "
            f"{ACCOUNTANT!r}; give a larger one"
        ) from error


def _opacus() -> ModuleType:
    try:
        import opacus
        import opacus.accountants.utils
        import opacus.optimizers
        import opacus.utils.uniform_sampler
        import opacus.validators
    except ImportError as error:
        raise MissingExtra(
            "DP-SGD needs Opacus, which is not installed; get it with pip install 'losslake[dp]'"
        ) from error
    return opacus
