"""Importing what loss_traces leaves: a Parquet file of losses a model, a column an epoch, and its LiRA scores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ...store.errors import InvalidInput
from ...store.format.records import Run
from ...store.lake import Lake
from ..callables import unknown_choice
from ..data.bounds import read_csv, read_parquet
from ..data.npy import brief, refuse_pickle
from ..data.room import check_room
from ..progress import Progress
from .files import INDEX, check_labels, folders_in, in_order, read_keep, read_labels
from .runs import GivenRun, Universe, import_runs, run_names

_FOLDERS = {"losses": "traces", "grad_norms": "grad_norms", "confidences": "margins"}
_SHADOW = re.compile(r"_shadow_[0-9]+")
_FREE = "free_train_losses"
_SCORES = {
    "og_idx": pa.int64(),
    "target_trained_on": pa.bool_(),
    "lira_score": pa.float64(),
    "label": pa.int64(),
}


@dataclass(frozen=True)
class _EpochTable:
    """A file whose schema was read: ``rows`` samples, ``columns`` one an epoch from 0, ``index`` where it has one."""

    path: Path
    rows: int
    columns: tuple[str, ...]
    index: str | None

    @property
    def epochs(self) -> int:
        return len(self.columns)

    def read(self) -> np.ndarray:
        """float32 (rows, epochs), in the order of the samples; NaN where there is no value.

        Raises InvalidInput where the file is damaged, or its index does not number the samples.
        """
        check_room(4 * self.rows * self.epochs, self.path)
        try:
            values = np.empty((self.rows, self.epochs), dtype=np.float32)
            index = None
            if self.index is not None:
                index = read_parquet(self.path, [self.index]).column(0).to_numpy()
            for epoch, name in enumerate(self.columns):
                column = read_parquet(self.path, [name]).column(0)
                with np.errstate(over="ignore"):
                    values[:, epoch] = column.to_numpy()
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise InvalidInput(f"{self.path}: cannot be read: {brief(error)}") from error
        if index is None or np.array_equal(index, np.arange(self.rows)):
            return values
        if index.dtype.kind not in "iu" or not np.array_equal(np.sort(index), np.arange(self.rows)):
            raise InvalidInput(
                f"{self.path}: its index {self.index} must number the samples from 0 to {self.rows - 1}, each once"
            )
        return values[np.argsort(index)]


_Models = dict[str, dict[str, _EpochTable]]
"""By the name of a model what it has of traces, grad_norms and margins; the target, its duals and its shadows in this order."""


def import_loss_traces(
    lake: Lake,
    experiment: str,
    path: Path,
    *,
    labels: Path | None = None,
    keep: Path | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Import the models of one of the experiments (exp) in the storage folder ``path``.

    ``losses/{exp}.pq`` is of the target, ``{exp}_dual_X.pq`` of its duals (same members, parent = the target) and
    ``{exp}_shadow_i.pq`` of shadows: a row a sample in the order of the data set, a column an epoch, 0 before
    training. ``grad_norms/`` alike, and ``confidences/``, which are margins (logit of the label - the next highest).
    They become eval traces: the peer's pass over all samples after each epoch. The loss of the last epoch becomes the
    signal of query 0 as well, so that attacks run; the peer's older code took it in train mode, where BatchNorm
    differs from a finished model's. Samples without a last loss get no signal.

    ``lira_scores/{exp}_target`` (CSV: og_idx, lira_score, target_trained_on) tells the target's members; its scores
    become the samples' column peer_lira_score (higher = more likely a member). Who is in the shadows' training sets,
    and in the target's where there is no CSV, stands only in pickled checkpoints: ``keep`` names an .npy file of bool
    (K, N), a row each for the target, unless the CSV has it, and for the shadows by number. ``target`` names exp where
    the folder holds several. ``labels`` as in `import_lira`; else a column label of the CSV; else NULL. Losses that were recorded inside the
    training steps (``free_train_losses/``), of members alone, and other files of exp are not read, and named. See `import_runs` for the errors.
    """
    refuse_pickle(path)
    exp = _choose(path, target)
    models, notes = _find(path, exp)
    samples = models[exp]["traces"].rows
    chosen, in_target, score, known = _find_scores(path / "lira_scores", exp, samples)
    unused = _others(path, exp, chosen)
    members = _members(models, exp, in_target, keep, samples, path)
    known = known if labels is None else check_labels(read_labels(labels), str(labels))
    if known is not None and len(known) != samples:
        raise InvalidInput(f"{labels}: has {len(known)} labels, losses/ has {samples} samples")
    columns = {}
    if score is not None:
        columns["peer_lira_score"] = pa.array(score, from_pandas=True)
    names = run_names(list(models))
    return import_runs(
        lake,
        experiment,
        Universe(known, np.zeros(samples, dtype=bool), columns),
        lambda: _runs(models, names, exp, members),
        names,
        layout="loss-traces",
        source=path.resolve().name,
        target=names[0],
        progress=progress,
        notes=[*notes, *unused],
    )


def _runs(models: _Models, names: list[str], exp: str, members: dict[str, np.ndarray]) -> Iterator[GivenRun]:
    for (model, tables), name in zip(models.items(), names, strict=True):
        values = {kind: table.read() for kind, table in tables.items()}
        last = values["traces"][:, -1]
        known = ~np.isnan(last)
        ids = None if known.all() else np.flatnonzero(known)
        if known.any():
            values["loss"] = last[known]
        shadow = _is_shadow(model, exp)
        yield GivenRun(
            name=name,
            origin=f"losses/{tables['traces'].path.name}",
            members=members[model if shadow else exp],
            values=values,
            ids=ids,
            role="shadow" if shadow else "target",
            parent=None if shadow or model == exp else names[0],
        )


def _is_shadow(name: str, exp: str) -> bool:
    return _SHADOW.fullmatch(name.removeprefix(exp)) is not None


def _parquet_files(folder: Path) -> dict[str, Path]:
    """Files by their names without the extension."""
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in in_order(folder.iterdir()) if file.suffix in (".pq", ".parquet")}


def _choose(path: Path, target: str | None) -> str:
    """The experiment that is meant: a file of losses that is of no dual and no shadow."""
    found = _parquet_files(path / "losses")
    if not found:
        if _parquet_files(path / _FREE):
            raise InvalidInput(
                f"{path}: has no losses/, and {_FREE}/ is of members alone; train with --track_computed_loss, or import its "
                "values as the traces of an .npz (NaN for others), with keep"
            )
        raise InvalidInput(
            f"{path}: holds no losses/*.pq; give the storage folder of loss_traces, with losses/ and lira_scores/ in it"
        )
    targets = [name for name in found if "_dual_" not in name and not re.search(r"_shadow_[0-9]+$", name)]
    if not targets:
        raise InvalidInput(
            f"{path / 'losses'}: holds duals or shadows alone ({', '.join(list(found)[:4])}); the target's EXP.pq is needed"
        )
    if target is None and len(targets) > 1:
        raise InvalidInput(
            f"{path / 'losses'}: holds several experiments ({', '.join(targets[:8])}); choose one with --target NAME"
        )
    if target is not None and target not in targets:
        raise unknown_choice(f"experiment in {path / 'losses'}", target, targets)
    return target or targets[0]


def _find(path: Path, exp: str) -> tuple[_Models, list[str]]:
    """The models, with their headers checked against each other, and notes on what is not used."""
    found = {folder: _parquet_files(path / folder) for folder in _FOLDERS}
    losses = found["losses"]
    duals = [name for name in losses if name.startswith(f"{exp}_dual_")]
    shadows = [name for name in losses if name.startswith(exp) and _is_shadow(name, exp)]
    models: _Models = {}
    for name in (exp, *duals, *shadows):
        models[name] = tables = {
            kind: _epoch_table(found[folder][name])
            for folder, kind in _FOLDERS.items()
            if name in found[folder]
        }
        first = models[exp]["traces"]
        for table in tables.values():
            if table.rows != first.rows:
                raise InvalidInput(
                    f"{table.path}: has {table.rows} rows, {first.path} has {first.rows}; one a sample each"
                )
            if table.epochs != tables["traces"].epochs:
                raise InvalidInput(
                    f"{table.path}: has {table.epochs} epochs, {tables['traces'].path} has {tables['traces'].epochs}"
                )
    unused = [
        f"{folder}/{file.name}"
        for folder, files in found.items()
        for name, file in files.items()
        if name not in models
    ]
    return models, [f"files not used: {', '.join(unused[:8])}"] if unused else []


def _members(
    models: _Models, exp: str, in_target: np.ndarray | None, keep: Path | None, samples: int, path: Path
) -> dict[str, np.ndarray]:
    """Who is in the training set, (N,), by the name of the model; that of the duals is the target's."""
    members = {} if in_target is None else {exp: in_target}
    asked = [name for name in models if name not in members and (name == exp or _is_shadow(name, exp))]
    if keep is None:
        if asked:
            shown = ", ".join(asked) if len(asked) < 4 else f"{asked[0]}, {asked[1]}, ..., {asked[-1]}"
            raise InvalidInput(
                f"{path}: nothing says who was in the training set of {shown}; give it with --keep FILE.npy, bool of shape "
                f"({len(asked)}, {samples}) with a row for each, made from the checkpoints' trained_on_indices"
            )
        return members
    if not asked:
        raise InvalidInput(f"{keep}: is not needed: lira_scores/ says who was in the training set of {exp}")
    rows = read_keep(
        keep, (len(asked), samples), f"bool with a row for each of {', '.join(asked[:8])}, of shape"
    )
    return members | dict(zip(asked, rows, strict=True))


def _epoch_table(path: Path) -> _EpochTable:
    """The file at ``path``, by its schema alone.

    Raises InvalidInput where it is no Parquet file, or has other columns than epochs 0, 1, 2, ... of floating point.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InvalidInput(f"{path}: is not a readable Parquet file: {brief(error)}") from error
    index = next((name for name in schema.names if name in INDEX), None)
    named = [name for name in schema.names if name != index]
    others = [name for name in named if not (name.isascii() and name.isdigit())]
    if others or not named or not rows:
        what = f"the columns {', '.join(others[:4])}" if others else f"{rows} rows and {len(named)} columns"
        raise InvalidInput(
            f"{path}: has {what}; it must have a row a sample and a column an epoch, called 0, 1, 2, ..."
        )
    wanted = [str(epoch) for epoch in range(len(named))]
    if sorted(named) != sorted(wanted):
        missing = next(name for name in wanted if name not in named)
        raise InvalidInput(
            f"{path}: has no column {missing}: epochs must run from 0 without a gap, each once"
        )
    wrong = next((name for name in named if not pa.types.is_floating(schema.field(name).type)), None)
    if wrong is not None:
        raise InvalidInput(f"{path}: column {wrong} is {schema.field(wrong).type}; it must be floating point")
    return _EpochTable(path, rows, tuple(wanted), index)


def _find_scores(
    folder: Path, exp: str, samples: int
) -> tuple[Path | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The file of scores, and from it the members of the target of ``exp``, bool (N,), its peer scores and the labels (N,).

    None is what there is none of; a higher score = more likely a member.
    Files are called {exp}_target, {exp}_target_256 (of so many shadow models) or {exp}, with or without .csv; of
    several the one of most shadow models counts. Raises InvalidInput.
    """
    pattern = re.compile(re.escape(exp) + r"(_target)?(_(?P<shadows>[0-9]{1,9}))?(\.csv)?")
    found = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(file.name)
        if match and file.is_file():
            found.append((int(match["shadows"] or -1), file))
    if not found:
        return None, None, None, None
    _, chosen = max(found, key=lambda each: each[0])
    return chosen, *_read_scores(chosen, samples)


def _others(path: Path, exp: str, scores: Path | None) -> list[str]:
    """A note on the files of ``exp`` in folders that are not read, and on scores beside those that are."""
    mine = re.compile(re.escape(exp) + r"([_.].*)?")
    unused = [
        f"{folder.name}/{file.name}"
        for folder in folders_in(path)
        if folder.name not in _FOLDERS
        for file in in_order(folder.iterdir())
        if file.is_file() and mine.fullmatch(file.name) and file != scores
    ]
    more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
    return [f"files not used: {', '.join(unused[:8])}{more}"] if unused else []


def _read_scores(path: Path, samples: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    # NaN and an empty cell are a score that the peer could not compute.
    convert = pyarrow.csv.ConvertOptions(column_types=_SCORES)
    try:
        table = read_csv(path, convert)
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InvalidInput(f"{path}: is not a readable CSV file of LiRA scores: {brief(error)}") from error
    for name in ("og_idx", "target_trained_on"):
        if name not in names:
            raise InvalidInput(f"{path}: has no column {name} (there are: {', '.join(names[:8])})")
        if table[name].null_count:
            raise InvalidInput(f"{path}: {name} is missing in some rows; it must be in each")
    ids = table["og_idx"].to_numpy()
    if len(ids) != samples or not np.array_equal(np.sort(ids), np.arange(samples)):
        raise InvalidInput(
            f"{path}: og_idx must hold each sample's number from 0 to {samples - 1} once, as losses/ has {samples} rows; it "
            f"has {len(ids)}"
        )
    order = np.argsort(ids)
    score = table["lira_score"].to_numpy()[order] if "lira_score" in names else None
    labels = None
    if "label" in names:
        if table["label"].null_count:
            raise InvalidInput(f"{path}: label is missing in some rows; it must be in each, or in none")
        labels = check_labels(table["label"].to_numpy()[order], str(path))
    return table["target_trained_on"].to_numpy()[order], score, labels
