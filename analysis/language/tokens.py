"""What a target must keep of each token of a text."""

from __future__ import annotations

from typing import Literal

from ...store.errors import NotEnoughData
from ...store.format.records import Run
from ..source import Source, keeps_tokens

Column = Literal["token_losses", "token_z", "lower_loss"]
_WHAT: dict[Column, str] = {
    "token_losses": "losses of tokens",
    "token_z": "normalised log-probabilities of tokens (token_z)",
    "lower_loss": "losses of texts in lower case (lower_loss)",
}


def need_tokens(source: Source, *columns: Column) -> Run:
    """The target, which must have these columns. Raises NotEnoughData, with where they come from."""
    target = source.need_target_table("signals")
    for column in columns:
        if not keeps_tokens(source, target, column):
            raise NotEnoughData(
                f"run {target.run!r} of experiment {source.experiment!r} has no {_WHAT[column]}; they come with an audit of a language "
                "model (losslake audit --tokenizer), with tokens=True of the Hugging Face callback, and with 'losslake collect import arrays'"
            )
    return target
