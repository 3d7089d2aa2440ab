"""What a causal language model says of each token of its texts: its loss, and how that compares with what the model expects there.

The logits at position t are of the token at t + 1. Of each token x_t that counts (a label other than -100) there are two numbers:

- its loss -log p(x_t), of which Min-K% Prob takes the mean over the least likely (Shi et al. 2024, "Detecting pretraining data from large
  language models");
- z_t = (log p(x_t) - mu_t) / sigma_t, with mu_t and sigma_t the mean and the standard deviation of log p of a token drawn from the model
  there, of which Min-K%++ takes the mean over the least (Zhang et al. 2025, "Min-K%++: improved baseline for detecting pre-training data
  from large language models").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ...store.errors import InvalidInput
from .cross_entropy import IGNORED

_LOGITS_AT_ONCE = 1 << 21
"""Logits looked at together in double precision: beside what the model gives, its copies stay below 100 MB."""

_GREATEST = 3e38
"""What float32 holds; a token that the model all but rules out has a z beyond it."""

_SURE = 1e-12
"""A spread of log p that rounding alone makes, where all tokens are as likely or one is certain: the token is what was expected."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Of the counted tokens of R texts, text after text and in their order: arrays (K,) float64, and how many each text has (R,)."""

    loss: npt.NDArray[np.float64]
    z: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    def means(self) -> npt.NDArray[np.float64]:
        """The mean token loss of each text (R,): the logarithm of its perplexity; NaN of a text without a token that counts."""
        with np.errstate(invalid="ignore"):
            return np.array([each.mean() if len(each) else np.nan for each in self.parts(self.loss)])

    def parts(self, values: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        """Values (K,) as an array for each text."""
        return np.split(values, np.cumsum(self.counts)[:-1])

    def matrix(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Values (K,) with a row a text (R, T), NaN after its last token, as imports take them."""
        held = np.arange(self.counts.max(initial=0)) < self.counts[:, None]
        found = np.full(held.shape, np.nan, dtype=np.float32)
        found[held] = values
        return found


def joined(parts: Sequence[Tokens]) -> Tokens:
    """The tokens of the texts of all parts, in order."""
    return Tokens(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("loss", "z", "counts"))
    )


def token_losses(logits: torch.Tensor, labels: torch.Tensor, *, z: bool = True) -> Tokens:
    """The losses of logits (B, T, V) at labels (B, T), which are the inputs and shifted here; without ``z`` the z are 0.

    Computed in double precision where the device has it, some tokens at a time: no copy of all logits is made. The host waits for the
    device. Raises InvalidInput for shapes that disagree.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise InvalidInput(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; a causal language model has logits "
            "(batch, positions, tokens) and labels (batch, positions)"
        )
    target = labels[:, 1:].to(logits.device)
    counted = target != IGNORED
    rows, places = counted.nonzero(as_tuple=True)
    wanted = target[rows, places]
    losses, scaled = [], []
    for start in range(0, len(rows), max(1, _LOGITS_AT_ONCE // logits.shape[2])):
        part = slice(start, start + max(1, _LOGITS_AT_ONCE // logits.shape[2]))
        loss, above = _of_tokens(logits[rows[part], places[part]], wanted[part], z=z)
        losses.append(loss.cpu())
        scaled.append(above.cpu())
    none = torch.empty(0, dtype=torch.float64)
    return Tokens(
        torch.cat([none, *losses]).numpy(),
        torch.cat([none, *scaled]).numpy(),
        counted.sum(dim=1).cpu().numpy(),
    )


def _of_tokens(logits: torch.Tensor, tokens: torch.Tensor, *, z: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and z (K,) of logits (K, V) at tokens (K,)."""
    logp = torch.log_softmax(logits if logits.device.type == "mps" else logits.double(), dim=1)
    own = logp.gather(1, tokens.unsqueeze(1))
    if not z:
        return -own.squeeze(1), torch.zeros_like(own.squeeze(1))
    p = logp.exp()
    impossible = p == 0  # log p is infinite there, and counts nothing
    mu = logp.masked_fill(impossible, 0).mul_(p).sum(dim=1, keepdim=True)
    spread = logp.sub_(mu).masked_fill_(impossible, 0).square_().mul_(p).sum(dim=1, keepdim=True).sqrt()
    above = own - mu
    expected = (spread < _SURE) & (above.abs() < _SURE)
    found = torch.where(expected, 0.0, above / spread).clamp(-_GREATEST, _GREATEST)
    return -own.squeeze(1), found.squeeze(1)
