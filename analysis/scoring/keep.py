"""Keeping what an analysis or evaluation found as a result in the lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...store.errors import OlderFormat
from ...store.write.results import fingerprint, save_result
from ..source import Source
from ..statistics.metric import Metric


def keep(
    source: Source,
    name: str,
    variant: str,
    options: Mapping[str, Any],
    notes: Sequence[str],
    metrics: Sequence[Metric],
    scores: pa.Table | None,
) -> tuple[str, ...]:
    """Keep a result of the source's target, with what it was computed from, in place of an older one.

    Gives the notes back, with one more where the lake's format is an older one, which takes no results.
    """
    try:
        save_result(
            source.lake,
            source.experiment,
            name,
            source.target.run if source.target else None,
            variant,
            options=options,
            notes=notes,
            metrics=[metric.to_json() for metric in metrics],
            scores=scores,
            seen=fingerprint(source.lake, source.experiment, source.runs),
        )
    except OlderFormat as error:
        return (*notes, f"not kept: {error}")
    return tuple(notes)
