"""What a GPU is asked first: tried at toy size on a CPU, stopped and gone on with."""

from __future__ import annotations

import json

import pytest

gpu_first = pytest.importorskip("gpu_first")


def test_a_part_is_done_once_and_one_that_fails_is_told_of(tmp_path, capsys, monkeypatch):
    """LiRA on a few toy models has its result; what has one is not done again; what fails leaves none, and is named."""
    asked = gpu_first.Asked(tmp_path, "digits", "cpu", True, 60)
    gpu_first.do("shadows", asked)
    told = json.loads((tmp_path / "shadows.json").read_text())
    assert told["toy"]
    assert told["result"]["models"] == 4
    assert {metric["metric"] for metric in told["result"]["lira"]} == {"auc", "tpr_at_fpr"}

    monkeypatch.setattr(gpu_first, "PARTS", {name: gpu_first.PARTS[name] for name in ("accuracy", "shadows")})
    gpu_first.main([str(tmp_path), "no-such-data", "--device", "cpu", "--minutes", "1"])
    out = capsys.readouterr().out
    assert "accuracy: failed" in out
    assert "shadows: is there" in out
    assert "- **accuracy**: nothing yet" in (tmp_path / "summary.md").read_text()
    assert "no-such-data" in (tmp_path / "accuracy.log").read_text()


def test_a_part_that_takes_too_long_is_stopped_and_nothing_of_it_counts(tmp_path, capsys):
    """No time is left for the parts after it, and the summary says so."""
    gpu_first.main(
        [str(tmp_path), "--toy", "--minutes", "0.1"]
    )  # 6 s, less than what is kept for the summary
    assert capsys.readouterr().out.count("no time left") == len(gpu_first.PARTS)
    asked = gpu_first.Asked(tmp_path, "digits", "cpu", True, 60)
    assert gpu_first.apart("accuracy", asked, 0.2).startswith("stopped after 0 s")
    assert not (tmp_path / "accuracy.json").exists()
    assert (tmp_path / "summary.md").read_text().count("nothing yet") == len(gpu_first.PARTS)
