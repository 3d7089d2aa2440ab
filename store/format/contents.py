"""What each JSON file of a lake says, by where it lies: one schema a kind. `manifest.load` checks all that it reads by it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from ..errors import CorruptLake
from . import paths
from .kinds import (
    Kind,
    anything,
    check_nesting,
    either,
    letters,
    listed,
    mapping,
    number,
    one_of,
    or_null,
    record,
    text,
    truth,
    whole,
    wrong,
)

Role = Literal["target", "shadow", "reference", "distilled", "leave_one_out"]
ROLES: tuple[str, ...] = get_args(Role)

DEEPEST = 50
"""How often values may be nested: deeper ones are no one's recipe, and stop readers that follow them."""


def check(content: Mapping[str, Any], path: str) -> None:
    """Raises CorruptLake where ``content``, of today's format, is not what the JSON file at ``path`` of a lake says.

    Also where it speaks of another thing than its place does, and for a path where no JSON file lies.
    """
    kind, names = place_of(path)
    _check_names(content, path, {"kind": kind, **names})
    try:
        check_nesting(content, DEEPEST)
        _SCHEMAS[kind](content, "")
        if kind in _FOLDERS:
            for entry in content["files"]:
                _check_listed(entry, _FOLDERS[kind](names), names)
        if kind == "experiment":
            _check_experiment(content)
        if kind == "result" and path != paths.result_manifest(**names, variant=content["variant"]):
            raise ValueError(f"it speaks of the variant {content['variant'][:100]!r}")
        if kind == "checkpoint":
            _check_checkpoint(content, path, names)
    except ValueError as error:
        raise CorruptLake(f"{path} is not {_CALLED[kind]}: {error}") from error


def check_said(kind: Kind, value: Any) -> None:
    """Raises ValueError where a value that is about to be part of such a file would not be of its kind there."""
    try:
        told = as_json(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from error
    check_nesting([told], DEEPEST - 4)  # it lies within others
    kind(told, "")


def as_json(content: Any) -> Any:
    """What JSON makes of a value: NumPy numbers are numbers, and what it does not know is text.

    Raises TypeError, ValueError or RecursionError for what JSON cannot say.
    """
    return json.loads(json.dumps(content, default=_likeness))


def _likeness(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def place_of(path: str) -> tuple[str, dict[str, str]]:
    """Of what kind the JSON file at ``path`` is, and the names in it that its place says too."""
    for kind, pattern in _PLACES.items():
        if match := pattern.fullmatch(path):
            return kind, match.groupdict()
    raise CorruptLake(f"{path} is no place of a file that a lake has")


def _check_names(content: Mapping[str, Any], path: str, expected: Mapping[str, str]) -> None:
    for name, value in expected.items():
        if content.get(name) != value:
            raise CorruptLake(
                f"{path} speaks of {name} {str(content.get(name))[:100]!r}: it was moved or renamed"
            )


# --- places ---------------------------------------------------------------------------------------------------

_NAME = r"[^/]+"
_EXPERIMENT = rf"experiment=(?P<experiment>{_NAME})"

_PLACES: Mapping[str, re.Pattern[str]] = {
    "lake": re.compile(re.escape(paths.LAKE)),
    "run": re.compile(rf"runs/{_EXPERIMENT}/(?P<run>{_NAME})\.json"),
    "experiment": re.compile(rf"experiments/(?P<experiment>{_NAME})\.json"),
    "result": re.compile(
        rf"results/{_EXPERIMENT}/analysis=(?P<analysis>{_NAME})/(?P<target>[^/~]+)~{_NAME}\.json"
    ),
    "design": re.compile(rf"designs/experiment={_NAME}/{_NAME}\.json"),
    "index": re.compile(rf"{paths.INDEXES}/{_EXPERIMENT}/runs\.json"),
    "published": re.compile(re.escape(paths.PUBLISHED)),
    "removal": re.compile(rf"{paths.REMOVALS}/(?P<experiment>{_NAME})\.json"),
    "writer": re.compile(rf"{paths.LEASES}/(?P<writer>{_NAME})\.json"),
    "clock": re.compile(rf"{paths.claims_folder('clock')}/{_NAME}\.json"),
    "claim": re.compile(rf"{paths.CLAIMS}/(?P<what>{_NAME})/{_NAME}\.json"),
    "begun": re.compile(rf"staging/{_EXPERIMENT}/run=(?P<run>{_NAME})/{_NAME}/begun\.json"),
    "checkpoint": re.compile(
        rf"{paths.CHECKPOINTS}/{_EXPERIMENT}/run=(?P<run>{_NAME})/(?P<token>{_NAME})/{_NAME}\.json"
    ),
}
"""Where the files of each kind lie."""

_CALLED: Mapping[str, str] = {
    **{kind: f"the manifest of a {kind}" for kind in ("lake", "run", "result", "checkpoint")},
    "experiment": "the manifest of an experiment",
    "design": "a design of a fleet",
    "index": "an index of runs",
    "removal": "the mark of a removal",
    "published": "what says how a lake is published",
    "writer": "a writer's lease",
    "clock": "a look at the clock",
    "claim": "a claim",
    "begun": "the sign of a run that is being written",
}

# --- parts ----------------------------------------------------------------------------------------------------


def _moment(value: Any, name: str) -> None:
    """A moment as `manifest.now` says it."""
    text(value, name)
    try:
        known = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        known = False
    if not known:
        raise wrong(value, name)


def _count(value: Any, name: str) -> None:
    """A whole number that a query can hold; 3.0 is one."""
    number(value, name)
    if not (value == value and abs(value) < 1 << 63 and int(value) == value):
        raise wrong(value, name)


_IN_FILE: Mapping[str, Kind] = {"rows": whole(), "bytes": whole(), "sha256": text}

_FILE = record(
    {**_IN_FILE, "table": one_of("samples", "pictures", "signals", "traces", "scores"), "path": text},
    {
        "shared": record(
            {**_IN_FILE, **dict.fromkeys(("first_row", "first_group", "groups"), whole())}, closed=True
        )
    },
    closed=True,
)

METRIC = record(
    {"metric": text}, {**dict.fromkeys(("value", "ci_low", "ci_high"), or_null(number)), "n": or_null(_count)}
)

_FREE = mapping(anything)

_DRAWN = record(
    {},
    {
        "design": or_null(text),
        "target": or_null(text),
        "probability": or_null(number),
        **dict.fromkeys(("count", "size"), or_null(whole(1))),
        **dict.fromkeys(("first", "seed"), or_null(whole())),
    },
)
"""How the members of runs were drawn."""

EXTRA = record(
    {},
    {
        "recording": or_null(record({}, {"queries": listed(anything)})),
        "design": or_null(_DRAWN),
        "drawn_from": or_null(whole()),
        "distilled_on": or_null(record({}, {"pool": text, "samples": text})),
        "dp": or_null(record({}, {"epsilon": or_null(number), "delta": number})),
        "early_stop": or_null(record({}, {"best_epoch": whole()})),
        "sample_id": or_null(whole()),
        **dict.fromkeys(("loss", "outputs", "tested_on", "digest"), or_null(text)),
    },
)
"""What losslake reads of a run's ``extra``; the rest is free for the collector."""

INFO = record(
    {"role": one_of(*ROLES)},
    {
        "seed": or_null(whole(-(1 << 63))),
        "epochs": or_null(whole(-(1 << 31), 1 << 31)),
        **dict.fromkeys(("dataset", "model", "device"), text),
        **dict.fromkeys(("train_accuracy", "test_accuracy", "seconds"), or_null(number)),
        "parent": or_null(text),
        "recipe": _FREE,
        "versions": _FREE,
        "extra": EXTRA,
    },
    closed=True,
)

_CALLED_CLASS = or_null(either(letters, number))

DATASET = record(
    {}, {"name": or_null(letters), "classes": or_null(either(listed(_CALLED_CLASS), mapping(_CALLED_CLASS)))}
)
"""What losslake reads of an experiment's data set in any case; what it loads it by is checked when it does."""

_STORED = record({"path": text, "bytes": whole(), "sha256": text}, closed=True)

_WHERE: Mapping[str, Kind] = {"host": text, "pid": whole(0, 1 << 31), "started": or_null(whole())}
"""By what others tell whether a process runs; numbers from which on there are no processes, and no clock ticks."""

# --- files ----------------------------------------------------------------------------------------------------

_FORGETTING = record(
    {"when": text, "samples": listed(whole()), "rows": mapping(whole()), "finished": or_null(text)},
    closed=True,
)

DESIGN = _DRAWN

_SCHEMAS: Mapping[str, Kind] = {
    "lake": record({}, {"created": _moment}),
    "experiment": record(
        {
            "samples": whole(1, 1 << 31),
            "created": _moment,
            "digest": text,
            "dataset": DATASET,
            "files": listed(_FILE),
        },
        {"forgotten": listed(_FORGETTING)},
    ),
    "run": record({"members": whole(), "created": _moment, "info": INFO, "files": listed(_FILE)}),
    "design": record({"design": DESIGN}),
    "result": record(
        {
            "variant": text,
            "options": _FREE,
            "fingerprint": text,
            "notes": listed(text),
            "metrics": listed(METRIC),
            "files": listed(_FILE),
        },
        {"forgotten": listed(whole())},
    ),
    "index": record(
        {
            "count": whole(),
            "forgotten": listed(whole()),
            "runs": mapping(record({"stamp": text, "manifest": text}, closed=True)),
        }
    ),
    "removal": record({"begun": _moment}),
    "published": record({"keep": truth}),
    "writer": record(_WHERE, {"created": _moment}),
    "clock": record({}),
    "claim": record({"created": _moment}, _WHERE),
    "begun": record({}),
    "checkpoint": record(
        {
            "epoch": whole(),
            "key": text,
            "created": text,
            "facts": _FREE,
            "state": _STORED,
            "pieces": listed(_STORED),
        },
        {"forgotten": listed(whole())},
    ),
}

_FOLDERS: Mapping[str, Any] = {
    "experiment": lambda its: {
        "samples": paths.samples_folder(its["experiment"]),
        "pictures": paths.pictures_folder(its["experiment"]),
    },
    "run": lambda its: {
        "signals": paths.signals_folder(its["experiment"], its["run"]),
        "traces": paths.traces_folder(its["experiment"], its["run"]),
    },
    "result": lambda its: {"scores": paths.scores_folder(its["experiment"], its["analysis"], its["target"])},
}
"""Where the files lie that a manifest lists, by table; those that runs share lie elsewhere."""


_NOWHERE = frozenset(("", ".", ".."))


def _check_listed(entry: Mapping[str, Any], folders: Mapping[str, str], names: Mapping[str, str]) -> None:
    path, folder = entry["path"], folders.get(entry["table"])
    if folder is None:
        raise ValueError(f"it lists a file of {entry['table']}")
    if "shared" in entry:
        folder = paths.packed_folder(names["experiment"]) if "run" in names else None
    inside = "\0" not in path and _NOWHERE.isdisjoint(path.split("/"))
    if folder is None or not inside or not path.startswith(f"{folder}/"):
        raise ValueError(f"it lists a file elsewhere, {path[:200]!r}")


def _check_checkpoint(content: Mapping[str, Any], path: str, names: Mapping[str, str]) -> None:
    if path != paths.checkpoint_manifest(**names, epoch=content["epoch"]):
        raise ValueError("it was moved or renamed")
    folder = path.rpartition("/")[0]
    for file in (content["state"], *content["pieces"]):
        if "\0" in file["path"] or file["path"].rpartition("/")[0] != folder:
            raise ValueError(f"it lists a file elsewhere, {file['path'][:200]!r}")


def _check_experiment(content: Mapping[str, Any]) -> None:
    if not any(entry["table"] == "samples" for entry in content["files"]):
        raise ValueError("it lists no file of samples")
    for each in content.get("forgotten", []):
        if any(sample >= content["samples"] for sample in each["samples"]):
            raise ValueError(f"it has forgotten what is no sample: {each['samples'][:5]}")
