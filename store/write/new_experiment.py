"""Writing a new experiment: its samples, their pictures, and last the manifest that makes them one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..errors import InvalidInput
from ..files.filesystem import Files
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..format.schema import PICTURES
from . import leases
from .table_file import write_table


def write_experiment(
    files: Files,
    name: str,
    table: pa.Table,
    digest: str,
    dataset: dict[str, Any],
    pictures: pa.Array | None,
) -> None:
    """Write the tables of an experiment and the manifest that makes it one, unless another process made it meanwhile.

    ``table`` are its samples as `complete_samples` gives them, ``pictures`` PNG bytes a sample. Raises InvalidInput for
    pictures that are none.
    """
    token = leases.token(files)
    tables = {"samples": (paths.samples_folder(name), table)}
    if pictures is not None:
        tables["pictures"] = (paths.pictures_folder(name), _pictures_table(table, pictures))
    written: list[DataFile] = []
    claimed = False
    try:
        for kind, (folder, rows) in tables.items():
            written.append(write_table(files, kind, f"{folder}/{token}.parquet", rows))
        content = {
            "kind": "experiment",
            "experiment": name,
            "samples": len(table),
            "created": manifest.now(),
            "digest": digest,
            "dataset": dataset,
            "files": manifest.files_to_json(tuple(written)),
        }
        data = manifest.dump(content)
        claimed = True  # from here on the manifest may be there, whatever goes wrong
        claimed = files.put_if_absent(paths.experiment_manifest(name), data)
    finally:
        if not claimed:  # it failed, or another process made it in the meantime and theirs counts
            for file in written:
                files.delete(file.path)


def _pictures_table(samples: pa.Table, pictures: pa.Array) -> pa.Table:
    try:
        return pa.table({"sample_id": samples["sample_id"], "png": pictures}, schema=PICTURES)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInput(
            f"pictures must be PNG bytes, one a sample ({len(samples)} of them): {error}"
        ) from error
