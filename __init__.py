"""losslake: which of my training records does this model expose?

import losslake

print(losslake.audit(model, (X, y), (X_out, y_out), shadows=16))       # judge a finished model
lake = losslake.open("my-lake")
with lake.start_run("mine", samples=labels, members=ids) as run: ...   # record a training loop
lake.analyze("lt-iqr", experiment="mine").scores.frame                 # score every record
lake.sql("from runs")                                                  # ask anything
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from .api import Lake
    from .auditing import Audit
    from .collect.callbacks.huggingface import HuggingFaceCallback
    from .collect.callbacks.huggingface_answers import Task
    from .collect.callbacks.lightning import LightningCallback
    from .collect.grad_norms.eval_pass import GradNorms, Losses
    from .collect.hook.recorded_run import RecordedRun
    from .collect.progress import Progress

__all__ = [
    "Lake",
    "LosslakeError",
    "__version__",
    "audit",
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


def audit(
    model: Any,
    members: Any,
    nonmembers: Any,
    *,
    population: Any = None,
    shadows: int = 0,
    train: Callable[[Any, int], Any] | None = None,
    references: Sequence[Any] = (),
    lake: str | Path | Lake | None = None,
    experiment: str = "audit",
    run: str = "target",
    label: str = "label",
    key: str | None = None,
    group: str | None = None,
    features: str | Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    output: Literal["logits", "probabilities"] | None = None,
    least_probability: float | None = None,
    overlap: Literal["refuse", "leave out"] = "refuse",
    batch_size: int = 512,
    forward: Callable[..., Any] | None = None,
    collate: Callable[..., Any] | None = None,
    tokenizer: Any = None,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Audit:
    """Audit a finished model, a classifier or a language model: which of ``members``, the records it was trained on, does it expose?

        print(losslake.audit(model, (X, y), (X_out, y_out), shadows=16))

    model       what is audited: a torch module; anything with predict_proba (scikit-learn, a Pipeline, XGBoost, LightGBM, ...); a
                function from a batch of X to logits or probabilities (batch, classes), or of class 1 of two; or with ``tokenizer`` a
                causal language model, a LoRA on one too, or a text-generation pipeline
    members, nonmembers   the records that it was trained on, and others drawn like them: the tuple (X, y); a frame (pandas, Polars,
                Arrow); a torch data set or loader, of which the records in the part that is drawn from count; a list of records
                (x, y), or of dicts of tensors; a Hugging Face Dataset. Of a
                language model texts: a list of str, or a frame or Dataset with a column text, or that which features names
    population  more records that no model is trained on, the outsiders of attack-p; those of group canary are candidates (`exposure`)
    shadows     how many shadow models to fit on random halves of members and non-members, which strong attacks need: clones
                of a scikit-learn estimator, each with random states of its own; other models by ``train``. Those that the lake
                holds already are not fitted again; all that it holds are used, and others than these would be are refused
    train       train(members, seed) -> a model trained on these as the model was; members are such as were given: (X, y), a frame
                or a data set. A new model each time: one that does not depend on its members is refused
    references  further models, trained on none of these records; of a language model of the same tokenizer, and of a LoRA "base" is
                the model below it
    lake        where to keep it all, a frame's columns too (up to 100, which the report shows); by default a temporary lake, which
                is there as long as the Audit
    experiment, run   what it is called in the lake
    label, key, group   names of columns of frames: the label, each record's name, its group
    features    columns that the model takes, or the one column that it takes as it is, such as a text; by default those that it was fitted
                on, where it says so, or all others
    classes     the labels in the order of the model's outputs, where they are no class numbers and the model does not say
    output      whether the model gives logits or probabilities; by default as its outputs show
    least_probability  what a probability of exactly 0 is read as; by default half of the least other one (of votes of T trees 1/(2T)),
                and 1/4 at most; no more than the least other one
    overlap     records on two sides are refused; "leave out" leaves them out of the later side
    batch_size  records in a call of a function; one that failed is asked again after 1, 5 and 15 seconds, where it has answered before
                or the error is one of a connection (OSError)
    forward, collate   how a module is called, where it is not model(x) of records (x, y); as in `Lake.start_run`.
                Of a language model forward(model, {input_ids, attention_mask}) -> logits (batch, positions, tokens)
    tokenizer   of a language model, one of transformers, called as tokenizer(text); or a functools.partial of it, which may cut texts
    max_tokens  tokens that a language model is shown of a text, as many as in its training; by default all that it takes
    seed        of the halves and of the shadow models
    progress    True: say on standard error how far it is, as the shell's command does; or an object that is told

    Each record's answer is kept as the logits that a lake holds, of probabilities their logarithms. Copies of a record count
    as one, and are trained on together. Of a text the loss of each token is kept (token_losses, token_z, lower_loss; see docs/schema.md),
    in one pass of padded batches: its loss is their mean, as the Trainer computes it, and its zlib_bytes are with the samples. Returns an Audit: printed, it is the verdict with its limits. Raises InvalidInput for
    what cannot be told of: records on two sides, NaN, probabilities that do not add up to 1, labels that the model does not know,
    unequal columns; AlreadyExists where the lake holds other answers under these names.
    """
    from .auditing import audit as audit_model

    return audit_model(
        model, members, nonmembers, population=population, shadows=shadows, train=train, references=references, lake=lake,
        experiment=experiment, run=run, label=label, key=key, group=group, features=features, classes=classes, output=output,
        least_probability=least_probability, overlap=overlap, batch_size=batch_size, forward=forward, collate=collate,
        tokenizer=tokenizer, max_tokens=max_tokens, seed=seed, progress=progress,
    )  # fmt: skip


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
    tokens: bool = False,
) -> HuggingFaceCallback:
    """A callback for a transformers Trainer, or trl's SFTTrainer, that records the training as ``run``; leaving the run's block commits it.

    ids         (len(train_dataset),) the sample id of each record of train_dataset; by default its column sample_id,
                or else the members
    data        all samples in the order of sample ids, records like those of train_dataset: with it the finished
                model's signals are recorded
    eval_trace  record the loss and margin of every audit sample before training and after each epoch too
    task        "classification" or "causal-lm"; by default as the model's class says
    tokens      keep what the finished language model says of each token: token_losses, token_z

    More is said in `losslake.collect.callbacks.huggingface.huggingface_callback`. Raises MissingExtra without the extra
    losslake[huggingface].
    """
    from .collect.callbacks.huggingface import huggingface_callback as callback

    return callback(run, ids=ids, data=data, eval_trace=eval_trace, task=task, tokens=tokens)


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
