"""What a language model says of each token of a text, as a collector gives it: a list a row, each of its own length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import InvalidInput

_ROUNDING = 1e-5
"""A loss -log p is not negative but for the rounding of single precision; up to this it is taken for 0."""


def token_columns(
    run: str,
    ids: npt.NDArray[np.int64],
    token_losses: Sequence[npt.NDArray[np.floating]] | None,
    token_z: Sequence[npt.NDArray[np.floating]] | None,
    lower_loss: npt.NDArray[np.floating] | None,
) -> dict[str, npt.NDArray]:
    """Those columns of signals that were given of tokens; lists are object arrays (rows,) of float32 arrays.

    Raises InvalidInput, naming run and sample, for what is not one list of numbers a row, a list without a token, a value that
    is not finite, a negative loss, and lists of z that are not as long as those of the losses, or come without them.
    """
    columns: dict[str, npt.NDArray] = {}
    if token_losses is not None:
        columns["token_losses"] = _losses(_lists(run, ids, token_losses, "token_losses"), run, ids)
    if token_z is not None:
        if token_losses is None:
            raise InvalidInput(f"run {run!r}: token_z was given without token_losses; give both")
        columns["token_z"] = _lists(run, ids, token_z, "token_z")
        lengths = [np.array([len(row) for row in columns[name]]) for name in ("token_losses", "token_z")]
        if (unequal := np.flatnonzero(lengths[0] != lengths[1])).size:
            row = unequal[0]
            raise InvalidInput(
                f"run {run!r}: sample {ids[row]} has {lengths[1][row]} token_z and {lengths[0][row]} token_losses; "
                "give one of each a counted token"
            )
    if lower_loss is not None:
        if token_losses is None:
            raise InvalidInput(f"run {run!r}: lower_loss was given without token_losses; give both")
        columns["lower_loss"] = _lower(run, ids, lower_loss)
    return columns


def token_array(lists: npt.NDArray) -> pa.Array:
    """Lists of `token_columns` as Arrow's, with values of their own."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int32)
    values = np.concatenate(lists) if len(lists) else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _lists(
    run: str, ids: npt.NDArray[np.int64], given: Sequence[npt.NDArray[np.floating]], name: str
) -> npt.NDArray:
    if isinstance(given, str) or not hasattr(given, "__len__") or len(given) != len(ids):
        count = f"{len(given)} were given" if hasattr(given, "__len__") else f"not {type(given).__name__}"
        raise InvalidInput(f"{name} of run {run!r} must be {len(ids)} lists, one a sample id; {count}")
    rows = np.empty(len(ids), dtype=object)
    for number, values in enumerate(given):
        try:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, and told below
                rows[number] = np.array(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"run {run!r}: {name} of sample {ids[number]} are not numbers: {error}"
            ) from error
        if rows[number].ndim != 1 or not len(rows[number]):
            raise InvalidInput(
                f"run {run!r}: {name} of sample {ids[number]} have shape {rows[number].shape}; give a list with the tokens "
                "that the loss counts, one at least"
            )
    _refuse(
        run,
        ids,
        rows,
        name,
        lambda values: ~np.isfinite(values),
        "not finite; the model has probably diverged",
    )
    return rows


def _losses(rows: npt.NDArray, run: str, ids: npt.NDArray[np.int64]) -> npt.NDArray:
    advice = "negative: give -log p, the losses themselves, not log-probabilities"
    _refuse(run, ids, rows, "token_losses", lambda values: values < -_ROUNDING, advice)
    for row in rows:
        np.maximum(row, 0, out=row)
    return rows


def _refuse(
    run: str,
    ids: npt.NDArray[np.int64],
    rows: npt.NDArray,
    name: str,
    is_wrong: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.bool_]],
    advice: str,
) -> None:
    """Raises InvalidInput for the first token whose value is wrong."""
    if not len(rows):
        return
    wrong = np.flatnonzero(is_wrong(np.concatenate(rows)))
    if len(wrong):
        ends = np.cumsum([len(row) for row in rows])
        row = int(np.searchsorted(ends, wrong[0], side="right"))
        token = int(wrong[0] - ends[row] + len(rows[row]))
        raise InvalidInput(
            f"run {run!r}: {name} of sample {ids[row]}, token {token}, is {rows[row][token]}, {advice}"
        )


def _lower(run: str, ids: npt.NDArray[np.int64], given: npt.NDArray[np.floating]) -> npt.NDArray:
    try:
        with np.errstate(over="ignore"):
            values = np.array(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"lower_loss of run {run!r} are not numbers: {error}") from error
    if values.shape != ids.shape:
        raise InvalidInput(
            f"lower_loss of run {run!r} has shape {values.shape}, the sample ids have shape {ids.shape}"
        )
    wrong = np.flatnonzero(~np.isfinite(values) | (values < -_ROUNDING))
    if len(wrong):
        raise InvalidInput(
            f"run {run!r}: lower_loss of sample {ids[wrong[0]]} is {values[wrong[0]]}; it must be finite and not negative"
        )
    return np.maximum(values, 0)
