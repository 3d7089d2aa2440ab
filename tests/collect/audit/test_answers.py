"""Models of every kind are asked, and what they say becomes logits, or is refused with the reason."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import losslake
import numpy as np
import pytest
import torch
from losslake.collect.audit.answers import way_of
from losslake.collect.audit.collect import collect_audit
from losslake.collect.estimators.logits import Output, as_logits, kind_of, least_of
from losslake.store.errors import InvalidInput, InvalidOption, LosslakeError
from losslake.store.lake import Lake
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from torch import nn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = (X[:, 0] + RNG.normal(size=80) > 0).astype(np.int64)
MEMBERS, OTHERS = (X[:40], Y[:40]), (X[40:], Y[40:])
MODEL = LogisticRegression().fit(*MEMBERS)
P = MODEL.predict_proba(X)
LOSS = -np.log(P[np.arange(80), Y])


def losses(model: Any, **more: Any) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        collect_audit(lake, "e", model, MEMBERS, OTHERS, **more)
        return lake.sql("select loss from signals order by sample_id")["loss"].to_numpy()


def logits_of(x: Any) -> np.ndarray:
    z = MODEL.decision_function(x)
    return np.stack([np.zeros_like(z), z], axis=1)


class Module(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("w", torch.from_numpy(MODEL.coef_[0]))
        self.register_buffer("b", torch.from_numpy(MODEL.intercept_))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.double() @ self.w + self.b
        if self.kind == "lone":
            return z
        both = torch.stack([torch.zeros_like(z), z], dim=1)
        return both.softmax(1) if self.kind == "softmax" else both


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "an estimator": (MODEL, {}),
    "its probabilities": (MODEL.predict_proba, {}),
    "of class 1": (lambda x: MODEL.predict_proba(x)[:, 1], {"output": "probabilities"}),
    "of class 1 in a column": (lambda x: MODEL.predict_proba(x)[:, 1:], {"output": "probabilities"}),
    "log-probabilities": (MODEL.predict_log_proba, {}),
    "logits": (logits_of, {}),
    "one logit": (MODEL.decision_function, {}),
    "an estimator's distances": (MODEL, {"output": "logits"}),
    "a list": (lambda x: MODEL.predict_proba(x).tolist(), {}),
    "tensors": (lambda x: torch.from_numpy(logits_of(x)), {"batch_size": 3}),
    "a module of logits": (Module("logits"), {}),
    "a module of one logit": (Module("lone"), {}),
    "a module of probabilities": (Module("softmax"), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_leads_to_the_same_losses(way: str) -> None:
    model, options = WAYS[way]
    assert np.allclose(losses(model, **options), LOSS, atol=1e-5)


def test_a_function_is_asked_batch_by_batch() -> None:
    sizes = []

    def model(x: Any) -> Any:
        sizes.append(len(x))
        return MODEL.predict_proba(x)

    losses(model, batch_size=16)
    assert sizes == [16, 16, 8, 16, 16, 8, 8]  # the last are asked about twice


def test_a_function_that_fails_now_and_then_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    # In this module alone: other threads sleep, too.
    monkeypatch.setattr("losslake.collect.audit.answers.time", SimpleNamespace(sleep=waits.append))
    calls = 0

    def now_and_then(x: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 2:
            raise RuntimeError("503")
        return MODEL.predict_proba(x)

    assert np.array_equal(losses(now_and_then, batch_size=16), losses(MODEL.predict_proba, batch_size=16))
    assert waits == [1.0] * 3

    def late(x: Any) -> Any:  # at first there is no connection, and after three batches none any more
        nonlocal calls
        calls += 1
        if calls == 1 or calls > 4:
            raise ConnectionError("refused")
        return MODEL.predict_proba(x)

    calls = 0
    said = r"nonmembers: ConnectionError: refused \(at records 0 to 15 of them, after 40 answers about records\)\. None of these is kept"
    with pytest.raises(InvalidInput, match=said):
        losslake.audit(late, MEMBERS, OTHERS, batch_size=16)
    assert calls == 1 + 3 + 4


def test_a_function_that_keeps_its_own_answers_is_asked_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the error of one that gave up says."""
    monkeypatch.setattr("losslake.collect.audit.answers.time", SimpleNamespace(sleep=lambda wait: None))
    asked: list[bool] = []

    def failing(x: Any) -> Any:
        asked.append(len(asked) not in range(3, 8))
        if not asked[-1]:
            raise ConnectionError("refused")
        return MODEL.predict_proba(x)

    keeping = joblib.Memory(tmp_path, verbose=0).cache(failing)
    with pytest.raises(InvalidInput, match=r"joblib\.Memory"):
        losslake.audit(keeping, MEMBERS, OTHERS, batch_size=16)
    assert asked.count(True) == 3
    assert np.array_equal(losses(keeping, batch_size=16), losses(MODEL.predict_proba, batch_size=16))
    assert asked.count(True) == 7  # each batch once


def test_a_function_that_never_answered_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    never = SimpleNamespace(sleep=lambda wait: pytest.fail("waits"))
    monkeypatch.setattr("losslake.collect.audit.answers.time", never)
    with pytest.raises(InvalidInput, match=r"cannot be asked about the members: KeyError: 'x'$"):
        losslake.audit(lambda x: {}["x"], MEMBERS, OTHERS)


def in_training(*layers: nn.Module) -> Any:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 16), *layers, nn.Linear(16, 2)).train()

    def model(x: Any) -> Any:
        with torch.no_grad():
            return body(torch.as_tensor(x, dtype=torch.float32))

    return model


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x)


NOISE = np.random.default_rng(1)
DRAWING: dict[str, Any] = {
    "noise": lambda x: logits_of(x) + 0.01 * NOISE.normal(size=(len(x), 2)),
    "noise on probabilities": lambda x: (
        0.99 * MODEL.predict_proba(x) + 0.01 * NOISE.dirichlet([1, 1], len(x))
    ),
    "dropout in training": in_training(nn.Dropout(0.5)),
    "batch norm in training": in_training(nn.BatchNorm1d(16)),
    "ranks in a batch": lambda x: np.argsort(np.argsort(logits_of(x), axis=0), axis=0) - 3.0,
    "noise in a module": nn.Sequential(nn.Linear(4, 2), Noise()),
}
STEADY: dict[str, Any] = {
    "an estimator": MODEL,
    "logits": logits_of,
    "a function of float32": lambda x: logits_of(np.asarray(x, dtype=np.float32)),
    "dropout in a module": nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)),
    "batch norm in a module": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).train(),
    "dropout that is off": in_training(nn.Dropout(0.0)),
}


@pytest.mark.parametrize("kind", [*DRAWING, *STEADY])
def test_answers_that_are_others_when_asked_twice_are_told(kind: str) -> None:
    audit = losslake.audit({**DRAWING, **STEADY}[kind], MEMBERS, OTHERS)
    assert any("asked twice about 8 members" in note for note in audit.notes) is (kind in DRAWING)


class Labels:
    def predict(self, x: Any) -> Any:
        return MODEL.predict(x)


REFUSED: dict[str, tuple[Any, str]] = {
    "labels alone": (Labels(), "has predict alone: .* no attack on labels alone"),
    "a regression": (LinearRegression().fit(*MEMBERS), "has predict alone: it is a regressor.* wrap it: lambda x: model.predict"),
    "several labels": (OneVsRestClassifier(LogisticRegression()).fit(X, np.c_[Y, 1 - Y]), "several labels which a record has"),
    "distances": (RidgeClassifier().fit(*MEMBERS), "no log-odds.* output='logits'"),
    "a class": (RandomForestClassifier, "give a trained model"),
    "not fitted": (RandomForestClassifier(), "NotFittedError"),
    "nothing": (None, "the model is a NoneType; give a torch module"),
    "a number": (3, "the model is an int; give"),
    "one class": (DummyClassifier().fit(X, np.zeros(80, dtype=int)), "one class only"),
    "several outputs": (MultiOutputClassifier(LogisticRegression()).fit(X, np.c_[Y, 1 - Y]), "2 outputs a record"),
    "NaN": (lambda x: np.where(x[:, :1] > 1, np.nan, MODEL.predict_proba(x)), "gives nan for record"),
    "infinite": (lambda x: np.where(x[:, :1] > 1, -np.inf, logits_of(x)), "gives -inf for record"),
    "no shares": (lambda x: MODEL.predict_proba(x) * 0.9, "do not add up to 1"),
    "a lone share": (lambda x: MODEL.predict_proba(x)[:, 1], "may be a probability of class 1 or its logit"),
    "too few rows": (lambda x: MODEL.predict_proba(x)[:-1], "for a batch of 40 records"),
    "classes behind each other": (lambda x: MODEL.predict_proba(x).T, "for a batch of 40 records"),
    "no numbers": (lambda x: [{"label": "a"} for _ in x], "no array of numbers"),
    "an error of its own": (lambda x: x.no_such_thing, "AttributeError"),
    "a module of three axes": (nn.Unflatten(1, (2, 2)), "with forward="),
    "a module of NaN": (nn.Sequential(nn.Linear(4, 2), nn.Threshold(9e9, float("nan"))), "gives nan for record 0 of members"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_models_that_cannot_be_audited(why: str) -> None:
    model, said = REFUSED[why]
    with pytest.raises(LosslakeError, match=said):
        losslake.audit(model, MEMBERS, OTHERS)


def test_probabilities_that_are_none_are_refused_where_they_are_said_to_be_such() -> None:
    for model, said in (
        (lambda x: MODEL.predict_proba(x) * 0.9, "add up to 0.9"),
        (logits_of, "add up to 1: what"),
    ):
        with pytest.raises(InvalidInput, match=said):
            losslake.audit(model, MEMBERS, OTHERS, output="probabilities")


def test_a_label_beyond_the_outputs() -> None:
    with pytest.raises(
        InvalidInput, match="label 2 of record 0 of nonmembers is one that the model does not know"
    ):
        losslake.audit(MODEL.predict_proba, MEMBERS, (X[40:], Y[40:] + 2))
    with pytest.raises(InvalidInput, match="no class number"):
        losslake.audit(MODEL.predict_proba, MEMBERS, (X[40:], Y[40:] + 0.5))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"output": "odds"}, "unknown output"),
        ({"overlap": "ignore"}, "unknown overlap"),
        ({"shadows": -1}, "shadows is -1"),
        ({"run": "shadow-0000"}, "choose another name"),
        ({"shadows": 2.5}, "shadows is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"least_probability": 0.0}, "least_probability is 0"),
        ({"train": lambda members, seed: MODEL}, "shadows="),
        ({"shadows": 2, "train": 3}, "train is an int"),
        ({"forward": lambda model, batch: batch}, "torch module"),
        ({"classes": [1, 2]}, "leave classes= out"),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], said: str) -> None:
    model = MODEL.predict_proba if "batch_size" in given else MODEL
    with pytest.raises(InvalidOption, match=said):
        losslake.audit(model, MEMBERS, OTHERS, **given)


# --- as logits ----------------------------------------------------------------------------------------------


def test_probabilities_become_logits_whose_softmax_they_are() -> None:
    rng = np.random.default_rng(1)
    for classes in (2, 3, 100):
        p = rng.dirichlet(np.full(classes, 0.3), 200)
        z = as_logits(p, "probabilities", least_of(p), str).astype(np.float64)
        shares = np.exp(z - z.max(axis=1, keepdims=True))
        assert np.allclose(shares / shares.sum(axis=1, keepdims=True), p, atol=1e-6)


def test_a_probability_of_zero_is_read_as_half_of_the_least_other_one() -> None:
    p = np.array([[1.0, 0.0], [0.25, 0.75]])
    assert least_of(np.array([[1.0, 1e-12], [0.0, 1.0]])) == 5e-13
    assert least_of(np.array([[0.95, 0.05], [0.0, 1.0]])) == 0.025
    assert least_of(np.array([0.95, 1.0])) == pytest.approx(0.025)
    assert least_of(np.array([[1.0, 0.0], [0.0, 1.0]])) == 0.25
    z = as_logits(p, "probabilities", least_of(p), str)
    assert np.isfinite(z).all()
    assert z[0, 1] == np.float32(np.log(0.125))
    # Another model may say less of a class than the audited one ever does: that stays as it is.
    assert as_logits(np.array([[1 - 1e-9, 1e-9]]), "probabilities", 0.125, str)[0, 1] == np.float32(
        np.log(1e-9)
    )
    lone = as_logits(np.array([0.0, 1.0, 0.5]), "probabilities", 2.0**-25, str)
    assert lone.shape == (3, 2)
    assert lone[0, 0] - lone[0, 1] == lone[1, 1] - lone[1, 0] > 17


def test_least_probability_is_what_a_forest_can_say() -> None:
    x, y = RNG.normal(size=(200, 3)), RNG.integers(0, 2, 200)
    forest = RandomForestClassifier(20, random_state=0).fit(x[:100], y[:100])
    sides = (x[:100], y[:100]), (x[100:], y[100:])
    audit = losslake.audit(forest, *sides, least_probability=1 / 40)
    assert audit.lake.sql("select min(list_min(logits)) as z from signals")["z"][0] == np.float32(
        np.log(1 / 40)
    )
    assert any("read as 0.025" in note for note in audit.notes)


@pytest.mark.parametrize("lone", [False, True])
@pytest.mark.parametrize("trees", [3, 10, 40])
def test_a_least_probability_above_another_is_refused(trees: int, lone: bool) -> None:
    """Else a record of which the model is sure and wrong would have a lower loss than one of which it is nearly so."""
    x, y = np.random.default_rng(1).normal(size=(200, 3)), np.random.default_rng(2).integers(0, 2, 200)
    forest = RandomForestClassifier(trees, random_state=0).fit(x[:100], y[:100])
    sides = (x[:100], y[:100]), (x[100:], y[100:])
    model = (lambda x: forest.predict_proba(x)[:, 1]) if lone else forest
    p = forest.predict_proba(x)
    least = p[p > 0].min()
    said: dict[str, Any] = {"output": "probabilities"} if lone else {}
    with pytest.raises(InvalidOption, match=f"above {least:.3g}, the least that"):
        losslake.audit(model, *sides, least_probability=least * 1.01, **said)
    audit = losslake.audit(model, *sides, least_probability=least * 0.99, **said)
    loss = audit.lake.sql("select loss from signals order by sample_id")["loss"].to_numpy()
    right = p[np.arange(200), y]
    order = np.argsort(-right, kind="stable")
    assert (np.diff(loss[order]) >= -1e-6).all()


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([[0.2, 0.8], [0.5, 0.5]], "probabilities"),
        ([[0.2, 0.9], [1.5, 0.5]], "logits"),
        ([[-0.2, 1.2], [0.5, 0.5]], "logits"),
        ([0.3, -1.0], "logits"),
    ],
)
def test_outputs_show_what_they_are(outputs: Any, kind: Output) -> None:
    assert kind_of(np.array(outputs), "model") == kind


@pytest.mark.parametrize("whole", [2.0, 100.0, 255.0, 1e6])
@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_shares_of_another_whole_are_no_logits(whole: float, classes: int) -> None:
    rng = np.random.default_rng(classes)
    shares = whole * rng.dirichlet(np.ones(max(classes, 2)), 200)[:, : classes if classes > 1 else 1]
    made = [shares, shares[:, 0]] if classes == 1 else [shares]
    if whole >= 100 and classes <= 3:
        made += [np.round(one) for one in made]
    for given in made:
        with pytest.raises(InvalidInput, match=r"percentages.*output='logits'"):
            kind_of(given, "model")
        assert kind_of(given - 0.6 * whole, "model") == "logits"
    if classes > 1:
        # What a last layer of rectified units gives adds up to whatever it does.
        assert kind_of(np.maximum(rng.normal(size=(200, classes)), 0) * 3, "model") == "logits"


def test_a_way_knows_classes_and_columns() -> None:
    way = way_of(MODEL)
    assert way.classes == [0, 1]
    assert way.columns is None
    assert way.output == "probabilities"
