"""The most exposed records of a report, and the loss traces they are shown beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ..charts.axes import number, percent
from ..charts.traces import band_of
from ..measures.suspects import KINDS
from ..scores import Scores, by_exposure, in_order
from ..source import Source
from .data import Again, Headline, Record, Scored, Traces

Floats = npt.NDArray[np.float64]
SHOWN = 24
SUSPECTED = 12
MOST_FACTS = 8
LONGEST_FACT = 60
FIXED = frozenset({"sample_id", "label", "pool", "split", "group", "key"})
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class TraceTable:
    """Traces of the target's samples, ``values`` (samples, epochs) as the lake has them, in float32; NaN where an epoch is missing."""

    sample_id: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    summary: Traces

    def of(self, sample_id: int) -> Floats | None:
        """The trace of one sample, None where it has none."""
        place = int(np.searchsorted(self.sample_id, sample_id))
        found = place < len(self.sample_id) and self.sample_id[place] == sample_id
        return self.values[place].astype(np.float64) if found else None


def read_traces(source: Source, signal: Literal["loss", "grad_norm"]) -> TraceTable | None:
    """The target's traces of a signal: those of the eval passes where there are any, else those from inside the steps."""
    target = source.target
    if target is None or "traces" not in target.tables():
        return None
    rows = source.rows(target, "traces", ["sample_id", "member", "source", signal])
    frame = in_order(rows.filter(pl.col(signal).is_not_null() & (pl.col(signal).list.len() > 0)))
    del rows
    kinds = set(frame["source"].unique())
    if not kinds:
        return None
    kind = "eval" if "eval" in kinds else "train"
    frame = frame.filter(pl.col("source") == kind)
    lengths = frame[signal].list.len()
    width = int(lengths.to_numpy().max())
    # A run writes all its traces in one length; any other would not line up with them.
    flat = frame.filter(lengths == width)
    sample_id, member = flat["sample_id"].to_numpy().astype(np.int64), flat["member"].to_numpy()
    # As many bytes as all scores together: no second one of them is held.
    values = flat[signal].explode().fill_null(float("nan")).to_numpy().reshape(len(flat), width)
    del frame, flat
    if not np.isfinite(values).any():
        return None
    return TraceTable(sample_id, values, Traces(kind, band_of(values, member)))


def most_exposed(
    source: Source,
    ranked: Scored,
    shown: Sequence[Scored],
    headline: Headline | None,
    traces: TraceTable | None,
    grad_norms: TraceTable | None,
    suspects: Scored | None = None,
    again: Scored | None = None,
    *,
    pictures: bool,
) -> tuple[Record, ...]:
    """The records with the highest scores: members of the target where membership is known, else of all samples.

    None where all have one score: none of them is more exposed than another. Without ``pictures`` neither pictures nor the samples' own columns come along.
    """
    ordered = by_exposure(ranked.scores)
    if ordered["score"].n_unique() < 2:
        return ()
    first = ordered["sample_id"].head(SHOWN).to_list()
    ranks = {one.label: _ranks(one, ordered["sample_id"], first) for one in shown}
    return _records(source, first, ranks, headline, traces, grad_norms, suspects, pictures, again)


def suspected(
    source: Source,
    suspects: Scored,
    shown: Sequence[Scored],
    headline: Headline | None,
    traces: TraceTable | None,
    *,
    pictures: bool,
) -> tuple[Record, ...]:
    """The records that may be mislabelled, the likeliest first, of the same samples as `most_exposed`."""
    order = by_exposure(suspects.scores)
    first = order.filter(pl.col("kind") == KINDS[0])["sample_id"].head(SUSPECTED).to_list()
    ranks = {one.label: _ranks(one, order["sample_id"], first) for one in (suspects, *shown) if first}
    return _records(source, first, ranks, headline, traces, None, suspects, pictures)


def _records(
    source: Source,
    wanted: list[int],
    ranks: Mapping[str, dict[int, tuple[float, int]]],
    headline: Headline | None,
    traces: TraceTable | None,
    grad_norms: TraceTable | None,
    suspects: Scored | None,
    pictures: bool,
    again: Scored | None = None,
) -> tuple[Record, ...]:
    samples = source.lake.samples(source.experiment)
    rows = pl.from_arrow(samples.take(wanted)) if wanted else pl.DataFrame()
    assert isinstance(rows, pl.DataFrame)
    images = source.lake.pictures(source.experiment, wanted) if pictures else {}
    names = source.lake.experiment(source.experiment).dataset.get("classes")
    told = _suspicions(suspects, wanted, names)
    once_more = _again(again, wanted)
    # Of texts and of numbers to hit no record has a label; where only some have none, that is worth a word.
    labelled = samples["label"].null_count < len(samples)
    found = []
    for row in rows.iter_rows(named=True):
        sample = int(row["sample_id"])
        image = images.get(sample)
        picture = image if image is not None and image.startswith(PNG) else None
        judged = headline is not None and headline.fpr is not None
        found.append(
            Record(
                sample_id=sample,
                key=row["key"] if row["key"] != str(sample) else None,
                label=row["label"],
                class_name=class_name(names, row["label"]),
                called=named_class(names, row["label"]) if labelled else "record",
                group=row["group"],
                found=sample in headline.found if headline is not None and judged else None,
                scores=tuple(
                    (name, *by_sample[sample]) for name, by_sample in ranks.items() if sample in by_sample
                ),
                picture=picture,
                facts=_facts(row) if pictures and picture is None else (),
                trace=traces.of(sample) if traces else None,
                grad_norms=grad_norms.of(sample) if grad_norms else None,
                suspicion=told.get(sample, ""),
                again=once_more.get(sample),
            )
        )
    return tuple(found)


def _again(again: Scored | None, wanted: list[int]) -> dict[int, Again]:
    """By sample: in how many of the target and its duals it is found."""
    if again is None:
        return {}
    rows = again.scores.frame.filter(pl.col("sample_id").is_in(wanted) & (pl.col("n_member_targets") > 0))
    return {
        int(row["sample_id"]): Again(row["found"], row["n_member_targets"], row["ci_low"], row["ci_high"])
        for row in rows.iter_rows(named=True)
    }


def _suspicions(suspects: Scored | None, wanted: list[int], names: Any) -> dict[int, str]:
    """By sample: its kind, and in words why, of those that are not typical."""
    if suspects is None:
        return {}
    rows = suspects.scores.frame.filter(pl.col("sample_id").is_in(wanted))
    told = {}
    for row in rows.iter_rows(named=True):
        if row["kind"] in (None, KINDS[-1]):
            continue
        why = []
        if row["nearest_class"] is not None:
            why.append(
                f"models without it give its label {probability(row['p_label'])}, {named_class(names, row['nearest_class'])} {percent(row['p_nearest'])}"
            )
        elif row["p_label"] is not None:
            why.append(f"models without it give its label {probability(row['p_label'])}")
        elif row["aum"] is not None:
            why.append(f"mean margin over training {number(row['aum'], 2)}")
        if row["kind"] == KINDS[1] and row["same_label"] is not None:
            why.append(f"far from its nearest records, {percent(row['same_label'])} of them with its label")
        if row["other_label"]:
            why.append(f"the same as {row['other_label']} with another label")
        elif row["duplicates"]:
            why.append(f"the same as {row['duplicates']} other{'s' if row['duplicates'] > 1 else ''}")
        kind = str(row["kind"])
        told[int(row["sample_id"])] = f"{kind[:1].upper()}{kind[1:]}{': ' if why else ''}{'; '.join(why)}"
    return told


def probability(p: float) -> str:
    """A probability that models give, of which the digits far below 1% tell nothing: how certain a model is of the rest."""
    return percent(p) if p >= 0.001 else "less than 0.1%"


def exposed_table(source: Source, scores: Scores, count: int) -> pl.DataFrame:
    """The first ``count`` of `by_exposure`: sample_id, key, label, group (where there are any), score. Labels by name, if known."""
    top = by_exposure(scores).head(count).select("sample_id", "score")
    told = ["sample_id", "key", "label", "group"]
    samples = pl.DataFrame(source.lake.samples(source.experiment).select(told))
    known = top.join(samples, on="sample_id", how="left", maintain_order="left")
    names = source.lake.experiment(source.experiment).dataset.get("classes")
    called = [called_class(names, label) for label in known["label"]]
    known = known.with_columns(pl.Series("label", called, pl.String))
    columns = [name for name in ("key", "label", "group") if known[name].null_count() < len(known)]
    return known.select("sample_id", *columns, "score")


def describe(source: Source) -> tuple[str, ...]:
    """The class and the group of every sample, by its id, in a few words; empty where no sample has either."""
    samples = pl.DataFrame(
        source.lake.samples(source.experiment).select(["sample_id", "label", "group"])
    ).sort("sample_id")
    if samples["label"].null_count() == len(samples) == samples["group"].null_count():
        return ()
    names = source.lake.experiment(source.experiment).dataset.get("classes")
    classes = {label: named_class(names, label) for label in samples["label"].unique()}
    groups = {group: _short(group) for group in samples["group"].drop_nulls().unique()}
    kinds = samples.select("label", "group").unique()
    told = {
        kind: ", ".join(filter(None, (classes[kind[0]], groups.get(kind[1])))) for kind in kinds.iter_rows()
    }
    return tuple(map(told.__getitem__, samples.select("label", "group").iter_rows()))


def named_class(names: Any, label: int | None) -> str:
    """A label for readers: ``cat``, ``class 3`` where the class is called 3, ``label 3`` where no name is known."""
    if label is None:
        return "unlabelled"
    name = class_name(names, label)
    if name is None:
        return f"label {label}"
    return f"class {name}" if name.isdecimal() else _short(name)


def called_class(names: Any, label: int | None) -> str | None:
    """A label in a table: the name of its class, or its number where no name is known; None without a label."""
    return None if label is None else class_name(names, label) or str(label)


def class_name(names: Any, label: int | None) -> str | None:
    """The name of a class from the experiment's list or mapping of names; None where there is none."""
    if label is None:
        return None
    if isinstance(names, Mapping):
        found = names.get(str(label), names.get(label))
        return None if found is None else str(found)
    if isinstance(names, Sequence) and not isinstance(names, str) and 0 <= label < len(names):
        return str(names[label])
    return None


def _ranks(scored: Scored, among: pl.Series, wanted: list[int]) -> dict[int, tuple[float, int]]:
    """Score and rank of the wanted samples; rank 1 is the highest score of those ``among``, and equal scores share the better rank."""
    frame = scored.scores.frame.select("sample_id", "score").filter(pl.col("score").is_not_null())
    frame = frame.filter(pl.col("sample_id").is_in(among.cast(frame["sample_id"].dtype).implode()))
    values = np.sort(frame["score"].cast(pl.Float64).to_numpy())
    asked = frame.filter(pl.col("sample_id").is_in(wanted))
    found = asked["score"].cast(pl.Float64).to_numpy()
    rank = len(values) - np.searchsorted(values, found, "right") + 1
    return dict(
        zip(asked["sample_id"].to_list(), zip(found.tolist(), rank.tolist(), strict=True), strict=True)
    )


def _facts(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    facts = [(name, _short(value)) for name, value in row.items() if name not in FIXED and value is not None]
    if len(facts) > MOST_FACTS:
        left = len(facts) - MOST_FACTS
        return (*facts[:MOST_FACTS], ("…", f"{left} more column{'s' if left > 1 else ''}"))
    return tuple(facts)


def _short(value: Any) -> str:
    text = number(value, 4) if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_FACT else text[: LONGEST_FACT - 1] + "…"
