"""What an experiment has forgotten: samples whose rows were removed for good.

A forgotten sample keeps its number and a row in ``samples`` with the pool `FORGOTTEN` and nothing else, so that ids stay
dense and every analysis leaves it out. The experiment's manifest lists it; whoever writes rows looks there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files.filesystem import Files
from ..format import manifest, paths

FORGOTTEN = "forgotten"
"""The pool of forgotten samples."""


@dataclass(frozen=True)
class Forgetting:
    """One call of `forget`: when it began, which ``samples``, how many ``rows`` there were of them by table.

    ``finished`` is None as long as rows may be left.
    """

    when: str
    samples: tuple[int, ...]
    rows: Mapping[str, int]
    finished: str | None


def forgettings_to_json(given: tuple[Forgetting, ...]) -> list[dict[str, Any]]:
    return [asdict(each) for each in given]


def forgettings_from_json(content: Mapping[str, Any]) -> tuple[Forgetting, ...]:
    """What an experiment's manifest says. Raises KeyError, TypeError or ValueError for anything else."""
    found = []
    for entry in content.get("forgotten", []):
        each = Forgetting(**{**entry, "samples": tuple(entry["samples"]), "rows": dict(entry["rows"])})
        if any(type(sample) is not int or not 0 <= sample < content["samples"] for sample in each.samples):
            raise ValueError(f"it has forgotten what is no sample: {each.samples[:5]}")
        if type(each.when) is not str or not isinstance(each.finished, str | None):
            raise TypeError(f"it has forgotten samples at {each.when!r}")
        found.append(each)
    return tuple(found)


def samples_of(given: tuple[Forgetting, ...]) -> tuple[int, ...]:
    """All forgotten samples, ascending."""
    return tuple(sorted({sample for each in given for sample in each.samples}))


def forgotten_mask(files: Files, experiment: str, samples: int) -> npt.NDArray[np.bool_]:
    """Which samples an experiment has forgotten by now: bool (samples,)."""
    content = manifest.load(files, paths.experiment_manifest(experiment))
    mask = np.zeros(samples, dtype=np.bool_)
    mask[list(samples_of(forgettings_from_json(content)))] = True
    return mask
