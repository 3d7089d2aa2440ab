"""The lake as Python users see it: the store's, and what collects into it and analyses it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from .analysis.scoring.options import AnalysisOptions
from .store.lake import Lake as StoredLake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import polars as pl
    import pyarrow as pa

    from .analysis.scores import Finding
    from .analysis.scoring.run import Outcome
    from .collect.hook.recorded_run import RecordedRun
    from .collect.signals.calls import Forward
    from .store.format.records import Role, Run


class Lake(StoredLake):
    """A lake. Get one with `losslake.open`."""

    def start_run(
        self,
        experiment: str,
        *,
        samples: Any = None,
        members: Any,
        role: Role = "target",
        run: str | None = None,
        recipe: Any = None,
        seed: int | None = None,
        model: str = "",
        dataset: str = "",
        queries: str | Sequence[str] = "original",
        forward: Forward | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        design: Mapping[str, Any] | None = None,
    ) -> RecordedRun:
        """Start recording one training run. Use it as ``with lake.start_run(...) as run:``.

        samples   what the experiment consists of, in the order of sample ids: labels, or a table with a column label (pandas, Polars,
                  Arrow, a Hugging Face Dataset, a mapping of columns, a list of rows). Labels are class numbers from 0, or names,
                  which are counted in sorted order (a categorical column's in its own) and kept. Columns key (a name for each
                  record), group, split and pool mean something to losslake; pool is audit, or population for records that no
                  run trains on and that attacks take for outsiders. Others are kept as they are; of a Dataset only numbers
                  and truth values. None where the experiment is there already
        members   who is trained on: a mask over the samples (truth values, or 0 and 1), sample ids in any order, keys as text, or a torch
                  Subset of the data set of all samples
        run       its name; by default the role, then role-2, role-3, ...
                  A name that another process commits meanwhile is its own: this run is committed as the next free one, and says so
        recipe    how it is trained: a mapping, a dataclass or a namespace, stored as JSON
        queries   the views that `evaluate` asks for, such as "original,flip,crop:8"; see `queries.parse_queries`.
                  noise:N:SIGMA is in units of what the model takes
        forward   how the loop calls the model, where it is not model(x) of records (x, y), as for several inputs, dict records and
                  texts: forward(model, batch) -> (outputs, targets), what the criterion is called with. `trace_eval` and
                  `evaluate` use it on batches made as the loop's own, on the model's device
        collate   records -> batch for them; by default that of the watched loader. Give one where the loop's draws at random (mixup)
        design    how its members were drawn, kept with the run; `shadow_runs` says it

        Leaving the block commits the run; an exception leaves nothing behind, nor an experiment that was made for the run, unless
        others are at work in the lake. Samples that the experiment has forgotten may
        stand in the data that the model is asked about, where nothing is recorded of them, but not in a batch. Raises
        InvalidInput for members that do not fit or were forgotten, NotFound, AlreadyExists, InvalidOption.
        """
        from .collect.hook.start import start_run

        return start_run(
            self, experiment, samples=samples, members=members, role=role, run=run, recipe=recipe, seed=seed, model=model,
            dataset=dataset, queries=queries, forward=forward, collate=collate, design=design,
        )  # fmt: skip

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
        forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
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
            recipe=recipe, model=model, queries=queries, forward=forward, collate=collate,
        )  # fmt: skip

    def evaluate(
        self,
        experiment: str,
        run: str,
        model: Any,
        data: Any,
        *,
        criterion: Callable[..., Any] | None = None,
        members: Any = None,
        queries: str | Sequence[str] = "original",
        forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> Run:
        """Record the signals of a committed run that has none, of the ``model`` that it trained and all samples, ``data``.

        The options are told in `losslake.collect.hook.evaluate_later.evaluate_run`. Raises NotFound, AlreadyExists where the run has
        signals, InvalidInput.
        """
        from .collect.hook.evaluate_later import evaluate_run

        return evaluate_run(
            self, experiment, run, model, data, criterion=criterion, members=members, queries=queries,
            forward=forward, collate=collate,
        )  # fmt: skip

    def analyze(
        self,
        analysis: str,
        *,
        experiment: str,
        target: str | None = None,
        fprs: Sequence[float] = (0.001, 0.01, 0.1),
        **options: Unpack[AnalysisOptions],
    ) -> Outcome:
        """Score every record by an analysis of ``losslake analyze list``, with its options as keywords.

        ``fprs`` are the false-positive rates that ``.metrics`` has the TPR at, as --fpr of the command line says them.
        Each analysis takes some of the options and has defaults of its own; 'losslake analyze NAME --help' and its page in
        docs/analyses say which, and what they mean. Returns an Outcome, which a notebook shows with its chart: ``.scores.frame`` (sample_id,
        member, score, ...), ``.metrics`` and ``.chart()``; scores and metrics are kept in the lake.
        Raises InvalidOption for an unknown analysis or option, NotEnoughData where the lake holds too little.
        """
        from .analysis.scoring.catalogue import find, open_source
        from .analysis.scoring.run import run_analysis

        with open_source(self, experiment, target) as source:
            return run_analysis(source, find(analysis), dict(options), fprs=fprs)

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

    def compare(
        self,
        *scores: str,
        experiment: str,
        target: str | None = None,
        against: str = "lira",
        fpr: float = 0.001,
        k: tuple[float, ...] = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5),
        among: Literal["all", "members", "non-members"] = "members",
    ) -> Finding:
        """How scores agree with the attack ``against`` and with each other: precision and recall, correlations, agreement.

        ``scores`` are two or more NAME or NAME[option=value,...]. Vulnerable are the members that the attack finds at the
        false-positive rate ``fpr``; ``k`` are shares of the members to look at, ``among`` the samples that correlations are
        over. docs/analyses/compare.md says it in full. Raises as `analyze`.
        """
        from .analysis.evaluations.catalogue import find_evaluation, run_evaluation
        from .analysis.scoring.catalogue import open_source

        with open_source(self, experiment, target) as source:
            options = {"against": against, "fpr": fpr, "k": k, "among": among}
            return run_evaluation(source, find_evaluation("compare"), scores, options)


class _AnalysisOwn:
    """Stands for the default of an option, which each analysis has for itself."""

    def __repr__(self) -> str:
        return "..."


_OWN = _AnalysisOwn()


def _say_options() -> None:
    """Let help() say the keywords of `Lake.analyze` one by one."""
    said = inspect.signature(Lake.analyze)
    *before, _ = said.parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(name, kind, default=_OWN, annotation=annotation.__forward_arg__)
        for name, annotation in AnalysisOptions.__annotations__.items()
    ]
    Lake.analyze.__signature__ = said.replace(parameters=[*before, *own])  # type: ignore[attr-defined]


_say_options()
