"""Loading a data set by its spec: a name, a path, or a function."""

from __future__ import annotations

import os
from pathlib import Path

from ...store.errors import InvalidInput, InvalidOption
from ..callables import is_callable_spec, unknown_choice
from .arrays import load_function, load_npz
from .files import load_files
from .named import BUNDLED, DATASET_NAMES, load_torchvision
from .record import Dataset


def load_dataset(
    spec: str,
    *,
    label: str | None = None,
    group: str | None = None,
    key: str | None = None,
    data_dir: Path | None = None,
) -> Dataset:
    """The data set that `spec` names.

    spec      CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN (any case; downloaded on demand);
              digits (scikit-learn's, needs no download);
              a .parquet, .csv, .csv.gz or .npz file, or a folder in Hugging Face's layout;
              package.module:function, returning a Dataset, a mapping with x and y, or a data set of records (see `load_records`).
              A name wins over a path: write ./mnist for a folder called mnist
    label     the label column (default "label"), in an .npz the label array (default "y"), of dicts the entry
    group     the column (in an .npz the array, default "groups", of dicts the entry) of subpopulation labels
    key       the column of a Parquet or CSV file, or entry of dicts, that names the records (default: `split/row`)
    data_dir  where downloads and decoded pictures are kept (default $LOSSLAKE_DATA, or ~/.cache/losslake on Linux)

    Raises InvalidOption for a spec, label, group or key that does not exist, InvalidInput for data that cannot be
    used.
    """
    try:
        return _load(spec, label=label, group=group, key=key, data_dir=data_dir)
    except MemoryError as error:
        raise InvalidInput(f"{spec}: takes more memory than there is") from error


def _load(
    spec: str, *, label: str | None, group: str | None, key: str | None, data_dir: Path | None
) -> Dataset:
    named = {name.casefold(): name for name in DATASET_NAMES}.get(spec.casefold())
    try:
        path = Path(spec).expanduser()
    except RuntimeError as error:  # ~ of a user that does not exist
        raise InvalidInput(f"{spec}: no such file or folder: {error}") from error
    if named is None and os.path.exists(path):
        if path.suffix == ".npz" and path.is_file():
            if key is not None:
                raise InvalidOption(f"key names a column of a Parquet or CSV file; {spec} has none")
            return load_npz(spec, path, label=label, group=group)
        return load_files(spec, path, label=label, group=group, key=key, data_dir=data_dir)
    for option, value in (("label", label), ("group", group), ("key", key)):
        if value is not None and named is not None:
            raise InvalidOption(f"{option} names a column of a file; {spec} brings its own")
    if named is not None:
        return BUNDLED[named](spec) if named in BUNDLED else load_torchvision(spec, named, data_dir=data_dir)
    if is_callable_spec(spec):
        return load_function(spec, label=label, group=group, key=key)
    if "/" in spec or path.suffix in (".parquet", ".csv", ".gz", ".npz"):
        raise InvalidInput(f"{spec}: no such file or folder")
    raise unknown_choice("data set", spec, DATASET_NAMES, more="; or give a path, or package.module:function")
