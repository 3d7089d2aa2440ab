"""Recording a run of Lightning's Trainer: a callback, and nothing else to change.

with losslake.open("lake").start_run("digits", samples=labels, members=ids) as run:
    callback = losslake.lightning_callback(run, criterion="loss_fn", data=everything, eval_trace=True)
    Trainer(callbacks=[callback]).fit(module, loader)
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from ...store.errors import InvalidInput, InvalidOption, MissingExtra
from ..hook.loader import WatchedLoader, check_followable
from ..hook.recorded_run import RecordedRun

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ImportError as missing:
    raise MissingExtra(
        "the Lightning callback needs lightning; install it: pip install 'losslake[lightning]'"
    ) from missing

_WATCHED = "_losslake_watched"
"""The attribute in which a loader keeps its watched twin."""


class LightningCallback(Callback):
    """What `lightning_callback` returns; Lightning's Trainer calls its methods."""

    def __init__(
        self, run: RecordedRun, *, criterion: str | None, ids: Any, data: Any, eval_trace: bool
    ) -> None:
        if eval_trace and data is None:
            raise InvalidOption(
                "eval_trace needs data=, the records of all samples in the order of sample ids"
            )
        self._run, self._criterion, self._ids = run, criterion, ids
        self._data, self._eval_trace = data, eval_trace
        self._process = os.getpid()
        self._told: deque[np.ndarray] = deque()
        self._watched: tuple[nn.Module, str, dict[str, Any]] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Follow the training loader, which Lightning is about to ask for."""
        if stage != "fit":
            return
        if os.getpid() != self._process:
            raise InvalidInput(
                "the training runs in another process than the one that started the run; use strategy='ddp' in a script"
            )
        if (
            not isinstance(trainer.strategy, SingleDeviceStrategy)
            and type(trainer.strategy) is not DDPStrategy
        ):
            raise InvalidInput(
                f"the callback does not follow models under {type(trainer.strategy).__name__}; use one device or "
                "strategy='ddp'"
            )
        source = trainer.fit_loop._data_source
        ask = type(source).dataloader

        def dataloader() -> Any:
            loader = _only_loader(ask(source))
            ids = self._run.positions(loader.dataset, self._ids)
            return _telling(loader, ids, self._told)

        source.dataloader = dataloader

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch the criterion; the point before training of the eval trace."""
        if trainer.global_step > 0 or trainer.current_epoch > 0:
            raise InvalidInput(
                f"training resumes at step {trainer.global_step}, and what the steps before recorded is lost; train from "
                "the start"
            )
        if self._criterion is not None:
            self._watch(pl_module, self._criterion)
        self._trace(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Say which samples come."""
        if not self._told:
            raise InvalidInput(
                "no batch was fetched before this step; a training_step that takes dataloader_iter cannot be followed"
            )
        self._run.batch(self._told.popleft())

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the logits and labels that training_step returned, where no criterion is watched."""
        if self._criterion is not None:
            return
        if not isinstance(outputs, Mapping) or not {"logits", "labels"} <= outputs.keys():
            what = (
                f"a mapping of {', '.join(outputs)}"
                if isinstance(outputs, Mapping)
                else type(outputs).__name__
            )
            raise InvalidInput(
                f"training_step of {type(pl_module).__name__} returned {what}; let it return a dict of loss, logits and "
                "labels, or name the module's loss function: lightning_callback(run, criterion='loss_fn')"
            )
        self._run.record_logits(outputs["logits"], outputs["labels"])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch's train trace, and a point of the eval trace."""
        if not self._run.recording:
            raise InvalidInput(
                f"training_step of {type(pl_module).__name__} did not call {self._criterion!r} in this epoch; name the loss "
                "function that it calls, or leave criterion= out and return a dict of loss, logits and labels"
            )
        self._run.end_epoch()
        self._trace(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The signals of the finished model."""
        self._unwatch(trainer)
        self._run.end_epoch()
        if self._data is not None:
            self._run.evaluate(_Asked(trainer, pl_module), self._data)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the module and the Trainer as they were."""
        self._unwatch(trainer)

    def _watch(self, module: Any, name: str) -> None:
        owner_name, _, attribute = name.rpartition(".")
        try:
            owner = module.get_submodule(owner_name)
            original = getattr(owner, attribute)
        except AttributeError as error:
            raise InvalidOption(
                f"{type(module).__name__} has no {name!r}; criterion= names its loss function"
            ) from error
        if not callable(original):
            raise InvalidOption(
                f"{name!r} of {type(module).__name__} is no function, but {type(original).__name__}"
            )
        self._watched = owner, attribute, dict(owner.__dict__)
        # Not as a submodule: the keys of checkpoints stay, and the criterion's own module is still moved and saved.
        owner.__dict__[attribute] = self._run.watch_criterion(original)

    def _unwatch(self, trainer: Any) -> None:
        trainer.fit_loop._data_source.__dict__.pop("dataloader", None)
        if self._watched is None:
            return
        owner, attribute, before = self._watched
        self._watched = None
        del owner.__dict__[attribute]
        if attribute in before:
            owner.__dict__[attribute] = before[attribute]

    def _trace(self, trainer: Any, module: Any) -> None:
        if self._eval_trace:
            self._run.trace_eval(_Asked(trainer, module), self._data)


def lightning_callback(
    run: RecordedRun,
    *,
    criterion: str | None = None,
    ids: Any = None,
    data: Any = None,
    eval_trace: bool = False,
) -> LightningCallback:
    """A callback for Lightning's Trainer that records the training as ``run``; leaving the run's block commits it.

    In every training step it records each sample's clean loss and margin, for the train trace. Training itself is bitwise
    what it was. It works with mixed precision, gradient accumulation, manual optimization, torch.compile, data modules
    and DDP, whose sampler Lightning exchanges: give it the loaders as they are.

    criterion   the module's attribute that training_step calls with logits (batch, classes) and target, such as
                "loss_fn" or "net.loss_fn". None: training_step returns a dict of loss, logits and labels
    ids         (len(dataset),) the sample id at each position of the data set trained on; by default the members, in
                the order given to `start_run`
    data        all samples in the order of sample ids, un-augmented: a data set of (x, y) or tensors x, y. With it the
                finished model's signals are recorded: those of module(x), which must be logits
    eval_trace  record the loss and margin of every audit sample before training and after each epoch too

    `RecordedRun.watch_model` adds gradient norms, where the criterion is named. Raises InvalidOption and InvalidInput,
    most of them when training begins: for a resumed training, several loaders, and strategies other than one device and
    DDP started from a script.
    """
    return LightningCallback(run, criterion=criterion, ids=ids, data=data, eval_trace=eval_trace)


def _only_loader(loader: Any) -> DataLoader[Any]:
    """The loader that Lightning was given, checked. Raises InvalidInput for several, and for what cannot be followed."""
    if isinstance(loader, WatchedLoader):
        raise InvalidInput("the callback watches the loader itself; give Lightning the plain DataLoader")
    if not isinstance(loader, DataLoader):
        raise InvalidInput(f"the callback follows one torch DataLoader, not {type(loader).__name__}")
    check_followable(loader)
    return loader


def _telling(loader: Any, ids: np.ndarray, told: deque[np.ndarray]) -> DataLoader[Any]:
    """A copy of the loader whose passes put the sample ids of each batch, as it is handed out, into ``told``.

    It is of a subclass of the loader's class, made here: Lightning builds loaders anew to exchange their sampler
    (DistributedSampler under DDP, a sequential one for overfit_batches), of the same class, and without what is only
    in the instance. So what is told is always what the final sampler draws. A new pass empties ``told``.
    ``ids`` (len(dataset),) is the sample id at each position.
    """
    plain = type(loader)

    def passes(self: DataLoader[Any]) -> Iterator[Any]:
        watched = self.__dict__.get(_WATCHED)
        if watched is None:
            twin = copy.copy(self)
            _set_class(twin, plain)
            watched = WatchedLoader(twin, ids, on_pass=told.clear, on_batch=told.append, on_end=lambda: None)
            self.__dict__[_WATCHED] = watched
        return iter(watched)

    mine = copy.copy(loader)
    _set_class(mine, type(plain.__name__, (plain,), {"__iter__": passes, "__module__": plain.__module__}))
    return mine


def _set_class(loader: DataLoader[Any], kind: type) -> None:
    # Lightning notes what is set on a loader, to do the same to the one that it builds.
    object.__setattr__(loader, "__class__", kind)


class _Asked(nn.Module):
    """The module, called with inputs in the type that Lightning gives it, as "16-true" needs them."""

    def __init__(self, trainer: Any, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._convert = trainer.precision_plugin.convert_input

    def forward(self, x: Any) -> Any:
        return self.module(self._convert(x))
