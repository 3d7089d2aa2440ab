"""Tables for the screen: what fits, and that nothing in a cell is markup or drives the terminal."""

from __future__ import annotations

import sys

import pytest
from losslake.analysis.output import aligned
from losslake.store.shell.table import cell_text, draw_table
from rich.cells import cell_len

HOSTILE = [
    "[red]x[/red]",
    "[link=http://x]y[/link]",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://x\x07",
    "a\u202eb",
    "\r\n\t\x9b2J",
]


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether standard output says it is a terminal, in plain black and white."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: request.param)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "120")
    return bool(request.param)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_in_a_cell_is_shown_and_not_obeyed(text: str, terminal: bool) -> None:
    shown = "".join(letter if letter.isprintable() else "·" for letter in text)
    assert draw_table([text], [(text,), ("x" * len(text),)]).count(shown) == 2
    assert aligned([("name", text)]) == [f"name  {shown}"]
    for lines in (draw_table([text], [(text,)]).split("\n"), aligned([(text,)])):
        assert all(line.isprintable() for line in lines)


def test_styles_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("value", 1)]
    plain = draw_table(["a", "b"], rows)
    assert "\x1b" not in plain
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[1m" in draw_table(["a", "b"], rows)
    monkeypatch.setenv("TERM", "dumb")
    assert draw_table(["a", "b"], rows) == plain


@pytest.mark.parametrize("width", [10, 20, 27, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("columns", [1, 2, 5, 14])
def test_a_table_fits_and_shows_the_first_and_the_last_columns(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"{number}-name-汉字" for number in range(columns)]
    lines = draw_table(names, [["汉字" * (number + 1) for number in range(columns)]] * 3, gap_after=2).split(
        "\n"
    )
    assert len(lines) == 8
    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}
    assert cell_len(lines[0]) <= width
    assert lines[1].startswith("│ 0")
    assert all(cell.strip() == "…" for cell in lines[5].strip("│").split("│"))
    if width >= 27:
        assert f"{columns - 1}-n" in lines[1]


def test_long_cells_are_cut_and_numbers_stand_to_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert draw_table(["text", "number"], [("x" * 1000, 1), (None, None)]).split("\n") == [
        f"┌{'─' * 50}┬{'─' * 8}┐",
        f"│ {'text':<48} │ number │",
        f"├{'─' * 50}┼{'─' * 8}┤",
        f"│ {'x' * 47}… │      1 │",
        f"│ {'NULL':<48} │   NULL │",
        f"└{'─' * 50}┴{'─' * 8}┘",
    ]


def test_an_empty_answer_has_its_columns() -> None:
    assert draw_table(["a"], []) == "┌───┐\n│ a │\n├───┤\n└───┘"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "NULL"),
        (True, "true"),
        (1 / 3, "0.333333"),
        (["a", None, [1.0]], "[a, NULL, [1]]"),
        (list(range(20)), f"[{', '.join(map(str, range(16)))}, …]"),
        ({"a": "\x1b"}, "{a: ·}"),
        (b"\x00\xff", "00ff (2 bytes)"),
    ],
)
def test_values_as_text(value: object, text: str) -> None:
    assert cell_text(value) == text


def test_results_are_aligned_in_cells_of_the_screen() -> None:
    rows = [("auc", 0.65789, "汉字", "x"), ("tpr fpr=0.1", 12345.6, "", "")]
    assert aligned(rows, ("metric", "value", "", "n")) == [
        "metric       value            n",
        "auc          0.6579     汉字  x",
        "tpr fpr=0.1  1.235e+04",
    ]


@pytest.mark.parametrize(("width", "lines"), [(200, 1), (60, 4), (30, 1)])
def test_the_last_cell_is_broken_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, width: int, lines: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(width))
    found = aligned([("FAIL", "auc of lira <= 0.6", "word " * 20)])
    assert len(found) == lines
    assert sum(line.count("word") for line in found) == 20


@pytest.mark.parametrize(
    "long", ["a text of many words, " * 9, "汉字" * 60], ids=["words", "wide characters"]
)
def test_a_long_name_is_cut_where_a_terminal_has_no_room(monkeypatch: pytest.MonkeyPatch, long: str) -> None:
    rows, head = (
        [(5, long, "0", 2.9777), (1658, "train/1658", "1", 2.3959)],
        ("sample_id", "key", "label", "score"),
    )
    whole = aligned(rows, head, shorten="key")
    assert long.strip() in whole[1]  # nobody knows who reads a pipe
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    lines = [f"  {line}" for line in aligned(rows, head, shorten="key")]
    assert len(lines) == 3
    assert 77 <= max(map(cell_len, lines)) <= 80
    assert "…" in lines[1]
    assert lines[1].endswith("2.9777")
    assert "train/1658" in lines[2]
    assert len(aligned(rows, head)[1]) > 100  # a column that nobody allows to be cut is whole
    few = [row for row in rows if row[1] != long]
    monkeypatch.setenv("COLUMNS", "30")
    assert aligned(few, head, shorten="key")[1].split() == ["1658", "train/1658", "1", "2.3959"]
