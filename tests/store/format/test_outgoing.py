"""Every character of Unicode through every way out."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from losslake.store.format.outgoing import _Gate, drawable, for_terminal, printable, spelled, whole_text
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.shell.output import write_frame

EVERY = [chr(code) for code in range(sys.maxunicode + 1)]
VALID = [letter for letter in EVERY if not 0xD800 <= ord(letter) < 0xE000]
ODD = "".join(
    letter
    for letter in VALID
    if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") or letter == "\uffff"
)


def drives(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_no_character_drives_a_terminal() -> None:
    assert not any(drives(out) for letter in EVERY for out in printable(letter))
    # Beside the letters before and after, which could complete an escape sequence.
    assert not any(
        drives(out) for letter in EVERY if letter not in "\n\t" for out in for_terminal(f"[{letter}0;x")
    )
    assert for_terminal("a\nb\tc\r\nd") == "a\nb\tc\nd"


@pytest.mark.parametrize(
    "hidden", ["\x1b[8m", "\x1b[2J", "\x1b]0;owned\x07", "\x1b[1;8m", "\x1b[1A", "\r", "\x9b2J"]
)
def test_what_moves_or_hides_is_a_dot_and_colours_stay(hidden: str) -> None:
    out = for_terminal(f"a{hidden}b\x1b[1mbold\x1b[0m")
    assert re.sub(r"\x1b\[[01]m", "", out).isprintable()
    assert out.endswith("\x1b[1mbold\x1b[0m")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "shift_jis", "utf-8"])
def test_every_character_reaches_a_stream_of_any_encoding(encoding: str) -> None:
    behind = io.BytesIO()
    stream = io.TextIOWrapper(behind, encoding=encoding)
    gate = _Gate(stream)
    gate.write("".join(EVERY))
    stream.flush()
    text = behind.getvalue().decode(encoding)
    assert not any(drives(letter) for letter in text if letter not in "\n\t")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("words", [["sql", "select 'ſ│\u2028' as k"], ["lake", "info"], ["lake", "runs"]])
def test_commands_print_in_any_encoding(tmp_path: Path, encoding: str, words: list[str]) -> None:
    Lake.open(tmp_path / "lake", create=True).create_experiment(
        "e", pa.table({"label": [0, 1]}), dataset={"name": "\x1b]0;owned\x07ſ\n  forged: line"}
    )
    done = subprocess.run(
        [sys.executable, "-m", "losslake.cli", *words, "--lake", str(tmp_path / "lake")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=True,
    )
    text = (done.stdout + done.stderr).decode(encoding)
    assert not any(drives(letter) for letter in text if letter != "\n")
    assert "\n  forged" not in text


def test_every_character_in_a_specification_is_one_that_xml_holds_and_names_stay_apart() -> None:
    rows = json.dumps(EVERY)
    spec = drawable(
        {"title": "".join(EVERY), "data": {"values": rows}, "sort": EVERY, "datasets": {"rows": rows}}
    )
    assert spec["datasets"]["rows"] == spec["data"]["values"]
    assert ElementTree.fromstring(f"<t><![CDATA[{spec['title']}]]></t>").text is not None
    assert not any(drives(letter) for letter in spec["title"] if letter != "\n")
    assert len(set(spec["sort"])) == len(EVERY)
    assert json.loads(spec["data"]["values"]) == spec["sort"]  # rows and the order of the axis still match
    assert spelled("ward\u2028A") == "ward[U+2028]A"


def test_halves_of_surrogate_pairs_do_not_end_a_file() -> None:
    assert whole_text("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert whole_text("".join(VALID)) == "".join(VALID)


def test_no_cell_of_a_csv_file_is_a_formula_and_numbers_are(tmp_path: Path) -> None:
    cells = [f"{letter}cmd|' /C calc'!A0" for letter in VALID] + ["-1.5", "+2", "-1e-3", "'=x"]
    out = tmp_path / "x.csv"
    write_frame(pl.DataFrame({"=name": cells, "n": np.arange(len(cells)) - 5}), out, "csv")
    back = pl.read_csv(out, infer_schema=False)
    told = back.to_series().to_list()
    assert back.columns == ["'=name", "n"]
    assert [new for new, old in zip(told, cells, strict=True) if new != old] == [
        f"'{old}"
        for old in cells
        if re.match("'*[=+\\-@\t\r\n＝＋－＠]", old) and old not in ("-1.5", "+2", "-1e-3")
    ]
    assert told[-4:] == ["-1.5", "+2", "-1e-3", "''=x"]
    assert back["n"][0] == "-5"


def test_a_report_holds_any_character_in_names_of_groups(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    n, rng = 80, np.random.default_rng(0)
    named = [f"</script><!--{ODD}", "ward\u2028A", "ward\u2029'\"\\u0000\\x00\\0"]
    group = [named[i % 3] for i in range(n)]
    table = pa.table({"label": np.arange(n) % 2, "group": group, "key": [f"{ODD}{i}" for i in range(n)]})
    lake.create_experiment("e", table, dataset={"name": "\ud800" + ODD})
    for r in range(9):
        member = rng.random(n) < 0.5
        with lake.write_run("e", "target" if r == 0 else f"s{r}", members=member) as run:
            loss, phi = rng.random(n), rng.normal(size=n) + 2 * member
            run.append_signals(
                np.arange(n), np.zeros(n, int), np.arange(n) % 2, loss=loss, phi=phi, correct=np.ones(n, bool)
            )
            run.commit(RunInfo(role="target" if r == 0 else "shadow"))
    from losslake.analysis.report.write import write_report

    for kind in ("svg", "png", "pdf", "html", "json"):
        write_report(lake, "e", tmp_path / f"report.{kind}")
    svg = (tmp_path / "report.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    assert "ward[U+2028]A" in svg
    told = (tmp_path / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<script\b.*?</script>", "", told, flags=re.DOTALL)
    assert "ward[U+2028]A" in body
    assert not any(drives(letter) for letter in body if letter not in "\n\t")
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
