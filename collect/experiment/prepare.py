"""Making an experiment from a data set, or loading the data of one that exists."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import AlreadyExists, CorruptLake, InvalidOption, NotFound
from ...store.format.paths import check_name, experiment_manifest
from ...store.format.records import Experiment
from ...store.lake import Lake
from ...store.write import leases
from ..callables import refuse_unnamed
from ..data.load import load_dataset
from ..data.named import DATASET_NAMES
from ..data.nested import Nested
from ..data.pictures import encode_png
from ..data.record import Dataset, content_digest
from ..data.training import TrainingData, channel_statistics
from .canaries import canary_mask, parse_canaries, plant_canaries
from .membership import coin_members, target_members
from .selection import Selection, keep_only, leave_out, read_keys, select_samples, told

_TAKEN = ("sample_id", "label", "pool", "split", "group", "key", "experiment", "run")
DEFAULTS: Mapping[str, Any] = {
    "label": None,
    "group": None,
    "key": None,
    "samples": None,
    "population": 0.0,
    "seed": 0,
    "fraction": 0.5,
    "canaries": None,
    "without": None,
}

# What a manifest may say of an option; of the others text or nothing.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "spec": (str,),
    "samples": (int, NoneType),
    "population": (int, float),
    "seed": (int,),
    "fraction": (int, float),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """An experiment in a lake with its data in memory.

    ``options`` are those it was made with: spec, label, group, key, samples, population, seed, fraction, canaries,
    without, classes.
    ``canary`` is bool (N,): planted to be audited.
    """

    lake: Lake
    experiment: Experiment
    data: TrainingData
    options: Mapping[str, Any]
    canary: np.ndarray

    def target_members(self, *, fraction: float, seed: int) -> np.ndarray:
        """Who is in a target's training set: bool (N,).

        Of the audit samples a class-balanced ``fraction``; each canary by a fair coin of its own. Forgotten ones stand in the
        mask as they were drawn: whoever trains leaves them out.
        """
        natural = np.flatnonzero(~self.data.population & ~self.canary)
        members = np.zeros(len(self.data), dtype=bool)
        members[natural] = target_members(self.data.y[natural], fraction=fraction, seed=seed)
        members[self.canary] = coin_members(int(self.canary.sum()), seed=seed)
        return members


def prepare_experiment(
    lake: Lake,
    experiment: str,
    *,
    dataset: str | None = None,
    label: str | None = None,
    group: str | None = None,
    key: str | None = None,
    samples: int | None = None,
    population: float | None = None,
    seed: int | None = None,
    fraction: float | None = None,
    canaries: str | None = None,
    without: Path | None = None,
    pictures: bool = True,
    data_dir: Path | None = None,
) -> Prepared:
    """Load a data set, choose samples from its train split, and make the experiment or match it.

    dataset, label, group, key  what `load_dataset` takes
    samples                 how many of the train split, balanced over classes (default: all)
    population              share of them set aside: no run trains on them (default 0)
    seed                    of the choice (default 0)
    fraction                share of the audit samples that a target trains on (default 0.5)
    canaries                KIND:N, records planted to be audited (see `Canaries`; default none)
    without                 a file of the keys of records to leave out altogether (see `read_keys`; default none)
    pictures                store a small PNG of each sample, for reports

    For an experiment that exists, what is not given is as it was when it was made, but for a data set that is a function:
    InvalidOption says to name it again. Raises AlreadyExists where what is given, or what the data set holds now, differs
    from that; NotFound where there is neither an experiment nor a data set; OlderFormat for a lake that has to be migrated
    first.
    """
    leases.hold(lake.files)  # others see that somebody is about to use the experiment
    removed = read_keys(without) if without is not None else None
    given = {
        "spec": None if dataset is None else _lasting_spec(dataset),
        "label": label,
        "group": group,
        "key": key,
        "samples": samples,
        "population": population,
        "seed": seed,
        "fraction": fraction,
        "canaries": None if canaries is None else str(parse_canaries(canaries)),
        "without": None if removed is None else told(removed),
    }
    given = {name: value for name, value in given.items() if value is not None}
    exists = lake.files.exists(experiment_manifest(check_name("experiment", experiment)))
    stored = dict(lake.experiment(experiment).dataset) if exists else {}
    if exists:
        _refuse_changes(experiment, stored, given)
    options = {**DEFAULTS, **stored, **given}
    if "spec" not in options:
        if not exists:
            raise NotFound(
                f"there is no experiment {experiment!r} in {lake.path} yet; name a data set to make it from"
            )
        raise InvalidOption(
            f"experiment {experiment!r} does not say where its data came from; name the data set"
        )
    _check_kinds(experiment, stored)
    if "spec" not in given and not os.path.exists(options["spec"]):
        refuse_unnamed(f"experiment {experiment!r}", ("data set", options["spec"], "--dataset"))
    source = load_dataset(
        options["spec"],
        label=options["label"],
        group=options["group"],
        key=options["key"],
        data_dir=data_dir,
    )
    chosen = select_samples(
        source, samples=options["samples"], population=options["population"], seed=options["seed"]
    )
    if removed is not None:
        chosen = leave_out(source, chosen, removed)
    elif options["without"]:  # which ones they were is told by those that are there
        if lake.experiment(experiment).forgotten:  # and these have no key any more
            raise InvalidOption(
                f"experiment {experiment!r} was made without some records and has forgotten others since; say again which "
                "the first were, with --without"
            )
        chosen = keep_only(source, chosen, lake.samples(experiment)["key"].to_pylist())
    x, y = source.x[chosen.rows], source.y[chosen.rows]
    table = _samples_table(source, chosen)
    if options["canaries"]:
        planted = parse_canaries(options["canaries"])
        x, y, table = plant_canaries(planted, x, y, table, classes=len(source.classes), seed=options["seed"])
    if isinstance(x, Nested):
        x = x.labelled(y)
    digest = content_digest(x, y)
    options["classes"] = list(source.classes)
    if exists:
        held = lake.experiment(experiment)
        if held.digest != digest:
            raise AlreadyExists(
                f"data set {options['spec']} does not hold what experiment {experiment!r} was made from "
                f"({held.samples} samples; content differs); choose another experiment name, or give the same data"
            )
    else:
        drawn = None
        if pictures and isinstance(x, np.ndarray) and source.pictures and x.shape[1] in (1, 3):
            drawn = pa.array(encode_png(x), pa.binary())
        held = lake.create_experiment(
            experiment,
            table,
            dataset=options,
            digest=digest,
            pictures=drawn,
        )
    # As stored, not as chosen just now: the runs of the experiment rely on it.
    kept = lake.samples(experiment)
    forgotten = np.zeros(len(y), dtype=bool)
    forgotten[list(lake.experiment(experiment).forgotten)] = True
    # A forgotten one keeps its place in the draws of members, or those of all others would change.
    pool = np.where(forgotten, *(each["pool"].to_numpy(zero_copy_only=False) for each in (table, kept)))
    called = np.where(forgotten, *map(canary_mask, (table, kept)))
    canary = called if options["canaries"] else np.zeros(len(y), dtype=bool)
    outside = pool == "population"
    data = replace(_training_data(source, x, y, outside, forgotten), candidates=outside & called)
    return Prepared(lake, held, data, options, canary)


def _training_data(
    source: Dataset, x: np.ndarray | Nested, y: np.ndarray, population: np.ndarray, forgotten: np.ndarray
) -> TrainingData:
    mean = std = np.zeros(0, dtype=np.float32)
    if isinstance(x, np.ndarray):
        mean, std = channel_statistics(x, np.flatnonzero(~population & ~forgotten))
    test = np.flatnonzero(source.split == "test")
    return TrainingData(
        dataset=source.name,
        classes=len(source.classes),
        x=x,
        y=y,
        population=population,
        forgotten=forgotten,
        mean=mean,
        std=std,
        test_x=source.x[test] if len(test) else None,
        test_y=source.y[test] if len(test) else None,
    )


def _samples_table(source: Dataset, chosen: Selection) -> pa.Table:
    rows = chosen.rows
    columns: dict[str, Any] = {
        "label": pa.array(source.y[rows].astype(np.int32)),
        "pool": pa.array(chosen.pool.tolist(), pa.string()),
        "split": pa.array(source.split[rows].tolist(), pa.string()),
        "key": pa.array(source.key[rows].tolist(), pa.string()),
    }
    if source.group is not None:
        columns["group"] = pa.array(source.group[rows].tolist(), pa.string())
    if source.columns is not None:
        for name in source.columns.column_names:
            # SQL does not tell Label from label.
            kept = f"source_{name}" if name.casefold() in _TAKEN else name
            columns[kept] = source.columns[name].take(pa.array(rows))
    return pa.table(columns)


def _lasting_spec(spec: str) -> str:
    """A path as an absolute one, so that the experiment can be gone on with from another folder."""
    named = spec.casefold() in {name.casefold() for name in DATASET_NAMES}
    path = Path(spec).expanduser()
    return str(path.resolve()) if not named and path.exists() else spec


def _check_kinds(experiment: str, stored: Mapping[str, Any]) -> None:
    for name in ("spec", *DEFAULTS):
        if name in stored and type(stored[name]) not in _KINDS.get(name, (str, NoneType)):
            raise CorruptLake(
                f"the manifest of experiment {experiment!r} says that {name} of its data set is "
                f"{str(stored[name])[:100]!r}; choose another experiment name"
            )


def _refuse_changes(experiment: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    # The digest tells whether other data is meant; these tell what the digest does not see.
    for name in ("group", "key", "samples", "population", "seed", "canaries", "without"):
        if name in given and name in stored and given[name] != stored[name]:
            raise AlreadyExists(
                f"experiment {experiment!r} was made with {name} {stored[name]}, not {given[name]}; leave {name} out, or "
                "choose another experiment name"
            )
