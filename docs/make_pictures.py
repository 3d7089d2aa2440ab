"""The pictures in the README, made from the demo: the report's first screen, and the SQL shell; and those in docs/words.md, of two made lakes.

python docs/make_pictures.py [LAKE] writes report.png, shell.png, leak.png and shifted.png to docs/pictures. LAKE is one that `losslake demo` made;
without it the demo is run first. Needs chromium, tmux and what tests need.
"""

from __future__ import annotations

import html
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

PICTURES = Path(__file__).parent / "pictures"
MADE = Path(__file__).parents[1] / "tests/analysis/report/test_verdict.py"
"""Makes lakes of which the truth is known."""

COLUMNS, ROWS = 92, 29
ASKED = (
    "select sample_id, label, round(score, 2) as score from scores join samples using (sample_id) "
    "where analysis = 'lira' and variant = '' and target = 'target' and member order by score desc limit 5;",
    "select label, round(avg(score), 3) as memorization from scores join samples using (sample_id) "
    "where analysis = 'memorization' group by label order by 2 desc limit 4;",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lake = Path(sys.argv[1]) if len(sys.argv) > 1 else work / "losslake-demo"
        if len(sys.argv) == 1:
            subprocess.run(["losslake", "demo", "--lake", str(lake)], check=True)
        report = work / "report.html"
        subprocess.run(["losslake", "report", "--lake", str(lake), "--out", str(report)], check=True)
        PICTURES.mkdir(exist_ok=True)
        photograph(report, PICTURES / "report.png", 1180, 745)
        page = work / "shell.html"
        page.write_text(terminal_page(shell_screen(lake)))
        photograph(page, PICTURES / "shell.png", 960, 640)
        made = runpy.run_path(str(MADE))
        for name, picture in (("strong leak", "leak.png"), ("shifted members", "shifted.png")):
            lake, report = work / name, work / f"{name}.html"
            made["make"](lake, **made["LAKES"][name])
            subprocess.run(["losslake", "report", "--lake", str(lake), "--out", str(report)], check=True)
            photograph(report, PICTURES / picture, 1000, 830)


def photograph(page: Path, out: Path, width: int, height: int) -> None:
    """The first screen of a page, in few colours: such pictures compress to a quarter."""
    size = [f"--window-size={width},{height}", "--force-device-scale-factor=1", "--hide-scrollbars"]
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *size]
    subprocess.run([*browser, f"--screenshot={out}", page.as_uri()], check=True, capture_output=True)
    Image.open(out).convert("RGB").quantize(128).save(out, optimize=True)


def shell_screen(lake: Path) -> str:
    """What a terminal shows after a few questions in the shell, with its colours as ANSI codes."""
    if shutil.which("tmux") is None:
        sys.exit("needs tmux")
    tmux = ["tmux", "-L", "losslake-pictures"]
    session = ["new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), f"losslake sql --lake '{lake}'"]
    subprocess.run([*tmux, *session], check=True)
    try:
        time.sleep(10)
        for line in ASKED:
            subprocess.run([*tmux, "send-keys", "-l", line], check=True)
            subprocess.run([*tmux, "send-keys", "Escape", "Enter"], check=True)
            time.sleep(5)
        capture = [*tmux, "capture-pane", "-e", "-p"]
        return subprocess.run(capture, check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def terminal_page(screen: str) -> str:
    """A page with a terminal window that shows ``screen``."""
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(Text.from_ansi(screen.rstrip()))
    svg = console.export_svg(title="losslake sql", theme=DIMMED_MONOKAI)
    return f"<title>{html.escape('losslake sql')}</title><body style='margin: 12px'>{svg}</body>"


if __name__ == "__main__":
    main()
