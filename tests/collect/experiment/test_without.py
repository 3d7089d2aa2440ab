"""Experiments made without some of the records of their data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from losslake.cli import _run
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.experiment.selection import read_keys, told
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption, NotFound
from losslake.store.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def keys_file(path: Path, keys: list[str]) -> Path:
    pl.DataFrame({"score": np.zeros(len(keys)), "key": keys}).write_csv(path)
    return path


def test_keys_from_each_kind_of_file(tmp_path: Path) -> None:
    frame = pl.DataFrame({"key": ["train/7", "train/10", "train/7"], "score": [1.0, 2.0, 3.0]})
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("train/7\n\n train/10 \n")
    (tmp_path / "b.txt").write_text("key\ntrain/7\ntrain/10\n")
    for name in ("a.csv", "a.parquet", "a.txt", "b.txt"):
        assert read_keys(tmp_path / name) == ("train/10", "train/7")
    (tmp_path / "n.csv").write_text("key\n007\n7\n")
    assert read_keys(tmp_path / "n.csv") == ("007", "7")


def test_files_that_hold_no_keys(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sample_id\n1\n")
    (tmp_path / "b.csv").write_text("key,x\n,1\na,2\n")
    (tmp_path / "c.txt").write_text("\n")
    (tmp_path / "d.parquet").write_text("no Parquet")
    pl.DataFrame({"key": [1, 2]}).write_parquet(tmp_path / "e.parquet")
    for name, text in (
        ("a.csv", "no column key"),
        ("b.csv", "1 empty rows"),
        ("c.txt", "names no record"),
        ("d.parquet", "no column key"),
        ("e.parquet", "column key is Int64"),
    ):
        with pytest.raises(InvalidInput, match=text):
            read_keys(tmp_path / name)
    with pytest.raises(NotFound, match="there is no file"):
        read_keys(tmp_path / "none.csv")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InvalidOption, match=r"\.csv, \.parquet and \.txt"):
        read_keys(tmp_path / "a.json")


def test_the_others_stay_as_they_were_and_load_again(lake: Lake, tmp_path: Path) -> None:
    options = {"dataset": "digits", "samples": 120, "population": 0.1, "seed": 3}
    prepare_experiment(lake, "whole", **options)  # type: ignore[arg-type]
    whole = pl.DataFrame(lake.samples("whole"))
    gone = whole["key"][5:25].to_list()
    file = keys_file(tmp_path / "gone.csv", gone)
    made = prepare_experiment(lake, "peeled", without=file, **options)  # type: ignore[arg-type]
    peeled = pl.DataFrame(lake.samples("peeled"))
    expected = whole.filter(~pl.col("key").is_in(gone)).drop("sample_id")
    assert peeled.drop("sample_id").equals(expected)
    assert made.options["without"] == told(gone)
    assert made.options["without"].startswith("20 keys, sha256 ")
    assert len(made.data) == 100

    file.unlink()  # shadow runs need it no more
    again = prepare_experiment(lake, "peeled")
    np.testing.assert_array_equal(again.data.x, made.data.x)
    np.testing.assert_array_equal(again.data.population, made.data.population)
    assert again.options == made.options
    same = keys_file(tmp_path / "same.csv", gone[::-1])
    assert prepare_experiment(lake, "peeled", without=same).experiment == made.experiment


def test_another_list_is_another_experiment(lake: Lake, tmp_path: Path) -> None:
    prepare_experiment(lake, "whole", dataset="digits", samples=40)
    keys = pl.DataFrame(lake.samples("whole"))["key"].to_list()
    one, other = (keys_file(tmp_path / f"{n}.csv", keys[n : n + 3]) for n in (0, 9))
    prepare_experiment(lake, "peeled", dataset="digits", samples=40, without=one)
    with pytest.raises(AlreadyExists, match="was made with without 3 keys, sha256"):
        prepare_experiment(lake, "peeled", without=other)
    with pytest.raises(AlreadyExists, match="was made with without None"):
        prepare_experiment(lake, "whole", without=one)


def test_keys_of_no_record(lake: Lake, tmp_path: Path) -> None:
    file = keys_file(tmp_path / "wrong.csv", ["train/0", "canary/1", "train/99999"])
    with pytest.raises(
        InvalidInput, match="2 of 3 keys to leave out name no record chosen from digits, first 'canary/1'"
    ):
        prepare_experiment(lake, "peeled", dataset="digits", without=file)
    assert lake.experiments() == []


def test_nothing_left(lake: Lake, tmp_path: Path) -> None:
    prepare_experiment(lake, "whole", dataset="digits", samples=20)
    keys = pl.DataFrame(lake.samples("whole"))["key"].to_list()
    with pytest.raises(InvalidOption, match="none is left to audit"):
        prepare_experiment(
            lake, "none", dataset="digits", samples=20, without=keys_file(tmp_path / "all.csv", keys)
        )


def test_command(tmp_path: Path) -> None:
    lake, out = tmp_path / "lake", tmp_path / "removed.csv"
    data = ("--dataset", "digits", "--samples", "60", "--model", "mlp", "--widths", "8", "--epochs", "1")
    call = ["collect", "target", "--lake", str(lake), *data, "--device", "cpu", "--experiment"]
    assert _run([*call, "whole"], debug=False) == 0
    query = "select key from samples where sample_id < 10"
    assert _run(["sql", "--lake", str(lake), query, "--out", str(out)], debug=False) == 0
    assert _run([*call, "peeled", "--without", str(out)], debug=False) == 0
    assert Lake.open(lake).experiment("peeled").samples == 50
