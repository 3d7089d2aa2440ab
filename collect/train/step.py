"""The model of a run and what a step of its training takes, made anew for each run or used again by all of a fleet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...store.errors import InvalidInput, InvalidOption
from ..callables import is_callable_spec, load_callable
from ..data.training import DeviceData, TrainingData
from ..losses.scale import are_probabilities
from ..models.build import build_model
from ..models.fast import fit_to_members
from ..random_streams import kept_streams
from ..recipe import Recipe
from ..signals.evaluation import eval_mode
from .optimizers import make_optimizer

# Records a forward pass takes at a time: enough to fill the device, few enough to stay in a CPU's cache.
_EVAL_BATCH = {"cpu": 256, "cuda": 4096}
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# CUDA graphs would gain little for models that fill the device, and what they return is only good until the next step.
_COMPILE_MODE = "max-autotune-no-cudagraphs"


class TrainStep:
    """A model with its optimizer and loss, on the device that ``held`` is on.

    `start` begins a run. Where it is ``compiled``, the forward pass, and the backward pass with it, is compiled once and
    every further run gets its weights written into the same model; otherwise every run gets a model of its own. Either
    way the run begins with the same values. A model that cannot be compiled is trained as it is, with a warning.

    Compiled are batches of the recipe's size and of `eval_batch`; what is left over at the end of an epoch goes
    through the model as it is, since each further size would be compiled anew.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __init__(self, held: DeviceData, recipe: Recipe, *, compiled: bool = False) -> None:
        self.held, self.recipe = held, recipe
        self._sizes = (recipe.batch_size, eval_batch(held.device))
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._scale_seen = False
        if compiled:
            self._compile()

    def start(self, chosen: torch.Tensor) -> nn.Module:
        """Begin a run that trains on the records ``chosen`` (M,): the model with weights from torch's global generator."""
        fresh = self._build()
        if self._compiled is None:
            self.model = fresh.to(self.held.device)
        else:
            copy_values(fresh, self.model)
            self.model.train()
        fit_to_members(self.model, self.held, chosen)
        self.optimizer = make_optimizer(self.model, self.recipe, self.held.device)
        self.optimizer.zero_grad(set_to_none=True)
        fp16 = self.recipe.precision == "fp16" and self.held.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", enabled=fp16)
        return self.model

    def logits(self, x: Any) -> torch.Tensor:
        """What the model says of stored records x (B, ...), one array or several inputs, in the recipe's precision: (B, C)."""
        if self._compiled is not None and len(x) in self._sizes:
            return self._compiled(x)
        return self._forward(x)

    def loss(
        self, logits: torch.Tensor, ids: torch.Tensor, y: torch.Tensor, mirrored: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean cross-entropy of a batch against its labels y (B,), or against soft labels where the data has them."""
        held, smoothing = self.held, self.recipe.label_smoothing
        logits = logits.float()
        if not self._scale_seen:
            self._scale_seen = True
            if are_probabilities(logits, classes=1):
                raise InvalidInput(
                    f"model {self.recipe.model} gives probabilities, rows that add up to 1, where logits are meant; leave the softmax out"
                )
        if held.soft is None:
            return functional.cross_entropy(logits, y, label_smoothing=smoothing)
        taught = held.soft[0, ids]
        if mirrored is not None and len(held.soft) > 1:
            taught = torch.where(mirrored[:, None], held.soft[1, ids], taught)
        # Times T^2, or a higher temperature would be a lower learning rate (Hinton et al. 2015, section 2).
        loss = functional.cross_entropy(logits / held.temperature, taught, label_smoothing=smoothing)
        return loss * held.temperature**2

    def autocast(self) -> AbstractContextManager[Any]:
        """The recipe's precision."""
        precision = self.recipe.precision
        return torch.autocast(self.held.device.type, _PRECISIONS[precision], enabled=precision != "fp32")

    def _forward(self, x: Any) -> torch.Tensor:
        with self.autocast():
            if self.held.nested:
                return self.held.logits(self.model, x, check=not self._scale_seen)
            # Nothing that changes between steps is looked at here, or it would be compiled again.
            return self.held.logits(self.model, x)

    def _build(self) -> nn.Module:
        model = build_model(
            self.recipe.model,
            input_shape=self.held.input_shape,
            classes=self.held.classes,
            options=self.recipe.model_options,
        )
        return model.to(memory_format=torch.channels_last) if self.held.pictures else model

    def _compile(self) -> None:
        """Compile, and run forwards and backwards once in train mode and once in eval mode: what fails, fails here."""
        with kept_streams(self.held.device):
            try:
                self.model = self._build().to(self.held.device)
                forward = _compiler(self._forward)
                train, ask = (
                    self.held.x[torch.arange(size, device=self.held.device) % len(self.held.x)]
                    for size in self._sizes
                )
                forward(train).float().sum().backward()
                with eval_mode(self.model):
                    forward(ask)
            except Exception as error:  # whatever a compiler may say
                reason = (str(error).strip().splitlines() or [""])[0]
                warnings.warn(
                    f"model {self.recipe.model} is trained without torch.compile, which failed: "
                    f"{type(error).__name__}: {reason}",
                    stacklevel=2,
                )
                return
        self._compiled = forward


def on_device(data: TrainingData, device: torch.device, recipe: Recipe) -> DeviceData:
    """The samples on a device, as a model of the recipe takes them."""
    forward = None if recipe.forward is None else load_callable(recipe.forward)
    return DeviceData(data, device, normalize=recipe.normalize, forward=forward)


def eval_batch(device: torch.device) -> int:
    """Records that a forward pass without training takes at a time."""
    return _EVAL_BATCH.get(device.type, 1024)


def copy_values(source: nn.Module, target: nn.Module) -> None:
    """Write the parameters and buffers of one model into another of the same kind, in place."""
    with torch.no_grad():
        for of in (nn.Module.named_parameters, nn.Module.named_buffers):
            values = dict(of(source))
            for name, place in of(target):
                place.copy_(values[name])


def compiles(
    wanted: bool | None, recipe: Recipe, *, grad_norms: str, device: torch.device, runs: int
) -> bool:
    """Whether the runs of a fleet share one compiled model: where it is ``wanted`` or, for None, where it pays.

    That is on a GPU for several runs of a named model: a function of the user's may keep in its model what no reset
    reaches. Raises InvalidOption for a wanted compilation that does not go with the recipe or what is recorded.
    """
    hooked = recipe.private or grad_norms != "none"
    if wanted and hooked:
        raise InvalidOption(
            "a compiled model leaves out the hooks that DP-SGD and gradient norms need; leave compile out"
        )
    if wanted is None:
        return device.type == "cuda" and runs > 1 and not hooked and not is_callable_spec(recipe.model)
    return wanted


def _compiler(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(
        function, dynamic=False, mode=_COMPILE_MODE
    )
    return compiled
