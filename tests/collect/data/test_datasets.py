"""Data sets by name, by .npz and by function; digests of their content."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from losslake.collect.data.load import load_dataset
from losslake.collect.data.named import BUNDLED
from losslake.collect.data.nested import Nested
from losslake.collect.data.record import content_digest
from losslake.store.errors import InvalidInput, InvalidOption
from places import SHARED_DATA

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 3, 10, 12), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("Digits")
    source = load_digits()
    assert data.x.shape == (1797, 1, 8, 8)
    assert (data.x.min(), data.x.max()) == (0, 255)
    # 8 * 255 / 16 = 127.5: rounded, so at most half a step from the exact value.
    assert np.abs(data.x[:, 0] - source.images * 255 / 16).max() <= 0.5
    np.testing.assert_array_equal(data.y, source.target)
    assert len(data.classes) == 10
    assert set(data.split) == {"train"}


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (PICTURES, PICTURES),
        (PICTURES.transpose(0, 2, 3, 1), PICTURES),
        (PICTURES[:, 0], PICTURES[:, :1]),
        (PICTURES[:, :1].transpose(0, 2, 3, 1), PICTURES[:, :1]),
        (LABELS[:, None] / 2, (LABELS[:, None] / 2).astype(np.float32)),
    ],
)
def test_npz_layouts(tmp_path: Path, x: np.ndarray, expected: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x=x[:4], y=LABELS[:4], x_test=x[4:], y_test=LABELS[4:], groups=list("aabb"))
    data = load_dataset(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.x, expected)
    assert data.x.dtype == expected.dtype
    assert data.x.flags.c_contiguous
    assert data.y.tolist() == LABELS.tolist()
    assert data.key.tolist() == ["train/0", "train/1", "train/2", "train/3", "test/0", "test/1"]
    assert data.group is not None
    assert data.group.tolist() == ["a", "a", "b", "b", "", ""]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PICTURES}, "no array 'y'; it holds: x"),
        ({"x": PICTURES, "y": LABELS[:5]}, r"x has shape \(6, 3, 10, 12\), y has \(5,\)"),
        ({"x": PICTURES, "y": LABELS, "x_test": PICTURES}, "must be given together"),
        ({"x": PICTURES, "y": LABELS, "x_test": PICTURES[:, :, :9], "y_test": LABELS}, "x_test is uint8"),
        ({"x": PICTURES.astype(np.float32), "y": LABELS}, "give pictures as uint8"),
        ({"x": PICTURES[:, :, :, :3], "y": LABELS}, "either axis 1 or axis 3"),
        ({"x": PICTURES[:, [0, 0]], "y": LABELS}, "neither axis 1 nor axis 3"),
        ({"x": np.array([[1.0, 2.0], [3.0, np.nan]]), "y": LABELS[:2]}, "nan in row 1, column 1"),
        ({"x": np.array([[1.0, 1e300]]), "y": LABELS[:1]}, "row 0, column 1"),
        ({"x": PICTURES, "y": LABELS - 1}, "label -1 of row 0 is negative"),
        ({"x": PICTURES, "y": LABELS, "groups": ["a"]}, r"groups has shape \(1,\)"),
        ({"x": PICTURES, "y": LABELS.astype(object)}, "holds Python objects"),
        ({"x": PICTURES[:0], "y": LABELS[:0]}, "no rows"),
    ],
)
def test_npz_refusals(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=message):
        load_dataset(str(tmp_path / "a.npz"))


def test_npz_other_names_and_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=PICTURES, fine=LABELS, who=list("abcabc"))
    data = load_dataset(str(tmp_path / "a.npz"), label="fine", group="who")
    assert data.y.tolist() == LABELS.tolist()
    assert data.group is not None
    assert data.group.tolist() == list("abcabc")
    with pytest.raises(InvalidOption, match="Did you mean 'fine'"):
        load_dataset(str(tmp_path / "a.npz"), label="fin")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"not an \.npz file"):
        load_dataset(str(tmp_path / "a.npz"))


USER_MODULE = """
import numpy as np
def plain():
    return {"x": np.eye(3), "y": ["b", "a", "b"], "split": ["train", "test", "train"], "columns": {"n": [1, 2, 3]}}
def declared():
    return dict(x=np.eye(3), y=[0, 1, 0], classes=["p", "q", "r"], key=["k1", "k2", "k3"], group=["g", "h", "g"])
def repeated():
    return dict(x=np.eye(3), y=[0, 1, 0], key=["k", "k", "l"])
def misnamed():
    return dict(x=np.eye(3), y=[0, 1, 0], groups=["g", "h", "g"])
def nothing():
    return None
def several():
    return dict(x=[np.eye(3), np.zeros((3, 2))], y=[0, 1, 0])
def named():
    return dict(x={"a": np.eye(3), "b": np.zeros((3, 2))}, y=[0, 1, 0])
value = 3
"""


def test_user_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_data.py").write_text(USER_MODULE)
    (tmp_path / "my_broken_data.py").write_text("raise ValueError('no luck')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = load_dataset("my_own_data:plain")
    assert data.x.dtype == np.float32
    assert data.classes == ("a", "b")
    assert data.key.tolist() == ["train/0", "test/0", "train/1"]
    assert data.columns is not None
    assert data.columns.to_pydict() == {"n": [1, 2, 3]}
    declared = load_dataset("my_own_data:declared")
    assert declared.classes == ("p", "q", "r")
    assert declared.group is not None
    assert isinstance(load_dataset("my_own_data:named").x, Nested)
    for spec, error, message in [
        ("my_own_data:repeated", InvalidInput, "keys are not unique"),
        ("my_own_data:misnamed", InvalidOption, "Did you mean 'group'"),
        ("my_own_data:nothing", InvalidInput, r"returned a NoneType; .*lake\.shadow_runs"),
        ("my_own_data:several", InvalidInput, r"x is no one array .*lake\.shadow_runs"),
        ("my_own_data:value", InvalidOption, "is a int, not a function"),
        ("my_own_data:plian", InvalidOption, "Did you mean 'plain'"),
        ("my_broken_data:f", InvalidInput, "ValueError: no luck"),
        ("no_such_module_here:f", InvalidOption, "no module 'no_such_module_here'"),
    ]:
        with pytest.raises(error, match=message):
            load_dataset(spec)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_sets(name: str) -> None:
    data = load_dataset(name.upper())
    assert data.name == name.upper()
    assert len(set(data.key.tolist())) == len(data)
    assert set(data.y.tolist()) == set(range(len(data.classes)))
    assert np.isfinite(data.x).all()


def test_unknown_names() -> None:
    with pytest.raises(
        InvalidOption, match=r"'CIFAR-10'\. Did you mean 'CIFAR10'\? valid: CIFAR10, CIFAR100"
    ):
        load_dataset("CIFAR-10")
    with pytest.raises(InvalidOption, match="brings its own"):
        load_dataset("digits", label="y")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_torchvision_files_that_are_there(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    x = np.random.default_rng(1).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    y = np.arange(7, dtype=np.uint8)
    for split, rows in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        for name, array in ((f"{split}-images-idx3-ubyte", x[rows]), (f"{split}-labels-idx1-ubyte", y[rows])):
            (raw / name).write_bytes(idx(array))
            (raw / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    data = load_dataset("fashionmnist", data_dir=tmp_path)
    np.testing.assert_array_equal(data.x, x[:, None])
    assert data.y.tolist() == list(range(7))
    assert data.split.tolist() == ["train"] * 5 + ["test"] * 2
    assert len(data.classes) == 10
    assert data.classes[0] == "T-shirt/top"


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("Error downloading x.gz")])
def test_a_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(**_: object) -> None:
        print("Downloading")
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fail)
    with pytest.raises(InvalidInput, match=r"CIFAR100 could not be fetched(.|\n)*folder of Parquet"):
        load_dataset("cifar100", data_dir=tmp_path)
    assert capsys.readouterr().out == "", "standard output belongs to results"


def test_content_digest_sees_content_only() -> None:
    digest = content_digest(PICTURES, LABELS)
    assert len(digest) == 64
    assert content_digest(np.asfortranarray(PICTURES), LABELS.copy()) == digest
    changed = PICTURES.copy()
    changed[-1, -1, -1, -1] ^= 1
    others = [
        content_digest(changed, LABELS),
        content_digest(PICTURES, LABELS[::-1]),
        content_digest(PICTURES, LABELS.astype(np.int32)),
        content_digest(PICTURES.reshape(6, 3, 12, 10), LABELS),
    ]
    assert len({digest, *others}) == 5
    with pytest.raises(InvalidInput, match="Python objects"):
        content_digest(np.array([{}]), LABELS)


def test_content_digest_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from losslake.collect.data import record

    digest = content_digest(PICTURES, LABELS)
    monkeypatch.setattr(record, "_CHUNK_BYTES", 500)
    assert content_digest(PICTURES, LABELS) == digest


def test_shared_text_is_refused_as_pictures() -> None:
    folder = SHARED_DATA / "ag_news"
    if not folder.exists():
        pytest.skip(f"no shared data at {folder}")
    with pytest.raises(InvalidInput, match=r"'text' has 7,\d+ different values"):
        load_dataset(str(folder))
