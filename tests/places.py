"""Where tests find what lies beside them."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAKES = ROOT / "tests" / "lakes"
SHARED_DATA = Path(os.environ.get("LOSSLAKE_SHARED_DATA") or ROOT.parent / "shared" / "data")
"""Real data sets; tests that use them skip where it is missing."""
