"""Min-K% and Min-K%++: the least likely tokens of a text, which a model that trained on it finds less unlikely."""

from __future__ import annotations

from typing import Annotated

from ...store.errors import InvalidOption
from ..scores import Scores
from ..source import Source
from .tokens import need_tokens


def min_k(
    source: Source,
    *,
    k: Annotated[float, "per cent of a text's tokens, the least likely ones"] = 20.0,
    plus_plus: Annotated[
        bool,
        "score by Min-K%++: of each log-probability in standard deviations above what the model expects there",
    ] = False,
) -> Scores:
    """Min-K%: how likely a language model finds the least likely tokens of a text. Needs no other runs.

    score = mean of log p(x_t | x_<t) over the k% of the tokens for which it is lowest: of n tokens floor(n k / 100), one at
    least. With --plus-plus the same of (log p(x_t | x_<t) - mu_t) / sigma_t, mu_t and sigma_t being mean and standard
    deviation of log p(z | x_<t) where z is drawn from the model, and lowest by these. Higher = member. Columns: tokens (n),
    chosen (how many of them). Texts of few tokens rest on one or two of them.

    Needs: the target's losses of tokens; with --plus-plus also their token_z.

    Source: Shi et al. 2024, "Detecting Pretraining Data from Large Language Models" (MIN-K% PROB); Zhang et al. 2024,
    "Min-K%++: Improved Baseline for Detecting Pre-Training Data from Large Language Models".
    """
    if not 0 < k <= 100:
        raise InvalidOption(f"k of min-k is per cent of the tokens, above 0 and up to 100, not {k:g}")
    columns = ("token_losses", "token_z") if plus_plus else ("token_losses",)
    target = need_tokens(source, *columns)
    return Scores(source.query("min_k", {"target": target.run, "k": k, "plus_plus": plus_plus}))
