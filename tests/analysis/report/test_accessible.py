"""What axe-core, which looks for what keeps people from reading a page, says of a report in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from losslake.analysis.report.write import write_report
from warm import HANGS

from .test_look_at import flipped
from .test_report import CHROMIUM

RUN = """
const wait = setInterval(async () => {
  if (!document.documentElement.dataset.drawn) return;
  clearInterval(wait);
  const found = await axe.run(document, { resultTypes: ["violations"] });
  const told = document.createElement("textarea");
  told.id = "axe";
  told.textContent = JSON.stringify({
    passed: found.passes.length,
    violations: found.violations.map((one) => [one.id, one.impact, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))]),
  });
  document.body.append(told);
}, 100);
"""


@cache
def axe() -> str | None:
    """axe-core as a script, where it is installed: npm install -g axe-core."""
    if shutil.which("npm") is None:
        return None
    root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, timeout=HANGS, check=False)
    script = Path(root.stdout.strip()) / "axe-core" / "axe.min.js"
    return script.read_text("utf-8").replace("</script", "<\\/script") if script.is_file() else None


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_keeps_people_from_reading(tmp_path: Path, width: int) -> None:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    if (script := axe()) is None:
        pytest.skip("axe-core is not installed (npm install -g axe-core)")
    out = tmp_path / "report.html"
    write_report(flipped(tmp_path / "lake"), "e", out)
    # Another script than the page's own runs only where its policy is taken out.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", out.read_text("utf-8"))
    out.write_text(page.replace("</body>", f"<script>{script}</script><script>{RUN}</script></body>"))
    answer = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--virtual-time-budget=300000", f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--window-size={width},3000", "--dump-dom", out.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=True,
    )
    found = re.search(r'<textarea id="axe">(.*?)</textarea>', answer.stdout, re.DOTALL)
    assert found is not None
    told = json.loads(html.unescape(found[1]))
    assert told["passed"] > 10
    assert told["violations"] == []
