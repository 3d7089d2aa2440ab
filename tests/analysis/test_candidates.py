"""Candidates that canaries are ranked among are looked at by `exposure` alone: every other analysis says the same without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from in_sql import InSql
from losslake.analysis.scoring.catalogue import ANALYSES, find
from losslake.analysis.source import Source
from losslake.store.lake import Lake
from polars.testing import assert_frame_equal
from run_data import of_texts

AUDITED, TYPICAL, CANDIDATES, RUNS = 90, 40, 30, 9
N = AUDITED + TYPICAL + CANDIDATES

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((analysis.name, {}) for analysis in ANALYSES if analysis.name != "exposure"),
    ("attack-p", {"reference": "class"}),
    ("rmia", {"rank": "share"}),
    ("rmia", {"rank": "share", "mode": "offline"}),
    ("influence", {"of": "probability"}),
    ("influence", {"on": "audit"}),
]


@pytest.fixture(scope="module")
def lakes(lake_of: Callable[..., Lake]) -> tuple[Lake, Lake]:
    """One of records, a population and candidates that all runs find easy; one without these candidates."""
    rng = np.random.default_rng(0)
    keep = (rng.random((RUNS, N)) < 0.5) & (np.arange(N) < AUDITED)
    keep[1:] = np.where((np.arange(1, RUNS)[:, None] + np.arange(N)) % 2 == 0, keep[1:], ~keep[1:])
    keep[:, AUDITED:] = False
    labels = rng.integers(0, 3, N).astype(np.int32)
    logits = rng.normal(0, 1, (RUNS, N, 3, 3))
    planted = np.arange(N) >= AUDITED + TYPICAL
    logits += (np.arange(3) == labels[:, None])[:, None] * np.where(
        planted[:, None, None], 9, keep[..., None, None] + 1
    )
    steps = np.cumsum(rng.random((N, 6)), axis=1)[:, ::-1] / np.where(planted, 50, 1)[:, None]
    texts = of_texts(N, 1, members=np.where(planted, 20, keep[0]))
    features = rng.normal(0, 1, (RUNS, N, 4))

    def written(there: np.ndarray) -> Lake:
        columns = {
            "group": np.where(planted, "canary", None)[there].tolist(),
            "zlib_bytes": [50] * int(there.sum()),
        }
        population = (np.arange(N) >= AUDITED)[there]
        made = lake_of(
            keep[:, there],
            logits=logits[:, there].astype(np.float16),
            labels=labels[there],
            features=features[:, there].astype(np.float16),
            population=population,
            columns=columns,
            traces={"loss": steps[there], "margin": 1 - steps[there]},
            recorded=[("original", "crop:2:4")] * RUNS,
            tokens=[{name: [rows[i] for i in np.flatnonzero(there)] for name, rows in texts.items()}] * RUNS,
        )  # fmt: skip
        left = [int(np.flatnonzero(side[:AUDITED])[0]) for side in (keep[0], ~keep[0])]
        others = np.stack([np.zeros_like(keep[0]), keep[0], keep[0]])
        others[1, left[0]] = False
        return lake_of(
            others[:, there],
            logits=logits[:3, there, 0].astype(np.float16) / 2,
            labels=labels[there],
            lake=made,
            roles=["distilled", "leave_one_out", "leave_one_out"],
            names=["distilled-0000", *(f"leave-out-{sample}-0" for sample in left)],
            parents=["run-0000"] * 3,
            extras=[{}, *({"sample_id": sample} for sample in left)],
        )

    return written(np.ones(N, dtype=bool)), written(~planted)


@pytest.mark.parametrize("kind", [Source, InSql])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_no_analysis_but_exposure_looks_at_candidates(
    lakes: tuple[Lake, Lake], name: str, options: dict[str, Any], kind: type[Source]
) -> None:
    found = []
    for lake in lakes:
        with kind.open(lake, "tests", find=find, target="run-0000") as source:
            scores = find(name).compute(source, **options)
        found.append((scores.frame, scores.metrics, scores.notes))
    with_candidates, without = found
    assert without[0]["score"].is_not_null().any()
    assert with_candidates[0]["sample_id"].max() < AUDITED  # type: ignore[operator]
    assert_frame_equal(with_candidates[0], without[0], rel_tol=1e-12, abs_tol=1e-12)
    assert with_candidates[1:] == without[1:]
