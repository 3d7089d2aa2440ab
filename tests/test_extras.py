"""Where a library that an extra brings is missing, the extra is named, and nothing else fails."""

from __future__ import annotations

import sys
from pathlib import Path

import losslake
import numpy as np
import pytest
from losslake.collect.hook.start import start_run
from losslake.store.errors import MissingExtra
from losslake.store.lake import Lake


@pytest.mark.parametrize(
    ("extra", "library"), [("huggingface", "transformers"), ("lightning", "lightning.pytorch")]
)
def test_a_callback_without_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, library: str
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    run = start_run(lake, "e", samples=np.arange(6) % 2, members=[0, 1, 2])
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"losslake.collect.callbacks.{extra}", raising=False)
    with pytest.raises(MissingExtra, match=rf"pip install 'losslake\[{extra}\]'"):
        getattr(losslake, f"{extra}_callback")(run)
    run.discard()
