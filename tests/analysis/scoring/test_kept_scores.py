"""Scores by name: reading the name, reusing what is fresh, computing anew what is stale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.attacks.lira import lira
from losslake.analysis.declare import parse_score
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.stored import keep_scores
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake
from losslake.store.read.catalogue import results
from polars.testing import assert_frame_equal

MakeLake = Callable[..., Lake]


@pytest.fixture
def lake(lake_of: MakeLake) -> Lake:
    rng = np.random.default_rng(0)
    keep = rng.random((9, 20)) < 0.5
    keep[1:3], keep[3:5] = True, False
    return lake_of(keep, rng.normal(size=keep.shape), traces={"loss": rng.random((20, 5))})


def kept_files(lake: Lake) -> dict[tuple[str, str], str]:
    return {(one.analysis, one.variant): one.file.path for one in results(lake, "tests") if one.file}


def test_fresh_scores_are_read_and_not_computed_again(lake: Lake) -> None:
    names = ("lira", "lira[mode=offline,variance=sample]", "trace[aggregate=std,last=3]")
    with open_source(lake, "tests") as source:
        first = keep_scores(source, names)
    before = kept_files(lake)
    assert set(before) == {
        ("lira", ""),
        ("lira", "mode=offline,variance=sample"),
        ("trace", "aggregate=std,last=3"),
    }
    with open_source(lake, "tests") as source:
        second = keep_scores(source, names)
    assert kept_files(lake) == before
    for name in names:
        assert second[name].scores.frame.equals(first[name].scores.frame)
        assert second[name].scores.notes == first[name].scores.notes


def test_another_run_makes_them_stale(lake: Lake, lake_of: MakeLake) -> None:
    with open_source(lake, "tests") as source:
        old = keep_scores(source, ("lira",))["lira"].scores.frame
    before = kept_files(lake)
    rng = np.random.default_rng(1)
    lake_of(rng.random((1, 20)) < 0.5, rng.normal(2, 1, (1, 20)), lake=lake, names=["late"], roles=["shadow"])
    with open_source(lake, "tests") as source:
        new = keep_scores(source, ("lira",))["lira"].scores.frame
        assert_frame_equal(new, lira(source).frame)  # sums in another order differ in their last bits
    assert (new["n_in"] + new["n_out"] == old["n_in"] + old["n_out"] + 1).all()
    assert not new["score"].equals(old["score"])
    assert kept_files(lake) != before
    assert lake.sql("select count(*) as rows from scores")["rows"].item() == 20  # the stale ones are gone


def test_a_run_that_is_committed_during_the_analysis_makes_its_scores_stale(
    lake: Lake, lake_of: MakeLake
) -> None:
    with open_source(lake, "tests") as source:
        lake_of(np.ones((1, 20), bool), np.ones((1, 20)), lake=lake, names=["late"], roles=["shadow"])
        during = keep_scores(source, ("lira",))["lira"].scores.frame
    with open_source(lake, "tests") as source:
        after = keep_scores(source, ("lira",))["lira"].scores.frame
    assert (during["n_in"] + during["n_out"] == 8).all()
    assert (after["n_in"] + after["n_out"] == 9).all()


def test_scores_of_another_target_are_not_taken(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        one = keep_scores(source, ("lira",))["lira"].scores.frame
    with open_source(lake, "tests", "run-0005") as source:
        other = keep_scores(source, ("lira",))["lira"].scores.frame
        assert_frame_equal(other, lira(source).frame)  # sums in another order differ in their last bits
    assert not one["score"].equals(other["score"])
    assert lake.sql("select distinct target from scores order by target")["target"].to_list() == [
        "run-0000",
        "run-0005",
    ]


@pytest.mark.parametrize(
    "text", ["lira[mode=offline]", " lira[ mode = offline ] ", "lira[mode=offline,center=mean]"]
)
def test_options_in_a_name(text: str) -> None:
    analysis, options = parse_score(text, find)
    assert analysis.name == "lira"
    assert options["mode"] == "offline"


def test_option_types_in_a_name() -> None:
    assert parse_score("trace[first=2,low=0.1,source=train]", find)[1] == {
        "first": 2,
        "low": 0.1,
        "source_": "train",
    }
    assert parse_score("lt-iqr", find)[1] == parse_score("lt-iqr[]", find)[1] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lira[mode=both]", "mode of lira must be one of online, offline, not 'both'"),
        (
            "lira[tail=left]",
            r"lira has no option 'tail' \(options: mode, variance, center, queries, duals, mask, without\)",
        ),
        ("lira[offline]", "'offline' in 'lira\\[offline\\]' is no option; write option=value"),
        ("trace[first=two]", "first of trace must be int, not 'two'"),
        ("privacy-score[a=1]", r"privacy-score has no option 'a' \(options: duals, mask, without\)"),
        ("lt_iqr", "'lt_iqr' is no score"),
        ("lira[mode=offline", "is no score; write NAME or NAME"),
        ("lt-iqrs", "there is no analysis 'lt-iqrs'; did you mean 'lt-iqr'"),
        ("", "is no score"),
    ],
)
def test_wrong_names_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        parse_score(text, find)
