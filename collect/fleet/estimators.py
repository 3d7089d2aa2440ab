"""What a fleet of estimators has not that one of networks has, and what its models take over from their target."""

from __future__ import annotations

from collections.abc import Sequence

from ...store.errors import InvalidInput, InvalidOption, NotFound
from ...store.format.records import Run
from ..data.nested import Nested
from ..data.training import TrainingData
from ..estimators.named import make_estimator
from ..estimators.run import LEAST
from ..estimators.stages import has_stages, last_step
from ..recipe import Recipe
from .running import Running


def of_estimators(
    recipe: Recipe, running: Running, data: TrainingData, *, traces: bool
) -> tuple[Running, bool]:
    """How a fleet of the recipe's estimator runs, and whether it is traced unless ``running`` says so.

    Raises InvalidOption for what estimators do not have, InvalidInput for records that they do not take.
    """
    what = f"{recipe.model} is an estimator"
    if isinstance(data.x, Nested):
        raise InvalidInput(
            f"{what}, which takes rows of features, and these records have several inputs ({', '.join(data.x.names())}); give one array x"
        )
    if running.get("grad_norms", "none") != "none":
        raise InvalidOption(f"{what}, and gradient norms are of networks; leave --grad-norms out")
    if running.get("features"):
        raise InvalidOption(f"{what}, and features are the last layer of networks; leave --features out")
    queries = running.get("queries")
    asked = queries.split(",") if isinstance(queries, str) else queries
    if asked is not None and [each.strip() for each in asked] != ["original"]:
        raise InvalidOption(
            f"{what}, which is asked about records as they are; leave --queries out, or give original"
        )
    device = running.get("device", "auto")
    if device not in ("auto", "cpu"):
        raise InvalidOption(
            f"{what}, which is fitted on the CPU; leave --device out (a library's own GPU is a parameter of its: --set device=cuda)"
        )
    if running.get("compiled"):
        raise InvalidOption(f"{what}, and networks alone are compiled; leave --compile out")
    if (running.get("stack") or 1) > 1:
        raise InvalidOption(
            f"{what}, and plain mlps alone are trained as a stack; leave --stack out, and take --jobs"
        )
    made = make_estimator(recipe)
    staged = recipe.passes is not None or has_stages(made)
    if running.get("traces") and not staged:
        raise InvalidOption(
            f"{what} without stages that it can be asked about, such as boosting rounds or the trees of a forest, so it has no trace; "
            + (
                "train it in passes, which are the epochs of a trace, with --epochs"
                if hasattr(last_step(made), "partial_fit")
                else "leave --traces out"
            )
        )
    changed: Running = {**running, "queries": "original", "device": "cpu", "compiled": False, "stack": 1}
    return changed, traces and staged


def least_of_targets(about: Sequence[Run] | None) -> float | None:
    """What a probability of exactly 0 is read as in models about these targets: as in the first of them; None: about none.

    Another value in each model would lie between them as if they had learned something. Raises NotFound without a target,
    InvalidOption where none was fitted as an estimator.
    """
    if about is None:
        return None
    if not about:
        raise NotFound(
            "there is no target yet, and what a probability of exactly 0 is read as is taken from it; fit it first, with 'losslake collect "
            "target'"
        )
    told = [run for run in sorted(about, key=lambda run: run.created) if LEAST in run.info.extra]
    if not told:
        raise InvalidOption(
            f"target {about[0].run!r} is no estimator that losslake fitted, and models about it are to be estimators; give the same model"
        )
    return float(told[0].info.extra[LEAST])


def refuse_checkpoints(recipe: Recipe, every: int | None, *, restart: bool) -> None:
    """Raises InvalidOption where checkpoints of an estimator are asked for."""
    if recipe.estimator is not None and (every or restart):
        raise InvalidOption(
            f"{recipe.model} is an estimator, of which nothing is kept but what it says: there is nothing to go on from; leave --checkpoint-every "
            "and --restart out"
        )


def refuse_soft_labels(recipe: Recipe) -> None:
    """Raises InvalidOption where an estimator is to learn probabilities."""
    if recipe.estimator is not None:
        raise InvalidOption(
            f"{recipe.model} is an estimator, which learns labels, and distilled models learn what the target says in place of them; take "
            "attack-r or lira in place of attack-d, or give a network with --model"
        )
