"""Tabular data sets in Parquet and CSV, and the rules for labels."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from losslake.collect.dataset_labels import encode_labels
from losslake.collect.datasets import load_dataset
from losslake.store.errors import InvalidInput, InvalidOption
from sklearn.preprocessing import OneHotEncoder, StandardScaler

AGES = [20.5, 30.0, 41.0, 7.25, 30.0]
JOBS = ["cook", "baker", "cook", "miner", "baker"]
SMOKES = [True, False, False, True, True]


def people(**changes: object) -> pa.Table:
    fields: dict[str, object] = {
        "age": AGES,
        "job": JOBS,
        "label": ["no", "yes", "no", "no", "yes"],
        "smokes": SMOKES,
        "constant": [3, 3, 3, 3, 3],
    }
    fields.update(changes)
    return pa.table({name: values for name, values in fields.items() if values is not None})


def save(table: pa.Table, path: Path) -> str:
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return str(path)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_features_match_scikit_learn(tmp_path: Path, form: str) -> None:
    data = load_dataset(save(people(), tmp_path / f"people.{form}"))
    expected = np.hstack(
        [
            StandardScaler().fit_transform(np.array(AGES)[:, None]),
            OneHotEncoder(sparse_output=False).fit_transform(np.array(JOBS)[:, None]),
            OneHotEncoder(sparse_output=False).fit_transform(np.array(SMOKES)[:, None]),
            np.zeros((5, 1)),
        ]
    )
    assert data.x.dtype == np.float32
    assert not data.pictures
    np.testing.assert_allclose(data.x, expected, rtol=1e-6)
    assert data.classes == ("no", "yes")
    assert data.y.tolist() == [0, 1, 0, 0, 1]
    assert data.split.tolist() == ["train"] * 5
    assert data.key.tolist() == [f"train/{row}" for row in range(5)]
    assert data.columns is not None
    assert data.columns.to_pydict() == people().drop_columns(["label"]).to_pydict()


def test_dictionaries_decimals_and_big_integers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "label": [0, 1, 0],
            "kind": pa.array(["b", "a", "b"]).dictionary_encode(),
            "price": pa.array([1, 2, 3], pa.decimal128(5, 2)),
            "big": pa.array([2**60, 2**60 + 1024, 2**60 + 2048], pa.int64()),
        }
    )
    data = load_dataset(save(table, tmp_path / "a.parquet"))
    step = np.sqrt(1.5)
    np.testing.assert_allclose(
        data.x, [[0, 1, -step, -step], [1, 0, 0, 0], [0, 1, step, step]], rtol=1e-6, atol=1e-7
    )


def test_a_folder_is_encoded_as_one_table(tmp_path: Path) -> None:
    whole = people()
    save(whole.slice(0, 3), tmp_path / "train-00000-of-00001.parquet")
    save(whole.slice(3), tmp_path / "test-00000-of-00001.parquet")
    data = load_dataset(str(tmp_path))
    np.testing.assert_array_equal(data.x, load_dataset(save(whole, tmp_path / "whole_file.csv")).x)
    assert data.key.tolist() == ["train/0", "train/1", "train/2", "test/0", "test/1"]


def test_the_group_column_is_no_feature(tmp_path: Path) -> None:
    data = load_dataset(save(people(), tmp_path / "a.parquet"), group="job", label="smokes")
    assert data.group is not None
    assert data.group.tolist() == JOBS
    assert data.x.shape == (5, 1 + 2 + 1)
    assert data.y.tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": [1.0, None, 2.0, 3.0, 4.0]}, r"column 'age' has no value in row 1"),
        ({"age": [1.0, 2.0, 3.0, float("nan"), 4.0]}, r"column 'age' is nan in row 3"),
        ({"age": [1.0, 2.0, 3.0, float("inf"), 4.0]}, r"column 'age' is inf in row 3"),
        ({"age": [1e308, -1e308, 1.0, 1.0, 1.0]}, r"column 'age' holds numbers too large"),
        ({"job": ["a", "b", None, "c", "d"]}, r"column 'job' has no value in row 2"),
        ({"born": [datetime.date(2000, 1, 1)] * 5}, r"column 'born' is date32"),
        ({"list": [[1], [2], [3], [4], [5]]}, r"column 'list' is list"),
        ({"label": None}, r"no column 'label'; .* age, job"),
        ({"label": [0, 1, -1, 0, 1]}, r"label -1 of row 2 is negative"),
        ({"label": [0.0, 1.0, 0.5, 0.0, 1.0]}, r"label 0\.5 of row 2 is not a whole number"),
        ({"label": [0, 1, None, 0, 1]}, r"label of row 2 is missing"),
        ({"label": [0, 1, 1_000_001, 0, 1]}, r"label 1000001 of row 2 is above 1,000,000"),
    ],
)
def test_refusals_name_column_and_row(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = save(people(**changes), tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match=message) as caught:
        load_dataset(path)
    assert path in str(caught.value)


def test_missing_cells_of_a_csv(tmp_path: Path) -> None:
    for cell in ("1,,0", ",a,0", "nan,a,0"):
        (tmp_path / "a.csv").write_text(f"n,t,label\n2,b,1\n{cell}\n")
        with pytest.raises(InvalidInput, match="has no value in row 1"):
            load_dataset(str(tmp_path / "a.csv"))


def test_text_is_refused(tmp_path: Path) -> None:
    table = pa.table({"text": [f"sentence {i}" for i in range(1001)], "label": [0] * 1001})
    with pytest.raises(InvalidInput, match=r"'text' has 1,001 different values"):
        load_dataset(save(table, tmp_path / "a.parquet"))


def test_an_identifier_is_no_feature(tmp_path: Path) -> None:
    rows = 40
    names = [f"P{row}" for row in range(rows)]
    table = pa.table({"age": np.arange(rows), "patient": names, "label": [0, 1] * (rows // 2)})
    with pytest.raises(InvalidInput, match=r"'patient' has another value in every row.* leave it out"):
        load_dataset(save(table, tmp_path / "a.parquet"))
    names[-1] = names[0]
    repeated = table.set_column(1, "patient", pa.array(names))
    assert load_dataset(save(repeated, tmp_path / "b.parquet")).x.shape == (rows, 1 + rows - 1)


def test_labels_as_objects() -> None:
    # As Pandas and Polars hand text to NumPy.
    labels, classes = encode_labels(np.array(["b", "a", "b"], dtype=object), where="here")
    assert labels.tolist() == [1, 0, 1]
    assert classes == ("a", "b")
    assert encode_labels(np.array([2, 0], dtype=object), where="here")[0].tolist() == [2, 0]
    for wrong, message in (
        (["a", None], "here: the label of row 1 is missing"),
        (["a", 1], "here: labels are objects of several kinds"),
        ([[1], [2]], "here: labels are list"),
    ):
        values = np.empty(len(wrong), dtype=object)
        values[:] = wrong
        with pytest.raises(InvalidInput, match=message):
            encode_labels(values, where="here")


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    (tmp_path / "twice.csv").write_text("a,a,label\n1,2,0\n")
    (tmp_path / "ragged.csv").write_text("a,label\n1,0\n1,2,3\n")
    (tmp_path / "none.csv").write_text("a,label\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    for name, message in [
        ("a.parquet", "not a readable Parquet"),
        ("twice.csv", "occur twice: a"),
        ("ragged.csv", "not a readable CSV"),
        ("none.csv", "no rows"),
        ("empty", "no data in this folder"),
        ("notes.txt", "not a data set"),
        ("absent.parquet", "no such file"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            load_dataset(str(tmp_path / name))


def test_files_of_a_folder_must_agree(tmp_path: Path) -> None:
    save(people(), tmp_path / "train.parquet")
    save(people(extra=[1, 2, 3, 4, 5]), tmp_path / "test.parquet")
    with pytest.raises(InvalidInput, match=r"test\.parquet: columns differ .*train\.parquet: extra"):
        load_dataset(str(tmp_path))
    save(people(age=JOBS), tmp_path / "test.parquet")
    with pytest.raises(InvalidInput, match="do not fit together"):
        load_dataset(str(tmp_path))


def test_wrong_column_names_get_a_suggestion(tmp_path: Path) -> None:
    path = save(people(), tmp_path / "a.parquet")
    with pytest.raises(
        InvalidOption, match=r"label column .* 'smoke'\. Did you mean 'smokes'\? valid: age, job"
    ):
        load_dataset(path, label="smoke")
    with pytest.raises(InvalidOption, match=r"group column .* 'jobs'\. Did you mean 'job'"):
        load_dataset(path, group="jobs")
    with pytest.raises(InvalidOption, match="both label and group"):
        load_dataset(path, group="label")


def test_labels_with_gaps_and_names() -> None:
    y, classes = encode_labels(np.array([4, 0, 4]), where="here")
    assert (y.tolist(), classes) == ([4, 0, 4], ("0", "1", "2", "3", "4"))
    y, classes = encode_labels(np.array(["b", "a"]), where="here", names=["b", "z", "a"])
    assert (y.tolist(), classes) == ([0, 2], ("b", "z", "a"))
    y, classes = encode_labels(np.array([2.0, 1.0], dtype=np.float32), where="here")
    assert (y.tolist(), len(classes)) == ([2, 1], 3)
    with pytest.raises(InvalidInput, match="label 2 of row 1 has no name: 2 classes"):
        encode_labels(np.array([0, 2]), where="here", names=["a", "b"])
    with pytest.raises(InvalidInput, match="integers or strings"):
        encode_labels(np.array([1j]), where="here")
