"""losslake: which of my training records does this model expose?

import losslake

lake = losslake.open("my-lake")
with lake.start_run("mine", samples=labels, members=ids) as run: ...   # record a training loop
lake.analyze("lt-iqr", experiment="mine").scores.frame                 # score every record
lake.sql("from runs")                                                  # ask anything
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from .api import Lake
    from .collect.callbacks.huggingface import HuggingFaceCallback
    from .collect.callbacks.huggingface_answers import Task
    from .collect.callbacks.lightning import LightningCallback
    from .collect.grad_norms.eval_pass import GradNorms, Losses
    from .collect.hook.recorded_run import RecordedRun

__all__ = [
    "Lake",
    "LosslakeError",
    "__version__",
    "huggingface_callback",
    "lightning_callback",
    "open",
    "per_sample_grad_norms",
]


def open(path: str | Path, *, create: bool = True) -> Lake:
    """The lake in the folder ``path``; made when there is none, unless ``create`` is False.

    Raises NotFound, InvalidInput for a folder that is something else, NewerFormat for a newer losslake's lake.
    """
    from .api import Lake

    return Lake.open(path, create=create)


def lightning_callback(
    run: RecordedRun,
    *,
    criterion: str | None = None,
    ids: Any = None,
    data: Any = None,
    eval_trace: bool = False,
) -> LightningCallback:
    """A callback for Lightning's Trainer that records the training as ``run``; leaving the run's block commits it.

    criterion   the module's attribute that training_step calls with logits (batch, classes) and target, such as
                "loss_fn" or "net.loss_fn". None: training_step returns a dict of loss, logits and labels
    ids         (len(dataset),) the sample id at each position of the data set trained on; by default the members
    data        all samples in the order of sample ids, un-augmented: with it the finished model's signals are recorded
    eval_trace  record the loss and margin of every audit sample before training and after each epoch too

    More is said in `losslake.collect.callbacks.lightning.lightning_callback`. Raises MissingExtra without the extra
    losslake[lightning].
    """
    from .collect.callbacks.lightning import lightning_callback as callback

    return callback(run, criterion=criterion, ids=ids, data=data, eval_trace=eval_trace)


def huggingface_callback(
    run: RecordedRun,
    *,
    ids: Any = None,
    data: Any = None,
    eval_trace: bool = False,
    task: Task | None = None,
) -> HuggingFaceCallback:
    """A callback for a transformers Trainer that records the training as ``run``; leaving the run's block commits it.

    ids         (len(train_dataset),) the sample id of each record of train_dataset; by default its column sample_id,
                or else the members
    data        all samples in the order of sample ids, records like those of train_dataset: with it the finished
                model's signals are recorded
    eval_trace  record the loss and margin of every audit sample before training and after each epoch too
    task        "classification" or "causal-lm"; by default as the model's class says

    More is said in `losslake.collect.callbacks.huggingface.huggingface_callback`. Raises MissingExtra without the extra
    losslake[huggingface].
    """
    from .collect.callbacks.huggingface import huggingface_callback as callback

    return callback(run, ids=ids, data=data, eval_trace=eval_trace, task=task)


def per_sample_grad_norms(model: nn.Module, x: Any, y: Tensor, *, losses: Losses | None = None) -> GradNorms:
    """The gradient norm of each sample of one batch, in whatever mode the model is; its ``.grad`` stays as it is.

    ``losses(model(x), y)`` gives the samples' losses (B,), by default the cross-entropy. Raises InvalidOption for a layer without
    per-sample gradients, InvalidInput where what is found does not add up to the batch's gradient.
    """
    from .collect.grad_norms.eval_pass import per_sample_grad_norms as norms

    return norms(model, x, y, losses=losses)


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line answers --help without numpy, pyarrow and the rest.
    if name == "Lake":
        from .api import Lake

        return Lake
    if name == "LosslakeError":
        from .store.errors import LosslakeError

        return LosslakeError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
