"""The loss of a text against how hard the text is by itself: compressed, and in lower case."""

from __future__ import annotations

import polars as pl

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from .tokens import need_tokens

ZLIB_BYTES = "zlib_bytes"
"""The samples' column with the bytes of the compressed text."""


def zlib(source: Source) -> Scores:
    """zlib: a language model's loss on a text against how far zlib compresses it. Needs no other runs.

    score = -loss / zlib_bytes. loss is the mean of the tokens' losses, which is the logarithm of the perplexity; zlib_bytes
    the size of the UTF-8 text compressed by zlib, a column of the samples. Higher = member. Columns: loss, zlib_bytes.
    The mean is over tokens and the bytes are of the whole text, as in the paper, so texts of other lengths have other
    scores: where members are longer or shorter than non-members, that alone tells them apart.

    Needs: the target's losses of tokens; the samples' column zlib_bytes.

    Source: Carlini et al. 2021, "Extracting Training Data from Large Language Models", section 5.2 (zlib).
    """
    target = need_tokens(source, "token_losses")
    if ZLIB_BYTES not in source.lake.samples(source.experiment).column_names:
        raise NotEnoughData(
            f"the samples of experiment {source.experiment!r} have no column {ZLIB_BYTES!r}: for each text "
            "len(zlib.compress(text.encode())), given when the experiment is made"
        )
    frame = source.query("zlib", {"target": target.run})
    _need_one(frame, f"no sample of experiment {source.experiment!r} has {ZLIB_BYTES}")
    return Scores(frame, count_unscored(frame, f"they have no {ZLIB_BYTES}"))


def lowercase(source: Source) -> Scores:
    """Lowercase: a language model's loss on a text against that on it in lower case. Needs no other runs.

    score = -loss / lower_loss, both means over tokens, which are logarithms of perplexities. Higher = member. Columns: loss,
    lower_loss. Texts that are in lower case already have the score -1 and say nothing.

    Needs: the target's losses of tokens, and of the texts in lower case (lower_loss).

    Source: Carlini et al. 2021, "Extracting Training Data from Large Language Models", section 5.2 (lowercase).
    """
    target = need_tokens(source, "token_losses", "lower_loss")
    frame = source.query("lowercase", {"target": target.run})
    _need_one(
        frame,
        f"run {target.run!r} of experiment {source.experiment!r} has a loss of 0 on every text in lower case",
    )
    notes = count_unscored(frame, "the target's loss on them in lower case is 0, or not there")
    alike = frame.filter(pl.col("loss").sub(pl.col("lower_loss")).abs() <= 1e-6 * pl.col("loss"))
    if len(alike):
        notes += (
            f"{len(alike)} of {len(frame)} texts have the same loss in lower case: most are so already",
        )
    return Scores(frame, notes)


def _need_one(frame: pl.DataFrame, why: str) -> None:
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(why)
