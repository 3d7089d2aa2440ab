"""Where a report gets scores and findings from: what the lake keeps and is fresh, else computed and kept there.

What takes long is not computed on the way; it is named among what can be asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.ranges import ranges_of
from ...store.format.records import CANARY, Result, Run
from ..attacks.logits import Lists, need_lists
from ..declare import parse_options
from ..evaluations.catalogue import evaluation_variant, find_evaluation, run_evaluation
from ..scores import Finding, Scores
from ..scoring.catalogue import ANALYSES
from ..scoring.stored import SCORE, fresh_results, keep_scores, read_scores
from ..source import Source
from ..statistics.metric import Metric
from .data import Ask, Said, Scored, label_of, score_name

PER_MODEL = 4
"""Shadow runs from which on attacking each of them in turn says something."""

_LOOKED_AT = (*SCORE, "p_value")
"""Columns that a report looks at of nearly all scores that it computes, and all that it holds of all samples at once; charts of those
that were asked for look at others too."""

QUESTIONS: tuple[Ask, ...] = (
    Ask("kde", "the attacker who knows some members: densities of the loss, confusion matrix", ("signals",)),
    Ask(
        "trajectory",
        "the one who trained the model: how member-like each record's trace is",
        ("eval traces",),
    ),
    Ask(
        "free",
        "another score of the target's own losses: what was left of them early in training",
        ("traces",),
    ),
    Ask("entropy", "an attack on the spread of the whole prediction", ("logits",)),
    Ask(
        "shadow-nn", "a network that learns from shadow models what members look like", ("logits", "shadows")
    ),
    Ask("ramia", "exposure of records that lie near a training record", ("ranges", "shadows")),
    Ask("attack-d", "an attack calibrated on distilled copies of the target", ("signals", "distilled")),
    Ask("attack-l", "an attack calibrated on models that leave one record out", ("signals", "leave_one_out")),
    Ask(
        "exposure",
        "how far up each canary stands among those that were not trained on",
        ("signals", "canaries"),
    ),
    Ask(
        "likeness",
        "each model's z-scores, and the AUC of records under models trained on neither side",
        ("signals", "shadows"),
    ),
    Ask("shadow-curve", "how many shadow models the attack needs", ("signals", "shadows")),
    Ask("per-model", "how much the attack differs from one trained model to the next", ("fleet",)),
    Ask("vulnerability", "how often each record is found, over models that trained on it", ("fleet",)),
    Ask("dp-audit", "lower bounds on the epsilon of the training", ("signals", "shadows")),
    Ask("duci", "which share of the data set the model appears to have used", ("signals", "fleet")),
    Ask("hellinger", "how many shadow models each record calls for", ("shadows",)),
    Ask(
        "influence", "which test records each record helps the model to get right", ("shadows", "population")
    ),
    Ask(
        "suspects",
        "which exposed records may be mislabelled, which are rare and which are hard",
        ("logits", "shadows"),
    ),
    Ask("subpopulation", "clusters of records, and the rarest of them", ("features",)),
    Ask("ood", "which records look unlike the data", ("logits",)),
    Ask(
        "quantile-ablation",
        "whether other quantiles than the quartiles would do better",
        ("traces", "shadows"),
    ),
)
"""In the order of the page."""


class Desk:
    """Gets scores one by one, and remembers their notes and why some could not be computed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.notes: list[tuple[str, str]] = []
        self.absent: list[tuple[str, str]] = []
        self._fresh = fresh_results(source)
        self._alike: dict[str, pl.Series] = {}

    def score(self, name: str, *, whole: bool = False) -> Scored | None:
        """The score of that name, kept or computed, with all its columns where they are wanted ``whole``.

        None where the lake lacks the data for it.
        """
        try:
            with _given_back(self.source):
                scores = keep_scores(self.source, [name], None if whole else _LOOKED_AT)[name].scores
        except NotEnoughData as error:
            self.absent.append((name, str(error)))
            return None
        self.notes += [(name, note) for note in scores.notes]
        return Scored(name, label_of(name), self._held_once(scores))

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
        return Scored(name, label_of(name), self._held_once(read_scores(self.source, result)))

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
        with _given_back(self.source):
            finding = run_evaluation(self.source, find_evaluation(name), scores, options)
        self._note(name, finding.notes)
        return Said(name, _variant(name, scores, options), finding)

    def _held_once(self, scores: Scores) -> Scores:
        """The same scores; sample ids and membership, which most of them have alike, lie in memory once for all."""
        frame = scores.frame
        for column in ("sample_id", "member"):
            first = self._alike.setdefault(column, frame[column])
            if first.dtype == frame[column].dtype and first.equals(frame[column]):
                frame = frame.with_columns(first)
        return replace(scores, frame=frame)

    def _note(self, name: str, notes: Iterable[str]) -> None:
        # An evaluation's notes repeat those of the scores it looks at, with their names in front.
        known = {f"{score}: {note}" for score, note in self.notes}
        self.notes += [(name, note) for note in notes if note not in known]

    def _of(self, name: str, first: str = "") -> list[Result]:
        """The fresh results of an analysis or evaluation, the one with the variant ``first`` at the head."""
        found = [result for (of, _), result in self._fresh.items() if of == name]
        return sorted(found, key=lambda result: (result.variant != first, result.variant))


@contextlib.contextmanager
def _given_back(source: Source) -> Iterator[None]:
    """Memory that the block has let go of is the system's again: allocators keep it, and of scores one after the other a gigabyte."""
    try:
        yield
    finally:
        source.pause()
        pa.default_memory_pool().release_unused()
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError):  # musl has none
                ctypes.CDLL(None).malloc_trim(0)


def _variant(name: str, scores: tuple[str, ...], options: Mapping[str, object]) -> str:
    evaluation = find_evaluation(name)
    return evaluation_variant(evaluation, scores, parse_options(evaluation.options, options, name))


def _finding(result: Result) -> Finding:
    return Finding(tuple(Metric.from_json(told) for told in result.metrics), result.notes)


def asks(source: Source, shown: Iterable[Scored], findings: Sequence[Said]) -> tuple[Ask, ...]:
    """What the lake has the data for and the report does not show."""
    known = {one.name.partition("[")[0] for one in shown} | {said.evaluation for said in findings}
    there = _kinds(source)
    return tuple(one for one in QUESTIONS if one.name not in known and there.issuperset(one.needs))


def _kinds(source: Source) -> set[str]:
    """The kinds of data that an experiment holds; seen from its target, if it has one."""
    found: set[str] = set()
    shadows = [run for run in source.runs if run.info.role == "shadow" and "signals" in run.tables()]
    if shadows:
        found.add("shadows")
    samples = source.lake.samples(source.experiment)
    if "population" in samples["pool"].unique().to_pylist():
        found.add("population")
    if CANARY in samples["group"].unique().to_pylist():
        found.add("canaries")
    found |= {"distilled", "leave_one_out"} & {run.info.role for run in source.runs}
    if source.target is None:
        return found
    found |= source.target.tables()
    if "eval" in source.target.trace_sources():
        found.add("eval traces")
    if len(shadows) >= PER_MODEL and "signals" in found:
        found.add("fleet")
    lists: tuple[Lists, ...] = ("logits", "features")
    found |= {kind for kind in lists if has_lists(source, source.target, kind)}
    if ranges_of(source.target):
        found.add("ranges")
    return found


def has_lists(source: Source, run: Run, kind: Lists) -> bool:
    """Whether a run keeps logits, or features, of its records."""
    try:
        need_lists(source, run, kind)
    except NotEnoughData:
        return False
    return True
