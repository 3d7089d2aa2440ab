"""The privacy onion: take the most exposed records away, train again, and see which are exposed then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidInput, InvalidOption, NotEnoughData, NotFound
from ..scores import Finding, Scores
from ..scoring.run import FPRS
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.correlation import rank_correlation
from ..statistics.intervals import CONFIDENCE, clopper_pearson
from ..statistics.metric import Metric
from ..statistics.reestimation import Outcomes, chance_above, distribution
from ..statistics.roc import split, threshold_at_fpr, tpr_at_fpr
from ..statistics.special import ndtri
from .compare import check_fprs

MEMORIZED = (0.2, 0.4, 0.6, 0.8)
"""Thresholds of memorization unless told otherwise."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Level:
    """One rule of who is exposed: its parameters, the threshold before and after, and the non-members that set them."""

    about: Mapping[str, float]
    before: float
    after: float
    others: tuple[Floats, Floats] | None = None

    def share(self, metric: str, score: Floats, after: bool, about: Mapping[str, Any]) -> Metric:
        """The share of scores above the threshold; of an attack it is a TPR and has the interval of one."""
        hits, n = int((score > (self.after if after else self.before)).sum()), len(score)
        if self.others is None:
            return _share(metric, hits, n, about)
        rate = tpr_at_fpr(np.sort(score), self.others[after], self.about["fpr"])
        return Metric(metric, hits / n, rate.ci_low, rate.ci_high, n, about)


def onion(
    source: Source,
    scores: tuple[str, ...],
    *,
    before: Annotated[
        str | None,
        "the experiment that the records were removed from; default: the only one that holds these and more",
    ] = None,
    before_target: Annotated[str | None, "the run to look at there; default: the only target"] = None,
    threshold: Annotated[
        tuple[float, ...],
        "scores above it are exposed; default: 0.2 to 0.8 for memorization, --fpr for attacks",
    ] = (),
    fpr: Annotated[tuple[float, ...], "for attacks: exposed is above the threshold at this rate"] = FPRS,
) -> Finding:
    """Which of the records that stayed are exposed before and after the most exposed ones were removed.

    Matches the records of two experiments by key. exposed_with_removed is the share exposed before the removal, of all;
    exposed_before and exposed_after are of the records that stayed. If the removed ones took nothing but their own
    exposure with them, exposed_after would be exposed_before; change_of_exposed is the difference (Agresti & Min 2005,
    paired). newly_exposed are the records exposed now among those that were not, no_longer_exposed the reverse. An attack
    has a threshold at the FPR in each experiment on its target's own non-members, and only records that are members of
    both targets count: exposed_with_removed, exposed_before and exposed_after are then TPRs and have the intervals of TPRs. Those
    of who changed sides are at the thresholds as they were measured.

    Estimates from few shadow runs cross a threshold by chance, upward above all where the records were removed for their
    estimate: newly_by_chance is the share that another draw of shadow runs alone would give (for memorization of correct
    predictions; empirical Bayes from all records before). A third experiment without as many random records is the control: ask the same of it.

    mean_change is that of the score itself among the records that stayed, spearman the rank correlation of before
    and after.

    Needs: two experiments, the second without some records of the first; what the scores need, in both.

    Source: Carlini et al. 2022, "The Privacy Onion Effect: Memorization is Relative".
    """
    check_fprs(*fpr)
    names = tuple(dict.fromkeys(scores))
    for name in names:
        analysis, _ = source.analysis(name)
        if not threshold and not analysis.attack and analysis.name != "memorization":
            raise InvalidOption(
                f"{name} is no attack: say with --threshold from which value on a record is exposed"
            )
    earlier = before if before is not None else _earlier(source)
    if earlier == source.experiment:
        raise InvalidOption(
            f"experiment {earlier!r} cannot be compared with itself; name the one --before the removal"
        )
    metrics: list[Metric] = []
    notes: list[str] = []
    now = keep_scores(source, names)
    with source.beside(before_target, experiment=earlier) as first:
        then = keep_scores(first, names)
        keys = [_keys(one) for one in (first, source)]
    for name in names:
        analysis, options = source.analysis(name)
        sides = [_with_key(one[name].scores, known) for one, known in ((then, keys[0]), (now, keys[1]))]
        notes += [
            f"{name}, {when}: {note}"
            for when, one in (("before", then), ("after", now))
            for note in one[name].scores.notes
        ]
        levels = _levels(analysis.name, analysis.attack and not threshold, sides, threshold, fpr)
        noisy = analysis.name == "memorization" and options.get("of", "correct") == "correct"
        metrics += _compared(name, sides, levels, analysis.attack, noisy)
    return Finding(tuple(metrics), tuple(notes))


def _earlier(source: Source) -> str:
    """The only other experiment that holds all keys of this one and more."""
    own = set(_keys(source)["key"].to_list())
    found = []
    for name in source.lake.experiments():
        if name != source.experiment:
            keys = set(source.lake.samples(name)["key"].to_pylist())
            if own < keys:
                found.append(name)
    if not found:
        raise NotEnoughData(
            f"no other experiment holds the records of {source.experiment!r} and more; remove some of its records with "
            "'losslake collect target --experiment NEW --without FILE' and look at NEW"
        )
    if len(found) > 1:
        raise NotFound(
            f"the records of {source.experiment!r} are part of several experiments ({', '.join(found[:8])}); choose one "
            "with --before"
        )
    return found[0]


def _keys(source: Source) -> pl.DataFrame:
    """sample_id and key of every sample. Raises InvalidInput where a key does not tell records apart."""
    frame = pl.DataFrame(source.lake.samples(source.experiment).select(["sample_id", "key"]))
    if frame["key"].null_count() or frame["key"].n_unique() < len(frame):
        raise InvalidInput(
            f"the keys of experiment {source.experiment!r} do not name one record each, so records cannot be matched"
        )
    return frame


def _with_key(scores: Scores, keys: pl.DataFrame) -> pl.DataFrame:
    """The scored records with their keys; membership unknown counts as none."""
    known = scores.frame.filter(pl.col("score").is_not_null() & pl.col("score").is_not_nan())
    return known.join(keys, on="sample_id", maintain_order="left").with_columns(
        pl.col("member").fill_null(False)
    )


def _levels(
    name: str, attack: bool, sides: list[pl.DataFrame], threshold: tuple[float, ...], fpr: tuple[float, ...]
) -> list[_Level]:
    if not attack:
        return [_Level({"threshold": at}, at, at) for at in threshold or MEMORIZED]
    others = [split(side["score"].to_numpy(), side["member"].to_numpy())[1] for side in sides]
    if min(len(one) for one in others) == 0:
        raise NotEnoughData(
            f"{name} has no threshold: there is no non-member with a score in one of the experiments"
        )
    before, after = others
    return [
        _Level({"fpr": at}, threshold_at_fpr(before, at), threshold_at_fpr(after, at), others=(before, after))
        for at in fpr
    ]


def _compared(
    name: str, sides: list[pl.DataFrame], levels: list[_Level], attack: bool, noisy: bool
) -> Iterator[Metric]:
    first, second = (side.filter(pl.col("member")) if attack else side for side in sides)
    both = first.join(second, on="key", suffix="_after", maintain_order="left")
    if both.is_empty():
        raise NotEnoughData(f"no record has {name} in both experiments")
    about: dict[str, Any] = {"score": name}
    gone = sides[0].join(sides[1], on="key", how="anti").height
    yield _share("removed", gone, len(sides[0]), about)
    old, new = both["score"].to_numpy(), both["score_after"].to_numpy()
    yield _mean_change(new - old, about)
    yield rank_correlation(old, new, about)
    chance = _by_chance(both, first, levels) if noisy else None
    for column, level in enumerate(levels):
        at = {**about, **level.about}
        yield level.share("exposed_with_removed", first["score"].to_numpy(), False, at)
        yield level.share("exposed_before", old, False, at)
        yield level.share("exposed_after", new, True, at)
        yield from _changed(old > level.before, new > level.after, at)
        hidden = old <= level.before
        if chance is not None:
            expected = float(chance[hidden, column].mean()) if hidden.any() else None
            yield Metric("newly_by_chance", expected, n=int(hidden.sum()), parameters=at)


def _mean_change(change: Floats, about: Mapping[str, Any]) -> Metric:
    n, mean = len(change), float(change.mean())
    if n == 1:
        return Metric("mean_change", mean, n=1, parameters=about)
    reach = float(ndtri(0.5 + CONFIDENCE / 2) * change.std(ddof=1) / np.sqrt(n))
    return Metric("mean_change", mean, mean - reach, mean + reach, n, about)


def _changed(old: Flags, new: Flags, about: dict[str, Any]) -> Iterator[Metric]:
    """How many changed sides."""
    n, newly, gone = len(old), int((new & ~old).sum()), int((old & ~new).sum())
    yield _share("newly_exposed", newly, int((~old).sum()), about)
    yield _share("no_longer_exposed", gone, int(old.sum()), about)
    centre = (newly - gone) / (n + 2)
    spread = np.sqrt(newly + gone + 1 - (newly - gone) ** 2 / (n + 2)) / (n + 2)
    reach = float(ndtri(0.5 + CONFIDENCE / 2) * spread)
    yield Metric(
        "change_of_exposed", (newly - gone) / n, max(-1.0, centre - reach), min(1.0, centre + reach), n, about
    )


def _by_chance(both: pl.DataFrame, first: pl.DataFrame, levels: list[_Level]) -> Floats:
    """Chance that a second estimate, with as many runs as there are now, exceeds each level: (records, levels)."""
    later = [both[f"n_{side}_after"].to_numpy().astype(np.int64) for side in ("in", "out")]
    above = [level.after for level in levels]
    return chance_above(distribution(Outcomes.of(first)), Outcomes.of(both), later[0], later[1], above)


def _share(name: str, hits: int, trials: int, about: Mapping[str, Any]) -> Metric:
    value = hits / trials if trials else None
    return Metric(name, value, *clopper_pearson(hits, trials), n=trials, parameters=about)
