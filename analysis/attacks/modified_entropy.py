"""Modified entropy of a prediction: low where a model is sure and right, high where it is sure and wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def modified_entropy(
    logits: npt.NDArray[np.floating], label: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """-(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c), for logits (R, C) at labels (R,): shape (R,), >= 0.

    Its relative error stays at that of float64 where p rounds to 0 or 1: 1 - p of the likeliest class is summed from
    the others, and no other p is above 1/2. NaN where a logit is not finite or the label is none of the C classes.

    Source: Song & Mittal 2021, "Systematic Evaluation of Privacy Risks of Machine Learning Models".
    """
    z = logits.astype(np.float64)
    usable = np.isfinite(z).all(axis=1) & (label >= 0) & (label < z.shape[1])
    z = np.where(usable[:, None], z, 0.0)
    rows, y = np.arange(len(z)), np.where(usable, label, 0)
    top = z.argmax(axis=1)
    highest = z[rows, top]
    relative = np.exp(z - highest[:, None])
    relative[rows, top] = 0.0
    rest = relative.sum(axis=1)  # what the other classes have for each 1 of the likeliest
    p = relative / (1 + rest)[:, None]
    surprise = -np.log1p(-p)
    p[rows, top] = 1 / (1 + rest)
    # A rest that is too small for float64 belongs to logits more than 700 apart.
    surprise[rows, top] = np.log1p(rest) - np.log(np.maximum(rest, np.finfo(np.float64).tiny))
    terms = p * surprise
    loss = highest - z[rows, y] + np.log1p(rest)
    terms[rows, y] = np.where(top == y, rest / (1 + rest), 1 - p[rows, y]) * loss
    return np.where(usable, terms.sum(axis=1), np.nan)
