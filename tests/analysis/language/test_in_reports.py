"""Reports make the attacks on tokens where the target keeps them, and do not speak of them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losslake.analysis.declare import parse_score, variant_of
from losslake.analysis.report.data import LABELS, score_name
from losslake.analysis.report.gather import COMPUTED, OF_TEXTS, gather
from losslake.analysis.report.parts import Table
from losslake.analysis.report.sections.training import trained
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.collect.importers.runs import GivenRun, Universe, import_runs
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake
from run_data import of_texts

MakeLake = Callable[..., Lake]
N = 80
KEEP = np.arange(N)[None] % 2 == 0


def lake_with(lake_of: MakeLake, names: list[str], columns: dict[str, Any]) -> Lake:
    given = of_texts(N, 1, members=KEEP[0])
    loss = np.array([[np.mean(row) for row in given["token_losses"]]])
    tokens = [{name: given[name] for name in names}]
    return lake_of(KEEP, np.zeros(KEEP.shape), loss=loss, tokens=tokens, columns=columns)


@pytest.mark.parametrize(
    ("names", "columns", "made"),
    [
        (["token_losses", "token_z", "lower_loss"], {"zlib_bytes": [9] * N}, OF_TEXTS),
        (["token_losses"], {}, ("min-k",)),
        ([], {}, ()),
    ],
    ids=["all of them", "losses alone", "none"],
)
def test_they_are_made_where_the_columns_are(
    lake_of: MakeLake, names: list[str], columns: dict[str, Any], made: tuple[str, ...]
) -> None:
    report_lake = lake_with(lake_of, names, {**columns, "group": ["canary"] * N})
    report = gather(report_lake, "tests")
    shown = {attack.scored.name: attack.scored.label for attack in report.attacks}
    assert [name for name in shown if name in OF_TEXTS] == list(made)
    assert not made or shown["min-k"] == "Min-K%"
    left_out = {name for name, _ in report.absent} & {"Min-K%++", "zlib attack", "lowercase attack"}
    assert left_out == ({"Min-K%++", "zlib attack", "lowercase attack"} if len(made) == 1 else set())
    assert "exposure" in {ask.name for ask in report.asks}
    table = trained(report).parts[0]
    assert isinstance(table, Table)
    assert not table.caption  # of accuracies, which there are none of
    # They are kept now, and made no second time beside what is kept.
    assert [attack.label for attack in gather(Lake.open(report_lake.path), "tests").attacks] == list(
        shown.values()
    )
    assert report.judgement.attack is not None
    assert report.judgement.attack.scored.name == "loss"


@pytest.mark.parametrize("name", LABELS)
def test_a_score_that_has_a_label_is_kept_under_that_name(name: str) -> None:
    # Under another one, as plus-plus=True, a report shows a kept one a second time.
    analysis, given = parse_score(name, find)
    variant = variant_of(analysis.options, given)
    assert name == (f"{analysis.name}[{variant}]" if variant else analysis.name)


def test_reports_name_scores_as_the_lake_keeps_them() -> None:
    for name in (*COMPUTED, *OF_TEXTS, *(each for each in LABELS if "[" in each)):
        analysis, options = parse_score(name, find)
        assert score_name(analysis.name, variant_of(analysis.options, options)) == name


def test_attack_s_needs_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [
        GivenRun(name, "", rng.random(N) < 0.5, {"loss": rng.random(N)}, role=role)
        for name, role in (("target", "target"), ("shadow-0000", "shadow"), ("shadow-0001", "shadow"))
    ]
    lake = Lake.open(tmp_path / "lake", create=True)
    universe = Universe(None, np.zeros(N, dtype=bool), {}, {})
    import_runs(
        lake,
        "tests",
        universe,
        lambda: runs,
        [one.name for one in runs],
        layout="x",
        source="",
        target="target",
        progress=None,
    )
    with open_source(lake, "tests") as source, pytest.raises(NotEnoughData, match="have no labels"):
        run_analysis(source, find("attack-s"))
