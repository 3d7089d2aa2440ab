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

    from .api import Lake
    from .collect.callbacks.huggingface import HuggingFaceCallback
    from .collect.callbacks.lightning import LightningCallback
    from .collect.grad_norms.eval_pass import GradNorms
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


def lightning_callback(run: RecordedRun, **options: Any) -> LightningCallback:
    """A callback for Lightning's Trainer; see `losslake.collect.callbacks.lightning.lightning_callback` for the options.

    Raises MissingExtra without the extra losslake[lightning].
    """
    from .collect.callbacks.lightning import lightning_callback as callback

    return callback(run, **options)


def huggingface_callback(run: RecordedRun, **options: Any) -> HuggingFaceCallback:
    """A callback for the Trainer of transformers; see `losslake.collect.callbacks.huggingface.huggingface_callback` for the options.

    Raises MissingExtra without the extra losslake[huggingface].
    """
    from .collect.callbacks.huggingface import huggingface_callback as callback

    return callback(run, **options)


def per_sample_grad_norms(model: Any, x: Any, y: Any, **options: Any) -> GradNorms:
    """The gradient norm of each sample of a batch; see `losslake.collect.grad_norms.eval_pass.per_sample_grad_norms`."""
    from .collect.grad_norms.eval_pass import per_sample_grad_norms as norms

    return norms(model, x, y, **options)


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line answers --help without numpy, pyarrow and the rest.
    if name == "Lake":
        from .api import Lake

        return Lake
    if name == "LosslakeError":
        from .store.errors import LosslakeError

        return LosslakeError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
