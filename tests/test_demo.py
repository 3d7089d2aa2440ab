"""The demo: it ends with headline numbers, a report and SQL that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from losslake.cli import _run


@pytest.mark.usefixtures("warm_workers")
def test_the_demo_runs_from_data_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["demo", "--lake", "lake", "--shadows", "8"], debug=True) == 0
    said = capsys.readouterr().out
    assert re.search(r"LiRA +AUC 0\.\d{3} \(95%: 0\.\d{3} to 0\.\d{3}\)", said)
    assert (tmp_path / "lake-report.html").stat().st_size > 100_000
    queries = [line.strip() for line in said.splitlines() if line.strip().startswith("losslake sql")]
    assert len(queries) == 3
    for query in queries:
        assert _run(shlex.split(query)[1:], debug=True) == 0
        assert len(capsys.readouterr().out.splitlines()) > 10

    # A second call finds everything done, trains nothing and says the same.
    before = sorted((tmp_path / "lake" / "runs").rglob("*.json"))
    assert _run(["demo", "--lake", "lake", "--shadows", "8"], debug=True) == 0
    assert sorted((tmp_path / "lake" / "runs").rglob("*.json")) == before
    assert re.findall(r"AUC \S+", capsys.readouterr().out) == re.findall(r"AUC \S+", said)
