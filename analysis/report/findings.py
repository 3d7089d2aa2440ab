"""What a report says beyond single scores: evaluations that take a second or two, and those that the lake keeps."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..evaluations.sample_groups import MOST_GROUPS
from ..source import Source
from .data import Attack, Headline, Said, Scored
from .desk import Desk

AGREEING = 8
"""Attacks in the agreement matrix; more would not fit a narrow page."""

KEPT_FINDINGS = ("shadow-curve", "per-model", "quantile-ablation", "dp-audit", "duci", "onion")
"""Evaluations that are shown where they are kept; they take too long, or need choices, to be made on the way."""

GROUPINGS = ("label", "group")
"""Columns of the samples whose groups a report looks into."""

MORE_GROUPINGS = 3
"""Ways to part the records that were asked for and are shown beside these."""

COMPARED = ("lira", "rmia", "loss")
"""Attacks that are made on a defended model as well."""

LEAST = "loss"
"""The attack that asks for the target alone."""

PLAIN = ("lira[mode=offline]",)
"""Scores with options that agreement is asked of; others are variants of what is there already."""


def findings(
    desk: Desk,
    attacks: Sequence[Attack],
    headline: Headline | None,
    lt_iqr: Scored | None,
    fprs: tuple[float, ...],
    defended: str | None,
) -> tuple[Said, ...]:
    """What evaluations say: those that take a second or two, and those that are kept in the lake.

    Raises NotEnoughData or InvalidOption where the experiment ``defended`` cannot be set beside this one.
    """
    fpr = headline.fpr if headline is not None and headline.fpr is not None else fprs[-1]
    leading = headline.attack if headline is not None else next(iter(attacks), None)
    found: list[Said | None] = []
    if lt_iqr is not None:
        against = {"against": leading.scored.name} if headline is not None and leading is not None else {}
        found.append(desk.evaluate("evolution", (lt_iqr.name,), fpr=fpr, **against))
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
    kept = [said for name in KEPT_FINDINGS for said in desk.kept_findings(name)]
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
