"""What people hand over by mistake: a clear error, "cannot tell" with its reason, or the same answer as of what they meant; never another exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import losslake
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from losslake.store.errors import InvalidInput, InvalidOption, LosslakeError
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = np.arange(80) % 2
MEMBERS, OTHERS = (X[:40], Y[:40]), (X[40:], Y[40:])
NAMED = np.array(["no", "yes"])[Y]
MODEL = LogisticRegression().fit(*MEMBERS)
OF_NAMES = LogisticRegression().fit(X[:40], NAMED[:40])
NET = nn.Linear(4, 2)
ROW = np.arange(40)


FIRST, SECOND = slice(40), slice(40, 80)


def frame(rows: slice, labels: Any) -> pd.DataFrame:
    return pd.DataFrame(X[rows], columns=list("abcd")).assign(label=labels)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(torch.from_numpy(X), Y, strict=True))


LABELS: dict[str, tuple[Any, str]] = {
    "beyond int64": ([2**70] * 40, "is no class number"),
    "unsigned beyond int64": (Y[:40].astype(np.uint64) + np.uint64(2**63), "is no class number"),
    "infinite": (np.where(ROW == 2, np.inf, Y[:40]), "label inf of record 2 of members is no class number"),
    "beyond all numbers": (np.where(ROW == 2, 1e300, Y[:40]), "record 2 of members is no class number"),
    "large": (Y[:40] + 10**12, "does not know: it gives 2 outputs"),
    "negative": (Y[:40] * 2 - 1, "label -1 of record 0 of members is no class number"),
    "between": (Y[:40] / 2, "label 0.5 of record 1"),
    "complex": (Y[:40] + 0j, "is no class number"),
    "dates": (Y[:40].astype("datetime64[s]"), "is no class number"),
    "names": (NAMED[:40], "give classes="),
    "masked": (np.ma.masked_array(Y[:40], mask=ROW == 3), "masked values, in record 3"),
    "a generator": ((int(y) for y in Y[:40]), "is a generator, which is gone"),
    "a map": (map(int, Y[:40]), "is a map, which is gone"),
    "missing": ([None, *Y[1:40].tolist()], "record 0 of members has no label"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_none(kind: str) -> None:
    labels, said = LABELS[kind]
    with pytest.raises(InvalidInput, match=said):
        losslake.audit(NET, (X[:40], labels), OTHERS)


GIVEN: dict[str, tuple[Any, Any, str]] = {
    "masked values": ((np.ma.masked_array(X[:40], mask=X[:40] > 1.5), Y[:40]), OTHERS, "fill them as the model was trained"),
    "a generator of rows": (((row for row in X[:40]), Y[:40]), OTHERS, "X of members is a generator, which is gone"),
    "a stream": (Stream(), OTHERS, "IterableDataset, which has no length"),
    "a loader of a stream": (DataLoader(Stream()), OTHERS, "IterableDataset, which has no length"),
    "an empty frame": (pd.DataFrame(), OTHERS, "no column 'label'"),
    "an empty Polars frame": (pl.DataFrame(), OTHERS, "no column 'label'"),
    "no rows": (pd.DataFrame({"a": [], "label": []}), OTHERS, "members are empty"),
    "no records": ([], OTHERS, "members are empty"),
    "zip": (zip(X, Y, strict=True), OTHERS, "members are a zip; give"),
    "data sets by name": ({"train": frame(FIRST, Y[:40]), "test": frame(SECOND, Y[40:])}, OTHERS, r"members=data\['train'\], nonmembers=data\['test'\]"),
    "pairs by name": ({"train": MEMBERS, "validation": OTHERS}, OTHERS, r"nonmembers=data\['validation'\]"),
    "one set by name": ({"train": frame(FIRST, Y[:40])}, OTHERS, r"give it itself, data\['train'\]"),
    "arrays by name": ({"X": X[:40], "y": Y[:40]}, OTHERS, r"give the tuple \(X, y\), here \(data\['X'\], data\['y'\]\)"),
    "y and X": ((Y[:40], X[:40]), OTHERS, r"seem to be swapped; give \(X, y\)"),
    "y and X of one feature": ((Y[:40], X[:40, :1]), OTHERS, r"one whole number a record and y fractions: they seem to be swapped"),
    "y and X of one feature in lists": ((Y[:40].tolist(), X[:40, :1].tolist()), OTHERS, "seem to be swapped"),
    "y in a column and X of one feature": ((Y[:40, None], X[:40, :1]), OTHERS, "seem to be swapped"),
    "y and X of one feature as tensors": ((torch.tensor(Y[:40]), torch.tensor(X[:40, :1])), OTHERS, "seem to be swapped"),
    "Series and frame of one feature": ((pd.Series(Y[:40]), pd.DataFrame(X[:40, :1])), OTHERS, "seem to be swapped"),
    "one feature that is no column": ((X[:40, 0], Y[:40]), (X[40:, 0], Y[40:]), r"Expected 2D array, got 1D array instead\. X has one number a record, shape \(40,\); give rows"),
    "both X": ((X[:40], X[40:]), OTHERS, r"give members=\(X_train, y_train\)"),
    "more X than y": ((X[:40], Y[:39]), OTHERS, "40 records in X and 39 labels in y; give one a record"),
    "a tuple of two records": (((X[0], 0), (X[1], 1)), OTHERS, "a tuple of two is"),
    "two tuples that may be either": ([("a text", 0), ("b text", 1)], OTHERS, r"may be X and y or two records \(x, y\); give the tuple"),
    "sparse and dense": ((sp.csr_array(X[:40]), Y[:40]), OTHERS, "give both alike"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GIVEN)
def test_records_that_are_none(kind: str) -> None:
    members, others, said = GIVEN[kind]
    with pytest.raises(LosslakeError, match=said):
        losslake.audit(MODEL, members, others)


ANSWERS: dict[str, tuple[Any, str]] = {
    "complex": (lambda x: MODEL.predict_proba(x).astype(complex), "gives complex numbers"),
    "complex tensors": (lambda x: torch.ones(len(x), 2, dtype=torch.complex64), "gives complex numbers"),
    "beyond float32": (lambda x: MODEL.decision_function(x) * 1e300, r"gives .*e\+\d+ for record 0 of members"),
    "a generator": (lambda x: (p for p in MODEL.predict_proba(x)), "no array of numbers"),
    "nothing": (lambda x: None, "shape \\(\\)"),
    "words": (lambda x: ["yes"] * len(x), "no array of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_that_are_none(kind: str) -> None:
    model, said = ANSWERS[kind]
    with pytest.raises(InvalidInput, match=said):
        losslake.audit(model, MEMBERS, OTHERS)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size in text": ({"batch_size": "a"}, "batch_size is 'a'"),
    "half a batch": ({"batch_size": 64.5}, "batch_size is 64.5"),
    "no batch": ({"batch_size": 0}, "1 or more"),
    "a number of classes": ({"classes": 2}, "classes is an int; give a list"),
    "one name": ({"classes": "no"}, "classes is a str; give a list"),
    "classes in no order": ({"classes": {0, 1}}, "classes is a set; give a list"),
    "a class twice": ({"classes": [0, 1, 0]}, "names 0 twice"),
    "least in text": ({"least_probability": "a"}, "least_probability is 'a'"),
    "least is NaN": ({"least_probability": np.nan}, "least_probability is nan"),
    "one reference": (
        {"references": "x"},
        r"references are a str; give a list of models: references=\['x'\]",
    ),
    "a model for references": ({"references": MODEL}, r"give a list of models: references=\[model\]"),
    "train is no function": ({"shadows": 2, "train": "mine:train"}, "train is a str"),
    "truth for a number": ({"shadows": True}, "shadows is True"),
    "a lake that is a number": ({"lake": 3}, "3 is no place of a lake"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_are_none(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, said = OPTIONS[kind]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOption, match=said):
        losslake.audit(lambda x: MODEL.predict_proba(x), MEMBERS, OTHERS, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("which", ["shadow", "reference"])
def test_models_of_other_classes_do_not_compare(which: str) -> None:
    wider = nn.Linear(4, 3)
    more: dict[str, Any] = {"shadows": 2, "train": lambda data, seed: wider}
    with pytest.raises(InvalidInput, match="gives 3 outputs a record, and the audited model 2"):
        losslake.audit(NET, MEMBERS, OTHERS, **(more if which == "shadow" else {"references": [wider]}))


def test_a_reference_by_name_is_of_language_models() -> None:
    with pytest.raises(InvalidInput, match="reference-0000 is the text 'base'; give a model"):
        losslake.audit(MODEL, MEMBERS, OTHERS, references=["base"])


@pytest.mark.parametrize("model", [MODEL, NET], ids=["estimator", "module"])
@pytest.mark.parametrize("count", [2, 3])
def test_a_list_holds_records_however_many_they_are(model: Any, count: int) -> None:
    def records(start: int) -> Any:
        return [(torch.tensor(X[i], dtype=torch.float32), int(Y[i])) for i in range(start, start + count)]

    found = losses(model, records(0), records(40), **({} if model is MODEL else {"output": "logits"}))
    rows = [*range(count), *range(40, 40 + count)]
    x, y = X[rows].astype(np.float32), Y[rows]
    if model is MODEL:
        z = np.log(MODEL.predict_proba(x))
    else:
        z = NET(torch.from_numpy(x)).detach().log_softmax(1).numpy()
    np.testing.assert_allclose(found, -z[np.arange(2 * count), y], atol=1e-5)
    assert np.allclose(losses(MODEL, [X[:40], Y[:40]], [X[40:], Y[40:]]), losses(MODEL, MEMBERS, OTHERS))


def losses(model: Any, members: Any, others: Any, **more: Any) -> np.ndarray:
    return -losslake.audit(model, members, others, **more).scores("loss")["score"].to_numpy()


def polars(rows: slice, labels: Any) -> pl.DataFrame:
    return pl.DataFrame({**{name: X[rows, i] for i, name in enumerate("abcd")}, "label": labels})


MEANT: dict[str, tuple[Any, Any, Any]] = {
    "truth values": (MODEL, (X[:40], Y[:40] == 1), (X[40:], Y[40:] == 1)),
    "floats": (MODEL, (X[:40], Y[:40] * 1.0), (X[40:], Y[40:] * 1.0)),
    "pandas categories": (
        OF_NAMES, frame(FIRST, pd.Categorical(NAMED[:40], ["yes", "no"])), frame(SECOND, pd.Categorical(NAMED[40:], ["no", "yes", "never"])),
    ),
    "pandas Int64": (MODEL, frame(FIRST, pd.array(Y[:40], dtype="Int64")), frame(SECOND, pd.array(Y[40:], dtype="Int64"))),
    "Polars enums": (
        OF_NAMES,
        polars(FIRST, pl.Series(NAMED[:40], dtype=pl.Enum(["yes", "no"]))),
        polars(SECOND, pl.Series(NAMED[40:], dtype=pl.Enum(["no", "never", "yes"]))),
    ),
    "lazy frames": (MODEL, polars(FIRST, Y[:40]).lazy(), polars(SECOND, Y[40:]).lazy()),
    **{
        f"sparse {kind.__name__}": (MODEL, (kind(X[:40]), Y[:40]), (kind(X[40:]), Y[40:]))
        for kind in (sp.csr_array, sp.csc_array, sp.coo_array, sp.dia_array, sp.lil_array, sp.csr_matrix, sp.coo_matrix)
    },
    "a sparse tensor": (MODEL, (torch.from_numpy(X[:40]).to_sparse(), Y[:40]), (torch.from_numpy(X[40:]).to_sparse(), Y[40:])),
    "masks of nothing": (MODEL, (np.ma.masked_array(X[:40]), Y[:40]), OTHERS),
    "lists": (MODEL, (X[:40].tolist(), Y[:40].tolist()), (X[40:].tolist(), Y[40:].tolist())),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEANT)
def test_records_in_other_kinds_mean_the_same(kind: str) -> None:
    wanted = -np.log(MODEL.predict_proba(X)[np.arange(80), Y])
    assert np.allclose(losses(*MEANT[kind]), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", [sp.csr_array, sp.coo_array, sp.csr_matrix])
def test_a_sparse_record_on_two_sides_is_found(kind: Any) -> None:
    with pytest.raises(InvalidInput, match="5 of 45 nonmembers are also on another side"):
        losslake.audit(MODEL, (kind(X[:40]), Y[:40]), (kind(X[35:]), Y[35:]))


def test_sides_without_a_common_label_are_told_of() -> None:
    members, others = (X[:40], np.zeros(40, dtype=int)), (X[40:], np.ones(40, dtype=int))
    assert any("no label in common" in note for note in losslake.audit(MODEL, members, others).notes)
    assert not any("in common" in note for note in losslake.audit(MODEL, MEMBERS, OTHERS).notes)


@pytest.mark.parametrize("form", [np.asarray, list])
def test_a_feature_of_whole_numbers_and_its_labels_are_not_taken_for_swapped(form: Any) -> None:
    """Nor fractions of one feature with labels that are whole numbers kept as floats."""
    for x in (np.arange(80)[:, None], X[:, :1]):
        model = LogisticRegression().fit(x[:40], Y[:40])
        sides = [(x[rows], form(Y[rows].astype(float))) for rows in (FIRST, SECOND)]
        assert losslake.audit(model, *sides).metrics().height > 0
