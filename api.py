"""The lake as Python users see it: the store's, and what collects into it and analyses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .store.lake import Lake as StoredLake

if TYPE_CHECKING:
    from .analysis.run import Outcome
    from .analysis.scores import Finding
    from .collect.hook import RecordedRun


class Lake(StoredLake):
    """A lake. Get one with `losslake.open`."""

    def start_run(self, experiment: str, **options: Any) -> RecordedRun:
        """Record a training loop of your own; see `losslake.collect.hook.start_run` for the options."""
        from .collect.hook import start_run

        return start_run(self, experiment, **options)

    def analyze(
        self, analysis: str, *, experiment: str, target: str | None = None, **options: Any
    ) -> Outcome:
        """Score every record by an analysis of ``losslake analyze list``, with its options as keywords.

        Returns an Outcome: ``.scores.frame`` (sample_id, member, score, ...) and ``.metrics``; both are kept in the lake.
        Raises InvalidOption for an unknown analysis or option, NotEnoughData where the lake holds too little.
        """
        from .analysis.catalogue import find
        from .analysis.run import run_analysis
        from .analysis.source import Source

        with Source.open(self, experiment, target) as source:
            return run_analysis(source, find(analysis), options)

    def compare(self, *scores: str, experiment: str, target: str | None = None, **options: Any) -> Finding:
        """How scores agree with an attack and with each other; see ``losslake analyze compare --help``."""
        from .analysis.evaluations import find_evaluation, run_evaluation
        from .analysis.source import Source

        with Source.open(self, experiment, target) as source:
            return run_evaluation(source, find_evaluation("compare"), scores, options)
