"""Every aggregate of every trace against NumPy and SciPy, with holes, ranges and values that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import scipy.stats
from losslake.analysis.measures.trace import Aggregate, free, lt_iqr, trace
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Values = npt.NDArray[np.float64]

EPOCHS = 12  # with the one before training
SAMPLES = 30
SIGNALS = ("loss", "grad_norm", "margin")
OF_LOSS = {
    "probability": lambda loss: np.exp(-loss),
    "error": lambda loss: 1 - np.exp(-loss),
    "held-loss": lambda loss: 4 * (1 - np.exp(-loss / 4)),
}
RISING = ("margin", "probability")


def first_below(epochs: Values, values: Values, end: int) -> float:
    """The first epoch whose value is at most a millionth of the first one; the epoch after the last where none is."""
    for epoch, value in zip(epochs, values, strict=True):
        if value <= 1e-6 * values[0]:
            return float(epoch)
    return float(end)


def forgets(values: Values) -> float:
    """How often a record that is right (above 0) is wrong an epoch later; one that is never right has all epochs."""
    right = [value > 0 for value in values]
    if not any(right):
        return float(len(right))
    return float(sum(before and not after for before, after in pairwise(right)))


ORACLES: dict[str, Callable[[Values, Values, int], float]] = {
    "iqr": lambda epochs, values, end: scipy.stats.iqr(values),
    "mean": lambda epochs, values, end: values.mean(),
    "std": lambda epochs, values, end: values.std(),
    "final": lambda epochs, values, end: values[-1],
    "max": lambda epochs, values, end: values.max(),
    "delta": lambda epochs, values, end: values[len(values) // 2] - values[-1],
    "ratio": lambda epochs, values, end: 1 - np.divide(values[-1], values[len(values) // 2]),
    "slope": lambda epochs, values, end: scipy.stats.linregress(epochs, values).slope,
    "l1": lambda epochs, values, end: np.linalg.norm(values, 1),
    "l2": lambda epochs, values, end: np.linalg.norm(values, 2),
    "l3": lambda epochs, values, end: np.linalg.norm(values, 3),
    "l4": lambda epochs, values, end: np.linalg.norm(values, 4),
    "linf": lambda epochs, values, end: np.linalg.norm(values, np.inf),
    "first-below": first_below,
    "first-half-minus-final": lambda epochs, values, end: (
        values[: max(len(values) // 2, 1)].mean() - values[-1]
    ),
    "early-minus-final": lambda epochs, values, end: (
        values[: max(round(0.4 * len(values)), 1)].mean() - values[-1]
    ),
    "forgets": lambda epochs, values, end: forgets(values),
}

HIGHER = {  # 1: higher = more exposed
    **{("loss", name): -1 if name == "slope" else 1 for name in ORACLES},
    **{("grad_norm", name): -1 if name == "slope" else 1 for name in ORACLES},
    **{("error", name): -1 if name == "slope" else 1 for name in ORACLES},
    **{("held-loss", name): -1 if name == "slope" else 1 for name in ORACLES},
    **{
        (signal, name): 1 if name in ("iqr", "std", "slope", "forgets") else -1
        for name in ORACLES
        for signal in RISING
    },
}


def random_traces(seed: int) -> dict[str, Values]:
    """Falling losses and norms, some of them to a millionth and under; rising margins; some constant."""
    rng = np.random.default_rng(seed)
    shape = (SAMPLES, EPOCHS)
    fall = np.exp(-np.cumsum(rng.gamma(1, rng.choice([0.3, 4.0], (SAMPLES, 1)), shape), axis=1))
    traces = {
        "loss": 3 * fall * rng.uniform(0.8, 1.2, shape),
        "grad_norm": 20 * fall * rng.uniform(0.5, 2, shape),
        "margin": rng.normal(0, 1, (SAMPLES, 1)) + rng.normal(0.4, 1, shape).cumsum(axis=1),
    }
    for values in traces.values():
        values[:3] = values[:3, :1]
    return {name: values.astype(np.float32).astype(float) for name, values in traces.items()}


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, np.ma.MaskedArray]]:
    """By source: eval without holes; train of members only, without epoch 0 and with holes as drop_last leaves."""
    rng = np.random.default_rng(3)
    holes = rng.random((SAMPLES, EPOCHS)) < 0.2
    holes[4] = np.arange(EPOCHS) != 5  # one epoch is all there is
    holes[5] = False
    holes[:, 0] = True
    holes[SAMPLES // 2 :] = True  # the non-members
    return {
        "eval": {name: np.ma.masked_array(values) for name, values in random_traces(1).items()},
        "train": {name: np.ma.masked_array(values, holes) for name, values in random_traces(2).items()},
    }


@pytest.fixture(scope="module")
def source(lake_of: MakeLake, recorded: dict[str, dict[str, np.ma.MaskedArray]]) -> Iterator[Source]:
    keep = (np.arange(SAMPLES) < SAMPLES // 2)[None]
    lake = lake_of(keep, traces=recorded["eval"], train_traces=recorded["train"])
    with open_source(lake, "tests") as opened:
        yield opened


def expected(
    values: np.ma.MaskedArray, aggregate: str, first: int = 0, last: int = EPOCHS - 1
) -> list[float | None]:
    wanted: list[float | None] = []
    for row in values:
        epochs = np.array(
            [e for e in range(first, min(last, EPOCHS - 1) + 1) if not np.ma.getmaskarray(row)[e]]
        )
        if len(epochs) == 0 or (aggregate == "slope" and len(epochs) == 1):
            wanted.append(None)
            continue
        value = ORACLES[aggregate](epochs, np.ma.getdata(row)[epochs], min(last, EPOCHS - 1) + 1)
        wanted.append(float(value) if np.isfinite(value) else None)
    return wanted


def assert_column(frame: pl.DataFrame, column: str, wanted: list[float | None]) -> None:
    got = frame[column].to_list()
    assert [value is None for value in got] == [value is None for value in wanted]
    known = [n for n, value in enumerate(wanted) if value is not None]
    np.testing.assert_allclose([got[n] for n in known], [wanted[n] for n in known], rtol=1e-6, atol=1e-12)


def test_the_oracles_are_all_there_is() -> None:
    assert set(ORACLES) == set(get_args(Aggregate))


@pytest.mark.parametrize("recorder", ["eval", "train"])
@pytest.mark.parametrize("aggregate", list(ORACLES))
def test_every_aggregate_matches_its_oracle(
    source: Source, recorded: dict[str, dict[str, np.ma.MaskedArray]], recorder: str, aggregate: str
) -> None:
    for signal in (*SIGNALS, *OF_LOSS):
        if signal in RISING and aggregate in ("first-below", "ratio"):
            continue
        if signal != "margin" and aggregate == "forgets":
            continue
        scores = trace(source, signal=signal, aggregate=aggregate, source_=recorder)
        values = (
            OF_LOSS[signal](recorded[recorder]["loss"]) if signal in OF_LOSS else recorded[recorder][signal]
        )
        wanted = expected(values, aggregate)
        if recorder == "train":
            wanted = wanted[: SAMPLES // 2]
        assert scores.frame["sample_id"].to_list() == list(range(len(wanted)))
        assert scores.frame["member"].to_list() == [n < SAMPLES // 2 for n in range(len(wanted))]
        sign = HIGHER[signal, aggregate]
        assert_column(scores.frame, "score", [None if value is None else sign * value for value in wanted])
        assert_column(
            scores.frame.filter(pl.col("score").is_not_null()), "value", [v for v in wanted if v is not None]
        )
        unscored = sum(value is None for value in wanted)
        assert len(scores.notes) == (unscored > 0)
        assert all(note.startswith(f"{unscored} of {len(wanted)} samples") for note in scores.notes)


@pytest.mark.parametrize(("first", "last"), [(3, None), (0, 4), (2, 7), (6, 6), (11, 500)])
def test_epoch_ranges_count_both_ends(
    source: Source, recorded: dict[str, dict[str, np.ma.MaskedArray]], first: int, last: int | None
) -> None:
    for recorder, aggregate in product(("eval", "train"), ("iqr", "delta", "slope", "first-below")):
        values = recorded[recorder]["loss"][: SAMPLES if recorder == "eval" else SAMPLES // 2]
        wanted = expected(values, aggregate, first, EPOCHS - 1 if last is None else last)
        if all(value is None for value in wanted):
            with pytest.raises(
                NotEnoughData, match=f"no usable {recorder} trace of loss in epochs {first} to"
            ):
                trace(source, aggregate=aggregate, first=first, last=last, source_=recorder)
            continue
        frame = trace(source, aggregate=aggregate, first=first, last=last, source_=recorder).frame
        sign = HIGHER["loss", aggregate]
        assert_column(frame, "score", [None if value is None else sign * value for value in wanted])


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (0.0, 1.0), (0.33, 0.4)])
def test_other_quantiles(
    source: Source, recorded: dict[str, dict[str, np.ma.MaskedArray]], low: float, high: float
) -> None:
    got = trace(source, low=low, high=high).frame["score"].to_numpy()
    below, above = np.percentile(recorded["eval"]["loss"].data, [100 * low, 100 * high], axis=1)
    np.testing.assert_allclose(got, above - below, rtol=1e-6, atol=1e-12)


def test_lt_iqr_is_the_iqr_of_the_loss_trace(source: Source) -> None:
    for options in ({}, {"first": 2, "last": 9}, {"source_": "train"}, {"low": 0.1, "high": 0.8}):
        assert lt_iqr(source, **options).frame.equals(
            trace(source, signal="loss", aggregate="iqr", **options).frame
        )


def test_free_is_the_held_loss_early_less_the_final_one(
    source: Source, recorded: dict[str, dict[str, np.ma.MaskedArray]]
) -> None:
    for options in ({}, {"last": 9}, {"source_": "train"}):
        assert free(source, **options).frame.equals(
            trace(source, signal="held-loss", aggregate="early-minus-final", first=1, **options).frame
        )
    held = 4 * (1 - np.exp(-recorded["eval"]["loss"].data[:, 1:] / 4))
    early = round(0.4 * held.shape[1])
    expected = held[:, :early].mean(axis=1) - held[:, -1]
    np.testing.assert_allclose(free(source).frame["score"], expected, rtol=1e-6, atol=1e-12)


def test_free_of_one_epoch_ranks_nobody(lake_of: MakeLake) -> None:
    lake = lake_of(np.array([[True, False]]), traces={"loss": np.array([[2.5, 1.5], [2.5, 0.25]])})
    with open_source(lake, "tests") as source, pytest.raises(NotEnoughData, match="takes two or more"):
        free(source)


def test_the_eval_trace_is_taken_where_there_is_one(source: Source, lake_of: MakeLake) -> None:
    assert trace(source).frame.equals(trace(source, source_="eval").frame)
    loss = np.ma.masked_array([[9.0, 4, 1, 0], [9, 5, 5, 5]], [[True, False, False, False]] * 2)
    with open_source(lake_of(np.ones((1, 2), bool), train_traces={"loss": loss}), "tests") as train:
        assert lt_iqr(train).frame["score"].to_list() == [2, 0]
        assert trace(train, aggregate="final").frame.equals(
            trace(train, aggregate="final", source_="train").frame
        )
        with pytest.raises(NotEnoughData, match="no usable eval trace"):
            trace(train, source_="eval")


def test_the_macro_lt_iqr_agrees(source: Source) -> None:
    query = "select lt_iqr(loss) as score from traces where source = 'eval' order by sample_id"
    np.testing.assert_array_equal(source.connection.sql(query).pl()["score"], lt_iqr(source).frame["score"])


# --- awkward traces -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def awkward(lake_of: MakeLake) -> Iterator[Source]:
    """Traces of 6 epochs: 0 has a NaN, 1 an infinity, 2 both signs of it, 3 is constant, 4 all zero, 5 falls."""
    loss = np.tile(np.linspace(3, 0.5, 6), (6, 1))
    loss[0, 2], loss[1, 4], loss[2, 1], loss[2, 2] = np.nan, np.inf, np.inf, -np.inf
    loss[3], loss[4] = 2.5, 0
    keep = (np.arange(6) % 2 == 1)[None]
    with open_source(lake_of(keep, traces={"loss": loss}), "tests") as opened:
        yield opened


@pytest.mark.parametrize("aggregate", list(ORACLES))
def test_what_is_not_finite_has_no_score(awkward: Source, aggregate: str) -> None:
    if aggregate == "forgets":
        return  # of a margin alone
    scores = trace(awkward, aggregate=aggregate)
    unscored = [0, 1, 2, 4] if aggregate == "ratio" else [0, 1, 2]  # 0 / 0 is no ratio
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == unscored
    assert len(scores.notes) == 1
    assert scores.notes[0].startswith(
        f"{len(unscored)} of 6 samples have no score: their loss trace is empty"
    )
    assert np.isfinite(scores.frame["score"].drop_nulls().to_numpy()).all()


@pytest.mark.parametrize(
    ("aggregate", "score"),
    [
        ("iqr", 0),
        ("std", 0),
        ("slope", 0),
        ("delta", 0),
        ("ratio", 0),
        ("mean", 2.5),
        ("first-below", 6),
        ("l2", 2.5 * 6**0.5),
    ],
)
def test_a_constant_trace(awkward: Source, aggregate: str, score: float) -> None:
    assert trace(awkward, aggregate=aggregate).frame["score"][3] == pytest.approx(score, abs=1e-12)


def test_values_outside_the_range_do_not_matter(awkward: Source) -> None:
    assert trace(awkward, aggregate="mean", first=5).frame["score"].to_list() == [0.5, 0.5, 0.5, 2.5, 0, 0.5]


def test_one_epoch(lake_of: MakeLake) -> None:
    loss = np.array([[1.5], [0.25]])
    with open_source(lake_of(np.array([[True, False]]), traces={"loss": loss}), "tests") as source:
        for aggregate, wanted in {"iqr": 0, "std": 0, "delta": 0, "ratio": 0}.items():
            assert trace(source, aggregate=aggregate).frame["score"].to_list() == [wanted, wanted]
        for aggregate in ("mean", "final", "max", "l1", "l4", "linf"):
            np.testing.assert_allclose(trace(source, aggregate=aggregate).frame["score"], [1.5, 0.25])
        with pytest.raises(NotEnoughData, match="no usable eval trace of loss"):
            trace(source, aggregate="slope")


def test_lt_iqr_of_one_epoch_ranks_nobody(lake_of: MakeLake) -> None:
    lake = lake_of(np.array([[True, False]]), traces={"loss": np.array([[1.5], [0.25]])})
    with open_source(lake, "tests") as source, pytest.raises(NotEnoughData, match="takes two or more"):
        lt_iqr(source)


def test_lt_iqr_of_one_epoch_of_many_ranks_nobody(lake_of: MakeLake) -> None:
    moving = np.array([[1.5, 1.0, 0.5], [0.25, 0.2, 0.1]])
    with open_source(lake_of(np.array([[True, False]]), traces={"loss": moving}), "tests") as source:
        assert lt_iqr(source).frame["score"].to_list() == pytest.approx([0.5, 0.075])
        with pytest.raises(NotEnoughData, match="takes two or more"):
            lt_iqr(source, first=1, last=1)


def test_first_below_counts_epochs_from_before_training(lake_of: MakeLake) -> None:
    loss = np.array(
        [
            [2, 1, 2e-6, 0, 0],  # exactly a millionth counts
            [2, 1, 2.1e-6, 1.9e-6, 3],  # back up later
            [2, 1, 1, 1, 1],  # never: one past the last
            [0, 5, 5, 5, 5],  # at once
        ],
        dtype=np.float32,
    )
    keep = np.ones((1, 4), bool)
    with open_source(lake_of(keep, traces={"loss": loss}), "tests") as source:
        assert trace(source, aggregate="first-below").frame["score"].to_list() == [2, 3, 5, 0]


def test_population_samples_are_never_scored(lake_of: MakeLake) -> None:
    population = np.array([False, True, False])
    loss = np.array([[3.0, 1, 0], [9, 1, 0], [3, 2, 1]])
    lake = lake_of(np.array([[True, False, False]]), traces={"loss": loss}, population=population)
    with open_source(lake, "tests") as source:
        assert lt_iqr(source).frame["sample_id"].to_list() == [0, 2]


def test_other_experiments_and_runs_do_not_count(lake_of: MakeLake) -> None:
    keep = np.array([[True, False]])
    lake = lake_of(keep, traces={"loss": np.array([[4.0, 0], [2, 2]])})
    lake_of(keep, traces={"loss": np.array([[9.0, 0], [9, 9]])}, lake=lake, experiment="another")
    lake_of(keep, traces={"loss": np.array([[9.0, 0], [9, 9]])}, lake=lake, names=["other"], roles=["shadow"])
    with open_source(lake, "tests") as source:
        assert lt_iqr(source).frame["score"].to_list() == [2, 0]


# --- directions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_record_learnt_late_scores_higher(lake_of: MakeLake, signal: str) -> None:
    late = np.array([2.5, 2.4, 2.4, 2.3, 2.2, 1.9, 1.5, 0.9, 0.4, 1e-7])
    early = np.array([2.5, 0.1, 0.05, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7])
    values = np.stack([late, early])
    keep = np.ones((1, 2), bool)
    lake = lake_of(keep, traces={signal: 2 - values if signal == "margin" else values})
    aggregates = ["iqr", "mean", "std", "delta", "slope"]
    if signal != "margin":  # a norm forgets the sign of a margin
        aggregates += ["l1", "l2", "l3", "l4", "ratio", "first-below"]
    with open_source(lake, "tests") as source:
        for aggregate in aggregates:
            late_score, early_score = trace(source, signal=signal, aggregate=aggregate).frame["score"]
            assert late_score > early_score, aggregate


# --- wrong use ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.8, "high": 0.2}, "quantiles must satisfy"),
        ({"high": 1.5}, "quantiles must satisfy"),
        ({"low": float("nan")}, "quantiles must satisfy"),
        ({"first": -1}, "are no range"),
        ({"first": 5, "last": 4}, "are no range"),
        ({"signal": "margin", "aggregate": "first-below"}, "a margin changes its sign"),
        ({"signal": "margin", "aggregate": "ratio"}, "a margin changes its sign"),
        ({"signal": "probability", "aggregate": "first-below"}, "a probability rises"),
        ({"signal": "probability", "aggregate": "ratio"}, "a probability rises"),
        ({"aggregate": "forgets"}, "--signal margin, not loss"),
        ({"signal": "error", "aggregate": "forgets"}, "--signal margin, not error"),
        ({"signal": "accuracy"}, "signal of trace must be one of loss, .*, held-loss, not 'accuracy'"),
        ({"aggregate": "median"}, "aggregate of trace must be one of iqr, .*, not 'median'"),
    ],
)
def test_wrong_options_say_so(source: Source, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        run_analysis(source, find("trace"), options)


def test_a_loss_that_is_no_cross_entropy_has_no_probability(lake_of: MakeLake) -> None:
    keep = np.array([[True, False]])
    lake = lake_of(keep, traces={"loss": np.ones((2, 3))}, extras=[{"loss": "MSELoss"}])
    with open_source(lake, "tests") as source:
        for signal in OF_LOSS:
            with pytest.raises(InvalidOption, match=f"{signal} is made of a cross-entropy.* are MSELoss"):
                trace(source, signal=signal)
        assert trace(source, aggregate="mean").frame["score"].to_list() == [1, 1]


def test_an_infinite_loss_is_a_probability_of_nothing(awkward: Source) -> None:
    error = trace(awkward, signal="error", aggregate="max").frame["score"].to_list()
    assert error[0] is None
    assert error[1] == 1


def test_what_is_forgotten(lake_of: MakeLake) -> None:
    margin = np.array(
        [
            [-1, 1, 2, 3, 4],  # learnt once, never lost
            [-1, 1, -1, 1, -2],  # lost twice
            [1, 0, 1, 1, 1],  # a tie is not right
            [-1, -1, -2, -1, 0],  # never right
        ]
    )
    with open_source(lake_of(np.ones((1, 4), bool), traces={"margin": margin}), "tests") as source:
        assert trace(source, signal="margin", aggregate="forgets").frame["score"].to_list() == [0, 2, 1, 5]


def test_missing_traces_say_so(lake_of: MakeLake) -> None:
    keep = np.array([[True, False]])
    with (
        open_source(lake_of(keep, np.zeros((1, 2))), "tests") as bare,
        pytest.raises(NotEnoughData, match="run 'run-0000' of experiment 'tests' has no traces"),
    ):
        lt_iqr(bare)
    with open_source(lake_of(keep, traces={"loss": np.ones((2, 3))}), "tests") as without:
        with pytest.raises(NotEnoughData, match="no usable eval trace of margin"):
            trace(without, signal="margin")
        with pytest.raises(NotEnoughData, match="no usable train trace of loss"):
            trace(without, source_="train")
        with pytest.raises(NotEnoughData, match="in epochs 7 to the last"):
            trace(without, first=7)
