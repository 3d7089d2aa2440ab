"""Shadow models of a training loop of one's own: which there are, who is in each, and which are still to be trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...store.lake import Lake
from ..experiment.membership import Design, design_members
from ..hook.recorded_run import RecordedRun
from ..hook.start import start_run
from ..signals.calls import Forward
from .design import Block, derived, lay_down, numbered, parse_shard

SHARD = "LOSSLAKE_SHARD"
_FLEET, _SEEDS = "shadow", 12


def shadow_runs(
    lake: Lake,
    experiment: str,
    *,
    count: int,
    design: Design = "balanced",
    probability: float = 0.5,
    seed: int = 0,
    shard: str | None = None,
    recipe: Any = None,
    model: str = "",
    queries: str | Sequence[str] = "original",
    forward: Forward | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[RecordedRun]:
    """The shadow runs shadow-0000, ... of an experiment that are not committed yet, one after the other, ``count`` in all.

        for run in lake.shadow_runs("mine", count=32):
            with run:
                train(run, members=run.members)

    Each is a run as `start_run` gives it, to be recorded as the target was: ``run.members``, bool (samples,), says who it is to
    train on, ``run.seed`` is a seed of its own. Called again it goes on with what is missing; a larger count adds runs.

    design        who is in which run, over all samples but those of the population and forgotten ones: balanced, each
                  in half of the runs; bernoulli, by a coin; paired, a half and the other half in turn
    probability   share of the runs a sample is in
    seed          of the design and of the runs; what is laid down in the lake keeps its own
    shard         "3/16": every 16th run from the third on, for jobs that share nothing but the lake; by default the
                  environment variable LOSSLAKE_SHARD, so that a script needs no option of its own
    recipe, model, queries, forward, collate   as in `start_run`

    A run is committed when its block is left, or, without a block, when the next one is asked for; an exception in the block
    leaves nothing of it behind. ``next(lake.shadow_runs(...))`` is one run, whose block commits it too. Raises NotFound, and InvalidOption where design or probability differ from those laid down.
    """
    text = shard if shard is not None else os.environ.get(SHARD) or "1/1"
    part = parse_shard(text)
    samples = len(lake.samples(experiment))

    def chosen(block: Block, size: int) -> np.ndarray:
        return design_members(
            size, block["count"], design=design, seed=block["seed"], probability=probability
        )

    options = {"design": design, "probability": probability}
    blocks = lay_down(
        lake, experiment, _FLEET, count, seed=seed, options=options, check=lambda block: chosen(block, 1)
    )
    runs = list(numbered(_FLEET, blocks, count))
    return _untrained(lake, experiment, [runs[at] for at in part.of(len(runs))], chosen, samples,
                      {"recipe": recipe, "model": model, "queries": queries, "forward": forward, "collate": collate})  # fmt: skip


def _untrained(
    lake: Lake,
    experiment: str,
    runs: list[tuple[str, int, Block]],
    chosen: Any,
    samples: int,
    given: dict[str, Any],
) -> Iterator[RecordedRun]:
    first, drawn = -1, np.empty((0, 0), dtype=bool)
    for name, number, block in runs:
        if lake.has_run(experiment, name):
            continue
        if block["first"] != first:
            # Over all samples, the population's too: a sample's draw is its own, whatever is forgotten meanwhile.
            first, drawn = block["first"], chosen(block, samples)
        audit = lake.samples(experiment)["pool"].to_numpy(zero_copy_only=False) == "audit"
        seed = derived(block["seed"], _SEEDS, number)
        run = start_run(
            lake, experiment, members=drawn[number - first] & audit, role="shadow", run=name, seed=seed,
            design=block, **given,
        )  # fmt: skip
        # A generator that is let go of, as by next(lake.shadow_runs(...)), leaves the run to whoever took it.
        yield run
        if not run.ended:
            if run.committed is None:
                run.commit()
            run.discard()
