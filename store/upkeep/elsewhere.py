"""Where else in a lake a record may lie that is forgotten in one experiment: told by its key."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from ..format.records import Experiment
from ..format.text import counted
from ..read.catalogue import Catalogue
from ..read.data_rows import read_rows

_KEYS = 20
"""Keys that a command to be copied has."""


@dataclass(frozen=True)
class SameKey:
    """A sample of another experiment with the key of one that is forgotten: most likely the same record."""

    experiment: str
    sample: int
    key: str


def same_keys(lake: Catalogue, known: Experiment, ids: Collection[int]) -> tuple[SameKey, ...]:
    """Samples of other experiments that have the keys of these, by experiment and number.

    A key that is nothing but a sample's own number, as those get that were given none, tells of the same record in another experiment on
    the same data set alone. Samples that were forgotten have no key any more.
    """
    keys = {
        key: sample for sample, key in _keys(lake, known).items() if sample in set(ids) and key is not None
    }
    found = []
    for name in lake.experiments() if keys else ():
        if name == known.name:
            continue
        other = lake.experiment(name)
        same_data = known.dataset.get("spec") is not None and known.dataset["spec"] == other.dataset.get(
            "spec"
        )
        for sample, key in _keys(lake, other, keys).items():
            if key in keys and (same_data or not key == str(sample) == str(keys[key])):
                found.append(SameKey(name, sample, key))
    return tuple(sorted(found, key=lambda each: (each.experiment, each.sample)))


def told_elsewhere(lake: str, found: Sequence[SameKey]) -> Iterator[str]:
    """What a shell is told of them, a line an experiment, with the command that forgets them there."""
    for name, of in groupby(found, lambda each: each.experiment):
        there = list(of)
        keys = " ".join(f"--key {shlex.quote(each.key)}" for each in there[:_KEYS])
        more = f" (and {len(there) - _KEYS} keys more)" if len(there) > _KEYS else ""
        yield (
            f"still in experiment {name}, by the same key: {counted(len(there), 'sample')}; to forget there too: losslake lake forget "
            f"--lake {shlex.quote(lake)} --experiment {shlex.quote(name)} {keys}{more}"
        )


def _keys(
    lake: Catalogue, experiment: Experiment, among: Mapping[str, int] | None = None
) -> dict[int, str | None]:
    """The key of each sample, or of those that have one ``among`` others."""
    found: dict[int, str | None] = {}
    for file in experiment.files:
        if file.table != "samples":
            continue
        rows = read_rows(lake.files, file, ["sample_id", "key"], None)
        if among is not None:
            rows = rows.filter(
                pc.is_in(rows["key"], value_set=pa.array(list(among), rows.schema.field("key").type))
            )
        found |= dict(zip(rows["sample_id"].to_pylist(), rows["key"].to_pylist(), strict=True))
    return found
