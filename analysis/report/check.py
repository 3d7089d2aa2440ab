"""Whether a lake still gives the numbers of a report: what the report holds beside what the lake says now."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...store.errors import InvalidInput, InvalidOption, LosslakeError, NotFound
from ...store.lake import Lake
from .as_json import content
from .audit import SHORT, Audit, audit_from_json
from .gather import gather
from .shown import written_in
from .words import verdict

LIKE = 1e-6
"""Relative difference under which two numbers are the same: engines sum in another order on another machine."""

MOST_BYTES = 200_000_000

_HELD = re.compile(r'<script type="application/json" id="numbers">(.*?)</script>', re.DOTALL)
_TELLS = ("value", "ci_low", "ci_high", "n")
_RECORD = ("score", "rank")
_QUIET = ("resolved", "strength", "interval")
"""Words that follow from the numbers beside them."""

Key = tuple[str, ...]
Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Check:
    """What a check found. ``differs`` are the numbers that are others or gone, ``told`` what else is another: data, recipe, version.

    ``strange`` are the lines of text that losslake does not write of these numbers; None where they were not looked at, as numbers, data or losslake are others.
    """

    audit: Audit
    numbers: int
    told: tuple[str, ...]
    differs: tuple[str, ...]
    strange: tuple[str, ...] | None


def check_report(lake: Lake, path: Path) -> Check:
    """Compute the report at ``path``, an .html or .json that losslake wrote, anew, and compare every number in it; and, where all agree, its text.

    Scores that the lake keeps and that are fresh are taken from there. What the report does not hold is not compared. Raises InvalidInput for a file that is none,
    InvalidOption for one of another kind, and what `gather` raises.
    """
    held, page = _held(path)
    try:
        audit = audit_from_json(held["audit"])
        wanted = list(numbers_of(held))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidInput(f"{path} holds no numbers of a report that can be read: {error!r:.100}") from error
    now = gather(
        lake,
        audit.experiment,
        target=audit.target,
        pictures=audit.pictures,
        fprs=audit.fprs,
        defended=audit.beside[0] if audit.beside else None,
        compare=audit.compare,
    )
    differs = differing(wanted, content(now, verdict(now)))
    told = _changed(audit, now.audit)
    strange = None if differs or told else written_in(held, page, now, audit)
    return Check(audit, len(wanted), told, differs, strange)


def differing(wanted: Iterable[tuple[Key, Values]], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Which numbers of a report, by `numbers_of`, are others than what its JSON says ``now``, in words."""
    found: dict[Key, list[Values]] = {}
    for key, values in numbers_of(now):
        found.setdefault(key, []).append(values)
    return tuple(
        _difference(key, values, found.get(key, []))
        for key, values in wanted
        if not any(_agreeing(values, other) == len(values) for other in found.get(key, []))
    )


def read_report(path: Path) -> dict[str, Any]:
    """The JSON of a report, from the page or the file that holds it. Raises as `check_report`."""
    return _held(path)[0]


def _held(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON of a report, and the page around it where it is one."""
    if path.suffix.lower() not in (".html", ".json"):
        raise InvalidOption(f"a report is checked by its .html or its .json, not {path.name!r}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"{path} is larger than any report")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no report {path}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is no text, so no report of losslake") from None
    except OSError as error:
        raise LosslakeError(f"cannot read {path}: {error.strerror or error}") from error
    page = None
    if path.suffix.lower() == ".html":
        page, held = text, _HELD.search(text)
        if held is None:
            raise InvalidInput(
                f"{path} is no report of losslake, or of a version before numbers were kept in the page; make it anew with 'losslake report'"
            )
        text = held[1]
    try:
        told = json.loads(text)
        if not isinstance(told, dict) or "audit" not in told:
            raise ValueError("it does not say which audit it is of; make it anew with 'losslake report'")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is no report of losslake: {str(error)[:200]}") from None
    return told, page


def numbers_of(told: Mapping[str, Any]) -> Iterator[tuple[Key, Values]]:
    """Every number of a report, and the words beside it, with what it is of."""
    judged = told["verdict"]
    always = ("level", "rule", "attack", "resolved_fpr", "named", "members", "accused", "non_members")
    for name in always:
        yield ("verdict", name.replace("_", " ")), (("value", judged[name]),)
    yield from _leaves(("verdict",), _but(judged, *always, "title", "text", "what_to_do"))
    for attack in told["attacks"]:
        yield from _metrics(str(attack["score"]), attack["metrics"])
    for name in ("comparison", "memorization", "correlations"):
        yield from _metrics(name, told[name])
    for said in told["findings"]:
        yield from _metrics(str(said["evaluation"]), said["metrics"])
    for one in told["other_scores"]:
        yield from _metrics(str(one["score"]), one["metrics"])
    for model in told["over_time"]["models"] if told["over_time"] else ():
        of = f"{model['experiment']}/{model['target']}"
        metrics = [model["auc"], *filter(None, (model["tpr"], model["change"]))]
        yield from _metrics(f"over time: {of}", metrics)
        newly = model["newly_named"]
        yield ("over time:", of, "newly named"), (("value", newly if newly is None else " ".join(newly)),)
        unknown = {name: None for name in ("tpr", "change") if model[name] is None}
        yield from _leaves(
            ("over time:", of), {**_but(model, "auc", "tpr", "change", "newly_named"), **unknown}
        )
    for record in told["most_exposed"]:
        of = f"sample {record['sample_id']}"
        for name, score in record["scores"].items():
            yield (of, name), (("score", score["score"]), ("rank", score["rank"]))
        yield from _leaves((of,), _but(record, "sample_id", "scores"))
    for run in told.get("runs", ()):
        yield from _leaves((f"run {run['run']}",), _but(run, "run"))
    whole = ("samples", "dataset", "target", "shadow_runs", "headline", "ranked_by")
    yield from _leaves((), {name: told[name] for name in whole if name in told})
    compared = told["over_time"] or {"models": ()}
    yield ("over time:", "models"), (("value", len(compared["models"])),)
    yield from _leaves(("over time:",), _but(compared, "models"))


def _but(told: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in names}


def _leaves(of: Key, told: Any) -> Iterator[tuple[Key, Values]]:
    """All that is told of something, however it is nested."""
    if isinstance(told, Mapping):
        for name, value in told.items():
            yield from _leaves((*of, str(name).replace("_", " ")), value)
    elif isinstance(told, list):
        for place, value in enumerate(told):
            yield from _leaves((*of, str(place)), value)
    else:
        yield of, (("value", told),)


def _metrics(of: str, metrics: Any) -> Iterator[tuple[Key, Values]]:
    """Words say which metric it is; numbers, those it was asked with among them, are compared."""
    for metric in metrics:
        own = {name: value for name, value in metric.items() if name not in ("metric", *_TELLS, *_QUIET)}
        words = [f"{name}={value}" for name, value in own.items() if not _is_number(value)]
        numbers = [(name, value) for name, value in own.items() if _is_number(value)]
        tells = [(name, metric.get(name)) for name in _TELLS]
        yield (of, str(metric["metric"]), *sorted(words)), (*sorted(numbers), *tells)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _alike(one: Any, other: Any) -> bool:
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=LIKE, abs_tol=LIKE)
    return bool(one == other)


def _agreeing(values: Values, others: Values) -> int:
    """How many of the values two have in common, the first that differs ends the count: settings come before what was measured."""
    place = 0
    for (name, one), (also, other) in zip(values, others, strict=False):
        if name != also or not _alike(one, other):
            break
        place += 1
    return place


def _difference(key: Key, values: Values, others: list[Values]) -> str:
    settings = [f"{name}={_word(value)}" for name, value in values if name not in (*_TELLS, *_RECORD)]
    what = " ".join([*key, *settings])
    if not others:
        return f"{what}: {_said(values)} in the report, not there now"
    near = max(others, key=lambda other: _agreeing(values, other))
    return f"{what}: {_said(values)} in the report, {_said(near)} now"


def _said(values: Values) -> str:
    told = dict(values)
    if "rank" in told:
        return f"{_word(told['score'])} #{told['rank']}"
    low, high = told.get("ci_low"), told.get("ci_high")
    return _word(told["value"]) + (f" ({_word(low)} to {_word(high)})" if low is not None else "")


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _changed(then: Audit, now: Audit) -> tuple[str, ...]:
    """What else is another than when the report was made; any of it may be why numbers differ."""
    told = []
    if then.data != now.data:
        told.append(f"the data: {then.data[:SHORT]} in the report, {now.data[:SHORT]} now")
    if then.beside != now.beside and then.beside and now.beside:
        told.append(
            f"the data of {now.beside[0]}: {then.beside[1][:SHORT]} in the report, {now.beside[1][:SHORT]} now"
        )
    told += [
        f"the data of {name}: {was[:SHORT]} in the report, {is_now[:SHORT]} now"
        for name, was, is_now in zip(then.compare, then.compared, now.compared, strict=True)
        if was != is_now
    ]
    if then.recipe != now.recipe:
        told.append(f"the recipe: {then.recipe[:SHORT]} in the report, {now.recipe[:SHORT]} now")
    if then.losslake != now.losslake:
        told.append(f"losslake: {then.losslake} in the report, {now.losslake} now")
    return tuple(told)
