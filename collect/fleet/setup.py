"""What the runs of a fleet have in common: data, recipe, what is recorded, and the target that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...store.errors import InvalidInput, InvalidOption, LosslakeError, NotFound
from ...store.format.records import Run
from ...store.lake import Lake
from ..data.nested import Nested
from ..estimators.named import with_estimator
from ..experiment.prepare import Prepared, prepare_experiment
from ..progress import Silent
from ..recipe import Recipe, from_json
from ..run_facts import choose_device
from ..signals.ask import Recording
from ..signals.queries import parse_queries
from .design import Shard
from .estimators import least_of_targets, of_estimators
from .many_runs import Fleet
from .running import Running


def open_fleet(
    lake: Lake,
    experiment: str,
    recipe: Recipe,
    running: Running,
    *,
    about: Sequence[Run] | None = None,
    traces: bool = False,
) -> Fleet:
    """A fleet with the defaults filled in: queries from the targets it is ``about``; ``traces`` is that of the switch.

    Raises InvalidOption where the targets have different queries and none are given.
    """
    prepared = running.get("prepared") or prepare_experiment(
        lake, experiment, data_dir=running.get("data_dir")
    )
    recipe = with_estimator(recipe)
    if recipe.estimator is not None:
        running, traces = of_estimators(recipe, running, prepared.data, traces=traces)
    seed = running.get("seed")
    queries = running.get("queries")
    engine, device = running.get("engine"), running.get("device", "auto")
    recording = Recording(
        queries=parse_queries(
            _queries_of(about or ()) if queries is None else queries, pictures=prepared.data.pictures
        ),
        traces=running.get("traces", traces),
        logits=running.get("logits", "float16"),
        features=running.get("features", False),
        grad_norms=running.get("grad_norms", "none"),
    )
    return Fleet(
        prepared,
        _fitted(recipe, recording, prepared, compiled=running.get("compiled")),
        recording,
        prepared.options["seed"] if seed is None else seed,
        choose_device(device) if engine is None else engine.device(device),
        running.get("jobs"),
        running.get("compiled"),
        running.get("stack"),
        engine,
        running.get("shard") or Shard(1, 1),
        running.get("progress") or Silent(),
        None if recipe.estimator is None else least_of_targets(about),
    )


def _fitted(recipe: Recipe, recording: Recording, prepared: Prepared, *, compiled: bool | None) -> Recipe:
    """The recipe as these records are trained on by it. Raises InvalidOption for what records of several inputs do not have."""
    x = prepared.data.x
    if not isinstance(x, Nested):
        if recipe.forward is not None:
            raise InvalidOption(
                f"forward {recipe.forward} is for records of several inputs or of a data set, and these are one array, with which a model is called "
                "as model(x): leave it out, or return records (x, y) in place of arrays"
            )
        return recipe
    what = f"these records have several inputs ({', '.join(x.names())})"
    if recipe.flip or recipe.crop:
        raise InvalidOption(
            f"{what}, and flips and crops are of pictures alone, given as one array x; leave --flip and --crop out"
        )
    if views := [query for query in recording.queries if query != "original"]:
        raise InvalidOption(
            f"query {views[0]!r} is a view of one array, and {what}: nobody knows which of them to change; use 'original'"
        )
    if recording.features:
        raise InvalidOption(
            f"features are what features(x) gives of one array, and {what}; leave --features out"
        )
    if compiled:
        raise InvalidOption(f"compiled are models of one array, and {what}; leave --compile out")
    return replace(recipe, normalize=False)


def choose_target(lake: Lake, experiment: str, name: str | None) -> Run:
    """The run that a fleet is about: the one named, else the only target.

    Raises NotFound where there is none, InvalidOption where several leave the choice open.
    """
    if name is not None:
        return lake.run(experiment, name)
    targets = targets_of(lake, experiment)
    if not targets:
        raise NotFound(
            f"experiment {experiment!r} has no target yet; train one with 'losslake collect target'"
        )
    if len(targets) > 1:
        raise InvalidOption(
            f"experiment {experiment!r} has several targets ({', '.join(run.run for run in targets[:8])}); name one "
            "with --target"
        )
    return targets[0]


def members_of(lake: Lake, run: Run) -> np.ndarray:
    """Who is in a run's training set, bool (N,). Raises InvalidInput where its rows do not tell of all members."""
    members = np.zeros(lake.experiment(run.experiment).samples, dtype=np.bool_)
    for rows in lake.run_rows(run, columns=["sample_id", "member"]):
        members[rows["sample_id"].to_numpy()[rows["member"].to_numpy()]] = True
    if np.count_nonzero(members) != run.members:
        raise InvalidInput(
            f"run {run.run!r} of experiment {run.experiment!r} has {run.members} members, but rows of only "
            f"{np.count_nonzero(members)} of them, so it is not known who they all are"
        )
    return members


def targets_of(lake: Lake, experiment: str) -> list[Run]:
    """Runs of role target, without the duals, which have the target they repeat as their parent."""
    return [run for run in lake.runs(experiment, role="target") if run.info.parent is None]


def recipe_of_run(run: Run) -> Recipe:
    """The recipe that a run was trained by, to train by it again.

    Raises InvalidOption for one that losslake did not train, and for one whose model is a function (see
    `refuse_unnamed`).
    """
    recipe = stored_recipe(run)
    recipe.refuse_unnamed(repr(run.run))
    return recipe


def target_recipe(lake: Lake, experiment: str) -> Recipe:
    """The recipe of the experiment's targets, to train by it again. Raises as `any_target` and `recipe_of_run`."""
    return recipe_of_run(any_target(lake, experiment))


def stored_recipe(run: Run) -> Recipe:
    """The recipe that a run was trained by, to read. Raises InvalidOption for one that losslake did not train."""
    try:
        if not run.info.recipe:
            raise InvalidOption("it has none")
        return from_json(run.info.recipe)
    except (LosslakeError, TypeError) as error:
        raise InvalidOption(
            f"target {run.run!r} was not trained by losslake's own trainer, so its recipe cannot be used; give one"
        ) from error


def any_target(lake: Lake, experiment: str) -> Run:
    """A target, whose recipe is that of all of them.

    Raises NotFound where there is none, InvalidOption where they have different recipes.
    """
    targets = targets_of(lake, experiment)
    if not targets:
        raise NotFound(
            f"experiment {experiment!r} has no target whose recipe to use; train it first, or give a recipe"
        )
    if any(run.info.recipe != targets[0].info.recipe for run in targets):
        raise InvalidOption(
            f"the {len(targets)} targets of experiment {experiment!r} have different recipes; give one"
        )
    return targets[0]


def _queries_of(targets: Sequence[Run]) -> tuple[str, ...] | None:
    """The queries that the targets were asked; None where none of them tells."""
    told = {
        run.run: run.info.extra["recording"]["queries"] for run in targets if "recording" in run.info.extra
    }
    if len({tuple(queries) for queries in told.values()}) > 1:
        raise InvalidOption(
            f"targets {', '.join(sorted(told)[:8])} have different queries; give those to ask for with --queries"
        )
    return next((tuple(queries) for queries in told.values()), None)
