"""The lake as Python users see it: the store's, and what collects into it and analyses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from .store.lake import Lake as StoredLake

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl
    import pyarrow as pa

    from .analysis.scores import Finding
    from .analysis.scoring.run import Outcome
    from .collect.hook.recorded_run import RecordedRun


class Lake(StoredLake):
    """A lake. Get one with `losslake.open`."""

    def start_run(self, experiment: str, **options: Any) -> RecordedRun:
        """Record a training loop of your own; see `losslake.collect.hook.start.start_run` for the options."""
        from .collect.hook.start import start_run

        return start_run(self, experiment, **options)

    def shadow_runs(
        self,
        experiment: str,
        *,
        count: int,
        design: Literal["balanced", "bernoulli", "paired"] = "balanced",
        probability: float = 0.5,
        seed: int = 0,
        shard: str | None = None,
        recipe: Any = None,
        model: str = "",
        queries: str | Sequence[str] = "original",
    ) -> Iterator[RecordedRun]:
        """The shadow runs that are not committed yet, for a training loop of your own; ``count`` in all, the others are skipped.

            for run in lake.shadow_runs("mine", count=32):
                with run:
                    train(run, members=run.members)

        ``run.members``, bool (samples,), is who it trains on: each sample in half of the runs; ``run.seed`` a seed of its own.
        ``shard`` ("3/16", or the environment variable LOSSLAKE_SHARD) splits them over jobs. The other options are told in
        `losslake.collect.fleet.own_loop.shadow_runs`. Raises NotFound, InvalidOption.
        """
        from .collect.fleet.own_loop import shadow_runs

        return shadow_runs(
            self, experiment, count=count, design=design, probability=probability, seed=seed, shard=shard,
            recipe=recipe, model=model, queries=queries,
        )  # fmt: skip

    def analyze(
        self, analysis: str, *, experiment: str, target: str | None = None, **options: Any
    ) -> Outcome:
        """Score every record by an analysis of ``losslake analyze list``, with its options as keywords.

        Returns an Outcome: ``.scores.frame`` (sample_id, member, score, ...) and ``.metrics``; both are kept in the lake.
        Raises InvalidOption for an unknown analysis or option, NotEnoughData where the lake holds too little.
        """
        from .analysis.scoring.catalogue import find, open_source
        from .analysis.scoring.run import run_analysis

        with open_source(self, experiment, target) as source:
            return run_analysis(source, find(analysis), options)

    @overload
    def scores(
        self,
        score: str,
        *,
        experiment: str | None = None,
        target: str | None = None,
        arrow: Literal[False] = False,
    ) -> pl.DataFrame: ...

    @overload
    def scores(
        self, score: str, *, experiment: str | None = None, target: str | None = None, arrow: Literal[True]
    ) -> pa.Table: ...

    def scores(
        self, score: str, *, experiment: str | None = None, target: str | None = None, arrow: bool = False
    ) -> pl.DataFrame | pa.Table:
        """A score of every record, NAME or NAME[option=value,...], as a Polars frame, or as an Arrow table.

        Columns sample_id, member, score (NULL where there is none; higher = more exposed) and the analysis's own. What
        the lake keeps is read where it is fresh, else computed and kept. Without ``experiment`` the only one is meant.
        Raises as `analyze`.
        """
        from .analysis.scoring.catalogue import open_source
        from .analysis.scoring.stored import keep_scores
        from .store.command_options import choose_experiment

        with open_source(self, choose_experiment(self, experiment), target) as source:
            frame = keep_scores(source, (score,))[score].scores.frame
        return frame.to_arrow() if arrow else frame

    def compare(self, *scores: str, experiment: str, target: str | None = None, **options: Any) -> Finding:
        """How scores agree with an attack and with each other; see ``losslake analyze compare --help``."""
        from .analysis.evaluations.catalogue import find_evaluation, run_evaluation
        from .analysis.scoring.catalogue import open_source

        with open_source(self, experiment, target) as source:
            return run_evaluation(source, find_evaluation("compare"), scores, options)
