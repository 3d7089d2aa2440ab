"""The values of imported runs: checks that need no lake, and signals from whatever of logits, loss and phi is there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...store.errors import InvalidInput
from ..signals.signals import loss_from_phi, phi_from_loss, signals_from_logits

SIGNALS = ("logits", "loss", "phi")

_GREATEST = 1e38
"""Logits and phi beyond it would be infinite as float32, or their differences would."""


def of_query(values: Mapping[str, np.ndarray], query: int) -> dict[str, np.ndarray]:
    """The signals among ``values`` of one query: logits (n, C), loss and phi (n,)."""
    return {
        name: values[name][:, query] if values[name].ndim == _dimensions(name) else values[name]
        for name in SIGNALS
        if name in values
    }


def queries_of(values: Mapping[str, np.ndarray]) -> int:
    """How many queries the signals among ``values`` have; 0 where there is none."""
    return max(
        (
            values[name].shape[1] if values[name].ndim == _dimensions(name) else 1
            for name in SIGNALS
            if name in values
        ),
        default=0,
    )


def check_values(values: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str) -> None:
    """Raises InvalidInput for a loss, phi or logit that cannot be, with its query and sample.

    Traces may hold anything: a run that diverged has NaN in them.
    """
    for query in range(queries_of(values)):
        given = of_query(values, query)
        place = f"{where} query {query}"
        logits = given.get("logits")
        if logits is not None and (logits.shape[1] < 2 or not (np.abs(logits) <= _GREATEST).all()):
            signals_of({"logits": logits}, labels, place)  # says what is wrong, and where
            raise InvalidInput(f"logits of {place} go beyond {_GREATEST:g}; the model has probably diverged")
        rest = {name: value for name, value in given.items() if name != "logits"}
        if rest:
            signals_of(rest, labels, place)


def signals_of(
    given: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """loss, phi and correct (n,): as given, else from logits, else from the other one; correct from logits alone.

    ``where`` names run and query in errors. Raises InvalidInput.
    """
    from_logits = None
    if "logits" in given:
        if labels is None:
            raise InvalidInput(f"logits of {where} are of no use without labels; give them with --labels")
        from_logits = signals_from_logits(given["logits"], labels, where=f"logits of {where}")
    loss, phi = (None if name not in given else given[name].astype(np.float64) for name in ("loss", "phi"))
    if phi is not None and not (np.abs(phi) <= _GREATEST).all():
        sample = int(np.argmin(np.abs(phi) <= _GREATEST))
        raise InvalidInput(
            f"phi of {where}, sample {sample} is {phi[sample]}; phi must be finite: give loss or logits instead"
        )
    if loss is not None:
        # Checks the losses even where phi does not come from them.
        converted = phi_from_loss(loss, where=f"loss of {where}, sample ")
        phi = phi if phi is not None else from_logits.phi if from_logits is not None else converted
    if from_logits is not None:
        loss = from_logits.loss if loss is None else loss
        phi = from_logits.phi if phi is None else phi
    elif loss is None and phi is not None:
        loss = loss_from_phi(phi)
    if loss is None or phi is None:
        raise InvalidInput(f"{where}: neither logits nor loss nor phi")
    return loss, phi, None if from_logits is None else from_logits.correct


def _dimensions(name: str) -> int:
    """Of a run's values when they have an axis of queries."""
    return 3 if name == "logits" else 2
