"""An attack on every run in turn: what it says of each sample when that run is the target and the others are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import PLAIN_QUERIES
from ..declare import DUALS, MASK, SHARED, Analysis
from ..source import Source
from .lira import POOL_UNDER
from .lira_each import lira_each
from .masking import masked_source, parse_mask
from .phi_matrix import read_phi

_SLOWLY = 16
"""So many runs at most are attacked unless told otherwise, where an attack is computed anew for each."""


@dataclass(frozen=True, eq=False)
class EachRun:
    """``score`` (runs, samples), NaN where there is none, and ``member`` (runs, samples) with each run as the target.

    ``sample_id`` (samples,) are the audit pool's, ascending. ``notes`` are sentences a reader must know.
    """

    runs: tuple[Run, ...]
    sample_id: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    member: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def attack_each(source: Source, analysis: Analysis, options: Mapping[str, Any], count: int | None) -> EachRun:
    """Scores of an attack on up to ``count`` runs in turn: those of role target first, then shadow runs, by name.

    Each run under attack is left out of its own fit; the runs of role target are in no fit. A dual, which has the
    members of the target it names as its parent, is no target of its own. None: all runs for LiRA, 16 for others. A
    mask among the options is on the answers of all of them.
    Raises NotEnoughData where no run can be attacked so.
    """
    if not analysis.attack:
        raise InvalidOption(f"{analysis.name} is no attack: it does not claim that a record was a member")
    if count is not None and count < 1:
        raise InvalidOption(f"at least 1 run must be attacked, not {count}")
    if options.get(DUALS.keyword):
        raise InvalidOption(f"each run is attacked alone; leave {DUALS.name} out of {analysis.name}")
    mask = options.get(MASK.keyword)
    shared = [option.keyword for option in SHARED]
    options = {keyword: value for keyword, value in options.items() if keyword not in shared}
    if mask is not None:
        with masked_source(source, parse_mask(mask)) as (hidden, notes):
            masked = attack_each(hidden, analysis, options, count)
        return replace(masked, notes=(*notes, *masked.notes))
    runs = in_turn(source)
    full = {**{option.keyword: option.default for option in analysis.options}, **options}
    vectorised = analysis.name == "lira" and full["center"] == "mean" and full["queries"] == "mean"
    most = count if count is not None else len(runs) if vectorised else _SLOWLY
    chosen = runs[:most]
    if vectorised:
        found = _lira(source, chosen, full["mode"], full["variance"])
    else:
        found = _one_by_one(source, analysis, options, chosen)
    if np.isnan(found.score).all():
        raise NotEnoughData(
            f"no run of experiment {source.experiment!r} can be attacked by {analysis.name} with the others as its "
            f"shadow runs ({len(chosen)} tried); collect more with 'losslake collect shadows'"
        )
    if len(chosen) < len(runs):
        left = f"{len(chosen)} of {len(runs)} runs were attacked in turn; --targets takes more"
        return replace(found, notes=(*found.notes, left))
    return found


def in_turn(source: Source) -> tuple[Run, ...]:
    """Runs that can stand as the target, with signals: targets but for duals, then shadow runs, each by name."""
    with_signals = [run for run in source.runs if "signals" in run.tables()]
    targets = [run for run in with_signals if run.info.role == "target" and run.info.parent is None]
    shadows = [run for run in with_signals if run.info.role == "shadow"]
    return (*targets, *(shadows or source.need_shadows()))


def _lira(source: Source, chosen: tuple[Run, ...], mode: str, variance: str) -> EachRun:
    """LiRA on all of them at once; auto is as in the analysis: pooled under 64 runs besides the one under attack."""
    shadows = [run for run in in_turn(source) if run.info.role == "shadow"]
    everything = [*shadows, *(run for run in chosen if run.info.role != "shadow")]
    place = {run.run: row for row, run in enumerate(everything)}
    plain = source.sql(
        "select distinct query from signals where query < $plain order by query", {"plain": PLAIN_QUERIES}
    )
    matrix = read_phi(source, everything, plain["query"].to_list())
    fitted = np.arange(len(everything)) < len(shadows)
    rows = np.array([place[run.run] for run in chosen], dtype=np.intp)
    score = np.full((len(chosen), len(matrix.sample_id)), np.nan)
    # Only where there are just POOL_UNDER shadow runs do some runs have fewer besides them, and others not.
    besides = len(shadows) - fitted[rows]
    pooled = besides < POOL_UNDER if variance == "auto" else np.full(len(rows), variance == "pooled")
    for kind, wanted in (("pooled", pooled), ("sample", ~pooled)):
        if wanted.any():
            score[wanted] = lira_each(matrix, fitted, rows[wanted], mode=mode, variance=kind)
    notes: tuple[str, ...] = ()
    if pooled.any() and not pooled.all():
        own = int((~pooled).sum())
        notes = (
            f"{own} of {len(chosen)} runs have {POOL_UNDER} shadow runs or more beside them and take each sample's own "
            "variance, the others the pooled one; lira[variance=pooled] treats them alike",
        )
    return EachRun(chosen, matrix.sample_id, score, matrix.member[rows], notes)


def _one_by_one(
    source: Source, analysis: Analysis, options: Mapping[str, Any], chosen: tuple[Run, ...]
) -> EachRun:
    """The analysis itself with each run as the target; a run that it has too little data for has no scores."""
    audit = source.lake.samples(source.experiment)["pool"].to_numpy(zero_copy_only=False) == "audit"
    score = np.full((len(chosen), len(audit)), np.nan)
    member = np.zeros(score.shape, dtype=bool)
    failed = []
    for row, run in enumerate(chosen):
        with source.beside(run.run) as turned:
            try:
                frame = analysis.compute(turned, **options).frame
            except NotEnoughData:
                failed.append(run.run)
                continue
        ids = frame["sample_id"].to_numpy()
        score[row, ids] = frame["score"].cast(float).fill_null(np.nan).to_numpy()
        member[row, ids] = frame["member"].fill_null(False).to_numpy()
    notes = (f"{analysis.name} has too little data with {', '.join(failed)} as the target",) if failed else ()
    return EachRun(chosen, np.flatnonzero(audit), score[:, audit], member[:, audit], notes)
