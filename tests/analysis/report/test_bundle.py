"""The script of the charts: put together once, and never taken from a file that is not whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import vl_convert
from losslake.analysis.report import bundle


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that the library was asked to put together."""
    calls: list[str] = []

    def put_together(call: str) -> str:
        calls.append(call)
        return f"/* é */\r\nlet a = 1;\n{call}\n"

    monkeypatch.setattr(vl_convert, "javascript_bundle", put_together)
    monkeypatch.setattr(bundle, "user_cache_path", lambda *_, **__: tmp_path / "caches")
    return calls


def test_it_is_put_together_once(made: list[str], tmp_path: Path) -> None:
    first = bundle.kept_bundle("draw();")
    assert first == "/* é */\r\nlet a = 1;\ndraw();\n"
    assert bundle.kept_bundle("draw();") == first
    assert made == ["draw();"]
    bundle.kept_bundle("other();")
    assert made == ["draw();", "other();"]
    assert len(list((tmp_path / "caches").iterdir())) == 2


@pytest.mark.parametrize("cut", [0, 10, 70, -1])
def test_a_file_that_is_not_whole_is_none(made: list[str], tmp_path: Path, cut: int) -> None:
    first = bundle.kept_bundle("draw();")
    (kept,) = (tmp_path / "caches").iterdir()
    kept.write_bytes(kept.read_bytes()[:cut])
    assert bundle.kept_bundle("draw();") == first
    assert bundle.kept_bundle("draw();") == first
    assert made == ["draw();"] * 2


def test_where_nothing_can_be_kept_it_is_put_together_each_time(made: list[str], tmp_path: Path) -> None:
    (tmp_path / "caches").write_text("in the way")
    assert bundle.kept_bundle("draw();") == bundle.kept_bundle("draw();")
    assert made == ["draw();"] * 2


def _pipe(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
@pytest.mark.parametrize("spoil", [lambda kept: kept.chmod(0o622), lambda kept: kept.chmod(0o620), _pipe])
def test_what_others_could_have_written_is_not_taken(
    made: list[str], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    first = bundle.kept_bundle("draw();")
    (kept,) = (tmp_path / "caches").iterdir()
    spoil(kept)
    assert bundle.kept_bundle("draw();") == first
    assert made == ["draw();"] * 2
    assert bundle.kept_bundle("draw();") == first  # what is in its place now is one's own
    assert made == ["draw();"] * 2


def test_without_a_home_nothing_is_made_where_it_runs(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundle, "user_cache_path", lambda *_, **__: Path("~/.cache/losslake"))
    assert bundle.kept_bundle("draw();") == bundle.kept_bundle("draw();")
    assert made == ["draw();"] * 2
    assert list(tmp_path.iterdir()) == []
