"""Stopping a run when the loss of records that it does not train on has stopped falling."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...store.errors import InvalidOption
from ..data.training import DeviceData
from ..losses.cross_entropy import loss_and_margin
from ..signals.evaluation import eval_mode


def held_out(population: npt.NDArray[np.bool_], records: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The records that tell a run that trains on ``records`` when to stop: the ids of the population's others.

    ``population`` has none of the candidates that canaries are ranked among: they are made up, and their loss is nobody's. Not audit samples: the audited model would have been chosen for its loss on records that the audit takes for strangers
    to it. Members set aside for this would be strangers no more and no members either. Raises InvalidOption where
    there is nobody left.
    """
    ids = np.flatnonzero(population & ~records)
    if len(ids) == 0:
        raise InvalidOption(
            "early_stop watches the population, and the experiment has none that this run does not train on; make an "
            "experiment with --population 0.1"
        )
    return ids


class EarlyStopping:
    """Watches the mean clean cross-entropy of records ``ids``, in eval mode and float32, after each epoch.

    A run stops after ``patience`` epochs in a row without a new minimum, and gets the weights of the minimum. Its traces
    go on to the last epoch trained.
    """

    def __init__(self, model: nn.Module, held: DeviceData, ids: npt.NDArray[np.int64], patience: int) -> None:
        self._model, self._held, self._patience = model, held, patience
        self._ids = torch.from_numpy(ids).to(held.device)
        self._epoch = self._best_epoch = 0
        self._least = math.inf
        self._best: dict[str, Any] = {}

    def is_over(self, batch: int) -> bool:
        """Look at the model after another epoch, ``batch`` records at a time; True where it is time to stop."""
        self._epoch += 1
        loss = self._loss(batch)
        if loss < self._least or not self._best:
            self._least, self._best_epoch = (math.inf if math.isnan(loss) else loss), self._epoch
            self._best = copy.deepcopy(self._model.state_dict())
        return self._epoch - self._best_epoch >= self._patience

    def restore(self) -> None:
        """Give the model its best weights."""
        self._model.load_state_dict(self._best)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """How far it is, as JSON values, and the best state of the model so far; for `go_on`."""
        facts = {"epoch": self._epoch, "best_epoch": self._best_epoch, "least": self._least}
        return facts, self._best

    def go_on(self, facts: dict[str, Any], best: dict[str, torch.Tensor]) -> None:
        """Be where another one of the same run was, of which this is the `state`."""
        self._epoch, self._best_epoch, self._least = facts["epoch"], facts["best_epoch"], facts["least"]
        self._best = {name: value.to(self._held.device) for name, value in best.items()}

    def report(self) -> dict[str, Any]:
        """What the run tells of it: the epoch of its weights, their loss, and on how many records of the population."""
        return {"best_epoch": self._best_epoch, "loss": self._least, "records": len(self._ids)}

    def _loss(self, batch: int) -> float:
        wide = torch.float32 if self._held.device.type == "mps" else torch.float64  # MPS has no doubles
        total = torch.zeros((), dtype=wide, device=self._held.device)
        with eval_mode(self._model):
            for ids in self._ids.split(batch):
                logits = self._held.logits(self._model, self._held.x[ids])
                total += loss_and_margin(logits, self._held.y[ids])[0].to(wide).sum()
        return float(total.item()) / len(self._ids)
