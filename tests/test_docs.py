"""Every page of docs/ is run, block by block in the order of the page, and what it shows is what comes out.

How to write a page (docs/NAME.md; pages that docs/generate.py makes are not run):

```console        Lines `$ COMMAND`, each followed by what it prints (both streams, as on a terminal). A command goes on
                  over lines that begin with `> `, or after a line that ends with a backslash. One bash runs the whole
                  page, so `export` and `cd` stay. A command must succeed: one that is meant to fail is written
                  `COMMAND; echo "exit code $?"`.
```python         All of a page run in one namespace. A ```text block that follows directly is what it printed.
```sql            A query for `losslake sql`, on the lake in LOSSLAKE_LAKE. A ```text block that follows directly is
                  its answer.
```toml title="rules.toml"
                  A block of any language with a title is written to that file, and not run.

Blocks of other languages are only shown. In what is expected, a line `...` stands for any number of lines and `...` in
a line for any text; runs of blanks count as one. Numbers must be equal, unless a line `<!-- tolerance 0.05 -->` stands
before the block: then they may differ by so much (for what a training computed). `<!-- not run: REASON -->` before a
block leaves it out. A line of progress that work under way prints now and then (`target: 21/40 epochs, ..., 0:14 left`)
is no part of what comes out: only a slow or busy machine prints any.

A page runs in an empty folder that holds copies of docs/ and examples/, so commands are those of somebody who stands
in the repository. Pages share a lake made of numbers from a fixed seed, and show its numbers exactly:

    $ python docs/make_lake.py arrays.npz
    $ export LOSSLAKE_LAKE=my-lake
    $ losslake collect import arrays arrays.npz --experiment clinic --target run-0000 2>/dev/null

`losslake` and `python` are those of the running interpreter; what losslake imports they have imported before. Every page has a row in docs/README.md.

`LOSSLAKE_DOCS=update pytest tests/test_docs.py -k NAME` writes what came out into the page, where it differs by more than the
tolerance; `LOSSLAKE_DOCS=renew` writes every figure anew, so that none grows old inside its tolerance.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from places import ROOT
from warm import HANGS, OF_DOCS, warm_losslake, warm_python

MADE = "<!-- Made by docs/generate.py"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if MADE not in page.read_text()]
UPDATE = os.environ.get("LOSSLAKE_DOCS") in ("update", "renew")
RENEW = os.environ.get("LOSSLAKE_DOCS") == "renew"
DONE = "--- done ---"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
PIECES = re.compile(rf"(\.\.\.|{NUMBER.pattern})")
OPENS = re.compile(r"```(\w+)(.*)")
TITLE = re.compile(r'title="([^"]+)"')
UNDER_WAY = re.compile(r"[\w. -]+: (\d+/\d+ \w+(( after [\d:]+|, .* left)(  .*)?)?|getting ready)")
MADE_ELSEWHERE = ("<!-- what follows is made by tests/", "<!-- Made by benchmarks/")
MARK = re.compile(r"<!-- (?:tolerance (?P<tolerance>[\d.]+)|not run: (?P<reason>.+)) -->")

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LOSSLAKE")} | {
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "COLUMNS": "100",
    "LC_ALL": "C.UTF-8",
}

PYTHON = f"""
import json, sys, traceback
page = {{"__name__": "__main__"}}
for line in sys.stdin:
    failed = 0
    try:
        exec(compile(json.loads(line), "<page>", "exec"), page)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        failed = 1
    print("\\n{DONE}", failed, flush=True)
"""


@dataclass
class Step:
    """One thing to run, at a line of the page; ``shown`` is what the lines ``first`` to ``last`` expect, None: anything."""

    kind: str
    text: str
    line: int
    first: int = 0
    last: int = 0
    shown: list[str] | None = None
    tolerance: float = 0.0


@dataclass
class Block:
    language: str
    about: str
    start: int
    """The number of the first line inside, from 0."""
    lines: list[str] = field(default_factory=list)
    tolerance: float = 0.0
    skipped: bool = False


def blocks_of(lines: list[str]) -> list[Block]:
    """The fenced blocks of a page, with the marks before them."""
    blocks: list[Block] = []
    inside: Block | None = None
    mark: re.Match[str] | None = None
    for number, line in enumerate(lines):
        if inside is not None:
            if line == "```":
                inside = None
            else:
                inside.lines.append(line)
        elif opening := OPENS.fullmatch(line):
            inside = Block(opening[1], opening[2], number + 1)
            if mark is not None:
                inside.tolerance = float(mark["tolerance"] or 0)
                inside.skipped = mark["reason"] is not None
            blocks.append(inside)
            mark = None
        elif line:
            assert not line.startswith("```"), f"line {number + 1}: a block must name its language"
            mark = MARK.fullmatch(line)
            known = mark or not line.startswith("<!--") or line.startswith(MADE_ELSEWHERE)
            assert known, f"line {number + 1}: unknown mark {line}"
    assert inside is None, "a block is not closed"
    return blocks


def steps_of(lines: list[str]) -> list[Step]:
    """What a page does, in order."""
    steps: list[Step] = []
    blocks = blocks_of(lines)
    for block, after in zip(blocks, [*blocks[1:], None]):
        if block.skipped:
            continue
        text = "\n".join(block.lines) + "\n"
        if title := TITLE.search(block.about):
            steps.append(Step("file", json.dumps([title[1], text]), block.start))
        elif block.language == "console":
            steps += commands_of(block)
        elif block.language in ("python", "sql"):
            step = Step(block.language, text, block.start, tolerance=block.tolerance)
            between = lines[block.start + len(block.lines) + 1 : after.start - 1] if after else []
            if (
                after
                and after.language == "text"
                and not any(line and not MARK.fullmatch(line) for line in between)
            ):
                step.first, step.last = after.start, after.start + len(after.lines)
                step.shown = after.lines
                step.tolerance = after.tolerance or block.tolerance
            steps.append(step)
    return steps


def commands_of(block: Block) -> list[Step]:
    """The commands of a console block, each with what it prints."""
    steps: list[Step] = []
    for number, line in enumerate(block.lines, block.start):
        if line.startswith("$ "):
            steps.append(
                Step("shell", line[2:], number, number + 1, number + 1, [], tolerance=block.tolerance)
            )
            continue
        assert steps, f"line {number + 1}: a console block begins with a command, $ COMMAND"
        last = steps[-1]
        if not last.shown and (line.startswith("> ") or line == ">" or last.text.endswith("\\")):
            last.text += "\n" + (line[2:] if line.startswith(">") else line)
            last.first = last.last = number + 1
        else:
            assert last.shown is not None
            last.shown.append(line)
            last.last = number + 1
    for step in steps:
        while step.shown and not step.shown[-1]:
            step.shown.pop()
            step.last -= 1
    return steps


class Runner:
    """One bash and one Python for a page, in its folder."""

    def __init__(self, folder: Path) -> None:
        programs = folder.parent / "programs"
        programs.mkdir()
        for name, command in (("losslake", warm_losslake(OF_DOCS)), ("python", warm_python(OF_DOCS))):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
            (programs / name).chmod(0o755)
        folder.mkdir()
        for given in ("docs", "examples"):
            if (ROOT / given).is_dir():
                shutil.copytree(ROOT / given, folder / given, ignore=shutil.ignore_patterns("__pycache__"))
        self.folder = folder
        self.environment = ENVIRONMENT | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        self.running: dict[str, subprocess.Popen[str]] = {}
        # A command that waits for ever (an open quote, a server) fails its page.
        self.patience = threading.Timer(HANGS, self.kill)
        self.patience.start()

    def run(self, step: Step) -> list[str]:
        """The lines that a step prints. Raises AssertionError where it fails."""
        if step.kind == "file":
            name, text = json.loads(step.text)
            (self.folder / name).write_text(text)
            return []
        if step.kind == "sql":
            # In the page's Python, whose second and later queries need no start of a program.
            [lake] = self._shell(Step("shell", 'realpath "$LOSSLAKE_LAKE"', step.line))
            words = ["sql", "--lake", lake, step.text]
            return self._python(
                f"from losslake.cli import cli; cli.main({words!r}, standalone_mode=False)", step
            )
        return self._shell(step) if step.kind == "shell" else self._python(step.text, step)

    def _shell(self, step: Step) -> list[str]:
        ask = f"{{ {step.text}\n}} </dev/null\nprintf '\\n{DONE} %s\\n' $?"
        return self._ask("bash", ["bash"], ask, step)

    def _python(self, code: str, step: Step) -> list[str]:
        return self._ask("python", [*warm_python(OF_DOCS), "-c", PYTHON], json.dumps(code), step)

    def _ask(self, program: str, command: list[str], text: str, step: Step) -> list[str]:
        process = self.running.get(program)
        if process is None:
            process = self.running[program] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if program == "bash" else None,
                start_new_session=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(text + "\n")
        process.stdin.flush()
        printed: list[str] = []
        for line in process.stdout:
            if line.startswith(DONE):
                printed = "\n".join(printed).rstrip().splitlines()
                assert line == f"{DONE} 0\n", told(step, "fails", printed)
                return printed
            if not UNDER_WAY.fullmatch(line.rstrip("\n")):
                printed.append(line.rstrip("\n"))
        raise AssertionError(told(step, "ends the program that runs it", printed))

    def kill(self) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children hold the pipe, too

    def close(self) -> None:
        self.patience.cancel()
        self.kill()
        for process in self.running.values():
            process.communicate()


def told(step: Step, what: str, printed: list[str]) -> str:
    return "\n".join([f"line {step.line + 1} {what}: {step.text.strip()}", *printed])


def agree(shown: list[str], printed: list[str], tolerance: float = 0.0) -> bool:
    """Whether what was printed is what the page shows; a line ``...`` stands for any number of lines."""
    reached = {0}  # how many printed lines the shown lines so far may have taken
    for line in shown:
        if line.strip() == "...":
            reached = set(range(min(reached), len(printed) + 1)) if reached else reached
        else:
            reached = {
                at + 1 for at in reached if at < len(printed) and same_line(line, printed[at], tolerance)
            }
    return len(printed) in reached


def same_line(shown: str, printed: str, tolerance: float) -> bool:
    """Whether a printed line is the one shown, but for blanks, ``...`` and what the tolerance allows numbers."""
    shown, printed = " ".join(shown.split()), " ".join(printed.split())
    pattern, numbers = "", []
    for piece in PIECES.split(shown):
        if piece == "...":
            pattern += ".*"
        elif tolerance and NUMBER.fullmatch(piece):
            pattern += f"({NUMBER.pattern})"
            numbers.append(float(piece))
        else:
            pattern += re.escape(piece)
    found = re.fullmatch(pattern, printed)
    if found is None:
        return False
    got = map(float, found.groups())
    return all(abs(value - wanted) <= tolerance for value, wanted in zip(got, numbers, strict=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path) -> None:
    lines = page.read_text().splitlines()
    steps = steps_of(lines)
    runner = Runner(tmp_path / "page")
    different: list[tuple[Step, list[str]]] = []
    try:
        for step in steps:
            printed = runner.run(step)
            if step.shown is not None and not agree(step.shown, printed, 0.0 if RENEW else step.tolerance):
                different.append((step, printed))
    finally:
        runner.close()
    if UPDATE:
        for step, printed in reversed(different):
            shown = step.shown or []
            lines[step.first : step.last] = shortened(shown, printed)
            if RENEW:  # also where a line leaves something out
                lines[step.first : step.last] = renewed(shown, lines[step.first : step.last])
        page.write_text("\n".join(lines) + "\n")
        return
    assert not different, "\n\n".join(
        "\n".join([told(step, "shows", step.shown or []), "but prints", *printed])
        for step, printed in different
    )


def shortened(shown: list[str], printed: list[str]) -> list[str]:
    """What was printed, left out where the page leaves something out by a line of dots."""
    if shown.count("...") != 1:
        return printed
    before = shown.index("...")
    after = len(shown) - before - 1
    return [*printed[:before], "...", *printed[len(printed) - after :]]


def renewed(shown: list[str], printed: list[str]) -> list[str]:
    """What was printed, as `shortened` leaves it, and where a line leaves something out the line with the numbers that were printed."""
    if len(shown) != len(printed):
        return printed
    return [with_numbers(line, now) for line, now in zip(shown, printed)]


def with_numbers(shown: str, printed: str) -> str:
    """A line that leaves something out by dots, with the numbers of the printed one; any other as it was printed."""
    pieces = PIECES.split(shown)
    if "..." not in pieces or shown.strip() == "...":
        return printed
    pattern = "".join(
        ".*"
        if piece == "..."
        else f"({NUMBER.pattern})"
        if at % 2
        else r"\s+".join(map(re.escape, re.split(r"\s+", piece)))
        for at, piece in enumerate(pieces)
    )
    found = re.fullmatch(pattern, printed)
    if found is None:
        return printed
    numbers = iter(found.groups())
    return "".join(next(numbers) if at % 2 and piece != "..." else piece for at, piece in enumerate(pieces))


def test_figures_are_renewed_and_what_a_line_leaves_out_stays_out() -> None:
    assert with_numbers("auc 0.5 ... n 3", "auc  0.58 and more n 4") == "auc 0.58 ... n 4"
    assert with_numbers("auc 0.5793", "auc  0.58") == "auc  0.58"
    assert with_numbers("took ... s", "done in 3 s") == "done in 3 s"
    assert renewed(["a 1", "...", "b 2 ..."], ["a 2", "...", "b 3 c"]) == ["a 2", "...", "b 3 ..."]


def test_a_page_brought_up_to_date_stays_short() -> None:
    printed = ["head", "1", "2", "3", "note"]
    assert shortened(["head", "9", "...", "note"], printed) == ["head", "1", "...", "note"]
    assert shortened(["head", "..."], printed) == ["head", "..."]
    assert shortened(["head", "9"], printed) == printed


def test_pages_are_listed_in_the_index() -> None:
    listed = {link for link, _ in links_of(ROOT / "docs" / "README.md")}
    assert {page.name for page in PAGES if page.stem != "README"} <= listed


def test_links_lead_somewhere() -> None:
    missing = []
    for page in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        for link, anchor in links_of(page):
            place = page.parent / link if link else page
            if not place.exists() or (anchor and anchor not in anchors_of(place)):
                missing.append(f"{page.relative_to(ROOT)}: {link}#{anchor}")
    assert missing == []


def links_of(page: Path) -> list[tuple[str, str]]:
    """The links of a page to other files and places in them."""
    return re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", without_blocks(page))


def anchors_of(page: Path) -> set[str]:
    """The names of a page's headings in links, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", without_blocks(page), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def without_blocks(page: Path) -> str:
    return re.sub(r"^```\w.*?^```$", "", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize(
    ("shown", "printed", "tolerance", "same"),
    [
        ([], [], 0, True),
        (["a  b"], ["a b"], 0, True),
        (["a"], ["a", "b"], 0, False),
        (["a", "..."], ["a"], 0, True),
        (["a", "...", "d"], ["a", "b", "c", "d"], 0, True),
        (["...", "b", "..."], ["a", "b", "b", "c"], 0, True),
        (["a", "...", "d"], ["a", "b", "d", "c"], 0, False),
        (["auc 0.5..."], ["auc 0.5793"], 0, True),
        (["auc 0.5... n"], ["auc 0.6793 n"], 0, False),
        (["auc 0.58"], ["auc 0.5793"], 0, False),
        (["auc 0.58"], ["auc 0.5793"], 0.01, True),
        (["auc 0.58 ..."], ["auc 0.5993 0.1"], 0.01, False),
        (["3 rows (a.b)"], ["3 rows (axb)"], 0, False),
        (["-1.5e-3 x"], ["-0.0014 x"], 0.001, True),
    ],
)
def test_what_agrees(shown: list[str], printed: list[str], tolerance: float, same: bool) -> None:
    assert agree(shown, printed, tolerance) is same


def test_a_page_is_read_in_order() -> None:
    page = """# A page
```toml title="rules.toml"
a = 1
```
```console
$ export A=1
$ echo one \\
  two
one two

$ cat <<EOF
> $A
> EOF
1

```
<!-- tolerance 0.1 -->
```python
print(2)
```

```text
2
```
<!-- not run: needs a GPU -->
```python
print(3)
```
```text
3
```
""".splitlines()
    steps = steps_of(page)
    assert [(step.kind, step.shown) for step in steps] == [
        ("file", None),
        ("shell", []),
        ("shell", ["one two"]),
        ("shell", ["1"]),
        ("python", ["2"]),
    ]
    assert json.loads(steps[0].text) == ["rules.toml", "a = 1\n"]
    assert steps[3].text == "cat <<EOF\n$A\nEOF"
    assert [page[step.first : step.last] for step in steps if step.shown] == [
        step.shown for step in steps if step.shown
    ]
    assert steps[4].tolerance == 0.1


def test_progress_of_work_under_way_is_left_out(tmp_path: Path) -> None:
    page = """```console
$ echo "compact clinic: 66/66 files"; echo "target: 1/40 epochs after 0:16  target epoch 1/40"; echo "target: 21/40 epochs, 1.35 epochs/s, 0:14 left  target epoch 21/40"; echo "target: 40/40 epochs, 2 epochs/s, 0:20  done"
```
""".splitlines()
    runner = Runner(tmp_path / "page")
    try:
        assert [runner.run(step) for step in steps_of(page)] == [
            ["target: 40/40 epochs, 2 epochs/s, 0:20  done"]
        ]
    finally:
        runner.close()


def test_a_page_runs_in_one_shell_and_one_namespace(tmp_path: Path) -> None:
    page = """```python title="given.py"
print("a file", __name__)
```
```console
$ export WORD=kept
$ echo "$WORD"; python given.py; ls given.py >&2
$ losslake no-such-command; echo "exit code $?"
```
```python
kept = 1
```
```python
print(kept + 1)
```
```text
```
""".splitlines()
    runner = Runner(tmp_path / "page")
    try:
        printed = [runner.run(step) for step in steps_of(page)]
        with pytest.raises(AssertionError, match="line 2 fails"):
            runner.run(Step("shell", "false", 1))
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            runner.run(Step("python", "1 / 0", 1))
        with pytest.raises(AssertionError, match="ends the program"):
            runner.run(Step("shell", "exit 3", 1))
    finally:
        runner.close()
    assert printed[1:3] == [[], ["kept", "a file __main__", "given.py"]]
    assert printed[3][-1] == "exit code 2"
    assert printed[4:] == [[], ["2"]]
