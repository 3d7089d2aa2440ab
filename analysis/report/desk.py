"""Where a report gets scores and findings from: what the lake keeps and is fresh, else computed and kept there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...store.errors import InvalidOption, NotEnoughData
from ...store.write.results import Result
from ..declare import parse_options
from ..evaluations.catalogue import evaluation_variant, find_evaluation, run_evaluation
from ..scores import Finding
from ..scoring.catalogue import ANALYSES
from ..scoring.stored import fresh_results, keep_scores, read_scores
from ..source import Source
from ..statistics.metric import Metric
from .data import Said, Scored
from .names import label_of, score_name


class Desk:
    """Gets scores one by one, and remembers their notes and why some could not be computed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.notes: list[tuple[str, str]] = []
        self.absent: list[tuple[str, str]] = []
        self._fresh = fresh_results(source)

    def score(self, name: str) -> Scored | None:
        """The score of that name, kept or computed; None where the lake lacks the data for it."""
        try:
            scores = keep_scores(self.source, [name])[name].scores
        except NotEnoughData as error:
            self.absent.append((name, str(error)))
            return None
        self.notes += [(name, note) for note in scores.notes]
        return Scored(name, label_of(name), scores)

    def kept(self, *, attack: bool) -> list[tuple[str, Result]]:
        """Names and results of the scores that the lake keeps and are fresh, in the order of the catalogue.

        Of an analysis the default options come first.
        """
        return [
            (score_name(analysis.name, result.variant), result)
            for analysis in ANALYSES
            if analysis.attack == attack
            for result in self._of(analysis.name)
            if result.file is not None
        ]

    def read(self, name: str, result: Result) -> Scored:
        """The scores of a kept result."""
        self.notes += [(name, note) for note in result.notes]
        return Scored(name, label_of(name), read_scores(self.source, result))

    def kept_findings(self, name: str, *, most: int = 1, but: Iterable[str] = ()) -> list[Said]:
        """Fresh findings of an evaluation that the lake keeps, that of its default scores and options first.

        Those with an option in ``but``, such as ``by=label``, are left out.
        """
        left_out = frozenset(but)
        found = [
            Said(name, result.variant, _finding(result))
            for result in self._of(name, ",".join(find_evaluation(name).default_scores))
            if not left_out & set(result.variant.partition(";")[2].split(","))
        ][:most]
        for said in found:
            self._note(name, said.finding.notes)
        return found

    def evaluate(self, name: str, scores: tuple[str, ...], **options: object) -> Said | None:
        """What an evaluation says of several scores, kept or computed; None where the data does not allow it."""
        kept = self._fresh.get((name, _variant(name, scores, options)))
        if kept:
            finding = _finding(kept)
            self._note(name, finding.notes)
            return Said(name, kept.variant, finding)
        try:
            return self.ask(name, scores, **options)
        except (NotEnoughData, InvalidOption) as error:
            self.absent.append((name, str(error)))
            return None

    def ask(self, name: str, scores: tuple[str, ...], **options: object) -> Said:
        """What an evaluation says now. Raises what it raises."""
        finding = run_evaluation(self.source, find_evaluation(name), scores, options)
        self._note(name, finding.notes)
        return Said(name, _variant(name, scores, options), finding)

    def _note(self, name: str, notes: Iterable[str]) -> None:
        # An evaluation's notes repeat those of the scores it looks at, with their names in front.
        known = {f"{score}: {note}" for score, note in self.notes}
        self.notes += [(name, note) for note in notes if note not in known]

    def _of(self, name: str, first: str = "") -> list[Result]:
        """The fresh results of an analysis or evaluation, the one with the variant ``first`` at the head."""
        found = [result for (of, _), result in self._fresh.items() if of == name]
        return sorted(found, key=lambda result: (result.variant != first, result.variant))


def _variant(name: str, scores: tuple[str, ...], options: Mapping[str, object]) -> str:
    evaluation = find_evaluation(name)
    return evaluation_variant(evaluation, scores, parse_options(evaluation.options, options, name))


def _finding(result: Result) -> Finding:
    return Finding(tuple(Metric.from_json(told) for told in result.metrics), result.notes)
