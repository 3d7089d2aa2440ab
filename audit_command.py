"""`losslake audit`: the call `losslake.audit` as a command, its arguments as options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click

from .auditing import audit, verdict_of, write_report_of
from .store.errors import LosslakeError


@click.command(name="audit")
@click.option(
    "--model",
    required=True,
    metavar="FUNCTION",
    help="package.module:function; what it returns is the model. Nothing is unpickled.",
)
@click.option(
    "--members",
    required=True,
    metavar="FILE",
    help="The records that it was trained on: .csv, .parquet, .npz (x, y), or package.module:function.",
)
@click.option("--nonmembers", required=True, metavar="FILE", help="Others drawn like them.")
@click.option("--population", metavar="FILE", help="More records that no model is trained on.")
@click.option(
    "--shadows", type=int, default=0, show_default=True, metavar="N", help="How many shadow models to fit."
)
@click.option(
    "--train",
    metavar="FUNCTION",
    help="package.module:function (members, seed) -> a shadow model; an estimator needs none.",
)
@click.option(
    "--references",
    multiple=True,
    metavar="FUNCTION",
    help="package.module:function of a model trained on none of these records; base: the model below a LoRA.",
)
@click.option(
    "--lake",
    envvar="LOSSLAKE_LAKE",
    metavar="PLACE",
    help="Keep it all in this lake (or set LOSSLAKE_LAKE); default: nowhere.",
)
@click.option(
    "--experiment", default="audit", show_default=True, metavar="NAME", help="What to call it in the lake."
)
@click.option(
    "--run", default="target", show_default=True, metavar="NAME", help="What to call the model there."
)
@click.option("--label", default="label", show_default=True, metavar="COLUMN", help="The column of labels.")
@click.option("--key", metavar="COLUMN", help="A column that names each record.")
@click.option("--group", metavar="COLUMN", help="A column that names each record's group.")
@click.option(
    "--features",
    multiple=True,
    metavar="COLUMN",
    help="A column that the model takes, one of text alone as it is; default: those that it was fitted on, or all others.",
)
@click.option(
    "--output", type=click.Choice(["logits", "probabilities"]), help="What a function or module gives."
)
@click.option(
    "--classes",
    metavar="LABEL,...",
    help="The labels in the order of the outputs, where they are no class numbers and the model does not say.",
)
@click.option(
    "--forward",
    metavar="FUNCTION",
    help="package.module:function, (module, batch) -> (outputs, targets), of records of several inputs.",
)
@click.option(
    "--collate",
    metavar="FUNCTION",
    help="package.module:function, a list of records -> a batch, for a module.",
)
@click.option(
    "--tokenizer",
    metavar="FUNCTION",
    help="package.module:function; what it returns is a language model's tokenizer, and the records are texts: the column text, or --features.",
)
@click.option(
    "--max-tokens",
    type=int,
    metavar="N",
    help="Cut texts to so many tokens, as the training did; default: all that the model takes.",
)
@click.option(
    "--least-probability", type=float, metavar="P", help="What a probability of exactly 0 is read as."
)
@click.option(
    "--overlap",
    type=click.Choice(["refuse", "leave out"]),
    default="refuse",
    show_default=True,
    help="What becomes of records that are members and non-members.",
)
@click.option(
    "--batch-size", type=int, default=512, show_default=True, help="Records in a call of a function."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Draws the halves and the shadow models."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report: .html, .pdf, .png, .svg or .json.",
)
def command(
    model: str,
    members: str,
    nonmembers: str,
    population: str | None,
    train: str | None,
    references: tuple[str, ...],
    label: str,
    key: str | None,
    features: tuple[str, ...],
    classes: str | None,
    forward: str | None,
    collate: str | None,
    tokenizer: str | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Audit a finished model, a classifier or a language model: which of the records it was trained on does it expose?

    Asks the model about its members and about others, fits shadow models on random halves of both, and prints the
    verdict with its limits. The options are told in full under `losslake.audit` in docs/python.md.

    \b
    Examples:
      losslake audit --model mine:forest --members train.csv --nonmembers held-out.csv --label y --shadows 16 --out audit.html
      losslake audit --model mine:net --members mine:seen --nonmembers mine:unseen --forward mine:forward --out audit.html
      losslake audit --model mine:gpt --tokenizer mine:tokenizer --members train.csv --nonmembers held-out.csv --max-tokens 256
    """
    from .collect.audit.language_model import BASE
    from .collect.audit.named import called, named_classes, named_features, named_records
    from .collect.callables import load_callable
    from .collect.progress import GETTING_READY, ProgressLines

    if out is not None:
        from .analysis.report.write import check_report_file

        check_report_file(out)  # now, and not when hours of work are done
    progress = ProgressLines("audit")
    progress.note(GETTING_READY)
    try:
        asked, inside = called(model), named_records(members, label=label, key=key)
        found = audit(
            asked,
            inside,
            named_records(nonmembers, label=label, key=key),
            population=None if population is None else named_records(population, label=label, key=key),
            train=None if train is None else load_callable(train),
            references=[spec if spec == BASE else called(spec) for spec in references],
            label=label,
            key=key,
            features=named_features(features, inside),
            classes=None if classes is None else named_classes(classes),
            forward=None if forward is None else load_callable(forward),
            collate=None if collate is None else load_callable(collate),
            tokenizer=None if tokenizer is None else called(tokenizer),
            progress=progress,
            **options,
        )
    except LosslakeError as error:
        error.args = (as_options(str(error)),)
        raise
    click.echo(verdict_of(found, as_options))
    if out is not None:
        click.echo(str(write_report_of(found, out, pictures=True, shell=True)))


def as_options(text: str) -> str:
    """A sentence about an audit's arguments, such as label= or output='logits', said of the options of a shell: --label, --output logits."""
    options = {option.name or "": option.opts[0] for option in command.params}
    names = "|".join(options)
    text = re.sub(r"losslake\.audit\(\.\.\., (.*?)\)", r"losslake audit ... \1", text)
    text = re.sub(
        rf"(?<![\w.-])({names})=('[^']*'|\"[^\"]*\"|[\w.]+)?",
        lambda found: " ".join(filter(None, [options[found[1]], _word(found[2])])),
        text,
    )
    words = "|".join(name for name in options if "_" in name)
    return re.sub(rf"(?<![\w.-])({words})\b", lambda found: options[found[1]], text)


def _word(value: str | None) -> str:
    """A value of Python's as a word of the shell."""
    return "" if value is None else shlex.quote(value.strip("'\"")) if value[0] in "'\"" else value
