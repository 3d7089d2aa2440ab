"""Suspects: records whose label may be wrong, and those that are rare or hard instead."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.schema import CROSS_ENTROPY
from ..attacks.logits import lists_of, logits_of
from ..scores import Scores, count_unscored
from ..source import Source, with_membership
from ..statistics.labels import judge_labels, mean_of_class, nearest_records, softmax
from ..statistics.metric import Metric
from .trace import trace

KINDS = ("may be mislabelled", "rare", "hard", "typical")
"""The kinds of record, the first that fits counts."""

RARE = 0.05
"""The share of records furthest from their neighbours that is called rare."""

SAME = 0.01
"""Distance of two directions of features, of length 1, under which records are taken for near-duplicates; float16 alone makes 0.001."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def suspects(
    source: Source,
    *,
    neighbours: Annotated[int, "how many nearest records, by features, a record is compared with"] = 10,
) -> Scores:
    """Suspects: how wrong a record's label looks; whether it may be mislabelled, or is rare or hard.

    score is 1 - the mean probability of its label over the shadow models that were not trained on the record (its self-confidence, by
    which confident learning ranks). Without shadow models it is minus the target's mean margin over its epochs (AUM), and without margins 1 - its mean probability
    of the label over them (confidence). Higher = the label looks the more wrong, which is no claim of membership.

    kind: "may be mislabelled" where another class has more than half of that mean probability and the label less than 1 /
    classes (by AUM: below 0); else "rare" where the features lie among the 5% furthest from their nearest neighbours; else "hard" where the
    label has a lower probability than records of its class have on average, confident learning's threshold; else "typical".
    Whether a label is wrong, only a look at the record tells: one of a rare kind may look like another class to every model.
    Without logits of shadow models or margins nothing tells another class from a hard record, and none is called mislabelled;
    without features none is called rare. Without shadow models the target's own epochs are all there is: what it learnt by heart early looks right.

    Columns, null where the data is not there: p_label and p_nearest (mean probabilities over the n_out models without the record), nearest_class (the likeliest
    other class), aum (the target's mean margin over epochs), confidence and variability (mean and standard deviation of
    its probability of the label over epochs), neighbour_distance (mean distance of its features, as directions, to those of the nearest records),
    same_label (the share of these that have its label), duplicates (how many of them are the same but for rounding) and other_label (those of them with another label).

    Metrics of its own: share of each kind, without a value where nothing tells of it.

    Needs: labels, and shadow models with and without each record (best with logits), or the target's losses or margins after each epoch.

    Source: Northcutt et al. 2021, "Confident Learning" (self-confidence, thresholds); Pleiss et al. 2020,
    "Identifying Mislabeled Data using the Area Under the Margin Ranking"; Swayamdipta et al. 2020, "Dataset Cartography".
    """
    if neighbours < 1:
        raise InvalidOption(f"neighbours of suspects is 1 or more, not {neighbours}")
    label = _labels(source)
    audit = source.audited() & (label >= 0)
    if not audit.any():
        raise NotEnoughData(
            f"the samples of experiment {source.experiment!r} have no labels that could be wrong"
        )
    found = pl.DataFrame({"sample_id": np.flatnonzero(source.audited()).astype(np.int32)})
    found = _beside(found, _of_others(source, label, audit))
    found = _beside(found, _of_epochs(source, label, audit))
    found = _beside(found, _of_neighbours(source, label, audit, neighbours))
    if "wrong" in found.columns:
        score, wrong, unsure, by = "doubt", pl.col("wrong"), pl.col("unsure"), "logits"
    elif "doubt" in found.columns:
        score, wrong, unsure, by = "doubt", pl.lit(value=False), pl.col("unsure"), "losses"
    elif "aum" in found.columns:
        score, wrong, unsure, by = "minus_aum", pl.col("aum") < 0, pl.col("slow"), "margins"
    elif "confidence" in found.columns:
        score, wrong, unsure, by = "doubt_of_epochs", pl.lit(value=False), pl.col("slow"), "epochs"
    else:
        raise NotEnoughData(
            f"suspects needs shadow models with and without each record, or losses of the target after each epoch; experiment "
            f"{source.experiment!r} has neither"
        )
    rare = pl.col("rare") if "rare" in found.columns else pl.lit(value=False)
    known = pl.col(score).is_not_null() & pl.col(score).is_finite()
    kind = (
        pl.when(~known)
        .then(None)
        .when(wrong.fill_null(value=False))
        .then(pl.lit(KINDS[0]))
        .when(rare.fill_null(value=False))
        .then(pl.lit(KINDS[1]))
        .when(unsure.fill_null(value=False))
        .then(pl.lit(KINDS[2]))
        .otherwise(pl.lit(KINDS[3]))
    )
    frame = found.select(
        "sample_id",
        pl.when(known).then(pl.col(score)).alias("score"),
        kind.alias("kind"),
        *(
            (pl.col(name) if name in found.columns else pl.lit(None)).cast(of).alias(name)
            for name, of in COLUMNS.items()
        ),
    )
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no record of experiment {source.experiment!r} has a label and what tells whether it is right"
        )
    notes = (*count_unscored(frame, _MISSING[by]), *_notes(by, "rare" in found.columns))
    counted = frame["kind"].drop_nulls().to_list()
    told = {KINDS[0]: by in ("logits", "margins"), KINDS[1]: "rare" in found.columns}
    shares = tuple(
        Metric(
            "share",
            counted.count(name) / len(counted) if told.get(name, True) else None,
            n=len(counted),
            parameters={"kind": name},
        )
        for name in KINDS
    )
    return Scores(with_membership(source, frame), notes, shares)


COLUMNS: dict[str, type[pl.DataType]] = {
    "p_label": pl.Float64,
    "p_nearest": pl.Float64,
    "nearest_class": pl.Int32,
    "n_out": pl.Int32,
    "aum": pl.Float64,
    "confidence": pl.Float64,
    "variability": pl.Float64,
    "neighbour_distance": pl.Float64,
    "same_label": pl.Float64,
    "duplicates": pl.Int32,
    "other_label": pl.Int32,
}

_MISSING = {
    "logits": "they have no label, or no shadow model without them has logits of them",
    "losses": "they have no label, or no shadow model was not trained on them",
    "margins": "they have no label, or the target's margins of them are not all there",
    "epochs": "they have no label, or the target's losses of them are not all there",
}


def _notes(by: str, features: bool) -> tuple[str, ...]:
    told = []
    if by in ("losses", "epochs"):
        told.append(
            "no logits of shadow models or margins of the target: a wrong label cannot be told from a hard record, and none is called mislabelled"
        )
    if by in ("margins", "epochs"):
        told.append(
            "no shadow models: judged by the target's own epochs, where a wrong label that was learnt by heart early looks right"
        )
    if not features:
        told.append("no features of the target: rare records cannot be told from hard ones")
    return tuple(told)


# --- what models say that were not trained on the record --------------------------------------------------------


def _of_others(source: Source, label: Ints, audit: npt.NDArray[np.bool_]) -> pl.DataFrame | None:
    """By sample: what shadow models without it say of its label; None where there are none."""
    try:
        source.need_shadows()
    except NotEnoughData:
        return None
    total, count = _mean_probabilities(source, len(label))
    seen = audit & (count > 0)
    if seen.any():
        probability = total[seen] / count[seen, None]
        fits = label[seen] < probability.shape[1]
        rows = np.flatnonzero(seen)[fits]
        probability, given = probability[fits], label[rows]
        judged = judge_labels(probability, given)
        return pl.DataFrame(
            {
                "sample_id": rows.astype(np.int32),
                "doubt": 1 - judged.own,
                "wrong": judged.wrong,
                "unsure": judged.unsure,
                "p_label": judged.own,
                "p_nearest": judged.other,
                "nearest_class": judged.nearest.astype(np.int32),
                "n_out": count[rows].astype(np.int32),
            }
        )
    return _of_their_losses(source, label, audit)


def _of_their_losses(source: Source, label: Ints, audit: npt.NDArray[np.bool_]) -> pl.DataFrame | None:
    """The same of their losses alone, where these are cross-entropies: the probability of the label."""
    sums, count = np.zeros(len(label)), np.zeros(len(label), np.int64)
    over = _passed_over(source, len(label))
    shadows = [
        run for run in source.need_shadows() if run.info.extra.get("loss", CROSS_ENTROPY) == CROSS_ENTROPY
    ]
    for run in shadows:
        frame = source.rows(run, "signals", ["sample_id", "query", "member", "loss"])
        plain = frame.filter((pl.col("query") == 0) & ~pl.col("member") & pl.col("loss").is_finite())
        ids = plain["sample_id"].to_numpy()
        used = ~np.isin(ids, over.get(run.run, _NONE))
        sums[ids[used]] += np.exp(-plain["loss"].to_numpy()[used].astype(np.float64))
        count[ids[used]] += 1
    seen = audit & (count > 0)
    if not seen.any():
        return None
    rows = np.flatnonzero(seen)
    own = sums[rows] / count[rows]
    return pl.DataFrame(
        {
            "sample_id": rows.astype(np.int32),
            "doubt": 1 - own,
            "unsure": own < mean_of_class(own, label[rows]),
            "p_label": own,
            "n_out": count[rows].astype(np.int32),
        }
    )


_NONE = np.zeros(0, np.int64)


def _passed_over(source: Source, samples: int) -> dict[str, Ints]:
    """The samples of which a run is passed over, by its name."""
    shadows = source.need_shadows()
    rows, over = source.passed_over(shadows, np.arange(samples))
    return {shadows[row].run: over[rows == row] for row in np.unique(rows).tolist()}


def _mean_probabilities(source: Source, samples: int) -> tuple[Floats, Ints]:
    """Sums (samples, classes) of softmax over shadow models without the record, and how many there are. Pieces at a time.

    Runs of another number of classes than the first are left out.
    """
    total, count = np.zeros((samples, 0)), np.zeros(samples, np.int64)
    over = _passed_over(source, samples)
    for run in source.need_shadows():
        for piece in logits_of(source, run):
            used = ~piece.member & np.isfinite(piece.values).all(axis=1)
            used &= ~np.isin(piece.sample_id, over.get(run.run, _NONE))
            if not total.shape[1]:
                total = np.zeros((samples, piece.values.shape[1]))
            if piece.values.shape[1] != total.shape[1] or not used.any():
                continue
            ids = piece.sample_id[used]
            total[ids] += softmax(piece.values[used].astype(np.float64))
            count[ids] += 1
    return total, count


# --- what the target's epochs say ------------------------------------------------------------------------------


def _of_epochs(source: Source, label: Ints, audit: npt.NDArray[np.bool_]) -> pl.DataFrame | None:
    """By sample: AUM, confidence and variability over the target's epochs after the first step of training."""
    frames = []
    for name, signal, aggregate in (
        ("aum", "margin", "mean"),
        ("confidence", "probability", "mean"),
        ("variability", "probability", "std"),
    ):
        try:
            told = trace(source, signal=signal, aggregate=aggregate, first=1).frame  # type: ignore[arg-type]
        except (NotEnoughData, InvalidOption):
            continue
        value = pl.when(pl.col("score").is_not_null()).then(pl.col("value").cast(pl.Float64))
        frames.append(told.select("sample_id", value.alias(name)))
    if not frames:
        return None
    found = frames[0]
    for frame in frames[1:]:
        found = found.join(frame, on="sample_id", how="left", maintain_order="left")
    found = found.filter(pl.Series(audit[found["sample_id"].to_numpy()]))
    of_level = "confidence" if "confidence" in found.columns else "aum"
    known = found.filter(pl.col(of_level).is_not_null())
    level = known[of_level].to_numpy()
    slow = level < mean_of_class(level, label[known["sample_id"].to_numpy()])
    found = found.join(
        known.select("sample_id", pl.Series("slow", slow)), on="sample_id", how="left", maintain_order="left"
    )
    made = []
    if "aum" in found.columns:
        made.append((-pl.col("aum")).alias("minus_aum"))
    if "confidence" in found.columns:
        made.append((1 - pl.col("confidence")).alias("doubt_of_epochs"))
    return found.with_columns(made)


# --- what lies near it -----------------------------------------------------------------------------------------


def _of_neighbours(
    source: Source, label: Ints, audit: npt.NDArray[np.bool_], neighbours: int
) -> pl.DataFrame | None:
    """By sample: distance to and labels of the nearest records, by the target's features; None where it kept none."""
    if source.target is None or "signals" not in source.target.tables():
        return None
    ids, rows = [], []
    for piece in lists_of(source, source.target, "features"):
        used = audit[piece.sample_id] & np.isfinite(piece.values).all(axis=1)
        ids.append(piece.sample_id[used])
        rows.append(piece.values[used])
    if not ids or sum(map(len, ids)) <= neighbours:
        return None
    sample_id = np.concatenate(ids)
    distance, near = nearest_records(np.concatenate(rows), neighbours)
    mean = distance.mean(axis=1)
    alike = label[sample_id][near] == label[sample_id][:, None]
    twins = distance < SAME
    return pl.DataFrame(
        {
            "sample_id": sample_id.astype(np.int32),
            "neighbour_distance": mean,
            "rare": (mean > np.quantile(mean, 1 - RARE)),
            "same_label": alike.mean(axis=1),
            "duplicates": twins.sum(axis=1).astype(np.int32),
            "other_label": (twins & ~alike).sum(axis=1).astype(np.int32),
        }
    )


def _labels(source: Source) -> Ints:
    """Label of each sample, -1 where it has none."""
    samples = pl.DataFrame(source.lake.samples(source.experiment).select(["label"]))
    labels: Ints = samples["label"].cast(pl.Int64).fill_null(-1).to_numpy()
    return labels


def _beside(found: pl.DataFrame, more: pl.DataFrame | None) -> pl.DataFrame:
    return found if more is None else found.join(more, on="sample_id", how="left", maintain_order="left")
