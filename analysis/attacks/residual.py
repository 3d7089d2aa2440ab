"""Attacks without shadow models that look at how the target trained: residuals of what its first epochs promised, and what members' traces look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import CROSS_ENTROPY, ORIGINAL
from ..remedies import set_aside
from ..scores import Scores, count_unscored, in_order
from ..source import Source
from ..statistics.boosting import log_odds
from ..statistics.metric import Metric

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Seen = tuple[Floats, Flags]
Fit = Callable[[Seen, Floats, Seen], Floats]

FOLDS = 5
"""Parts that the records are split into; what a part is predicted by was fitted to the others'."""

FEWEST = 20
"""Non-members to fit to at the least."""

RIDGE = 1e-3
"""The penalty on a standardised coefficient, in units of the variance of the features."""

TRIMMED = 0.005
"""The share of non-members at either end beyond which a value counts as that of the share, so that a few wild ones do not bend the fit."""

MOST_CLASSES = 100
"""With more classes than these the label is no feature."""

LEAST_LOSS = 2.0**-24
"""A cross-entropy in single precision is 0 under it, where a probability rounds to 1."""

FEWEST_KNOWN = 10
"""Members, and non-members, to learn from at the least."""

FIRST = 3
"""Epochs at the beginning that are all looked at; later ones are, after a quarter, a half and three quarters of the training."""


def residual(
    source: Source,
    *,
    epochs: Annotated[int, "the first epochs to learn from, those after epoch 0"] = 3,
    features: Annotated[
        Literal["auto", "phi", "margin", "both"],
        "what of these epochs: phi, margins or both; auto: both where margins are recorded",
    ] = "auto",
    regression: Annotated[
        Literal["linear", "quantile"], "least squares, or gradient boosting of a quantile (scikit-learn)"
    ] = "linear",
    quantile: Annotated[float, "which quantile of phi, for quantile"] = 0.5,
) -> Scores:
    """Residual attack: how much surer the model ended of a record than its first epochs promised. No shadow runs.

    phi = log p - log(1 - p) of the label. For the records that the target was not trained on, its final phi is regressed on phi and
    margin after the first epochs, when hardly anything is learnt by heart yet, and on the label (of up to 100 classes); score = final phi less what that predicts
    (columns phi, expected). Higher = member. linear is least squares with squares and a slight ridge; quantile predicts that quantile of phi in place of
    its mean, so that a score above 0 accuses a non-member with probability 1 - quantile, whatever the record (Bertran). Where the loss is no cross-entropy,
    -loss stands in for phi.

    The records are split at random into five parts, and each part, members and non-members alike, is predicted by a fit
    to the non-members of the other four: no record has a part in its own prediction, and where nothing was learnt by heart scores of members
    and non-members are alike. The population counts among the non-members, where it was traced, apart from canaries' candidates (group canary). The attacker is taken
    to know records that were not trained on, and to see the model after these epochs as well as at the end. Metric of its own: explained, the share of the variance
    of the non-members' final phi that the prediction takes away (less than 0 where it does worse than their mean).

    Members that are easier from the first epochs on are no leak by it; members of another kind, which are learnt faster later on, look like one.

    Needs: the target's losses after each epoch, of two epochs or more, of members and of non-members (20 or more).

    Source: Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression", which regresses on the records themselves.
    """
    target = source.need_target_table("traces")
    if epochs < 1:
        raise InvalidOption(f"residual learns from 1 epoch or more, not {epochs}")
    if not 0 < quantile < 1:
        raise InvalidOption(f"a quantile lies between 0 and 1, not at {quantile:g}")
    frame, seen, final = _read(source, target, epochs, features)
    member = frame["member"].to_numpy()
    known = np.isfinite(seen).all(axis=1) & np.isfinite(final)
    outsiders = known & ~member
    if outsiders.sum() < FEWEST:
        raise NotEnoughData(
            f"residual learns from records that were not trained on, and of {int(outsiders.sum())} alone does run {target.run!r} of experiment "
            f"{source.experiment!r} have a finite trace; {FEWEST} are needed: trace non-members after each epoch (a train trace is of "
            f"members alone), or {set_aside(source.lake, source.experiment)}"
        )
    fit = _boosted(quantile) if regression == "quantile" else _least_squares
    classes = _classes(source, frame["sample_id"])
    expected = _predicted((seen, classes), final, known, outsiders, fit)
    audited = frame["audited"].to_numpy()
    # To the precision that values are recorded with: what is left of equal records in different parts is rounding, and no order.
    unit = float(np.abs(final[known]).mean()) * 2.0**-23 or 1.0
    score = np.where(known, np.round((final - expected) / unit) * unit, np.nan)
    scored = frame.select(
        "sample_id",
        "member",
        pl.Series("score", score).fill_nan(None),
        pl.Series("phi", np.where(np.isfinite(final), final, np.nan)).fill_nan(None),
        pl.Series("expected", expected).fill_nan(None),
    ).filter(pl.Series(audited))
    spread = float(final[outsiders].var())
    left = float(((final - expected)[outsiders] ** 2).mean())
    explained = Metric("explained", 1 - left / spread if spread > 0 else None, n=int(outsiders.sum()))
    return Scores(
        scored,
        count_unscored(scored, "their trace or their final loss is not there or not finite"),
        (explained,),
    )


def _read(source: Source, target: Run, epochs: int, features: str) -> tuple[pl.DataFrame, Floats, Floats]:
    """sample_id, member and audited of the traced records; their features (records, columns) and final phi, NaN for what is not there."""
    rows, last = traced(source, target, "residual")
    margins = has_margins(rows)
    if features in ("margin", "both") and not margins:
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no margins after each epoch; --features phi does without"
        )
    early = range(1, min(epochs, last - 1) + 1)
    columns = []
    if features != "margin":
        columns += [phi_after(target, rows, epoch) for epoch in early]
    if features in ("margin", "both") or (features == "auto" and margins):
        columns += [at(rows["margin"], epoch) for epoch in early]
    # The traces themselves go: all that is looked at of them is in the columns.
    told = rows.select("sample_id", "member", "audited")
    return told, np.stack(columns, axis=1), final_phi(source, target, rows, last)


def traced(source: Source, target: Run, name: str) -> tuple[pl.DataFrame, int]:
    """Rows of the target's eval trace, sorted: sample_id, member, audited, loss, margin; and the last epoch.

    Raises NotEnoughData, for the attack of this ``name``, where there is none or it has fewer than two epochs after the one before training.
    """
    if "eval" not in target.trace_sources():
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} was traced inside its steps, which see members alone; {name} learns from "
            "records that were not trained on: call run.trace_eval(model, data), data of all samples, before training and after each epoch"
        )
    rows = source.rows(target, "traces", ["sample_id", "source", "member", "loss", "margin"])
    rows = in_order(rows.filter(pl.col("source") == "eval").drop("source"))
    last = int(rows["loss"].list.len().max() or 0) - 1  # type: ignore[arg-type]
    if last < 2:
        raise NotEnoughData(
            f"{name} sets the end of a training against its first epochs; run {target.run!r} of experiment {source.experiment!r} "
            f"has losses after {max(last, 0)} epoch{'' if last == 1 else 's'}, and 2 or more are needed"
        )
    rows = rows.filter(
        (source.audited() | source.compared_population())[rows["sample_id"].to_numpy()]
    )  # no candidates of canaries
    audited = pl.Series("audited", source.audited()[rows["sample_id"].to_numpy()])
    return rows.with_columns(audited), last


def has_margins(rows: pl.DataFrame) -> bool:
    """Whether any margin was recorded."""
    return bool(rows["margin"].list.drop_nulls().list.len().sum())


def at(traces: pl.Series, epoch: int) -> Floats:
    """The value of each trace after an epoch; NaN where it was not recorded."""
    return traces.list.get(epoch, null_on_oob=True).cast(pl.Float64).fill_null(np.nan).to_numpy()


def phi_after(target: Run, rows: pl.DataFrame, epoch: int) -> Floats:
    """phi from the loss after an epoch; -loss where that is no cross-entropy."""
    loss = at(rows["loss"], epoch)
    if target.info.extra.get("loss", CROSS_ENTROPY) != CROSS_ENTROPY:
        return -loss
    with np.errstate(over="ignore"):
        return np.where(loss < 700, -np.log(np.expm1(np.maximum(loss, LEAST_LOSS))), -loss)


def final_phi(source: Source, target: Run, rows: pl.DataFrame, last: int) -> Floats:
    """phi of the finished model, or -loss where its loss has none; without signals, that after the ``last`` epoch."""
    if "signals" not in target.tables():
        return phi_after(target, rows, last)
    signals = source.rows(target, "signals", ["sample_id", "query", "phi", "loss"])
    signals = signals.filter(pl.col("query") == ORIGINAL)
    column = -pl.col("loss") if signals["phi"].null_count() == len(signals) else pl.col("phi")
    found = rows.select("sample_id").join(
        signals.select("sample_id", column.cast(pl.Float64).alias("final")),
        on="sample_id",
        how="left",
        maintain_order="left",
    )
    return found["final"].fill_null(np.nan).to_numpy()


def _classes(source: Source, sample_id: pl.Series) -> Flags:
    """Which class each record has, a column a class; no column where there are many, or one."""
    label = pl.Series(source.lake.samples(source.experiment)["label"])[sample_id.cast(pl.Int64)]
    known = label.drop_nulls().unique().sort().to_numpy()
    if not 2 <= len(known) <= MOST_CLASSES:
        return np.zeros((len(label), 0), dtype=bool)
    return np.asarray(label.fill_null(-1).to_numpy()[:, None] == known[known >= 0])


def parts(records: int) -> npt.NDArray[np.int64]:
    """Which part each record is in, drawn without regard to who is a member."""
    return np.random.default_rng(0).permutation(records) % FOLDS


def _predicted(seen: Seen, final: Floats, known: Flags, outsiders: Flags, fit: Fit) -> Floats:
    """What fits to the non-members of the other parts predict of each known record; NaN for the others."""
    part = parts(len(final))
    values, classes = seen
    expected = np.full(len(final), np.nan)
    for number in range(FOLDS):
        asked, fitted = known & (part == number), outsiders & (part != number)
        if asked.any():
            standard = _standard(values[fitted], values[asked])
            bounds = np.quantile(final[fitted], [TRIMMED, 1 - TRIMMED])
            expected[asked] = fit(
                (standard[0], classes[fitted]), final[fitted].clip(*bounds), (standard[1], classes[asked])
            )
    return expected


def _standard(fitted: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Both held within what all but few of the fitted records have, in standard deviations of these from their mean."""
    low, high = np.quantile(fitted, [TRIMMED, 1 - TRIMMED], axis=0)
    held = fitted.clip(low, high)
    middle, spread = held.mean(axis=0), held.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (held - middle) / spread, (asked.clip(low, high) - middle) / spread


def _least_squares(seen: Seen, final: Floats, asked: Seen) -> Floats:
    from threadpoolctl import threadpool_limits

    fitted, middle = _with_squares(*seen), final.mean()
    centre = fitted.mean(axis=0)
    fitted -= centre
    penalty = RIDGE * len(fitted) * np.eye(fitted.shape[1])
    with threadpool_limits(1):  # several would add up in an order of their own
        weights = np.linalg.solve(fitted.T @ fitted + penalty, fitted.T @ (final - middle))
        del fitted  # as much as what comes now
        other = _with_squares(*asked)
        other -= centre
        return np.asarray(other @ weights + middle)


def _with_squares(values: Floats, classes: Flags) -> Floats:
    """Values, their squares and the classes, side by side."""
    return np.concatenate([values, values**2, classes], axis=1)


def _boosted(quantile: float) -> Fit:
    def fit(seen: Seen, final: Floats, asked: Seen) -> Floats:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        model = HistGradientBoostingRegressor(
            loss="quantile", quantile=quantile, max_leaf_nodes=8, early_stopping=False, random_state=0
        )
        with threadpool_limits(1):
            model.fit(np.concatenate(seen, axis=1), final)
            return np.asarray(model.predict(np.concatenate(asked, axis=1)), np.float64)

    return fit


def trajectory(
    source: Source,
    *,
    fraction: Annotated[float, "share of the members and of the non-members that is known beforehand"] = 0.5,
    seed: Annotated[int, "of the draw of known records"] = 0,
) -> Scores:
    """Trajectory attack: how member-like a record's trace is, learnt from known records. No shadow runs.

    The attacker knows for a share of the records whether the target trained on them, and saw it train. Gradient boosting (scikit-learn) learns from these, on
    phi = log p - log(1 - p) of the label, and margins where they are recorded, after epochs 1 to 3, a quarter, a half and three quarters of the training, on
    phi of the finished model and on the mean of phi over the first half. score = log odds of member of all other records, with members and non-members weighed
    alike; the known ones have no score (column known), and another seed draws others. Higher = member. Where the loss is no cross-entropy, -loss stands in for phi. The
    population counts among the known non-members, where it was traced, apart from canaries' candidates (group canary).

    It is a measure for those who trained a model of what its training gives away, and not what a stranger would find.

    Needs: the target's losses after each epoch, of two epochs or more, of 10 known members and 10 known non-members or more.

    Source: after Liu et al. 2022, "Membership Inference Attacks by Exploiting Loss Trajectory", which learns from shadow models' traces of distilled models.
    """
    if not 0 < fraction < 1:
        raise InvalidOption(f"fraction of trajectory must lie between 0 and 1, not {fraction}")
    if seed < 0:
        raise InvalidOption(f"seed of trajectory must be 0 or more, not {seed}")
    target = source.need_target_table("traces")
    rows, last = traced(source, target, "trajectory")
    seen = _features(source, target, rows, last)
    member, audited = rows["member"].to_numpy(), rows["audited"].to_numpy()
    finite = np.isfinite(seen).all(axis=1)
    known = finite & ~audited
    for number, side in enumerate((member, ~member)):
        known |= _drawn(finite & audited & side, fraction, seed, number)
    for side, what in ((known & member, "members"), (known & ~member, "non-members")):
        if side.sum() < FEWEST_KNOWN:
            raise NotEnoughData(
                f"trajectory learns from known members and non-members, and has {int(side.sum())} {what} with a finite trace to learn from, "
                f"of run {target.run!r} of experiment {source.experiment!r}; {FEWEST_KNOWN} are needed, of more records or a larger fraction"
            )
    asked = finite & ~known
    score = np.full(len(rows), np.nan)
    score[asked] = log_odds(seen[known], member[known], seen[asked])
    scored = rows.select(
        "sample_id",
        "member",
        pl.Series("score", score).fill_nan(None),
        pl.Series("known", known),
    ).filter(rows["audited"])
    return Scores(scored, _notes(scored, int((audited & ~finite).sum())))


def _drawn(among: Flags, fraction: float, seed: int, number: int) -> Flags:
    """The share of the marked records that the attacker knows."""
    rows = np.random.default_rng([seed, number]).permutation(np.flatnonzero(among))
    drawn = np.zeros(len(among), dtype=bool)
    drawn[rows[: round(fraction * len(rows))]] = True
    return drawn


def _notes(scored: pl.DataFrame, missing: int) -> tuple[str, ...]:
    known = scored.filter("known")["member"]
    told = (
        f"{len(known)} of {len(scored)} samples have no score: the attacker knows of {int(known.sum())} members and "
        f"{len(known) - int(known.sum())} non-members what they are",
    )
    why = "their trace or their final loss is not there or not finite"
    return (*told, f"{missing} more of {len(scored)} have none: {why}") if missing else told


def _features(source: Source, target: Run, rows: pl.DataFrame, last: int) -> Floats:
    """What is looked at of each trace (records, columns), NaN for what is not there."""
    looked = {*range(1, FIRST + 1), last // 4, last // 2, 3 * last // 4}
    epochs = sorted(epoch for epoch in looked if 1 <= epoch < last)
    first_half = [phi_after(target, rows, epoch) for epoch in range(1, max(2, last // 2))]
    columns = [phi_after(target, rows, epoch) for epoch in epochs]
    if has_margins(rows):
        columns += [at(rows["margin"], epoch) for epoch in epochs]
    return np.stack([*columns, np.mean(first_half, axis=0), final_phi(source, target, rows, last)], axis=1)
