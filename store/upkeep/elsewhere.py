"""Where else in a lake a record may lie that is forgotten in one experiment: told by its key."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import LosslakeError, NotFound
from ..format.records import Experiment
from ..format.text import counted
from ..read.catalogue import Catalogue
from ..read.data_rows import read_rows

_KEYS = 20
"""Keys that a command to be copied has."""


@dataclass(frozen=True)
class SameKey:
    """A sample of another experiment with the key of one that is forgotten: most likely the same record.

    Without a sample and a key: the experiment's samples cannot be read, as they are damaged.
    """

    experiment: str
    sample: int = -1
    key: str = ""


def same_keys(lake: Catalogue, known: Experiment, ids: Collection[int]) -> tuple[SameKey, ...]:
    """Samples of other experiments that have the keys of these, by experiment and number.

    A key that is nothing but a sample's own number, as those get that were given none, tells of the same record in another experiment on
    the same data set alone. Samples that were forgotten have no key any more.
    """
    keys = {key: sample for sample, key in _keys(lake, known, "sample_id", ids) if key is not None}
    found = []
    for name in lake.experiments() if keys else ():
        if name == known.name:
            continue
        try:
            other = lake.experiment(name)
            there = list(_keys(lake, other, "key", keys))
        except NotFound:  # removed in this moment
            continue
        except LosslakeError:  # what is damaged there keeps nobody from forgetting here
            found.append(SameKey(name))
            continue
        same_data = known.dataset.get("spec") is not None and known.dataset["spec"] == other.dataset.get(
            "spec"
        )
        for sample, key in there:
            if same_data or not key == str(sample) == str(keys[key]):
                found.append(SameKey(name, sample, key))
    return tuple(sorted(found, key=lambda each: (each.experiment, each.sample)))


def told_elsewhere(lake: str, found: Sequence[SameKey]) -> Iterator[str]:
    """What a shell is told of them, a line an experiment, with the command that forgets them there."""
    for name, of in groupby(found, lambda each: each.experiment):
        there = list(of)
        if there[0].sample < 0:
            yield f"experiment {name} is damaged, and may have samples of the same key: see 'losslake lake verify --lake {shlex.quote(lake)}'"
            continue
        keys = " ".join(f"--key {shlex.quote(each.key)}" for each in there[:_KEYS])
        more = f" (and {len(there) - _KEYS} keys more)" if len(there) > _KEYS else ""
        yield (
            f"still in experiment {name}, by the same key: {counted(len(there), 'sample')}; to forget there too: losslake lake forget "
            f"--lake {shlex.quote(lake)} --experiment {shlex.quote(name)} {keys}{more}"
        )


def _keys(
    lake: Catalogue, experiment: Experiment, column: str, values: Collection[Any]
) -> Iterator[tuple[int, str]]:
    """Number and key of the samples that have one of these values in a column."""
    for file in experiment.files:
        if file.table == "samples":
            rows = read_rows(lake.files, file, ["sample_id", "key"], None)
            wanted = pa.array(list(values), rows.schema.field(column).type)
            rows = rows.filter(pc.is_in(rows[column], value_set=wanted))
            yield from zip(rows["sample_id"].to_pylist(), rows["key"].to_pylist(), strict=True)
