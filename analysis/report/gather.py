"""Gathering a report: which analyses the lake has data for, what they say, and which records they point at.

What takes seconds is computed, and kept in the lake. All else is taken from the lake where it is kept and fresh, and
named among the questions that can be asked where it is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.lake import Lake
from ...store.query.held import worth_holding
from ...store.query.kept import Kept
from ...version import __version__
from ..charts.roc import curve, drawn_of
from ..evaluations.by_group import MOST_GROUPS
from ..evaluations.likeness import cautions
from ..scoring.catalogue import open_source
from ..scoring.run import FPRS
from ..source import Source, keeps_tokens
from ..statistics.roc import evaluate
from .audit import audit_of
from .compared import compare_models
from .data import LOSSES, Attack, Headline, Report, Said, Scored, label_of
from .desk import Desk, asks, has_lists
from .records import describe, most_exposed, read_traces, suspected
from .verdict import easy_first, headline_of, is_strong, judge

COMPUTED = (
    "lira",
    "lira[mode=offline]",
    "rmia",
    "residual",
    "loss",
    "attack-p",
    "attack-r",
    "attack-s",
    "calibrated",
)
"""Attacks that a report computes where they are missing, the leading one first. Others are shown where they are kept."""

OF_TEXTS = ("min-k", "min-k[plus-plus=true]", "zlib", "lowercase")
"""Attacks that are computed beside them where the target says something of each token of a text."""

STRONG = ("lira", "lira[mode=offline]", "rmia")
"""Attacks that a verdict may rest on. That a weaker one, such as the loss attack, finds nothing would reassure wrongly."""

FIRST = ("lira", "rmia")
"""Attacks whose scores stand before all others on a record's card."""

SHARP = (*STRONG, "lt-iqr")
"""Scores that name exposed records well; the others, the loss for one, mostly name easy ones."""

MOST_ATTACKS = 14
"""More curves than this cannot be told apart in one chart."""

AGREEING = 8
"""Attacks in the agreement matrix; more would not fit a narrow page."""

KEPT_FINDINGS = (
    "tail",
    "likeness",
    "shadow-curve",
    "per-model",
    "quantile-ablation",
    "dp-audit",
    "duci",
    "onion",
)
"""Evaluations that are shown where they are kept; they take too long, or need choices, to be made on the way."""

GROUPINGS = ("label", "group")
"""Columns of the samples whose groups a report looks into."""

MORE_GROUPINGS = 3
"""Ways to part the records that were asked for and are shown beside these."""

_BY_AUDIT = "audit"
"""Whose the notes of `losslake.audit` are."""

COMPARED = ("lira", "rmia", "loss")
"""Attacks that are made on a defended model as well."""

LEAST = "loss"
"""The attack that asks for the target alone."""

PLAIN = ("lira[mode=offline]",)
"""Scores with options that agreement is asked of; others are variants of what is there already."""

MOST_ROWS = 200_000
"""Records times shadow models up to which suspects are computed on the way; each takes a microsecond or some ten classes."""

_OVER_DUALS = "over=duals"

OTHERS = ("influence", "hellinger", "ood", "subpopulation", "vulnerability")
"""Scores that are no attacks and are shown where they are kept."""


def gather(
    lake: Lake,
    experiment: str,
    *,
    target: str | None = None,
    pictures: bool = True,
    fprs: tuple[float, ...] = FPRS,
    defended: str | None = None,
    compare: tuple[str, ...] = (),
    kept: bool = True,
    shell: bool = False,
    notes: Sequence[str] = (),
) -> Report:
    """Compute what the lake has data for, keep the scores there, and collect it all.

    ``defended`` is another experiment of the same records, trained with a defence, to set beside this one; ``compare``
    names other models, as `models_named` takes them, to which the attack of the verdict is made as well. ``kept`` and ``shell`` are told
    in `Report`. ``notes`` are what the call of an audit has to say beside what its runs keep.

    Raises NotFound for an unknown experiment or run, NotEnoughData when nothing can be said at all.
    """
    fprs = tuple(sorted(set(fprs)))
    if not fprs or not all(0 < fpr < 1 for fpr in fprs):
        raise InvalidOption(
            f"false-positive rates lie between 0 and 1, not {', '.join(map(str, fprs)) or 'none'}"
        )
    with open_source(lake, experiment, target) as source:
        source.keep_more()
        if not source.runs:
            source.need_target()
        desk = Desk(source)
        warned = cautions(source)
        desk.notes += warned
        desk.notes += [(_BY_AUDIT, note) for note in dict.fromkeys([*_notes_kept(source), *notes])]
        attacks = _attacks(desk, fprs)
        if not worth_holding([file for run in source.runs for file in run.files if file.table == "signals"]):
            source.kept = Kept(0)  # what comes now reads once more at most, and needs the memory
        judged = judge(attacks, warned=[name for name, _ in warned])
        leads = judged.attack is not None and judged.attack.scored.name in STRONG
        headline = headline_of(judged, fprs[0]) if leads else None
        lt_iqr = desk.score("lt-iqr")
        memorization, privacy = desk.score("memorization"), desk.score("privacy-score")
        if not attacks and lt_iqr is None and memorization is None and privacy is None:
            raise NotEnoughData(
                f"experiment {experiment!r} has nothing to report on: "
                + "; ".join(dict.fromkeys(why for _, why in desk.absent))
            )
        traces, grad_norms = read_traces(source, "loss"), read_traces(source, "grad_norm")
        if lt_iqr is not None and traces is not None and traces.summary.source == "train":
            desk.notes.append(("lt-iqr", "the trace was recorded inside the training steps: members only"))
        ranking = [one for one in (lt_iqr, memorization, privacy) if one is not None]
        scored = [attack.scored for attack in attacks]
        shown = [
            *(one for one in scored if one.name in FIRST),
            *ranking,
            *(one for one in scored if one.name not in FIRST),
        ]
        differing = [one for one in shown if one.scores.frame["score"].drop_nulls().n_unique() > 1]
        sharp = [one for one in differing if one.name in SHARP]
        ranked = (sharp or [one for one in differing if not easy_first(one.name)] or differing or shown)[0]
        comparison = _compare(desk, headline, lt_iqr)
        pairing = (
            desk.evaluate("spearman", ("memorization", "privacy-score")) if memorization and privacy else None
        )
        said = _findings(desk, attacks, headline, judged.fpr, lt_iqr, fprs, defended)
        others = _others(desk)
        again = _again(desk, headline)
        suspects = _suspects(desk)
        compared = None
        if compare:
            if judged.attack is None or source.target is None:
                raise NotEnoughData("models are compared by an attack, and none could be made on this target")
            own = (experiment, source.target.run)
            compared = compare_models(lake, own, compare, judged.attack.scored.name, fprs)
        return Report(
            experiment=lake.experiment(experiment),
            lake=Path(lake.path).name,
            made=_made(),
            version=__version__,
            audit=audit_of(source, fprs, pictures, defended, compare, compared, kept=kept),
            target=source.target,
            runs=source.runs,
            attacks=attacks,
            headline=headline,
            fprs=fprs,
            judgement=judged,
            lt_iqr=lt_iqr,
            memorization=memorization,
            privacy_score=privacy,
            comparison=comparison.finding if comparison else None,
            pairing=pairing.finding if pairing else None,
            findings=said,
            others=others,
            suspects=suspects,
            suspected=suspected(source, suspects, shown, headline, traces, pictures=pictures)
            if suspects
            else (),
            traces=traces.summary if traces else None,
            grad_norms=grad_norms.summary if grad_norms else None,
            ranked_by=ranked.label,
            exposed=most_exposed(
                source, ranked, shown, headline, traces, grad_norms, suspects, again, pictures=pictures
            ),
            about=describe(source),
            asks=asks(source, [*shown, *others, *filter(None, [suspects])], said),
            notes=_gathered(desk.notes),
            absent=_gathered(desk.absent),
            compared=compared,
            again=again,
            kept=kept,
            shell=shell,
        )


def _made() -> str:
    """This moment, or that of SOURCE_DATE_EPOCH, by which the same lake and command give the same bytes."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    when = datetime.fromtimestamp(int(given), UTC) if given.isdecimal() else datetime.now(UTC)
    return when.isoformat(timespec="seconds")


def _attacks(desk: Desk, fprs: tuple[float, ...]) -> tuple[Attack, ...]:
    """The attacks that are computed, then those that are kept in the lake."""
    target = desk.source.target
    of_texts = OF_TEXTS if target is not None and keeps_tokens(desk.source, target) else ()
    computed = [desk.score(name) for name in (*COMPUTED, *of_texts)]
    names = tuple(one.name for one in computed if one)
    found = _judge(filter(None, computed), fprs)
    kept = [(name, result) for name, result in desk.kept(attack=True) if name not in names]
    room = MOST_ATTACKS - len(found)
    found += _judge((desk.read(name, result) for name, result in kept[:room]), fprs)
    if kept[room:]:
        left = ", ".join(name for name, _ in kept[room:])
        desk.notes.append(("attacks", f"kept in the lake and not shown, for lack of room: {left}"))
    return tuple(found)


def _judge(scored: Iterable[Scored], fprs: tuple[float, ...]) -> list[Attack]:
    attacks = []
    for one in scored:
        score, member = one.scores.arrays()
        steps = curve(one.label, score, member)
        if steps is not None:
            attacks.append(Attack(one, tuple(evaluate(score, member, fprs)), drawn_of(steps)))
    return attacks


def _others(desk: Desk) -> tuple[Scored, ...]:
    """The kept scores that a section of their own shows; of each analysis the one with its default options, or the first."""
    found: dict[str, Scored] = {}
    for name, result in desk.kept(attack=False):
        if result.analysis in OTHERS and result.analysis not in found and _OVER_DUALS not in result.variant:
            found[result.analysis] = desk.read(name, result)
    return tuple(found.values())


def _again(desk: Desk, headline: Headline | None) -> Scored | None:
    """In how many of the target and its duals the leading attack finds each record; None without duals."""
    source = desk.source
    if headline is None or headline.fpr is None or source.target is None:
        return None
    first = source.target.info.parent or source.target.run
    if not any(run.info.role == "target" and run.info.parent == first for run in source.runs):
        return None
    attack = headline.attack.scored.name
    return desk.score(f"vulnerability[at-fpr={headline.fpr:g},attack={attack},{_OVER_DUALS}]", whole=True)


def _suspects(desk: Desk) -> Scored | None:
    """What parts records into mislabelled, rare and hard ones: computed where that takes a second, else as kept."""
    source = desk.source
    shadows = [run for run in source.runs if run.info.role == "shadow" and "signals" in run.tables()]
    rows = source.lake.experiment(source.experiment).samples * len(shadows)
    if shadows and rows <= MOST_ROWS and has_lists(source, shadows[0], "logits"):
        return desk.score("suspects", whole=True)
    kept = [(name, result) for name, result in desk.kept(attack=False) if result.analysis == "suspects"]
    return desk.read(*kept[0]) if kept else None


def _notes_kept(source: Source) -> list[str]:
    """What an audit noted of the target and of its shadow models as it wrote them."""
    runs = [run for run in source.runs if run.info.role == "shadow" or run.run == source.target_name]
    return [str(note) for run in runs for note in run.info.extra.get("notes", ())]


def _gathered(notes: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Notes of the same words in one, under the labels of all that they are of."""
    of: dict[str, list[str]] = {}
    for name, note in notes:
        of.setdefault(note, []).append(label_of(name))
    return tuple((", ".join(dict.fromkeys(names)), note) for note, names in of.items())


def _compare(desk: Desk, headline: Headline | None, lt_iqr: Scored | None) -> Said | None:
    """How well LT-IQR, the final and the mean loss find what the leading attack finds."""
    if headline is None or headline.fpr is None or lt_iqr is None:
        return None
    for name in LOSSES:
        desk.score(name)
    against = headline.attack.scored.name
    return desk.evaluate("compare", (lt_iqr.name, *LOSSES), against=against, fpr=headline.fpr)


def _findings(
    desk: Desk,
    attacks: Sequence[Attack],
    headline: Headline | None,
    resolved: float | None,
    lt_iqr: Scored | None,
    fprs: tuple[float, ...],
    defended: str | None,
) -> tuple[Said, ...]:
    """What evaluations say: those that take a second or two, and those that are kept in the lake. ``resolved`` is the verdict's FPR.

    Raises NotEnoughData or InvalidOption where the experiment ``defended`` cannot be set beside this one.
    """
    fpr = resolved if resolved is not None else fprs[-1]
    leading = headline.attack if headline is not None else next(iter(attacks), None)
    found: list[Said | None] = []
    if lt_iqr is not None:
        against = {"against": headline.attack.scored.name} if headline is not None else {}
        found.append(desk.evaluate("evolution", (lt_iqr.name,), fpr=fpr, **against))
    if any(one.scored.name == LEAST for one in attacks) and not any(map(is_strong, attacks)):
        found.append(desk.evaluate("tail", (LEAST,), fnr=fprs))
    agreeing = _comparable(attacks)
    if len(agreeing) > 1:
        found.append(desk.evaluate("agreement", agreeing))
    groupings = _groupings(desk.source) if leading is not None else []
    if leading is not None:
        for by in groupings:
            options = {"by": by, "fpr": (fpr,), "threshold_from": "all"}
            found.append(desk.evaluate("by-group", (leading.scored.name,), **options))
    if defended is not None:
        names = tuple(one.scored.name for one in attacks if one.scored.name in COMPARED) or (LEAST,)
        # Computed anew each time: what is kept would not show that the other experiment has changed.
        found.append(desk.ask("defences", names, with_=defended, fpr=fprs))
    known = {said.evaluation for said in found if said is not None}
    kept = [said for name in KEPT_FINDINGS if name not in known for said in desk.kept_findings(name)]
    kept += desk.kept_findings("by-group", most=MORE_GROUPINGS, but=[f"by={by}" for by in groupings])
    return (*filter(None, found), *kept)


def _comparable(attacks: Sequence[Attack]) -> tuple[str, ...]:
    """Attacks that have scores of nearly the same records; agreement is over the records that all of them have."""
    most = max((attack.curve.members + attack.curve.non_members for attack in attacks), default=0)
    alike = [one for one in attacks if one.curve.members + one.curve.non_members >= 0.9 * most]
    plain = [one.scored.name for one in alike if one.scored.name in PLAIN or "[" not in one.scored.name]
    return tuple(plain[:AGREEING])


def _groupings(source: Source) -> list[str]:
    """Columns that part the audit samples into a number of groups that can be looked into."""
    samples = pl.DataFrame(source.lake.samples(source.experiment).select(["pool", *GROUPINGS]))
    audit = samples.filter(pl.col("pool") == "audit")
    return [by for by in GROUPINGS if 2 <= audit[by].drop_nulls().n_unique() <= MOST_GROUPS]
