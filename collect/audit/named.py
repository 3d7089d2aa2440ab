"""The models and records of an audit as a shell names them: functions and files; nothing that would have to be unpickled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ...store.errors import InvalidInput, InvalidOption, LosslakeError
from ..callables import is_callable_spec, load_callable
from ..data.files import read_table
from ..data.npy import NpzArrays


def called(spec: str) -> Any:
    """What the function ``package.module:function`` returns, called without arguments. Raises InvalidInput where it fails."""
    if not is_callable_spec(spec) and Path(spec).is_file():
        raise InvalidOption(
            f"{spec} is a file, and losslake unpickles nothing: name a function of yours that loads it and returns what it holds, as "
            "package.module:function"
        )
    function = load_callable(spec)
    try:
        return function()
    except LosslakeError:
        raise
    except Exception as error:  # whatever somebody's function raises
        raise InvalidInput(f"{spec} failed: {type(error).__name__}: {error}") from error


def named_records(spec: str, *, label: str, key: str | None) -> Any:
    """Records by a function that returns them, or from a file: a table in .csv or .parquet, or x and y in .npz.

    A table becomes a pandas frame where pandas is loaded, as by a model that was fitted on one, else a Polars frame. Raises
    InvalidInput, InvalidOption, NotFound.
    """
    if is_callable_spec(spec):
        return called(spec)
    path = Path(spec)
    if path.suffix == ".npz":
        with NpzArrays(path) as arrays:
            name = "y" if label == "label" and "label" not in arrays.shapes else label
            missing = [each for each in ("x", name) if each not in arrays.shapes]
            if missing:
                raise InvalidOption(
                    f"{path}: no array {missing[0]!r}; it holds: {', '.join(arrays.shapes) or 'nothing'}"
                )
            return arrays.whole("x"), arrays.whole(name)
    table = read_table(path, key=key)
    return table.to_pandas() if "pandas" in sys.modules else pl.DataFrame(table)


def named_features(names: Sequence[str], records: Any) -> str | list[str] | None:
    """``features`` of an audit of these records: one column of text alone as it is, as a model of texts takes it; others as a frame.

    A model of a frame with one column of text tells its name itself, so that nobody has to.
    """
    if len(names) == 1 and names[0] in getattr(records, "columns", ()):
        column = records[names[0]]
        if pl.DataFrame({"text": column})["text"].dtype == pl.String:
            return names[0]
    return list(names) or None


def named_classes(words: str) -> list[int] | list[str]:
    """Labels with commas between them: whole numbers where all are, as a table's column of them is read, else names."""
    labels = [word.strip() for word in words.split(",")]
    try:
        return [int(label) for label in labels]
    except ValueError:
        return labels
