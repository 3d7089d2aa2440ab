"""Gathering a report: which analyses the lake has data for, what they say, and which records they point at."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..store.errors import InvalidOption, NotEnoughData
from ..store.lake import Lake
from .catalogue import ANALYSES
from .charts_roc import curve
from .evaluations import EVALUATIONS, run_evaluation
from .report_data import Attack, Headline, Report, Scored
from .report_records import most_exposed, read_traces
from .roc import evaluate, split, threshold_at_fpr
from .run import FPRS
from .scores import Finding
from .source import Source
from .stored import keep_scores

LEADING = ("lira", "lira[mode=offline]")
"""Attacks that the report leads with, the first that can be computed; others follow in the catalogue's order."""

STRONG = ("lira", "rmia")
"""Attacks that a verdict may rest on. That a weaker one, such as the loss attack, finds nothing would reassure wrongly."""

SHARP = (*STRONG, "lt-iqr")
"""Scores that name exposed records well; the others, the loss for one, mostly name easy ones."""

LOSSES = ("trace[aggregate=final]", "trace[aggregate=mean]")
"""Final loss and mean loss, which LT-IQR is compared with."""

LABELS = {
    "lira": "LiRA",
    "lira[mode=offline]": "LiRA offline",
    "rmia": "RMIA",
    "loss": "loss attack",
    "attack-p": "attack P",
    "attack-r": "attack R",
    "attack-s": "attack S",
    "lt-iqr": "LT-IQR",
    "memorization": "memorization",
    "privacy-score": "privacy score",
    "trace[aggregate=final]": "final loss",
    "trace[aggregate=mean]": "mean loss",
}


def gather(
    lake: Lake,
    experiment: str,
    *,
    target: str | None = None,
    pictures: bool = True,
    fprs: tuple[float, ...] = FPRS,
) -> Report:
    """Compute what the lake has data for, keep the scores there, and collect it all.

    Raises NotFound for an unknown experiment or run, NotEnoughData when nothing can be said at all.
    """
    fprs = tuple(sorted(set(fprs)))
    if not fprs or not all(0 < fpr < 1 for fpr in fprs):
        raise InvalidOption(
            f"false-positive rates lie between 0 and 1, not {', '.join(map(str, fprs)) or 'none'}"
        )
    with Source.open(lake, experiment, target) as source:
        if not source.runs:
            source.need_target()
        desk = _Desk(source)
        attacks = _judge(filter(None, [desk.score(name) for name in _attack_names()]), fprs)
        headline = _headline(tuple(one for one in attacks if one.scored.name.startswith(STRONG)), fprs)
        lt_iqr = desk.score("lt-iqr")
        memorization, privacy = desk.score("memorization"), desk.score("privacy-score")
        if headline is None and lt_iqr is None and memorization is None and privacy is None:
            raise NotEnoughData(
                f"experiment {experiment!r} has nothing to report on: "
                + "; ".join(dict.fromkeys(why for _, why in desk.absent))
            )
        traces = read_traces(source) if lt_iqr else None
        if traces is not None and traces.summary.source == "train":
            desk.notes.append(("lt-iqr", "the trace was recorded inside the training steps: members only"))
        shown = [attack.scored for attack in attacks]
        shown += [one for one in (lt_iqr, memorization, privacy) if one is not None]
        ranked = next((one for one in shown if one.name.startswith(SHARP)), lt_iqr or shown[0])
        return Report(
            experiment=lake.experiment(experiment),
            lake=Path(lake.path).name,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            version=version("losslake"),
            target=source.target,
            runs=source.runs,
            fprs=fprs,
            attacks=attacks,
            headline=headline,
            lt_iqr=lt_iqr,
            memorization=memorization,
            privacy_score=privacy,
            comparison=_compare(desk, headline, lt_iqr),
            pairing=desk.evaluate("spearman", ("memorization", "privacy-score"))
            if memorization and privacy
            else None,
            traces=traces.summary if traces else None,
            ranked_by=ranked.label,
            exposed=most_exposed(source, ranked, shown, headline, traces, pictures=pictures),
            notes=_gathered(desk.notes),
            absent=_gathered(desk.absent),
        )


class _Desk:
    """Computes scores one by one, and remembers their notes and why some could not be computed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.notes: list[tuple[str, str]] = []
        self.absent: list[tuple[str, str]] = []

    def score(self, name: str) -> Scored | None:
        """The score of that name, None where the lake lacks the data for it."""
        try:
            scores = keep_scores(self.source, [name])[name].scores
        except NotEnoughData as error:
            self.absent.append((name, str(error)))
            return None
        self.notes += [(name, note) for note in scores.notes]
        return Scored(name, LABELS.get(name, name), scores)

    def evaluate(self, name: str, scores: tuple[str, ...], **options: object) -> Finding | None:
        """What an evaluation says of several scores, None where the data does not allow it."""
        evaluation = next(one for one in EVALUATIONS if one.name == name)
        try:
            finding = run_evaluation(self.source, evaluation, scores, options)
        except NotEnoughData as error:
            self.absent.append((name, str(error)))
            return None
        # Its notes repeat those of the scores it looks at, with their names in front.
        known = {f"{score}: {note}" for score, note in self.notes}
        self.notes += [(name, note) for note in finding.notes if note not in known]
        return finding


def _gathered(notes: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Notes of the same words in one, under the labels of all that they are of."""
    of: dict[str, list[str]] = {}
    for name, note in notes:
        of.setdefault(note, []).append(LABELS.get(name, name))
    return tuple((", ".join(dict.fromkeys(names)), note) for note, names in of.items())


def _attack_names() -> tuple[str, ...]:
    others = [analysis.name for analysis in ANALYSES if analysis.attack]
    return tuple(dict.fromkeys((*LEADING, *others)))


def _judge(scored: Iterable[Scored], fprs: tuple[float, ...]) -> tuple[Attack, ...]:
    attacks = []
    for one in scored:
        score, member = one.scores.arrays()
        steps = curve(one.label, score, member)
        if steps is not None:
            attacks.append(Attack(one, tuple(evaluate(score, member, fprs)), steps))
    return tuple(attacks)


def _headline(attacks: tuple[Attack, ...], fprs: tuple[float, ...]) -> Headline | None:
    if not attacks:
        return None
    attack = attacks[0]
    tpr = next((metric for metric in attack.tprs if metric.value is not None), None)
    if tpr is None:
        return Headline(attack, fprs[0], None, None)
    fpr = float(tpr.parameters["fpr"])
    score, member = attack.scored.scores.arrays()
    threshold = threshold_at_fpr(split(score, member)[1], fpr)
    known = attack.scored.scores.frame.filter(attack.scored.scores.frame["member"].is_not_null())
    above = np.nan_to_num(score, nan=-np.inf) > threshold
    found = known["sample_id"].to_numpy()[above & member]
    return Headline(attack, fprs[0], fpr, tpr, frozenset(found.tolist()), int((above & ~member).sum()))


def _compare(desk: _Desk, headline: Headline | None, lt_iqr: Scored | None) -> Finding | None:
    """How well LT-IQR, the final and the mean loss find what the leading attack finds."""
    if headline is None or headline.fpr is None or lt_iqr is None:
        return None
    for name in LOSSES:
        desk.score(name)
    against = headline.attack.scored.name
    return desk.evaluate("compare", (lt_iqr.name, *LOSSES), against=against, fpr=headline.fpr)
