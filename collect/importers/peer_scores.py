"""LiRA scores that loss_traces computed, and the target's members, from the CSV file that holds both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ...store.errors import InvalidInput
from ..data.npy import brief

_TYPES = {"og_idx": pa.int64(), "target_trained_on": pa.bool_(), "lira_score": pa.float64()}


@dataclass(frozen=True, eq=False)
class PeerScores:
    """members bool (N,), and the peer's LiRA score (N,), higher = more likely a member; None where it has none."""

    members: np.ndarray
    score: np.ndarray | None


def find_scores(folder: Path, exp: str, samples: int) -> tuple[PeerScores | None, list[str]]:
    """The scores of the target of ``exp``, and notes on the files of it that are not used; None where there are none.

    Files are called {exp}_target, {exp}_target_256 (of so many shadow models) or {exp}, with or without .csv; of
    several the one of most shadow models counts. Raises InvalidInput.
    """
    pattern = re.compile(re.escape(exp) + r"(_target)?(_(?P<shadows>[0-9]{1,9}))?(\.csv)?")
    found = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(file.name)
        if match and file.is_file():
            found.append((int(match["shadows"] or -1), file))
    if not found:
        return None, []
    _, chosen = max(found, key=lambda each: each[0])
    unused = [f"lira_scores/{file.name}" for _, file in found if file != chosen]
    return _read(chosen, samples), [f"files not used: {', '.join(unused)}"] if unused else []


def _read(path: Path, samples: int) -> PeerScores:
    # NaN and an empty cell are a score that the peer could not compute.
    convert = pyarrow.csv.ConvertOptions(column_types=_TYPES)
    try:
        table = pyarrow.csv.read_csv(path, convert_options=convert)
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InvalidInput(f"{path}: is not a readable CSV file of LiRA scores: {brief(error)}") from error
    for name in ("og_idx", "target_trained_on"):
        if name not in names:
            raise InvalidInput(f"{path}: has no column {name} (there are: {', '.join(names[:8])})")
        if table[name].null_count:
            raise InvalidInput(f"{path}: {name} is missing in some rows; it must be in each")
    ids = table["og_idx"].to_numpy()
    if len(ids) != samples or not np.array_equal(np.sort(ids), np.arange(samples)):
        raise InvalidInput(
            f"{path}: og_idx must hold each sample's number from 0 to {samples - 1} once, as losses/ has {samples} rows; it "
            f"has {len(ids)}"
        )
    order = np.argsort(ids)
    score = table["lira_score"].to_numpy()[order] if "lira_score" in names else None
    return PeerScores(table["target_trained_on"].to_numpy()[order], score)
