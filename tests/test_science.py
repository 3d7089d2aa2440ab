"""The table of attacks by number of shadow models: made at toy size, stopped, and gone on with."""

from __future__ import annotations

import json

import numpy as np
import pytest

science = pytest.importorskip("science")


def test_it_goes_on_where_it_stopped_and_says_what_is_missing(tmp_path, capsys):
    """A cell that is there is not computed again, one that is not is, to the same figures; a page is made of what is there."""
    science.main([str(tmp_path), "--toy", "--jobs", "1", "--targets", "2"])
    files = sorted((tmp_path / "cells").rglob("*.json"))
    assert len(files) == 2 * len(list(science.cells_of("digits", 0, 4)))
    assert "Cells that are missing: none." in (tmp_path / "science.md").read_text()
    capsys.readouterr()

    kept = {file: (file.read_text(), file.stat().st_mtime_ns) for file in files}
    again = next(file for file in files if file.match("lira/02-00.json"))
    again.unlink()
    science.main([str(tmp_path), "--toy", "--targets", "2", "--page", str(tmp_path / "partly.md")])
    assert f"toy digits 1 of {len(files)}" in (tmp_path / "partly.md").read_text().replace(",", "")
    science.main([str(tmp_path), "--toy", "--jobs", "1", "--targets", "2"])
    assert "1 cells" in capsys.readouterr().out
    timeless = lambda text: {k: v for k, v in json.loads(text).items() if k != "seconds"}  # noqa: E731
    for file, (text, written) in kept.items():
        assert timeless(file.read_text()) == timeless(text)
        assert file == again or file.stat().st_mtime_ns == written


def test_a_cell_compares_a_target_with_so_many_models_after_it(tmp_path):
    """The attack's own command, told to leave out the other models, gives the figures of the cell."""
    science.main([str(tmp_path), "--toy", "--jobs", "1", "--targets", "1"])
    lake = science.Lake.open(tmp_path / "lake")
    cell = json.loads((tmp_path / "cells/digits/rmia/02-00.json").read_text())
    with science.open_source(lake, "digits", "shadow-0000") as source:
        outcome = science.find("rmia").compute
        with source.without(["shadow-0003", "shadow-0004"]) as fewer:
            score, member = outcome(fewer).arrays()
    assert cell["scored"] == (score == score).mean() < 1
    # What has no score is never claimed: it ties at the bottom.

    value = np.where(score == score, score, -np.inf)
    beats = (value[member][:, None] > value[~member]) + 0.5 * (value[member][:, None] == value[~member])
    assert cell["auc"] == pytest.approx(beats.mean(), abs=1e-12)


def test_the_page_names_what_is_surely_above_a_default_and_gives_means_with_their_intervals(tmp_path):
    """Paired over targets: .05 above, give or take .01, is sure; the same mean with a target far below is not."""
    page = pytest.importorskip("science_page")

    def cells(score, rates):
        about = {"data": "d", "score": score, "shadows": 4, "auc": 0.6, "tpr_at_fpr@0.001": None}
        return [
            {**about, "target": target, "tpr_at_fpr@0.01": rate, "vulnerable": 0.1}
            for target, rate in enumerate(rates)
        ]

    made = [
        *cells("lira", [0.1, 0.2, 0.3, 0.4]),
        *cells("lira[variance=pooled]", [0.15, 0.26, 0.34, 0.45]),
        *cells("rmia", [0.5, 0.3, 0.3, 0.1]),
        {"data": "d", "score": "entropy", "shadows": 4, "target": 0, "failed": "too few"},
    ]
    page.write_page(tmp_path / "page.md", made, {"d": "D"}, 4, len(made) + 3)
    text = (tmp_path / "page.md").read_text()
    assert "Surely above a default, with these numbers of shadow models:" in text
    assert "- `lira[variance=pooled]` above `lira`: D 4" in text
    assert "| `lira[variance=pooled]` less `lira`, D | **+.050 ± .013** |" in text  # 3.182 * 0.00816 / 2
    assert "| `rmia` less `lira`, D | +.050 ± .459 |" in text
    assert "| `lira` | | .250 ± .205 |" in text
    assert "D: its non-members do not resolve this rate." in text
    assert "Cells that are missing: D 3 of 16." in text
    assert "`entropy`" not in text
    assert (tmp_path / "pictures" / "shadow-models.svg").read_text().startswith("<svg")
