"""The lake: one folder with experiments, and the runs and results on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import manifest, paths
from .errors import AlreadyExists, CorruptLake, InvalidInput, NotFound
from .filesystem import Files, LocalFiles
from .manifest import DataFile
from .names import check_name
from .records import Experiment, Run, RunInfo
from .schema import PICTURES, SAMPLES
from .table_file import write_table
from .writer import RunWriter

if TYPE_CHECKING:
    import duckdb
    import polars as pl

POOLS = ("audit", "population")


class Lake:
    """One lake. Make it with `Lake.open`; everything it returns is committed data."""

    def __init__(self, files: Files) -> None:
        self.files = files

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Self:
        """The lake at ``path``. With ``create`` a missing one is made; otherwise NotFound says how.

        Raises NewerFormat for a lake of a newer losslake, InvalidInput for a folder that is something else.
        """
        files = LocalFiles(Path(path))
        lake = cls(files)
        if files.exists(paths.LAKE):
            manifest.load(files, paths.LAKE)
            return lake
        root = Path(files.root)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise InvalidInput(f"{files.root} exists and is not a lake (no {paths.LAKE} in it); choose another folder")
        if not create:
            raise NotFound(f"there is no lake at {files.root}; 'losslake collect' makes one")
        files.put_if_absent(paths.LAKE, manifest.dump({"kind": "lake", "created": _now()}))
        return lake

    @property
    def path(self) -> str:
        return self.files.root

    # --- experiments --------------------------------------------------------------------------------------

    def experiments(self) -> list[str]:
        """Names of the experiments, sorted."""
        return [Path(path).stem if path.endswith(".json") else path for path in self._manifests("experiments")]

    def experiment(self, name: str) -> Experiment:
        """One experiment. Raises NotFound with the names there are."""
        check_name("experiment", name)
        path = paths.experiment_manifest(name)
        if not self.files.exists(path):
            known = ", ".join(self.experiments()) or "none yet"
            raise NotFound(f"there is no experiment {name!r} in the lake {self.path} (experiments: {known})")
        return _experiment_from_json(manifest.load(self.files, path), path)

    def create_experiment(
        self,
        name: str,
        samples: pa.Table,
        *,
        dataset: Mapping[str, Any] | None = None,
        digest: str | None = None,
        pictures: pa.Array | None = None,
    ) -> Experiment:
        """Make an experiment, or return it when it exists with the same samples.

        ``samples`` has one row a sample, in the order of sample ids: column ``label`` (integer or NULL) and
        optionally pool (audit, population), split, group, key and any columns of the user's.
        ``dataset`` says how to load the data again, ``digest`` pins its content (default: a digest of
        ``samples``), ``pictures`` are PNG bytes a sample. Raises AlreadyExists when an experiment of that name
        holds other samples.
        """
        check_name("experiment", name)
        table = _complete_samples(samples)
        digest = digest or _digest(table)
        path = paths.experiment_manifest(name)
        if not self.files.exists(path):
            token = token_hex(8)
            written = [write_table(self.files, "samples", f"{paths.samples_folder(name)}/{token}.parquet", table)]
            if pictures is not None:
                shown = pa.table({"sample_id": table["sample_id"], "png": pictures}, schema=PICTURES)
                written.append(
                    write_table(self.files, "pictures", f"{paths.pictures_folder(name)}/{token}.parquet", shown)
                )
            content = {
                "kind": "experiment",
                "experiment": name,
                "samples": len(table),
                "created": _now(),
                "digest": digest,
                "dataset": dict(dataset or {}),
                "files": manifest.files_to_json(tuple(written)),
            }
            if not self.files.put_if_absent(path, manifest.dump(content)):
                for file in written:  # another process made it in the meantime; theirs counts
                    self.files.delete(file.path)
        experiment = self.experiment(name)
        if experiment.digest != digest:
            raise AlreadyExists(
                f"experiment {name!r} in {self.path} holds other samples ({experiment.samples} of them) than these "
                f"({len(table)}); choose another experiment name"
            )
        return experiment

    def samples(self, experiment: str) -> pa.Table:
        """The samples of an experiment, one row each, in the order of sample ids, with the user's columns."""
        listed = self.experiment(experiment).files
        return pa.concat_tables([self.read_file(file) for file in listed if file.table == "samples"])

    def pictures(self, experiment: str, sample_ids: list[int]) -> dict[int, bytes]:
        """PNG bytes of the samples asked for; empty when the experiment holds no pictures."""
        import pyarrow.parquet as pq

        found: dict[int, bytes] = {}
        for file in self.experiment(experiment).files:
            if file.table == "pictures" and sample_ids:
                with self.files.open_input(file.path) as source:
                    rows = pq.read_table(source, filters=[("sample_id", "in", sample_ids)])
                found.update(zip(rows["sample_id"].to_pylist(), rows["png"].to_pylist(), strict=True))
        return found

    # --- runs ---------------------------------------------------------------------------------------------

    def runs(self, experiment: str, role: str | None = None) -> list[Run]:
        """The committed runs of an experiment, by name; of one role when given."""
        self.experiment(experiment)
        found = self._manifests(f"runs/experiment={experiment}")
        loaded = [_run_from_json(manifest.load(self.files, path), path) for path in found]
        return [run for run in loaded if role is None or run.info.role == role]

    def run(self, experiment: str, run: str) -> Run:
        """One committed run. Raises NotFound with the names there are."""
        self.experiment(experiment)
        check_name("run", run)
        path = paths.run_manifest(experiment, run)
        if not self.files.exists(path):
            names = [Path(p).name.removesuffix(".json") for p in self._manifests(f"runs/experiment={experiment}")]
            known = ", ".join([*names[:8], "..."] if len(names) > 8 else names) or "none yet"
            raise NotFound(f"there is no run {run!r} in experiment {experiment!r} (runs: {known})")
        return _run_from_json(manifest.load(self.files, path), path)

    def has_run(self, experiment: str, run: str) -> bool:
        """Whether that run is committed."""
        return self.files.exists(paths.run_manifest(check_name("experiment", experiment), check_name("run", run)))

    def write_run(self, experiment: str, run: str, *, members: npt.NDArray[np.bool_]) -> RunWriter:
        """Start writing a run. ``members`` is boolean over all samples: who is in its training set.

        Raises AlreadyExists when the run is committed, InvalidInput when members do not fit the samples or a
        sample of the population is among them.
        """
        check_name("run", run)
        known = self.experiment(experiment)
        members = np.asarray(members)
        if members.dtype != bool or members.shape != (known.samples,):
            raise InvalidInput(
                f"members of run {run!r} must be boolean of shape ({known.samples},), not {members.dtype}{members.shape}"
            )
        writer = RunWriter(self.files, experiment, run, members)
        pool = self.samples(experiment)["pool"].to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(members & (pool == "population"))
        if len(wrong):
            raise InvalidInput(
                f"sample {wrong[0]} belongs to the population, which no run trains on, yet is a member of run {run!r}"
            )
        return writer

    # --- designs of fleets ----------------------------------------------------------------------------------

    def designs(self, experiment: str, fleet: str) -> list[dict[str, Any]]:
        """The membership designs laid down for a fleet of runs, in order."""
        prefix = paths.design_file(experiment, check_name("fleet", fleet), 0).removesuffix("0000.json")
        found = [path for path in self._manifests(f"designs/experiment={experiment}") if path.startswith(prefix)]
        return [manifest.load(self.files, path)["design"] for path in found]

    def add_design(self, experiment: str, fleet: str, number: int, design: Mapping[str, Any]) -> bool:
        """Lay down design ``number`` of a fleet for good; False when another process did so first."""
        path = paths.design_file(check_name("experiment", experiment), check_name("fleet", fleet), number)
        return self.files.put_if_absent(path, manifest.dump({"kind": "design", "design": dict(design)}))

    # --- reading ------------------------------------------------------------------------------------------

    def connect(
        self, experiment: str | None = None, *, threads: int | None = None, memory: str | None = None
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the lake's views, of one experiment or of all.

        It reads the lake and nothing else. The views show what was committed when the connection was made.
        """
        from .views import connect

        return connect(self, experiment, threads=threads, memory=memory)

    def sql(self, query: str, parameters: Mapping[str, Any] | None = None, *, experiment: str | None = None) -> pl.DataFrame:
        """The answer to one read-only SQL statement over the lake's views, as a Polars frame.

        Parameters stand in the query as ``$name``. Raises QueryRefused for anything but a query.
        """
        from .views import run_query

        with self.connect(experiment) as connection:
            return run_query(connection, query, parameters).pl()

    def scan(self, view: str, experiment: str | None = None) -> pl.LazyFrame:
        """A view as a Polars LazyFrame; for what SQL says less well than Polars."""
        from .scan import scan

        return scan(self, view, experiment)

    def arrow(self, view: str, experiment: str | None = None) -> pa.Table:
        """A view as an Arrow table."""
        from .views import read_view

        return read_view(self, view, experiment)

    def read_file(self, file: DataFile) -> pa.Table:
        """The rows of one data file that a manifest lists. Raises CorruptLake when it cannot be read."""
        import pyarrow.parquet as pq

        with self.files.open_input(file.path) as source:
            try:
                return pq.read_table(source)
            except (pa.ArrowInvalid, OSError) as error:
                raise CorruptLake(f"{file.path} in {self.path} cannot be read: {error}; run 'losslake lake verify'") from error

    # --- inside -------------------------------------------------------------------------------------------

    def _manifests(self, folder: str) -> list[str]:
        return self.files.list(folder, ".json")


def _experiment_from_json(content: dict[str, Any], path: str) -> Experiment:
    try:
        return Experiment(
            name=content["experiment"],
            samples=content["samples"],
            created=content["created"],
            digest=content["digest"],
            dataset=content["dataset"],
            files=manifest.files_from_json(content["files"]),
        )
    except (KeyError, TypeError) as error:
        raise CorruptLake(f"{path} is not the manifest of an experiment: {error}") from error


def _run_from_json(content: dict[str, Any], path: str) -> Run:
    try:
        return Run(
            experiment=content["experiment"],
            run=content["run"],
            members=content["members"],
            created=content["created"],
            info=RunInfo(**content["info"]),
            files=manifest.files_from_json(content["files"]),
        )
    except (KeyError, TypeError) as error:
        raise CorruptLake(f"{path} is not the manifest of a run: {error}") from error


def _complete_samples(samples: pa.Table) -> pa.Table:
    """Put the fixed columns first, filled in where absent, and check them."""
    rows = len(samples)
    if rows == 0:
        raise InvalidInput("an experiment needs at least one sample")
    given = {name: samples[name] for name in samples.column_names}
    expected = pa.array(np.arange(rows, dtype=np.int32))
    if "sample_id" in given and not given.pop("sample_id").cast(pa.int32()).combine_chunks().equals(expected):
        raise InvalidInput("sample_id must count 0, 1, 2, ... in the order of the rows")
    columns: dict[str, Any] = {"sample_id": expected}
    defaults = {"label": pa.nulls(rows, pa.int32()), "pool": pa.repeat("audit", rows), "key": expected.cast(pa.string())}
    for field in SAMPLES:
        if field.name == "sample_id":
            continue
        column = given.pop(field.name, defaults.get(field.name, pa.nulls(rows, field.type)))
        columns[field.name] = column.cast(field.type)
    pools = set(columns["pool"].unique().to_pylist())
    if not pools <= set(POOLS):
        raise InvalidInput(f"pool must be one of {', '.join(POOLS)}, not {sorted(pools - set(POOLS), key=str)[0]!r}")
    reserved = {"experiment", "run"} & set(given)
    if reserved:
        raise InvalidInput(f"a column of the samples is called {reserved.pop()!r}, which the lake needs; rename it")
    return pa.table(columns | given)


def _digest(table: pa.Table) -> str:
    sink = hashlib.sha256()
    for batch in table.combine_chunks().to_batches():
        sink.update(batch.serialize())
    return sink.hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


