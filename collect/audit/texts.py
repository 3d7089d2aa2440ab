"""What an audit asks of a causal language model: texts as its tokenizer has them, and what it says of each of their tokens.

Beside the loss, the mean over a text's tokens, two numbers go with each text, which attacks without a reference model compare it with
(Carlini et al. 2021, "Extracting training data from large language models", section 5.2): the bytes of the text compressed by zlib, and
the loss of the text in lower case.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ..callables import a
from ..hook.given import is_text, table_of
from ..losses.tokens import Tokens
from ..signals.texts import ask_tokens, check_causal
from .answers import Said, is_module
from .columns import Columns, group_of, kept_of, keys_of, renumbered
from .cut_texts import check_cuts
from .language_model import (
    BASE,
    LanguageModel,
    Shown,
    inner_of,
    of_pipeline,
    shown,
    tokens_known,
    without_adapters,
)
from .pairs import check_columns
from .records import Records
from .rows import read_labels
from .said import Subject, record_of, universe_of
from .same import Distinct

_TWICE, _SAME = 4, 1e-3
"""How many texts a model is asked about twice, and how near the answers must be, in nats; of half precision 0.1."""


# --- the records ---------------------------------------------------------------------------------------------


def read_texts(given: Any, what: str, columns: Columns) -> Records:
    """The texts that ``given`` holds: a list or a column of them, a frame or a Hugging Face Dataset with a column of text.

    That column is ``features``, else the one called text, else the only one of text. Labels, where there are some, are what the texts
    are about. Raises InvalidInput for what is no text.
    """
    data = sys.modules.get("torch.utils.data")
    if (
        data is not None
        and isinstance(given, (data.Dataset, data.DataLoader))
        and not hasattr(given, "column_names")
    ):
        raise InvalidInput(
            f"{what} are {a(type(given).__name__)}; give a language model's records as texts: a list, a frame or a Hugging Face Dataset"
        )
    if hasattr(given, "to_list") and not hasattr(given, "columns"):
        given = given.to_list()  # a column of a frame
    elif isinstance(given, np.ndarray):
        given = given.tolist()
    elif isinstance(given, Sequence) and not isinstance(given, str):
        given = list(given)  # a column of a Hugging Face Dataset among them
    if isinstance(given, (list, tuple)) and not (given and isinstance(given[0], dict)):
        columns.check_unused(what, "a list of texts")
        texts = _checked(list(given), what)
        table = pa.table({"text": pa.array(texts, pa.string())})
        return Records(what, texts, texts, None, table=table, places=np.arange(len(texts)))
    check_columns(given, what)
    if isinstance(given, str) or not _has_columns(given):
        raise InvalidInput(
            f"{what} are {a(type(given).__name__)}; give texts: a list of str, a frame or a Hugging Face Dataset with a column of text"
        )
    table, classes = table_of(renumbered(given))
    frame = given if hasattr(given, "iloc") or hasattr(given, "column_names") else pl.DataFrame(table)
    texts = _checked(table[_text_column(table, what, columns)].to_pylist(), what)
    keys, named = keys_of(given if hasattr(given, "iloc") else pl.DataFrame(table), table, what, columns)
    about = None
    if columns.label in table.column_names:
        about = read_labels(np.array(table[columns.label].to_pylist(), dtype=object), what)
        if classes is not None:
            about = np.array([classes[int(each)] for each in about.tolist()], dtype=object)
    elif columns.label != Columns().label:
        raise InvalidOption(
            f"{what} have no column {columns.label!r}; label= is one of: {', '.join(table.column_names[:20])}"
        )
    return Records(
        what,
        frame,
        texts,
        None,
        keys,
        named,
        kept_of(table, columns),
        group_of(table, what, columns),
        places=np.arange(len(texts)),
        about=about,
    )


def _has_columns(given: Any) -> bool:
    rows = isinstance(given, (list, tuple, dict, pa.Table, pa.RecordBatch))
    return (
        rows
        or hasattr(given, "columns")
        or hasattr(given, "column_names")
        or hasattr(given, "collect_schema")
    )


def _text_column(table: pa.Table, what: str, columns: Columns) -> str:
    names = [field.name for field in table.schema if is_text(field.type)]
    wanted = columns.features
    if wanted is not None and not isinstance(wanted, str):
        if len(wanted) != 1:
            raise InvalidOption(f"features are {len(wanted)} columns; a language model takes one, of text")
        wanted = wanted[0]
    if wanted is None:
        free = [name for name in names if name not in (columns.label, columns.key, columns.group)]
        wanted = "text" if "text" in free else free[0] if len(free) == 1 else None
    if wanted is None:
        raise InvalidOption(
            f"{what} have {len(names)} columns of text; name that of the texts with features=, one of: {', '.join(table.column_names[:20])}"
        )
    if wanted not in table.column_names:
        raise InvalidInput(
            f"{what} have no column {wanted!r}, which features= names; they have: {', '.join(table.column_names[:20])}"
        )
    return str(wanted)


def _checked(texts: list[Any], what: str) -> list[str]:
    if not texts:
        raise InvalidInput(f"{what} are empty; an audit compares records on both sides")
    for number, each in enumerate(texts):
        if not isinstance(each, str):
            raise InvalidInput(
                f"record {number} of {what} is {a(type(each).__name__)}, no text; give texts as str (chats by tokenizer.apply_chat_template(..., "
                "tokenize=False))"
            )
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"record {number} of {what} is no text: character {error.start}, {each[error.start]!r}, is half of one; it was read in another "
                "encoding than it was written in, so read it again, or leave it out"
            ) from error
    return texts


# --- what the model says of them -----------------------------------------------------------------------------


def text_subject(speaks: LanguageModel, once: Distinct) -> Subject:
    """A language model asked about distinct texts. Raises InvalidInput where nothing follows from what it says, with the reason."""
    parts = once.parts
    seen = shown(speaks.tokenizer, [text for part in parts for text in part.inputs], speaks.most)
    check_cuts(speaks.tokenizer, [text for part in parts for text in part.inputs], seen.ids)
    lower = shown(speaks.tokenizer, [text.lower() for text in seen.texts], speaks.most)

    where = partial(record_of, parts)
    short = [row for row, ids in enumerate(seen.ids) if len(ids) < 2]
    if short:
        raise InvalidInput(
            f"{where(short[0])} has {len(seen.ids[short[0]])} token(s), {len(short)} such texts in all: there is none to predict; leave these out"
        )
    width = _check_tokens(speaks, seen, where)
    longest = max(seen.ids, key=len)
    other = next((ids for ids in seen.ids if ids[-1] != longest[-1]), [speaks.pad])[-1]

    def ask(model: Any, called: str) -> Said:
        its = _unwrapped(model, speaks, seen, called)
        base = model == BASE if isinstance(model, str) else False
        with without_adapters(its) if base else nullcontext():
            return _said(speaks, its, "base model" if base else type(inner_of(its)).__name__)

    def _said(speaks: LanguageModel, model: Any, name: str) -> Said:
        how: dict[str, Any] = {
            "pad": speaks.pad,
            "width": width,
            "batch_size": speaks.batch_size,
            "call": speaks.call,
        }
        try:
            check_causal(model, longest, other, pad=speaks.pad, call=speaks.call)
            found = ask_tokens(model, seen.ids, **how)
            values = {"token_losses": found.matrix(found.loss), "token_z": found.matrix(found.z)}
            if all(len(ids) > 1 for ids in lower.ids):
                values["lower_loss"] = _lower_losses(model, seen, lower, found, how)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(
                f"{name} cannot be asked about texts: {type(error).__name__}: {error}; it is called as model(input_ids=..., attention_mask=...), "
                "or as forward=(model, batch) -> logits says"
            ) from error
        loss = found.means()
        bad = ~np.isfinite(loss)
        if bad.any():
            row = int(np.argmax(bad))
            raise InvalidInput(
                f"{name} gives a loss of {loss[row]} for {where(row)} ({int(bad.sum())} such texts): nothing can be told of it. Weights in half "
                "precision overflow (load the model with dtype=torch.float32), and a training may diverge"
            )
        return Said(name, {"loss": loss, **values}, loss[:, None], lambda: loss)

    target = _said(speaks, speaks.model, speaks.name)
    notes = [
        *_told_cut(speaks, seen),
        *_told_shown_twice(once, seen),
        *_told_of_chance(speaks, target, width),
        *_told_inconstant(speaks, seen, target, width),
    ]
    if "lower_loss" not in target.values:
        notes.append(
            "a text has no token to predict in lower case, so that there are no losses of texts in lower case"
        )
    labels, classes = _numbers(parts)
    size = pa.array(
        [len(zlib.compress(text.encode("utf-8", "surrogatepass"))) for text in seen.texts], pa.int32()
    )
    universe = universe_of(parts, labels, classes, np.bincount(once.samples), zlib_bytes=size)
    facts = {"outputs": "token losses", "max_tokens": speaks.most}
    return Subject(target, universe, ask, notes, facts)


def _lower_losses(model: Any, seen: Shown, lower: Shown, found: Tokens, how: dict[str, Any]) -> np.ndarray:
    """The losses of the texts in lower case; those that are no others are not asked about again."""
    losses = found.means()
    other = [row for row, ids in enumerate(lower.ids) if ids != seen.ids[row]]
    losses[other] = ask_tokens(model, [lower.ids[row] for row in other], **how, z=False).means()
    return losses


def _check_tokens(speaks: LanguageModel, seen: Shown, where: Any) -> int:
    """How many tokens the model knows. Raises InvalidInput where the tokenizer makes others."""
    known = tokens_known(speaks.model)
    if known is None:
        return len(speaks.tokenizer) if hasattr(speaks.tokenizer, "__len__") else 1 << 16
    for row, ids in enumerate(seen.ids):
        if max(ids) >= known:
            raise InvalidInput(
                f"the tokenizer makes token {max(ids)} of {where(row)}, and {speaks.name} knows {known:,}: give the model's own tokenizer"
            )
    return known


def _unwrapped(model: Any, speaks: LanguageModel, seen: Shown, called: str) -> Any:
    """The module of another model. Raises InvalidInput where it is none, or of another tokenizer."""
    if isinstance(model, str) and model == BASE:
        if not hasattr(speaks.model, "disable_adapter"):
            raise InvalidInput(
                f"{called} is {BASE!r}, the model below the adapters of peft, and {speaks.name} has none; give a model"
            )
        return speaks.model
    model, tokenizer = of_pipeline(model)
    if not is_module(model):
        raise InvalidInput(
            f"{called} is {a(type(model).__name__)}; give a language model of the same tokenizer, or a text-generation pipeline"
        )
    if tokenizer is not None:
        theirs = shown(tokenizer, seen.texts, None).ids
        differs = [row for row, ids in enumerate(seen.ids) if not seen.cut[row] and ids != theirs[row]]
        if differs:
            raise InvalidInput(
                f"{called} has another tokenizer: it makes other tokens of {len(differs):,} of {len(seen.ids):,} texts, and losses of other tokens "
                "do not compare; give a model of the same tokenizer"
            )
    elif None not in (counts := (tokens_known(model), tokens_known(speaks.model))) and counts[0] != counts[1]:
        raise InvalidInput(
            f"{called} knows {counts[0]:,} tokens and {speaks.name} {counts[1]:,}: it has another tokenizer, and losses "
            "of other tokens do not compare. Where it is the same one with unused tokens, give a text-generation pipeline, which has its tokenizer"
        )
    takes = getattr(getattr(inner_of(model), "config", None), "max_position_embeddings", None)
    longest = max(map(len, seen.ids))
    if isinstance(takes, int) and takes < longest:
        raise InvalidInput(
            f"{called} takes {takes} tokens at most, and a text has {longest} here; give max_tokens={takes}, so that all models see the same"
        )
    return model


def _numbers(parts: tuple[Records, ...]) -> tuple[np.ndarray | None, list[Any] | None]:
    """What the texts are about as class numbers, and the classes in their order; None without."""
    if any(part.about is None for part in parts):
        return None, None
    values = [each for part in parts for each in (() if part.about is None else part.about.tolist())]
    if all(
        isinstance(each, (int, np.integer)) and not isinstance(each, bool) and each >= 0 for each in values
    ):
        return np.array(values, dtype=np.int64), None
    classes = sorted(set(map(str, values)))
    places = {each: number for number, each in enumerate(classes)}
    return np.array([places[str(each)] for each in values], dtype=np.int64), classes


# --- notes ----------------------------------------------------------------------------------------------------


def _told_cut(speaks: LanguageModel, seen: Shown) -> list[str]:
    by_itself = [len(ids) for ids, itself in zip(seen.ids, seen.itself, strict=True) if itself]
    kinds = [
        (sum(seen.cut) - len(by_itself), speaks.most, "max_tokens"),
        (len(by_itself), max(by_itself, default=0), "by the tokenizer that was given"),
    ]
    return [
        f"{cut:,} of {len(seen.cut):,} texts have more than {most} tokens, and are cut there ({how}): what is said is of the part "
        "that is left; cut them as the training did"
        for cut, most, how in kinds
        if cut
    ]


def _told_shown_twice(once: Distinct, seen: Shown) -> list[str]:
    members = len(once.parts[0])
    known = {tuple(ids) for ids in seen.ids[:members]}
    same = sum(tuple(ids) in known for ids in seen.ids[members:])
    if not same:
        return []
    return [
        f"{same:,} texts that are no members are the same tokens as a member to the model, apart from what was cut or what the tokenizer leaves "
        "out: to the model they are members"
    ]


def _told_of_chance(speaks: LanguageModel, said: Said, width: int) -> list[str]:
    mean = float(said.values["loss"].mean())
    if mean < np.log(width):
        return []
    return [
        f"{speaks.name} has a loss of {mean:.2f} a token, and one that takes all {width:,} tokens for as likely {np.log(width):.2f}: it was not "
        "trained, or on texts of another tokenizer"
    ]


def _told_inconstant(speaks: LanguageModel, seen: Shown, said: Said, width: int) -> list[str]:
    """A note where a few texts, asked about alone, get other answers than among others."""
    rows = list(range(min(_TWICE, len(seen.ids))))
    again = ask_tokens(
        speaks.model,
        [seen.ids[row] for row in rows],
        pad=speaks.pad,
        width=width,
        batch_size=1,
        call=speaks.call,
        z=False,
    ).means()
    kinds = {str(p.dtype) for p in speaks.model.parameters() if p.is_floating_point()}
    near = 0.1 if kinds - {"torch.float32", "torch.float64"} else _SAME
    apart = np.abs(again - said.values["loss"][rows])
    if (apart <= near).all():
        return []
    return [
        f"{speaks.name}, asked about {len(rows)} texts one by one, gives other losses than among others, by up to {apart.max():.2g}: it draws at "
        "random, or its answers depend on the other texts of a batch; batch_size=1 asks about each alone"
    ]
