"""One number with its interval: what every evaluation returns and ``--metrics`` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .intervals import clopper_pearson


@dataclass(frozen=True)
class Metric:
    """``value`` with the bounds of its 95% interval, over ``n`` observations.

    ``metric`` says what ``value`` is: a lower bound's value is the bound. Where the parameter ``interval`` is "one-sided" the
    interval has but a low end, at the ``confidence`` among the parameters; ``ci_high`` is then infinite, or None.
    ``value`` is None where the data cannot say; ``parameters`` tells which variant of the metric it is, such as
    ``{"fpr": 0.01}``.
    """

    metric: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def share(cls, metric: str, hits: int, n: int, parameters: Mapping[str, Any] | None = None) -> Self:
        """``hits`` of ``n`` with Clopper and Pearson's interval; nothing can be said without observations."""
        return cls(metric, hits / n if n else None, *clopper_pearson(hits, n), n, parameters or {})

    @property
    def title(self) -> str:
        """Its name with its parameters, as ``tpr_at_fpr fpr=0.01``."""
        told = (
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.parameters.items()
        )
        return " ".join([self.metric, *told])

    def to_json(self) -> dict[str, Any]:
        """A flat object: metric, its parameters, value, ci_low, ci_high, n. What is not finite becomes null."""
        numbers = {name: _finite(getattr(self, name)) for name in ("value", "ci_low", "ci_high")}
        return {"metric": self.metric, **self.parameters, **numbers, "n": self.n}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The metric that `to_json` made; what was not finite stays None."""
        own: dict[str, Any] = {name: told.get(name) for name in ("metric", "value", "ci_low", "ci_high", "n")}
        return cls(**own, parameters={name: value for name, value in told.items() if name not in own})


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
