"""Shadow models of an audit: which records each is fitted on, and the fitting, by a clone of the estimator or by a function."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Sequence
from types import CodeType
from typing import Any

import numpy as np

from ...store.errors import InvalidOption
from ...store.lake import Lake
from ..estimators.fitting import Train, class_of, parameters
from .records import Records
from .rows import joined, rows_of


def members_of_all(members: Records, nonmembers: Records, chosen: np.ndarray, *, pair: bool) -> Any:
    """The records ``chosen``, bool over members and then non-members, as they were given; ``pair``: as (inputs, labels)."""
    first, second = (np.flatnonzero(part) for part in np.split(chosen, [len(members)]))
    if pair:
        one, other = (
            (rows_of(part.inputs, ids), rows_of(part.labels, ids))
            for part, ids in ((members, first), (nonmembers, second))
        )
    else:
        one, other = rows_of(members.given, first), rows_of(nonmembers.given, second)
    return joined(one, other)


# --- what made them ------------------------------------------------------------------------------------------

FLEET = "shadow"
_CLONES = "clones of"


def maker_of(model: Any, train: Train | None) -> str:
    """What fits the shadow models, in words that are the same for what makes the same ones: an estimator's class and parameters, or the
    name of ``train`` with a digest of its code."""
    if train is not None:
        return f"train={_named(train)}"
    return f"{_CLONES} {class_of(model)}({_spoken(model)})"


def check_made_alike(lake: Lake, experiment: str, maker: str | None, seed: int | None) -> None:
    """Raises InvalidOption where the lake's shadow models were made by something else than ``maker``, or of another seed.

    ``maker`` None: nobody says. ``seed`` None: none are to be fitted, and clones alone compare with the model.
    """
    there = f"the shadow models of experiment {experiment!r} in the lake"
    for made in _makers(lake, experiment):
        comparable = seed is not None or made.startswith(_CLONES)
        if maker is not None and comparable and made != maker:
            raise InvalidOption(
                f"{there} were made by {made}, and these would be by {maker}: they are of other models; choose another experiment name"
            )
    for block in lake.designs(experiment, FLEET):
        if seed is not None and block.get("first") == 0 and block.get("seed") != seed:
            raise InvalidOption(
                f"{there} are of seed {block.get('seed')}, not {seed}; give that seed, or choose another experiment name"
            )


def made_by(lake: Lake, experiment: str) -> str:
    """What made the lake's shadow models."""
    return " and ".join(_makers(lake, experiment)) or "nobody says what"


def _makers(lake: Lake, experiment: str) -> list[str]:
    if experiment not in lake.experiments():
        return []
    told = {run.info.extra.get("maker") for run in lake.runs(experiment, FLEET)}
    return sorted(str(each) for each in told if each is not None)


def _spoken(model: Any) -> str:
    """The parameters of an estimator that are others than by default."""
    usual = {each.name: each.default for each in inspect.signature(type(model)).parameters.values()}
    plain = parameters(model)
    return ", ".join(
        f"{name}={value!r}" for name, value in plain.items() if name not in usual or usual[name] != value
    )


def _named(function: Any) -> str:
    if isinstance(function, functools.partial):
        more = [*map(_plainly, function.args), *(f"{k}={_plainly(v)}" for k, v in function.keywords.items())]
        return f"partial({', '.join([_named(function.func), *more])})"
    function = getattr(function, "__wrapped__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return f"a {class_of(function)}" if not hasattr(function, "__qualname__") else function.__qualname__
    held = [
        _plainly(cell.cell_contents) for cell in getattr(function, "__closure__", None) or () if _filled(cell)
    ]
    defaults = list(map(_plainly, getattr(function, "__defaults__", None) or ()))
    sink = hashlib.sha256(repr((_code(code), defaults, held)).encode("utf-8", "surrogatepass"))
    return f"{function.__module__}.{function.__qualname__} (code {sink.hexdigest()[:8]})"


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _code(code: CodeType) -> list[Any]:
    """What a function does, apart from where it is written."""
    constants: Sequence[Any] = code.co_consts
    return [
        code.co_code.hex(),
        code.co_names,
        [_code(each) if isinstance(each, CodeType) else _plainly(each) for each in constants],
    ]


def _plainly(value: Any) -> str:
    """A value that is a plain one; of any other its type, as its text may name a place in memory."""
    if isinstance(value, frozenset):
        return repr(sorted(map(repr, value)))
    if isinstance(value, tuple):
        return repr(list(map(_plainly, value)))
    return (
        repr(value)
        if value is None or isinstance(value, (bool, int, float, str, bytes))
        else f"a {class_of(value)}"
    )
