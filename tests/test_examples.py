"""The examples run as they stand, and end with the ten most exposed records."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
from losslake.store.lake import Lake
from places import ROOT
from warm import EVERYTHING, HUGGINGFACE, LIGHTNING, warm_python

EXAMPLES = ROOT / "examples"
EXTRAS = {"pytorch_loop": None, "lightning_module": "lightning", "huggingface_text": "transformers"}
IMPORTED = {"pytorch_loop": EVERYTHING, "lightning_module": LIGHTNING, "huggingface_text": HUGGINGFACE}
EPOCHS = "3"
ROW = re.compile(r"sample +(?P<sample>\d+) .*score (?P<score>\d+\.\d{3})")


def test_every_example_is_run() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(EXTRAS)


@pytest.mark.parametrize("name", EXTRAS)
def test_example(name: str, tmp_path: Path) -> None:
    extra = EXTRAS[name]
    if extra is not None and importlib.util.find_spec(extra) is None:
        pytest.skip(f"needs {extra}, of losslake's extras")
    ran = subprocess.run(
        [*warm_python(IMPORTED[name]), str(EXAMPLES / f"{name}.py"), "lake", EPOCHS],
        cwd=tmp_path,
        # The models are far too small for more threads, or for a GPU.
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    *_, title = (line for line in ran.stdout.splitlines() if "most exposed" in line)
    assert title == "target: the ten most exposed members"
    told = ran.stdout.split(title)[1].strip().splitlines()
    found = [ROW.match(line) for line in told]
    assert len(found) == 10
    assert all(found), told
    scores = [float(row["score"]) for row in found if row]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0

    lake = Lake.open(tmp_path / "lake")
    (run,) = lake.runs(*lake.experiments())
    assert run.info.epochs == int(EPOCHS)
    exposed = [int(row["sample"]) for row in found if row]
    members = lake.sql("select sample_id from signals where member")["sample_id"].to_list()
    assert set(exposed) <= set(members)
    points = lake.sql("select distinct source, len(loss) as points from traces order by all").rows()
    assert points == [("eval", int(EPOCHS) + 1), ("train", int(EPOCHS) + 1)]
