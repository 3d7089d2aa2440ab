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
from ..declare import DUALS, MASK, SHARED, WITHOUT, Analysis
from ..remedies import collect_shadows
from ..source import Source
from ..statistics.dependence import (
    ALIKE,
    PRIME,
    SURE,
    correlation,
    difference,
    drawn,
    moments,
    places,
    run_keys,
    shares_passed_over,
)
from .lira_each import lira_each
from .masking import masked_source, parse_mask
from .phi_matrix import PhiMatrix, read_phi

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


def attack_each(
    source: Source,
    analysis: Analysis,
    options: Mapping[str, Any],
    count: int | None,
    *,
    duals: bool = False,
) -> EachRun:
    """Scores of an attack on up to ``count`` runs in turn: those of role target first, then shadow runs, by name.

    Each run under attack is left out of its own fit, with what would tell its members by who it is compared with (see
    `Source.need_shadows`); the runs of role target are in no fit. A dual, which has the members of the target it names as
    its parent, is no target of its own, and a run that is left out of ``source`` is neither target nor shadow. None: all runs for LiRA, 16 for others. A
    mask among the options is on the answers of all of them. ``duals``: the target and its duals are attacked, and no other run.
    Raises NotEnoughData where no run can be attacked so.
    """
    if not analysis.attack:
        raise InvalidOption(f"{analysis.name} is no attack: it does not claim that a record was a member")
    if count is not None and count < 1:
        raise InvalidOption(f"at least 1 run must be attacked, not {count}")
    if options.get(DUALS.keyword):
        raise InvalidOption(f"each run is attacked alone; leave {DUALS.name} out of {analysis.name}")
    mask, without = options.get(MASK.keyword), options.get(WITHOUT.keyword)
    if without:
        kept = {keyword: value for keyword, value in options.items() if keyword != WITHOUT.keyword}
        with source.without(without) as fewer:
            return attack_each(fewer, analysis, kept, count, duals=duals)
    shared = [option.keyword for option in SHARED]
    options = {keyword: value for keyword, value in options.items() if keyword not in shared}
    if mask is not None:
        with masked_source(source, parse_mask(mask)) as (hidden, notes):
            masked = attack_each(hidden, analysis, options, count, duals=duals)
        return replace(masked, notes=(*notes, *masked.notes))
    key = ("each", *source.compared(), analysis.name, str(sorted(options.items())), count, duals)
    remembered: EachRun | None = source.kept.find(key)
    if remembered is not None:
        return remembered
    runs = with_duals(source) if duals else in_turn(source)
    full = {**{option.keyword: option.default for option in analysis.options}, **options}
    vectorised = analysis.name == "lira" and full["center"] == "mean" and full["queries"] == "mean"
    most = count if count is not None else len(runs) if vectorised or duals else _SLOWLY
    chosen = runs[:most]
    if vectorised:
        found = _lira(source, chosen, full["mode"], full["variance"])
    else:
        found = _one_by_one(source, analysis, options, chosen)
    if np.isnan(found.score).all():
        raise NotEnoughData(
            f"no run of experiment {source.experiment!r} can be attacked by {analysis.name} with the others as its "
            f"shadow runs ({len(chosen)} tried); {collect_shadows(source.lake, source.experiment, 'more')}"
        )
    if len(chosen) < len(runs):
        left = f"{len(chosen)} of {len(runs)} runs were attacked in turn; --targets takes more"
        found = replace(found, notes=(*found.notes, left))
    if source.kept.allows(key, found.score.nbytes + found.member.nbytes):
        source.kept.keep(key, found)
    return found


def in_turn(source: Source) -> tuple[Run, ...]:
    """Runs that can stand as the target, with signals: targets but for duals, then shadow runs, each by name."""
    with_signals = [
        run for run in source.runs if "signals" in run.tables() and run.run not in source.left_out
    ]
    targets = [run for run in with_signals if run.info.role == "target" and run.info.parent is None]
    shadows = [run for run in with_signals if run.info.role == "shadow"]
    return (*targets, *(shadows or source.need_shadows()))


def with_duals(source: Source) -> tuple[Run, ...]:
    """The target and the runs of the same members by other seeds, those with signals; the first of them, then its duals by name.

    Raises NotEnoughData where the target has none.
    """
    target = source.need_target_table("signals")
    first = target.info.parent or target.run
    found = [
        run
        for run in source.runs
        if run.info.role == "target"
        and "signals" in run.tables()
        and (run.run == first or run.info.parent == first)
        and run.run not in source.left_out
    ]
    if len(found) < 2:
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no duals; train some with 'losslake collect target --duals K'"
        )
    return tuple(sorted(found, key=lambda run: (run.run != first, run.run)))


def _lira(source: Source, chosen: tuple[Run, ...], mode: str, variance: str) -> EachRun:
    """LiRA on all of them at once; auto is bayes, as in the analysis."""
    shadows = [run for run in in_turn(source) if run.info.role == "shadow"]
    everything = [*shadows, *(run for run in chosen if run.info.role != "shadow")]
    place = {run.run: row for row, run in enumerate(everything)}
    plain = source.sql(
        "select distinct query from signals where query < $plain order by query", {"plain": PLAIN_QUERIES}
    )
    matrix = read_phi(source, everything, plain["query"].to_list())
    fitted = np.arange(len(everything)) < len(shadows)
    rows = np.array([place[run.run] for run in chosen], dtype=np.intp)
    apart = _kept_apart(matrix, fitted, rows, run_keys(run.run for run in everything))
    score = lira_each(
        matrix,
        fitted,
        rows,
        mode=mode,
        variance="bayes" if variance == "auto" else variance,
        apart=apart.removed,
    )
    return EachRun(chosen, matrix.sample_id, score, matrix.member[rows], apart.notes)


@dataclass(frozen=True, eq=False)
class _Apart:
    """What each attacked run is not compared with: so many whole ``runs`` (attacked,), and ``removed`` (K, attacked, samples).

    ``removed`` are rows of the matrix, -1 for none.
    """

    runs: npt.NDArray[np.int64]
    removed: npt.NDArray[np.int64]
    notes: tuple[str, ...]


def _kept_apart(
    matrix: PhiMatrix,
    fitted: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.intp],
    keys: npt.NDArray[np.int64],
) -> _Apart:
    """As `Source.need_shadows` has it for one target, for all attacked ``rows`` of the matrix."""
    there: npt.NDArray[np.bool_] = np.asarray(~np.isnan(matrix.phi).all(axis=2))
    member = matrix.member & there
    inside, known = np.asarray(member, np.float32), np.asarray(there, np.float32)
    alike = correlation(
        known[rows] @ known.T, inside[rows] @ known.T, known[rows] @ inside.T, inside[rows] @ inside.T
    )
    others = fitted & (np.arange(len(fitted)) != rows[:, None])
    same, opposite = others & (alike >= ALIKE), others & (alike <= -ALIKE)
    whole = same | opposite

    in_fleet = member.any(axis=1)
    removed = np.full((int(whole.sum(axis=1).max(initial=0)), len(rows), 1), -1)
    cells: dict[int, npt.NDArray[np.int64]] = {}
    lowest: dict[bytes, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
    totals = {kind.tobytes(): member[kind].sum(axis=0) for kind in (in_fleet & fitted, in_fleet)}
    for at, row in enumerate(rows):
        left = np.flatnonzero(whole[at])
        removed[: len(left), at, 0] = left
        found = []
        # The second: runs that nothing is fitted to may be of the fleet too.
        for kind, gone in ((in_fleet & fitted, whole[at]), (in_fleet, abs(alike[at]) >= ALIKE)):
            gone = (gone | (np.arange(len(gone)) == row)) & kind
            n_in = totals[kind.tobytes()] - member[gone].sum(axis=0)
            told = there[row] & there[kind & ~gone].any(axis=0)
            counts = (n_in, member[row], told)
            found.append((difference(*moments(*counts))[1], kind & ~gone, kind, counts))
        errors, fleet, kind, counts = max(found, key=lambda one: abs(one[0]))
        if errors < -SURE:
            # A run is never on the other side than itself: all runs of a kind have the same order, but for those left out.
            allowed = kind if (kind & ~fleet).sum() <= 1 else fleet
            if allowed.tobytes() not in lowest:
                lowest[allowed.tobytes()] = _lowest(matrix, np.flatnonzero(allowed), keys, there)
            first_in, first_out = lowest[allowed.tobytes()]
            chosen = np.where(member[row], first_out, first_in)
            chosen = np.where((chosen >= 0) & fitted[chosen], chosen, -1)
            cells[at] = np.where(drawn(matrix.sample_id, shares_passed_over(*counts)), chosen, -1)
    if cells:
        layer = np.full((1, len(rows), len(matrix.sample_id)), -1)
        for at, cell in cells.items():
            layer[0, at] = cell
        shape = (len(removed), *layer.shape[1:])
        removed = np.concatenate([np.broadcast_to(removed, shape), layer])
    notes = []
    if same.any():
        notes.append(
            f"{int(same.any(axis=1).sum())} of {len(rows)} runs have the training set of other shadow runs, which are left out "
            "of their fits"
        )
    if opposite.any():
        notes.append(
            f"{int(opposite.any(axis=1).sum())} of {len(rows)} runs have the complement of other shadow runs' training sets, "
            "which are left out of their fits"
        )
    if cells:
        notes.append(
            f"{len(cells)} of {len(rows)} runs are of a fleet in balance: for each record one run on the other side, drawn "
            "at random, is left out of their fits"
        )
    return _Apart(whole.sum(axis=1), removed, tuple(notes))


def _lowest(
    matrix: PhiMatrix,
    allowed: npt.NDArray[np.intp],
    keys: npt.NDArray[np.int64],
    there: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each sample the run with it that is passed over first, and the run without it; -1 for none."""
    shape = (2, len(matrix.sample_id))
    least, first = np.full(shape, PRIME), np.full(shape, -1)
    for row in allowed:
        place = places(matrix.sample_id, keys[row : row + 1])[0]
        for side, wanted in enumerate((matrix.member[row], ~matrix.member[row])):
            better = wanted & there[row] & (place < least[side])
            least[side, better], first[side, better] = place[better], row
    return first[0], first[1]


def _one_by_one(
    source: Source, analysis: Analysis, options: Mapping[str, Any], chosen: tuple[Run, ...]
) -> EachRun:
    """The analysis itself with each run as the target; a run that it has too little data for has no scores."""
    audit = source.audited()
    score = np.full((len(chosen), len(audit)), np.nan)
    member = np.zeros(score.shape, dtype=bool)
    failed = []
    told: dict[str, None] = {}
    for row, run in enumerate(chosen):
        with source.beside(run.run) as turned:
            try:
                frame = analysis.compute(turned, **options).frame
            except NotEnoughData:
                failed.append(run.run)
                continue
            told |= dict.fromkeys(turned.told())
        ids = frame["sample_id"].to_numpy()
        score[row, ids] = frame["score"].cast(float).fill_null(np.nan).to_numpy()
        member[row, ids] = frame["member"].fill_null(False).to_numpy()
    notes = [f"{analysis.name} has too little data with {', '.join(failed)} as the target"] if failed else []
    return EachRun(chosen, np.flatnonzero(audit), score[:, audit], member[:, audit], (*notes, *told))
