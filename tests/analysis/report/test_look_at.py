"""The section on records to look at: kinds, who of them is named, and the records that may be mislabelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from losslake.analysis.measures.suspects import KINDS
from losslake.analysis.report import gather as gathering
from losslake.analysis.report.gather import gather
from losslake.analysis.report.page import build, page, printed_page
from losslake.analysis.report.parts import Gallery, Section, Table
from losslake.analysis.report.records import probability
from losslake.analysis.report.words import verdict
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

from .test_report import HOSTILE, QUOTES, Elements, make

SAMPLES, CLASSES = 300, 3
WRONG = tuple(range(0, 60, 6))


def flipped(path: Path, *, target: bool = True) -> Lake:
    """Models that get every record right but those whose labels were changed, which members learn by heart."""
    rng = np.random.default_rng(0)
    true = np.arange(SAMPLES) % CLASSES
    label = true.copy()
    label[list(WRONG)] = (true[list(WRONG)] + 1) % CLASSES
    lake = Lake.open(path, create=True)
    table = pa.table({"label": label, "group": [HOSTILE] * SAMPLES})
    lake.create_experiment("e", table, dataset={"classes": ["cat", QUOTES, "bird"]})
    for name in [*(["target"] if target else []), *(f"shadow-{i}" for i in range(8))]:
        members = rng.random(SAMPLES) < 0.5
        logits = rng.normal(0, 0.4, (SAMPLES, CLASSES)) + 4 * (np.arange(CLASSES) == true[:, None])
        logits[members] += 8 * (np.arange(CLASSES) == label[members, None])
        own = logits[np.arange(SAMPLES), label]
        loss = np.logaddexp.reduce(logits, axis=1) - own
        with lake.write_run("e", name, members=members) as writer:
            writer.append_signals(
                np.arange(SAMPLES),
                np.zeros(SAMPLES, np.int16),
                label,
                loss=loss.astype(np.float32),
                phi=(-loss - np.log(-np.expm1(-loss))).astype(np.float32),
                correct=logits.argmax(axis=1) == label,
                logits=logits.astype(np.float32),
            )
            writer.commit(RunInfo(role="target" if name == "target" else "shadow"))
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return flipped(tmp_path_factory.mktemp("flipped") / "lake")


def section_of(lake: Lake) -> Section:
    return next(one for one in build(gather(lake, "e")) if one.name == "look-at")


def test_records_with_changed_labels_are_shown_first(lake: Lake) -> None:
    report = gather(lake, "e")
    assert report.suspects is not None
    member = dict(report.suspects.scores.frame.select("sample_id", "member").iter_rows())
    assert {record.sample_id for record in report.suspected} == {i for i in WRONG if member[i]}
    assert all(
        record.suspicion.startswith("May be mislabelled: models without it") for record in report.suspected
    )
    doubts = [record.scores[0][1] for record in report.suspected]
    assert doubts == sorted(doubts, reverse=True)
    first = {record.sample_id: record.suspicion for record in report.exposed}
    assert all(first[i].startswith("May be") for i in WRONG if i in first)
    words = " ".join(record.suspicion for record in report.suspected)
    assert "cat 9" in words


def test_kinds_are_counted_among_members(lake: Lake) -> None:
    report = gather(lake, "e")
    assert report.suspects is not None
    assert report.headline is not None
    table = next(part for part in section_of(lake).parts if isinstance(part, Table))
    frame = report.suspects.scores.frame.filter(report.suspects.scores.frame["member"])
    for row in table.rows:
        own = [i for i, kind in frame.select("sample_id", "kind").iter_rows() if kind == row[0]]
        named = len(report.headline.found & set(own))
        assert row[1] == str(len(own))
        assert row[4].startswith(f"{named}: ")
    assert table.rows[0][0] == KINDS[0]
    assert sum(int(row[1]) for row in table.rows) == len(frame)


def test_what_it_says_stays_text_on_screen_and_on_paper(lake: Lake) -> None:
    report = gather(lake, "e")
    said, sections = verdict(report), build(report)
    for text in (page(report, said, sections), printed_page(report, said, sections)):
        elements = Elements(text)
        assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
        assert "look-at" in elements.ids()
        assert "Records that may be mislabelled" in "".join(elements.words)


def test_without_a_target_kinds_are_of_all_records(tmp_path: Path) -> None:
    lake = flipped(tmp_path / "lake", target=False)
    section = section_of(lake)
    table, gallery = section.parts[:2]
    assert isinstance(table, Table)
    assert isinstance(gallery, Gallery)
    assert table.columns[1] == "records"
    assert "of them named by the attack" not in table.columns
    assert {record.sample_id for record in gallery.records} == set(WRONG)


def test_computed_only_where_it_can_part_and_takes_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = gather(make(tmp_path / "losses", samples=60), "e")
    assert losses.suspects is None
    assert all(record.suspicion == "" for record in losses.exposed)
    monkeypatch.setattr(gathering, "MOST_ROWS", 100)
    large = gather(flipped(tmp_path / "large"), "e")
    assert large.suspects is None
    assert "suspects" in [ask.name for ask in large.asks]


@pytest.mark.parametrize(
    ("p", "told"),
    [(0.0, "less than 0.1%"), (3e-8, "less than 0.1%"), (0.004, "0.4%"), (0.48, "48%"), (1.0, "100%")],
)
def test_a_probability_of_nearly_nothing_is_told_without_its_digits(p: float, told: str) -> None:
    assert probability(p) == told
