"""Estimators trained in passes: against the same loop of partial_fit by hand; and those that are not trained so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from losslake.analysis.measures.trace import lt_iqr
from losslake.analysis.scoring.catalogue import open_source
from losslake.cli import _run
from losslake.collect.estimators.named import make_estimator, with_estimator
from losslake.collect.estimators.passes import passes_of
from losslake.collect.experiment.prepare import Prepared, prepare_experiment
from losslake.collect.fleet.setup import members_of
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.random_streams import order_of
from losslake.collect.recipe import Recipe
from losslake.store.errors import AlreadyExists, InvalidOption, TrainingFailed
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

HERE: dict[str, Any] = {"jobs": 1, "logits": "float32"}


def scaled(memory: str | None = None) -> Any:
    inner = make_pipeline(StandardScaler(with_std=False), SGDClassifier(loss="modified_huber"))
    return make_pipeline(StandardScaler(), inner, memory=memory)


class As(TransformerMixin, BaseEstimator):
    """Gives rows on as they are, in another layout."""

    def __init__(self, layout: str = "array") -> None:
        self.layout = layout

    def fit(self, x: Any, y: Any = None) -> As:
        self.fitted_ = True
        return self

    def transform(self, x: Any) -> Any:
        if self.layout in ("pandas", "polars"):
            columns = {f"f{i}": x[:, i] for i in range(x.shape[1])}
            return pl.DataFrame(columns).to_pandas() if self.layout == "pandas" else pl.DataFrame(columns)
        if self.layout in ("csr", "csc", "coo"):
            return sparse.coo_array(x).asformat(self.layout)
        return x.tolist() if self.layout == "list" else x


def laid_out(layout: str = "array") -> Any:
    return make_pipeline(As(layout), SGDClassifier(loss="log_loss"))


class NotTold(SGDClassifier):
    """Whose partial_fit is not told of the classes."""

    def partial_fit(self, x: Any, y: Any) -> NotTold:
        return super().partial_fit(x, y, classes=None if hasattr(self, "classes_") else np.unique(y))


def one_of_each() -> Any:
    return OneVsRestClassifier(GaussianNB())


class Counting(ClassifierMixin, BaseEstimator):
    """A naive Bayes of nobody's: of the counts of classes alone."""

    def partial_fit(self, x: Any, y: Any, classes: Any = None) -> Counting:
        if not hasattr(self, "class_count_"):
            self.class_count_, self.classes_ = np.zeros(len(classes)), classes
        self.class_count_ += np.bincount(y, minlength=len(self.classes_))
        return self

    def fit(self, x: Any, y: Any) -> Counting:
        return self.partial_fit(x, y, np.unique(y))

    def predict_proba(self, x: Any) -> Any:
        return np.tile(self.class_count_ / self.class_count_.sum(), (len(x), 1))


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    """This module by the name that a user would give."""
    module = sys.modules.setdefault(__name__, type(sys)(__name__))
    vars(module).update(scaled=scaled, one_of_each=one_of_each, Counting=Counting)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """90 records of three classes; two of the third."""
    rng = np.random.default_rng(3)
    y = np.array([*([0, 1] * 44), 2, 2])
    path = tmp_path / "table.csv"
    pl.DataFrame(rng.normal(size=(90, 4)) + 0.7 * y[:, None], schema=list("abcd")).with_columns(
        colour=pl.Series(np.array(["blue", "green", "red"])[y])
    ).write_csv(path)
    lake = Lake.open(tmp_path / "lake", create=True)
    return prepare_experiment(lake, "e", dataset=str(path), label="colour", population=0.2)


def losses_of(run: Run, lake: Lake) -> np.ndarray:
    """(n, epochs + 1) of the audit records, by sample."""
    rows = lake.sql(
        "select loss from traces where experiment = $e and run = $r order by sample_id",
        {"e": run.experiment, "r": run.run},
    )
    return np.array(rows["loss"].to_list(), dtype=np.float32)


def by_hand(recipe: Recipe, prepared: Prepared, members: np.ndarray, seed: int, passes: int) -> np.ndarray:
    """Probabilities (passes, N, C) of all records after each pass."""
    model = make_estimator(recipe)
    stream = np.random.default_rng(seed)
    names = sorted(name for name in model.get_params() if name.endswith("random_state"))
    model.set_params(**{name: int(stream.integers(2**31 - 1)) for name in names})
    x: Any = prepared.data.x
    y, said = prepared.data.y, []
    heads, last = [], model
    given = x[members]
    while isinstance(last, Pipeline):
        heads.append(last.steps[0][1])
        given = heads[-1].fit_transform(given)
        last = last.steps[-1][1]
    order = order_of(seed)
    for _ in range(passes):
        rows = torch.randperm(int(members.sum()), generator=order).numpy()
        last.partial_fit(given[rows], y[members][rows], classes=np.unique(y[members]))
        asked = x
        for head in heads:
            asked = head.transform(asked)
        found = np.zeros((len(y), prepared.data.classes))
        found[:, last.classes_] = last.predict_proba(asked)
        said.append(found)
    return np.stack(said)


SGD = Recipe(model="sklearn.linear_model:SGDClassifier", model_options={"loss": "log_loss"}, epochs=4)


@pytest.mark.parametrize(
    "recipe",
    [
        SGD,
        Recipe(
            model="sklearn.neural_network:MLPClassifier",
            model_options={"hidden_layer_sizes": (8,), "batch_size": 8},
            epochs=5,
        ),
        Recipe(model=f"{__name__}:scaled", epochs=3),
        Recipe(model="sklearn.naive_bayes:GaussianNB", epochs=1),
    ],
    ids=["linear", "network", "pipeline", "counts"],
)
def test_a_trace_is_what_a_loop_of_partial_fit_says(prepared: Prepared, recipe: Recipe) -> None:
    lake, y = prepared.lake, prepared.data.y
    (target,) = collect_target(lake, "e", recipe=recipe, prepared=prepared, **HERE)
    count = 6 if recipe is SGD else 1
    shadows = collect_shadows(lake, "e", recipe=recipe, prepared=prepared, count=count, traces=True, **HERE)
    seen = {len(np.unique(y[members_of(lake, run)])) for run in shadows}
    assert recipe is not SGD or seen == {2, 3}, "some have never seen the third class"
    for run in (target, *shadows):
        members, ids = members_of(lake, run), np.flatnonzero(~prepared.data.population)
        passes = recipe.epochs
        p = by_hand(recipe, prepared, members, run.info.seed, passes)
        least = run.info.extra["least_probability"]
        assert least == target.info.extra["least_probability"]
        p = np.where(p > 0, p, least)
        want = -np.log(p[:, np.arange(len(y)), y] / p.sum(axis=2))
        losses = losses_of(run, lake)
        assert losses.shape == (len(ids), passes + 1)
        np.testing.assert_allclose(losses[:, 1:], want[:, ids].T, rtol=1e-4, atol=1e-5)
        final = lake.sql("select loss from signals where run = $r order by sample_id", {"r": run.run})["loss"]
        assert np.array_equal(losses[:, -1], final.to_numpy()[ids]), "the last pass is the model"
        assert run.info.epochs == passes == run.info.recipe["epochs"]
        assert run.info.extra["epochs_are"] == "passes of partial_fit"
    with open_source(lake, "e") as source:
        scores = lt_iqr(source).frame.sort("sample_id")["score"].to_numpy()
    low, high = np.quantile(losses_of(target, lake).astype(float), [0.25, 0.75], axis=1)
    np.testing.assert_allclose(scores, high - low, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_bytes_and_another_number_of_passes_is_another_run(
    prepared: Prepared, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = prepared.lake
    (target,) = collect_target(lake, "e", recipe=SGD, prepared=prepared, **HERE)
    collect = ["collect", "target", "--dataset", str(tmp_path / "table.csv"), "--label", "colour", "--population",
               "0.2", "--model", SGD.model, "--set", "loss=log_loss", "--logits", "float32"]  # fmt: skip
    where = ["--lake", str(tmp_path / "again"), "--experiment", "e"]
    assert _run([*collect, *where, "--epochs", "4"], debug=False) == 0
    assert "4/4 epochs" in capfd.readouterr().err
    again = Lake.open(tmp_path / "again")
    assert np.array_equal(losses_of(again.run("e", "target"), again), losses_of(target, lake))
    assert _run(["analyze", "lt-iqr", *where], debug=False) == 0
    # The target's recipe is the shadows', its passes with it.
    shadows = ["collect", "shadows", *where, "--model", SGD.model, "--count", "1", "--jobs", "1"]
    assert _run(shadows, debug=False) == 0
    assert again.run("e", "shadow-0000").info.epochs == 4
    for epochs in (5, 100):
        with pytest.raises(AlreadyExists, match=f"epochs = 4, not {epochs}"):
            collect_target(lake, "e", recipe=_with(SGD, epochs=epochs), prepared=prepared, **HERE)
    one_fit = Recipe(model=SGD.model, model_options=SGD.model_options)
    with pytest.raises(AlreadyExists, match="epochs = 4, not None"):
        collect_target(lake, "e", recipe=one_fit, prepared=prepared, **HERE)
    collect_target(lake, "e", recipe=one_fit, prepared=prepared, run="one-fit", **HERE)
    with pytest.raises(AlreadyExists, match="epochs = None, not 100"):
        collect_target(lake, "e", recipe=_with(one_fit, epochs=100), prepared=prepared, run="one-fit", **HERE)


def test_steps_that_a_memory_copies_are_those_that_were_fitted(prepared: Prepared, tmp_path: Path) -> None:
    recipe = Recipe(model=f"{__name__}:scaled", model_options={"memory": str(tmp_path / "memory")}, epochs=2)
    (run,) = collect_target(prepared.lake, "e", recipe=recipe, prepared=prepared, **HERE)
    ids, y = np.flatnonzero(~prepared.data.population), prepared.data.y
    p = by_hand(recipe, prepared, members_of(prepared.lake, run), run.info.seed, 2)[-1]
    p = np.where(p > 0, p, run.info.extra["least_probability"])
    want = -np.log(p[np.arange(len(y)), y] / p.sum(axis=1))[ids]
    np.testing.assert_allclose(losses_of(run, prepared.lake)[:, -1], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["list", "pandas", "polars", "csc", "coo"])
def test_rows_are_taken_of_whatever_the_step_before_gives(layout: str) -> None:
    alike = (
        "csr" if layout in ("csc", "coo") else "array"
    )  # SGD moves its intercept more slowly on sparse rows
    assert np.array_equal(said_after(laid_out(layout)), said_after(laid_out(alike)))


def test_who_is_not_told_of_the_classes_sees_them_in_the_first_pass() -> None:
    one, other = NotTold(loss="log_loss"), SGDClassifier(loss="log_loss")
    assert np.array_equal(said_after(one), said_after(other))


def said_after(made: Any) -> np.ndarray:
    """Probabilities (3, 60, 3) after each of three passes."""
    rng = np.random.default_rng(5)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) + y[:, None]
    return np.stack([model.predict_proba(x) for model in passes_of(made, x, y, 7, 3)])


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    from dataclasses import replace

    return replace(recipe, **changes)


@pytest.mark.parametrize(
    ("model", "options", "epochs", "why"),
    [
        ("sklearn.linear_model:LogisticRegression", {}, 3, "no partial_fit"),
        ("sklearn.neural_network:MLPClassifier", {"solver": "lbfgs"}, 3, "no partial_fit"),
        ("sklearn.ensemble:HistGradientBoostingClassifier", {}, 3, "its own rounds or trees"),
        ("sklearn.naive_bayes:GaussianNB", {}, 2, "GaussianNB counts the records .* twice"),
        ("sklearn.naive_bayes:MultinomialNB", {}, 2, "counts the records"),
        (f"{__name__}:one_of_each", {}, 2, "GaussianNB counts the records"),
        ("sklearn.linear_model:SGDClassifier", {"loss": "log_loss", "max_iter": 9}, 3, "max_iter says how many"),
    ],
)  # fmt: skip
def test_what_is_not_trained_in_passes(model: str, options: dict[str, Any], epochs: int, why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        with_estimator(Recipe(model=model, model_options=options, epochs=epochs))
    assert with_estimator(Recipe(model=model, model_options=options)).passes is None


def test_what_is_known_once_it_is_trained(prepared: Prepared) -> None:
    lake = prepared.lake
    with pytest.raises(TrainingFailed, match="Counting counts the records"):
        collect_target(
            lake, "e", recipe=Recipe(model=f"{__name__}:Counting", epochs=2), prepared=prepared, **HERE
        )
    early = _with(SGD, model_options={"loss": "log_loss", "early_stopping": True})
    with pytest.raises(TrainingFailed, match="could not be trained: ValueError: early_stopping"):
        collect_target(lake, "e", recipe=early, prepared=prepared, **HERE)
    with pytest.raises(InvalidOption, match=r"in passes.*--epochs"):
        collect_target(
            lake,
            "e",
            recipe=Recipe(model=SGD.model, model_options=SGD.model_options),
            prepared=prepared,
            traces=True,
            **HERE,
        )
    assert lake.runs("e") == []
