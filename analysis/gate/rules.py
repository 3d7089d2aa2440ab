"""The rules of a gate: what is limited, of which score, and by how much; from options or from a TOML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ...store.errors import InvalidOption
from ...store.format.text import read_toml
from ..declare import parse_score
from ..evaluations.dp_audit import Inclusion
from ..scoring.catalogue import find

Measure = Literal["tpr", "auc", "epsilon", "share", "tail"]
Compare = Literal["upper", "value"]

DELTA = 1e-5
"""Of (epsilon, delta)-differential privacy, unless told otherwise; `dp_audit` has the same."""

_NEEDED = {"tpr": ("fpr", "--at-fpr"), "tail": ("fpr", "--at-fpr"), "share": ("above", "--above")}
_ONLY_FOR = {
    "fpr": ("tpr", "tail"),
    "above": ("share",),
    "delta": ("epsilon",),
    "inclusion": ("epsilon",),
    "probability": ("epsilon",),
}


@dataclass(frozen=True)
class Rule:
    """One limit. ``metric`` of ``score`` (written as for an evaluation) must be ``max`` at most.

    tpr: the true-positive rate at the false-positive rate ``fpr``. tail: what the tail of the losses lets expect of LiRA's (see `tail`), its
    TNR at an FNR of ``fpr``. auc: the area under the ROC curve. epsilon: the
    one-run lower bound of dp-audit at ``delta``, with its ``inclusion`` and ``probability``. share: of the records, those whose score lies above ``above``.
    ``compare`` is what is held against the limit: the upper end of the 95% interval, or the value. (Of epsilon it is the
    bound in place of the upper end, which no audit has, and the estimate for the value.)

    Raises InvalidOption for an unknown metric, score or comparison, and for numbers that make no sense.
    """

    metric: Measure
    score: str
    max: float
    fpr: float | None = None
    above: float | None = None
    delta: float | None = None
    inclusion: Inclusion | None = None
    probability: float | None = None
    compare: Compare = "upper"

    def __post_init__(self) -> None:
        if self.metric not in get_args(Measure):
            raise InvalidOption(
                f"there is no metric {self.metric!r} for a rule (metrics: {', '.join(get_args(Measure))})"
            )
        if self.compare not in get_args(Compare):
            raise InvalidOption(f"compare is {' or '.join(get_args(Compare))}, not {self.compare!r}")
        if self.inclusion is not None and self.inclusion not in get_args(Inclusion):
            raise InvalidOption(f"inclusion is {' or '.join(get_args(Inclusion))}, not {self.inclusion!r}")
        if self.probability is not None and self.inclusion != "coins":
            raise InvalidOption("probability is that of coins; it goes with inclusion coins")
        if not isinstance(self.score, str):
            raise InvalidOption(f"the score of a rule is a name such as lira, not {self.score!r}")
        parse_score(self.score, find)
        needed, option = _NEEDED.get(self.metric, ("max", ""))
        if getattr(self, needed) is None:
            raise InvalidOption(f"a limit of {self.metric} needs {needed} ({option})")
        for name, metrics in _ONLY_FOR.items():
            if getattr(self, name) is not None and self.metric not in metrics:
                raise InvalidOption(
                    f"{name} belongs to a limit of {' or '.join(metrics)}, not of {self.metric}"
                )
        if self.metric == "epsilon" and self.delta is None:
            object.__setattr__(self, "delta", DELTA)
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("max", "fpr", "above", "delta", "probability"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidOption(f"{name} of a rule is a number, not {value!r}")
        most = math.inf if self.metric == "epsilon" else 1
        if not 0 <= self.max <= most:
            raise InvalidOption(
                f"a limit of {self.metric} lies {'at 0 or above' if most > 1 else 'between 0 and 1'}, not at {self.max:g}"
            )
        if self.fpr is not None and not 0 < self.fpr < 1:
            raise InvalidOption(f"fpr lies between 0 and 1, not at {self.fpr:g}")
        if self.probability is not None and not 0 < self.probability < 1:
            raise InvalidOption(f"probability lies between 0 and 1, not at {self.probability:g}")
        if self.delta is not None and not 0 <= self.delta < 1:
            raise InvalidOption(f"delta lies between 0 and 1, not at {self.delta:g}")

    @property
    def name(self) -> str:
        """The rule as a person writes it, such as ``tpr of lira at fpr 0.001 <= 0.01``."""
        about = {"at fpr": self.fpr, "above": self.above, "at delta": self.delta}
        told = "".join(f" {word} {value:g}" for word, value in about.items() if value is not None)
        return f"{self.metric} of {self.score}{told} <= {self.max:g}"


def rules_of(
    scores: Sequence[str] = (),
    *,
    max_tpr: float | None = None,
    at_fpr: float | None = None,
    max_auc: float | None = None,
    max_epsilon: float | None = None,
    delta: float | None = None,
    inclusion: Inclusion | None = None,
    probability: float | None = None,
    max_share_memorized: float | None = None,
    above: float | None = None,
    max_tail: float | None = None,
    compare: Compare = "upper",
) -> list[Rule]:
    """The rules that the options of ``losslake analyze gate`` say, in the order of the scores; none without a limit.

    Raises InvalidOption for what `Rule` refuses, and for a companion of a limit that was not given.
    """
    given = {"tpr": max_tpr, "auc": max_auc, "epsilon": max_epsilon}
    wanted = [
        Rule(
            metric=metric,  # type: ignore[arg-type]
            score=score,
            max=most,
            fpr=at_fpr if metric == "tpr" else None,
            delta=delta if metric == "epsilon" else None,
            inclusion=inclusion if metric == "epsilon" else None,
            probability=probability if metric == "epsilon" else None,
            compare=compare,
        )
        for score in scores or ("lira",)
        for metric, most in given.items()
        if most is not None
    ]
    if max_share_memorized is not None:
        wanted.append(Rule("share", "memorization", max_share_memorized, above=above, compare=compare))
    if max_tail is not None:
        wanted.append(Rule("tail", "loss", max_tail, fpr=at_fpr, compare=compare))
    companions: dict[str, object] = {
        "at-fpr": at_fpr,
        "delta": delta,
        "inclusion": inclusion,
        "probability": probability,
        "above": above,
        "score": scores or None,
    }
    _check_pairs(wanted, companions)
    return wanted


def load_rules(path: Path, compare: Compare) -> tuple[Rule, ...]:
    """The rules in the tables ``[[rule]]`` of a TOML file; ``compare`` is for those that do not say.

    Raises InvalidOption for a file that cannot be read, is not TOML or holds no rule, and for a key or value that a
    rule does not have: a limit that was misspelt must not pass.
    """
    try:
        content = read_toml(path)
    except (OSError, ValueError) as error:
        raise InvalidOption(f"cannot read the rules in {path}: {error}") from error
    tables = content.get("rule")
    if set(content) != {"rule"} or not isinstance(tables, list) or not tables:
        raise InvalidOption(
            f"{path} must hold tables [[rule]], each with metric, score and max, and nothing else"
        )
    return tuple(_rule(table, f"{path}, rule {number}", compare) for number, table in enumerate(tables, 1))


def _rule(table: Any, where: str, compare: Compare) -> Rule:
    if not isinstance(table, Mapping):
        raise InvalidOption(f"{where} is no table")
    known = [field.name for field in fields(Rule)]
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InvalidOption(f"{where}: a rule has no {unknown[0]!r} (keys: {', '.join(known)})")
    missing = [key for key in ("metric", "score", "max") if key not in table]
    if missing:
        raise InvalidOption(f"{where} lacks {missing[0]!r}")
    try:
        return Rule(**{"compare": compare, **table})
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error


def _check_pairs(rules: list[Rule], given: dict[str, object]) -> None:
    """A companion of a limit that was not given is a mistake: the limit it was meant for would not be held."""
    limits = {
        "tpr": "max-tpr",
        "epsilon": "max-epsilon",
        "share": "max-share-memorized",
        "auc": "max-auc",
        "tail": "max-tail",
    }
    goes_with = {
        "at-fpr": ["tpr", "tail"],
        "delta": ["epsilon"],
        "inclusion": ["epsilon"],
        "probability": ["epsilon"],
        "above": ["share"],
        "score": ["auc", "epsilon", "tpr"],
    }
    for name, metrics in goes_with.items():
        if given[name] is not None and not any(rule.metric in metrics for rule in rules):
            listed = " or ".join(f"--{limits[metric]}" for metric in metrics)
            raise InvalidOption(f"--{name} goes with {listed}, which was not given")
