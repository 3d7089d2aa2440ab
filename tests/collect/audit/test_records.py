"""Records of every kind lead to the same audit, and those that cannot be told of are refused with the reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import losslake
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from losslake.collect.audit.collect import collect_audit
from losslake.collect.audit.columns import Columns
from losslake.collect.audit.records import Records, read_records
from losslake.collect.audit.rows import joined, rows_of
from losslake.collect.audit.same import digests
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = (X[:, 0] + RNG.normal(size=80) > 0).astype(np.int64)
NAMES = ["a", "b", "c", "d"]
MODEL = LogisticRegression().fit(X[:40], Y[:40])


def frame(rows: slice) -> pd.DataFrame:
    return pd.DataFrame(X[rows], columns=NAMES).assign(label=Y[rows])


def tensors(rows: slice) -> TensorDataset:
    return TensorDataset(torch.from_numpy(X[rows]), torch.from_numpy(Y[rows]))


KINDS: dict[str, Callable[[slice], Any]] = {
    "arrays": lambda rows: (X[rows], Y[rows]),
    "lists": lambda rows: (X[rows].tolist(), Y[rows].tolist()),
    "tensors": lambda rows: (torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])),
    "sparse": lambda rows: (scipy.sparse.csr_matrix(X[rows]), Y[rows]),
    "a column of labels": lambda rows: (X[rows], Y[rows][:, None]),
    "pandas": frame,
    "pandas X and y": lambda rows: (frame(rows)[NAMES], frame(rows)["label"]),
    "polars": lambda rows: pl.DataFrame(X[rows], schema=NAMES).with_columns(label=Y[rows]),
    "lazy polars": lambda rows: pl.DataFrame(X[rows], schema=NAMES).with_columns(label=Y[rows]).lazy(),
    "arrow": lambda rows: pl.DataFrame(X[rows], schema=NAMES).with_columns(label=Y[rows]).to_arrow(),
    "a mapping of columns": lambda rows: {**dict(zip(NAMES, X[rows].T.copy())), "label": Y[rows]},
    "rows": lambda rows: frame(rows).to_dict("records"),
    "a data set": tensors,
    "a loader": lambda rows: DataLoader(tensors(rows), batch_size=7, shuffle=True),
    "hugging face": lambda rows: datasets.Dataset.from_pandas(frame(rows)),
}


def losses(model: Any, members: Any, others: Any, **more: Any) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        collect_audit(lake, "e", model, members, others, **more)
        return lake.sql("select loss from signals where run = 'target' order by sample_id")["loss"].to_numpy()


EXPECTED = -np.log(MODEL.predict_proba(X)[np.arange(80), Y])


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimator_is_asked_the_same_whatever_records_are_given_as(kind: str) -> None:
    made = KINDS[kind]
    found = losses(MODEL, made(slice(40)), made(slice(40, 80)), shadows=2)
    assert np.allclose(found, EXPECTED, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hugging face"])
def test_a_module_is_asked_the_same_whatever_records_are_given_as(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    if kind in ("a data set", "a loader"):
        module = module.double()
    made = KINDS[kind]
    found = losses(module, made(slice(40)), made(slice(40, 80)))
    logits = module(torch.from_numpy(X).to(module.weight.dtype)).detach()
    assert np.allclose(
        found, nn.functional.cross_entropy(logits, torch.from_numpy(Y), reduction="none"), atol=1e-5
    )


def test_records_of_a_model_that_is_called_in_a_way_of_its_own() -> None:
    module = nn.Linear(4, 2).double()
    data = datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}).with_format("torch")

    def forward(model: nn.Module, batch: Any) -> Any:
        return model(batch["x"].double()), batch["y"]

    found = losses(module, data.select(range(40)), data.select(range(40, 80)), forward=forward)
    logits = module(torch.from_numpy(X)).detach()
    wanted = nn.functional.cross_entropy(logits, torch.from_numpy(Y), reduction="none")
    assert np.allclose(found, wanted, atol=1e-4)


def test_a_loader_gives_the_records_that_its_sampler_draws() -> None:
    data = tensors(slice(80))
    member = np.random.default_rng(1).permutation(80)[:40]
    sides = (
        DataLoader(data, batch_size=9, sampler=SubsetRandomSampler(part.tolist()), drop_last=True)
        for part in (member, np.setdiff1d(np.arange(80), member))
    )
    state = torch.random.get_rng_state()
    audit = losslake.audit(MODEL, *sides)
    assert torch.equal(state, torch.random.get_rng_state())
    order = [*sorted(member), *np.setdiff1d(np.arange(80), member)]
    assert np.allclose(-audit.scores("loss")["score"].to_numpy(), EXPECTED[order], atol=1e-5)
    assert audit.lake.run("audit", "target").members == 40


class Tokens(nn.Module):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(32, 3, dtype=kind), nn.Linear(3, 2, dtype=kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.table(x).mean(1))


class Pixels(nn.Module):
    """Scales its whole numbers itself."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(4, 2, dtype=kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x / 16 - 1)


def plain_rows(kind: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(kind)


WHOLE = np.random.default_rng(5).permutation(32**2)[:80]
WHOLE = np.stack([WHOLE // 32, WHOLE % 32, WHOLE % 7, WHOLE % 5], axis=1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", ["float32", "float64", "uint8", "int64", "bool"])
@pytest.mark.parametrize("form", ["arrays", "tensors", "a data set", "a data set of arrays", "frames"])
@pytest.mark.parametrize("made", [plain_rows, Pixels, Tokens])
def test_a_module_takes_numbers_of_every_type(made: Any, form: str, given: str, kind: torch.dtype) -> None:
    """In its own precision; and whole numbers as they are, where it takes them so."""
    if made is Tokens and (given != "int64" or form == "frames"):
        return
    rows = X if given.startswith("float") else WHOLE
    if given == "bool":
        rows = WHOLE % 2 == 1
    rows = rows.astype(given)
    model = made(kind)
    sides: list[Any] = []
    for part in (slice(40), slice(40, 80)):
        x, y = rows[part], Y[part]
        both = torch.from_numpy(x), torch.from_numpy(y)
        if form == "a data set":
            sides.append(TensorDataset(*both))
        elif form == "a data set of arrays":
            sides.append([*zip(x, y.tolist(), strict=True)])
        elif form == "frames":
            sides.append(pd.DataFrame(x, columns=NAMES).assign(label=y))
        else:
            sides.append((x, y) if form == "arrays" else both)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        collect_audit(lake, "e", model, *sides, overlap="leave out")
        held = lake.sql("select key, logits from signals join samples using (sample_id) order by sample_id")
    asked = [int(key.split("/")[1]) + 40 * key.startswith("non") for key in held["key"].to_list()]
    assert len(asked) > (4 if given == "bool" else 60)
    x = torch.from_numpy(rows)
    with torch.no_grad():
        wanted = model(x if made is Tokens else x.to(kind)).float().numpy()
    close = (
        {"rtol": 0.03, "atol": 0.03}
        if kind in (torch.bfloat16, torch.float16)
        else {"rtol": 1e-5, "atol": 1e-5}
    )
    assert np.allclose(np.array(held["logits"].to_list()), wanted[asked], **close)


# --- names, groups, columns ---------------------------------------------------------------------------------


def test_keys_groups_and_columns_are_kept(tmp_path: Path) -> None:
    table = frame(slice(80)).assign(
        who=[f"p{i}" for i in range(80)], ward=np.where(np.arange(80) % 3, "east", "west"), shoesize=range(80)
    )
    model = LogisticRegression().fit(table[NAMES], table["label"])
    audit = losslake.audit(model, table[:40], table[40:], key="who", group="ward", shadows=4)
    samples = pl.DataFrame(audit.lake.samples("audit"))
    assert samples["key"].to_list() == [f"p{i}" for i in range(80)]
    assert samples["group"].to_list()[:3] == ["west", "east", "east"]
    assert samples["shoesize"].to_list() == list(range(80))
    assert audit.exposed(1)["key"][0].startswith("p")
    assert audit.exposed(1).columns == ["sample_id", "key", "label", "group", "score"]
    assert "shoesize" in audit.report(tmp_path / "with.html").read_text()
    assert "shoesize" not in audit.report(tmp_path / "without.html", pictures=False).read_text()


def test_numbers_of_a_split_frame_name_its_records() -> None:
    table = frame(slice(80)).sample(frac=1, random_state=0)
    model = LogisticRegression().fit(table[NAMES], table["label"])
    keys = losslake.audit(model, table[:40], table[40:]).scores("loss")["key"].to_list()
    assert keys == list(map(str, table.index))
    apart = losslake.audit(model, table[:40].reset_index(drop=True), table[40:].reset_index(drop=True))
    assert apart.scores("loss")["key"].to_list()[39:41] == ["members/39", "nonmembers/0"]
    by_name = table.set_axis([f"n{i}" for i in table.index])
    assert losslake.audit(model, by_name[:40], by_name[40:]).scores("loss")["key"][0] == f"n{table.index[0]}"


def test_a_column_called_like_one_of_the_lake_is_a_feature_like_another() -> None:
    names = ["split", "Group", "experiment", "key"]
    table = pd.DataFrame(X, columns=names).assign(label=Y)
    model = LogisticRegression().fit(table[names][:40], Y[:40])
    assert np.allclose(losses(model, table[:40], table[40:]), EXPECTED, atol=1e-5)


def test_columns_are_found_by_their_names() -> None:
    model = LogisticRegression().fit(frame(slice(40))[NAMES], Y[:40])
    members, others = frame(slice(40)), frame(slice(40, 80))[["d", "label", "a", "c", "b"]]
    assert np.allclose(losses(model, members, others.assign(more=1)), EXPECTED, atol=1e-5)
    assert np.allclose(
        losses(MODEL, members, others), EXPECTED, atol=1e-5
    )  # fitted on an array, in the order of the members


def test_text_and_categories() -> None:
    words = np.array(["red fox", "blue bird", "green frog"])[RNG.integers(0, 3, 80)]
    table = pd.DataFrame(
        {
            "text": [f"{word} {i}" for i, word in enumerate(words)],
            "colour": [w.split()[0] for w in words],
            "y": Y,
        }
    )
    text = make_pipeline(CountVectorizer(), LogisticRegression()).fit(table["text"][:40], Y[:40])
    found = losses(text, table[:40], table[40:], label="y", features="text", shadows=2)
    assert np.allclose(found, -np.log(text.predict_proba(table["text"])[np.arange(80), Y]), atol=1e-5)
    lists = (table["text"][:40].tolist(), Y[:40]), (table["text"][40:].tolist(), Y[40:])
    assert np.allclose(losses(text, *lists, shadows=2), found, atol=1e-6)
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["colour"]))
    colour = make_pipeline(columns, LogisticRegression()).fit(table[["text", "colour"]][:40], Y[:40])
    assert len(losses(colour, table[:40], table[40:], label="y", shadows=2)) == 80


def test_labels_are_names_or_any_numbers() -> None:
    named = np.array(["benign", "malign"])[Y]
    model = LogisticRegression().fit(X[:40], named[:40])
    audit = losslake.audit(model, (X[:40], named[:40]), (X[40:], named[40:]), shadows=2)
    assert np.allclose(-audit.scores("loss")["score"].to_numpy(), EXPECTED, atol=1e-5)
    assert set(audit.exposed()["label"]) <= {"benign", "malign"}
    odd = np.array([7, -3])[Y]
    model = LogisticRegression().fit(X[:40], odd[:40])
    assert np.allclose(losses(model, (X[:40], odd[:40]), (X[40:], odd[40:])), EXPECTED, atol=1e-5)
    by_name = losslake.audit(
        MODEL.predict_proba, (X[:40], named[:40]), (X[40:], named[40:]), classes=["benign", "malign"]
    )
    assert np.allclose(-by_name.scores("loss")["score"].to_numpy(), EXPECTED, atol=1e-5)


@pytest.mark.parametrize(
    "names", [["benign", "malign"], [7, -3], [0, 1], [False, True], [0.0, 1.0], None], ids=str
)
def test_scores_and_exposed_records_call_a_label_the_same(names: list[Any] | None) -> None:
    """Names where the classes have some, else numbers; text in both, and of each record the label that was given."""
    labels = Y if names is None else np.array(names)[Y]
    if names is None:
        torch.manual_seed(0)
        model: Any = nn.Linear(4, 2)
    else:
        model = LogisticRegression().fit(X[:40], labels[:40])
    audit = losslake.audit(model, (X[:40], labels[:40]), (X[40:], labels[40:]))
    scores, exposed = audit.scores(), audit.exposed(40)
    assert scores["label"].to_list() == [str(label) for label in labels.tolist()]
    assert exposed.schema["label"] == scores.schema["label"] == pl.String
    both = exposed.join(scores, on=["sample_id", "key", "label"])
    assert len(both) == 40


# --- refused ------------------------------------------------------------------------------------------------

MEMBERS, OTHERS = (X[:40], Y[:40]), (X[40:], Y[40:])


@pytest.mark.parametrize(
    ("members", "others", "said"),
    [
        (MEMBERS, MEMBERS, "40 of 40 nonmembers are also on another side"),
        (MEMBERS, (X[30:], Y[30:]), "10 of 50 nonmembers are also on another side, record 0 of nonmembers first"),
        ((X[:40].astype(np.float32), Y[:40]), (np.r_[X[40:], X[:1].astype(np.float32)], np.r_[Y[40:], Y[:1]]), "1 of 41 nonmembers"),
        ((X[:0], Y[:0]), OTHERS, "members are empty"),
        (MEMBERS, (X[40:40], Y[40:40]), "nonmembers are empty"),
        (MEMBERS, (X[40:, :3], Y[40:]), "unequal columns"),
        (MEMBERS, frame(slice(40, 80)), "give both alike"),
        (frame(slice(40)), frame(slice(40, 80)).rename(columns={"d": "e"}), "unequal columns: d, e"),
        ((X[:40], Y[:39]), OTHERS, "40 records in X and 39 labels"),
        ((X[:40], np.eye(2)[Y[:40]]), OTHERS, "argmax"),
        ((X[:40], np.where(np.arange(40) == 4, np.nan, Y[:40])), OTHERS, "record 4 of members has no label"),
        ((X[:40], np.where(np.arange(40) == 4, 2, Y[:40])), OTHERS, r"does not know: 2 \(record 4"),
        ((X[:40], np.array(["x", "y"])[Y[:40]]), OTHERS, "does not know: 'y', 'x'"),
        (frame(slice(40)).drop(columns="label"), frame(slice(40, 80)), "label="),
        ("records.csv", OTHERS, "give \\(X, y\\)"),
        (None, OTHERS, "give \\(X, y\\)"),
        ((X[:40], Y[:40], Y[:40]), OTHERS, "are a tuple of 3; give"),
        ((frame(slice(40))[NAMES], frame(slice(40))["label"][::-1]), OTHERS, "another index"),
    ],
)  # fmt: skip
def test_records_that_cannot_be_told_of(members: Any, others: Any, said: str) -> None:
    with pytest.raises((InvalidInput, InvalidOption), match=said):
        losslake.audit(MODEL, members, others)


def test_the_same_name_on_two_sides() -> None:
    table = frame(slice(80)).assign(who=[*map(str, range(40)), "3", *map(str, range(41, 80))])
    with pytest.raises(InvalidInput, match="members and nonmembers both have the record '3'"):
        losslake.audit(MODEL, table[:40], table[40:], key="who", features=NAMES)


def test_the_same_record_on_two_sides_may_be_left_out_of_the_later_one() -> None:
    audit = losslake.audit(MODEL, MEMBERS, (X[30:], Y[30:]), overlap="leave out", shadows=4)
    assert audit.scores("loss")["key"].to_list()[40] == "nonmembers/10"
    assert np.allclose(-audit.scores("loss")["score"].to_numpy(), EXPECTED, atol=1e-5)
    assert any("10 of 50 nonmembers are also on another side" in note for note in audit.notes)
    with pytest.raises(InvalidInput, match="population are also"):
        losslake.audit(MODEL, MEMBERS, OTHERS, population=(X[50:60], Y[50:60]))
    with pytest.raises(InvalidInput, match="none are left"):
        losslake.audit(MODEL, MEMBERS, MEMBERS, overlap="leave out")


def test_another_label_makes_another_record() -> None:
    losslake.audit(MODEL, MEMBERS, (np.r_[X[40:], X[:1]], np.r_[Y[40:], 1 - Y[:1]]))


class Augmented(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return torch.randn(4), int(Y[i])


def test_records_that_a_module_does_not_take_as_they_are() -> None:
    data = datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}).with_format("torch")
    with pytest.raises(InvalidInput, match=r"record 0 of members is a dict, no .*; give forward="):
        losslake.audit(nn.Linear(4, 2), data.select(range(40)), data.select(range(40, 80)))
    with pytest.raises(InvalidInput, match="Linear cannot be asked about the members: RuntimeError"):
        losslake.audit(nn.Linear(5, 2), MEMBERS, OTHERS)


def test_data_that_draws_at_random_is_refused() -> None:
    with pytest.raises(InvalidInput, match="draws at random"):
        losslake.audit(nn.Linear(4, 2), Augmented(), Augmented())


@pytest.mark.parametrize("option", ["key", "group", "features"])
@pytest.mark.parametrize(
    "kind", ["arrays", "lists", "tensors", "sparse", "a column of labels", "a data set", "a loader"]
)
def test_columns_of_what_has_none_are_refused(kind: str, option: str) -> None:
    made = KINDS[kind]
    for model in (MODEL, nn.Linear(4, 2)):
        with pytest.raises(InvalidOption, match=f"{option} names columns, .* members are .* no columns"):
            losslake.audit(model, made(slice(40)), made(slice(40, 80)), **{option: "a"})


@pytest.mark.parametrize("option", ["label", "key", "group"])
@pytest.mark.parametrize("kind", ["arrays", "pandas"])
def test_what_is_no_name_of_a_column_is_refused(kind: str, option: str) -> None:
    made = KINDS[kind]
    for value in (np.arange(80), Y, list("abcd"), 3):
        with pytest.raises(InvalidOption, match=f"{option} is a .* name of a column"):
            losslake.audit(MODEL, made(slice(40)), made(slice(40, 80)), **{option: value})


# --- which records are the same ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_has_the_same_digest_as_its_copy_and_no_other(kind: str) -> None:
    rows = np.r_[np.arange(30), 5, 7, 7]
    x, y = X[rows].copy(), Y[rows]
    x[3, 0], x[4] = -0.0, np.array([0.0, *x[3, 1:]])
    y[4] = y[3]
    whole = KINDS[kind]
    backup = X.copy(), Y.copy()
    try:
        X[:33], Y[:33] = x, y
        part = read_records(whole(slice(33)), "members", Columns(), whole=False)
        found = digests(part)
    finally:
        X[:], Y[:] = backup
    same = {(3, 4), (5, 30), (7, 31), (7, 32), (31, 32)}
    pairs = {(i, j) for i in range(33) for j in range(i + 1, 33) if found[i] == found[j]}
    assert pairs == same


def narrowed(given: Any, kind: str, width: str) -> Any:
    """The same records in numbers of another width, rounded by whoever wrote them so."""
    if kind == "sparse":
        return given[0].astype(width), given[1]
    if kind == "pandas":
        return given.astype(dict.fromkeys(NAMES, width))
    if kind == "polars":
        return given.with_columns(pl.col(NAMES).cast(getattr(pl, width.title())))
    if kind == "hugging face":
        table = given.to_pandas()
        return datasets.Dataset.from_pandas(table.astype(dict.fromkeys(NAMES, width)))
    if kind == "tensors":
        return given[0].to(getattr(torch, width)), given[1]
    if kind == "a data set":
        return TensorDataset(given.tensors[0].to(getattr(torch, width)), given.tensors[1])
    return given[0].astype(width), given[1]


WIDE = {
    "float32": ("arrays", "tensors", "sparse", "pandas", "polars", "a data set", "hugging face"),
    "float16": ("arrays", "tensors", "a data set"),
    "bfloat16": ("tensors", "a data set"),
}


@pytest.mark.parametrize(("kind", "width"), [(kind, width) for width in WIDE for kind in WIDE[width]])
@pytest.mark.parametrize("first", [True, False])
def test_a_record_in_narrower_numbers_is_the_same(kind: str, width: str, first: bool) -> None:
    made = KINDS[kind]
    narrow = {"float32": np.float32, "float16": np.float16}.get(width)
    rows = X if narrow is None else X.astype(narrow)
    assert narrow is None or (rows != X).any()
    sides = [made(slice(40)), made(slice(30, 80))]
    sides[0 if first else 1] = narrowed(sides[0 if first else 1], kind, width)
    for model in (MODEL, nn.Linear(4, 2)):
        # A module takes no record of names, and for an estimator a data set becomes an array, of which NumPy has none of bfloat16.
        if kind == "hugging face" and model is not MODEL:
            continue
        if (kind, width) == ("a data set", "bfloat16") and model is MODEL:
            continue
        with pytest.raises(InvalidInput, match="10 of 50 nonmembers are also on another side, record 0"):
            losslake.audit(model, *sides)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_taken_and_joined_in_their_kind(kind: str) -> None:
    made: Records = read_records(KINDS[kind](slice(20)), "members", Columns(), whole=False)
    part = rows_of(made.given, np.array([4, 2]))
    both = read_records(joined(part, rows_of(made.given, np.array([7]))), "members", Columns(), whole=False)
    assert both.labels is not None
    assert both.labels.tolist() == Y[[4, 2, 7]].tolist()
    expected = [digests(made)[i] for i in (4, 2, 7)]
    assert digests(both) == expected
