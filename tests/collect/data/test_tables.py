"""Tabular data sets in Parquet and CSV, and the rules for labels."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from losslake.collect.data.load import load_dataset
from losslake.collect.data.record import encode_labels
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
    with pytest.raises(
        InvalidInput, match=r"'patient' has another value in every row.*--key patient.* leave it out"
    ):
        load_dataset(save(table, tmp_path / "a.parquet"))
    names[-1] = names[0]
    repeated = table.set_column(1, "patient", pa.array(names))
    assert load_dataset(save(repeated, tmp_path / "b.parquet")).x.shape == (rows, 1 + rows - 1)


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("kind", ["text", "number"])
def test_a_key_names_the_records_and_is_no_feature(tmp_path: Path, form: str, kind: str) -> None:
    names = ["P4", "P0", "P3", "P1", "P2"] if kind == "text" else [40, 0, 2**62 + 1, -7, 2]
    path = save(people(patient=names), tmp_path / f"a.{form}")
    data = load_dataset(path, key="patient")
    assert data.key.tolist() == [str(name) for name in names]
    np.testing.assert_array_equal(data.x, load_dataset(save(people(), tmp_path / f"b.{form}")).x)
    assert data.columns is not None
    assert "patient" not in data.columns.column_names
    if kind == "text":
        column = pa.array(names).dictionary_encode()
        again = save(people(patient=column), tmp_path / "c.parquet")
        assert load_dataset(again, key="patient").key.tolist() == names


def test_keys_of_a_csv_are_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,id,label\n2,007,1\n1,7,0\n")
    assert load_dataset(str(tmp_path / "a.csv"), key="id").key.tolist() == ["007", "7"]


def test_keys_of_a_folder_are_distinct_over_all_its_files(tmp_path: Path) -> None:
    save(people(who=[1, 2, 3, 4, 5]), tmp_path / "train.parquet")
    save(people(who=[6, 7, 8, 9, 10]), tmp_path / "test.parquet")
    assert load_dataset(str(tmp_path), key="who").key.tolist() == [str(number) for number in range(1, 11)]
    save(people(who=[6, 7, 2, 9, 10]), tmp_path / "test.parquet")
    with pytest.raises(InvalidInput, match=r"key column 'who' has '2' in row 1 and in row 7"):
        load_dataset(str(tmp_path), key="who")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", None, "c", "d"], r"'who' has no value in row 2; every record needs a name"),
        ([1, 2, 3, 4, None], r"'who' has no value in row 4"),
        (["a", "b", " ", "c", "d"], r"'who' has no value in row 2"),
        (
            ["a", "b", "c", "b", "b"],
            r"'who' has 'b' in row 1 and in row 3; every record needs a name of its own",
        ),
        ([1.5, 2, 3, 4, 5], r"'who' is double; names of records are text or whole numbers"),
        ([True, False, True, True, True], r"'who' is bool"),
        ([datetime.date(2000, 1, day) for day in range(1, 6)], r"'who' is date32"),
    ],
)
def test_keys_that_name_nothing(tmp_path: Path, names: list[object], message: str) -> None:
    path = save(people(who=names), tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match=f"key column {message}") as caught:
        load_dataset(path, key="who")
    assert path in str(caught.value)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    path = save(people(), tmp_path / "a.parquet")
    with pytest.raises(InvalidOption, match=r"key column .* 'jobs'\. Did you mean 'job'"):
        load_dataset(path, key="jobs")
    for other, options in (("label", {}), ("group", {"group": "job", "label": "smokes"})):
        column = options.get("group", "label")
        with pytest.raises(InvalidOption, match=f"'{column}' is both {other} and key"):
            load_dataset(path, key=column, **options)  # type: ignore[arg-type]
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)), y=[0, 1])
    with pytest.raises(InvalidOption, match="key names a column of a Parquet or CSV file"):
        load_dataset(str(tmp_path / "a.npz"), key="who")
    with pytest.raises(InvalidOption, match="key names a column of a file; digits brings its own"):
        load_dataset("digits", key="who")


def test_an_empty_cell_is_no_key(tmp_path: Path) -> None:
    for cell in ("", '""'):
        (tmp_path / "a.csv").write_text(f"n,id,label\n2,007,1\n1,{cell},0\n")
        with pytest.raises(InvalidInput, match="key column 'id' has no value in row 1"):
            load_dataset(str(tmp_path / "a.csv"), key="id")


@pytest.mark.parametrize(
    "name",
    ["id", "ID", "patient_id", "patient id", "patientId", "key", "Index", "idx", "uuid", "", "Unnamed: 0"],
)
def test_whole_numbers_that_are_identifiers_are_no_feature(tmp_path: Path, name: str) -> None:
    rows = 40
    table = pa.table({"age": np.arange(rows), name: np.arange(rows) * 3, "label": [0, 1] * (rows // 2)})
    message = (
        rf"column '{name}' has another value in every row.*leave it out of the file; if it is a measurement"
    )
    with pytest.raises(InvalidInput, match=message) as caught:
        load_dataset(save(table, tmp_path / "a.parquet"))
    assert f"--key {shlex.quote(name)})" in str(caught.value)
    with pytest.raises(InvalidInput, match=message):
        load_dataset(save(table, tmp_path / "a.csv"))
    assert load_dataset(str(tmp_path / "a.csv"), key=name).x.shape == (rows, 1)
    assert load_dataset(str(tmp_path / "a.csv"), group=name).x.shape == (rows, 1)
    # Files that each count anew are identifiers too.
    (tmp_path / "folder").mkdir()
    for split in ("train", "test"):
        save(table.slice(0, 20), tmp_path / "folder" / f"{split}.parquet")
    with pytest.raises(InvalidInput, match=message):
        load_dataset(str(tmp_path / "folder"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", np.arange(40) // 2),  # twice each: a group, or a category in numbers
        ("id", np.arange(40) * 1.5),
        ("arid", np.arange(40)),
        ("keyboards", np.arange(40)),
        ("refractive_index", np.arange(40)),
    ],
)
def test_other_numbers_are_features(tmp_path: Path, name: str, values: np.ndarray) -> None:
    table = pa.table({name: values, "label": [0, 1] * 20})
    assert load_dataset(save(table, tmp_path / "a.parquet")).x.shape == (40, 1)
    few = table.slice(0, 20)
    assert load_dataset(save(few, tmp_path / "b.parquet")).x.shape == (20, 1)


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
