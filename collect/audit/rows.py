"""Rows of whatever records are given as: how many, some of them, two parts joined, in the same kind; and their labels.

torch, pandas, SciPy's matrices and datasets are looked for among the modules that are loaded: whoever has an object of theirs has
loaded them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import polars as pl

from ...store.errors import InvalidInput
from ..callables import a


def size_of(inputs: Any) -> int:
    """How many records."""
    return int(inputs.shape[0]) if hasattr(inputs, "shape") else len(inputs)


def rows_of(inputs: Any, ids: np.ndarray) -> Any:
    """The records at ``ids``, of the same kind."""
    if hasattr(inputs, "iloc"):
        return inputs.iloc[ids]
    if isinstance(inputs, tuple):
        return tuple(rows_of(each, ids) for each in inputs)
    if isinstance(inputs, list):
        return [inputs[i] for i in ids.tolist()]
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(inputs, data.Dataset):
        return data.Subset(inputs, ids.tolist())
    if hasattr(inputs, "select") and hasattr(inputs, "features"):  # a Hugging Face Dataset
        return inputs.select(ids)
    return inputs[ids.tolist()] if isinstance(inputs, (pl.DataFrame, pl.Series)) else inputs[ids]


def joined(first: Any, second: Any) -> Any:
    """Records of one kind, those of ``second`` behind those of ``first``."""
    kind = type(first).__module__.partition(".")[0]
    if isinstance(first, tuple):
        return tuple(joined(one, other) for one, other in zip(first, second, strict=True))
    if isinstance(first, list):
        return [*first, *second]
    if kind == "pandas":
        return sys.modules["pandas"].concat([first, second], ignore_index=True)
    if isinstance(first, (pl.DataFrame, pl.Series)):
        both = [first, second.select(first.columns)] if isinstance(first, pl.DataFrame) else [first, second]
        return pl.concat(both, how="vertical_relaxed" if isinstance(first, pl.DataFrame) else "vertical")
    if kind == "scipy":
        return sys.modules["scipy.sparse"].vstack([first, second]).tocsr()
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(first, data.Dataset):
        return data.ConcatDataset([first, second])
    if kind == "datasets":
        return sys.modules["datasets"].concatenate_datasets([first, second])
    if kind == "torch":
        return sys.modules["torch"].cat([first, second])
    return np.concatenate([first, second])


def rows_given(x: Any, what: str) -> Any:
    """What was given as X, a row a record, as the model takes it: an array, a sparse matrix of whole rows, a list of texts."""
    if hasattr(x, "tocsr"):
        rows = x.tocsr(copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return rows
    _check_whole(x, f"X of {what}")
    if hasattr(x, "layout") and str(x.layout).startswith("torch.sparse"):
        x = x.to_dense()
    if hasattr(x, "shape") or (isinstance(x, list) and x and isinstance(x[0], str)):
        if hasattr(x, "shape") and not len(x.shape):
            raise InvalidInput(f"X of {what} is one value; give a row a record")
        return x.data if isinstance(x, np.ma.MaskedArray) else x
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"X of {what} is {a(type(x).__name__)} that makes no array: {error}") from error


def _check_whole(values: Any, what: str) -> None:
    """Raises InvalidInput for what can be read only once, and for masked values, which NumPy forgets are missing."""
    if hasattr(values, "__next__"):
        raise InvalidInput(
            f"{what} is {a(type(values).__name__)}, which is gone once it is read; give a list or an array"
        )
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        row = int(np.argmax(np.ma.getmaskarray(values).reshape(len(values), -1).any(axis=1)))
        raise InvalidInput(
            f"{what} has masked values, in record {row} first: fill them as the model was trained on, or leave such records out"
        )


def read_labels(y: Any, what: str) -> np.ndarray:
    """Labels (n,) as they are given. Raises InvalidInput for a missing one, and for what is not one a record."""
    _check_whole(y, f"the column of labels of {what}")
    try:
        labels = np.asarray(plain(y))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the labels of {what} make no array: {error}") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InvalidInput(
            f"the labels of {what} have shape {labels.shape}; give one a record (of class probabilities the class: argmax(1))"
        )
    missing = [i for i, value in enumerate(labels.tolist()) if value is None or value != value]
    if missing:
        raise InvalidInput(
            f"record {missing[0]} of {what} has no label ({len(missing)} have none); leave it out"
        )
    return labels


def plain(value: Any) -> Any:
    """A tensor as an array; anything else as it is. NumPy has no bfloat16."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
