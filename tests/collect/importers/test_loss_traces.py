"""Importing loss_traces' storage folder: Parquet and CSV files written by hand as pandas writes them there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from losslake.collect.importers.loss_traces import import_loss_traces
from losslake.collect.progress import Silent
from losslake.collect.signals.from_logits import phi_from_loss
from losslake.store.errors import AlreadyExists, InvalidInput, InvalidOption
from losslake.store.lake import Lake

N, E, S = 15, 6, 3
RNG = np.random.default_rng(2)
MEMBERS = RNG.random(N) < 0.5
KEEP = RNG.random((S, N)) < 0.5
SCORES = np.exp(RNG.normal(size=N) * 3)
NAMES = ["exp1", "exp1_dual_track_both_0", *(f"exp1_shadow_{i}" for i in (0, 2, 10))]
LOSSES = {name: RNG.gamma(1.0, 1.0, (N, E + 1)) for name in NAMES}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The target with grad norms and margins, and a dual."""
    folder = tmp_path / "storage"
    for name in ("losses", "grad_norms", "confidences", "lira_scores/intermediate"):
        (folder / name).mkdir(parents=True)
    for name in NAMES[:2]:
        frame(LOSSES[name]).write_parquet(folder / "losses" / f"{name}.pq")
    frame(LOSSES["exp1"] * 2).write_parquet(folder / "grad_norms" / "exp1.pq")
    frame(LOSSES["exp1"] - 1).write_parquet(folder / "confidences" / "exp1.pq")
    order = RNG.permutation(N)
    write_scores(folder / "lira_scores" / "exp1_target", order)
    return folder


def frame(values: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({str(epoch): column for epoch, column in enumerate(values.T)})


def write_scores(file: Path, order: np.ndarray, scores: np.ndarray = SCORES) -> None:
    lines = [f"{i},{scores[i]},{bool(MEMBERS[i])}" for i in order]
    file.write_text("\n".join(["og_idx,lira_score,target_trained_on", *lines]) + "\n")


def add_shadows(path: Path) -> None:
    for name in NAMES[2:]:
        frame(LOSSES[name]).write_parquet(path / "losses" / f"{name}.pq")


def test_target_and_dual(lake: Lake, path: Path) -> None:
    runs = import_loss_traces(lake, "e", path)
    assert [run.run for run in runs] == NAMES[:2]
    assert [run.info.role for run in runs] == ["target", "target"]
    assert [run.info.parent for run in runs] == [None, "exp1"]
    assert [run.info.epochs for run in runs] == [E, E]
    found = lake.sql("select * from traces order by run, sample_id")
    assert set(found["source"]) == {"eval"}
    assert found["member"].to_list() == MEMBERS.tolist() * 2
    for row, name in enumerate(NAMES[:2]):
        got = np.array(found["loss"].to_list()).reshape(2, N, E + 1)[row]
        assert np.array_equal(got, LOSSES[name].astype(np.float32))
    target, dual = found[:N], found[N:]
    np.testing.assert_array_equal(np.array(target["grad_norm"].to_list()), (LOSSES["exp1"] * 2).astype("f4"))
    np.testing.assert_array_equal(np.array(target["margin"].to_list()), (LOSSES["exp1"] - 1).astype("f4"))
    assert dual["margin"].null_count() == N
    signals = lake.sql("select * from signals where run = 'exp1' order by sample_id")
    last = LOSSES["exp1"][:, -1].astype(np.float32)
    assert np.array_equal(signals["loss"], last)
    np.testing.assert_allclose(signals["phi"], phi_from_loss(last), rtol=1e-5)
    assert signals["correct"].null_count() == signals["label"].null_count() == N
    assert import_loss_traces(lake, "e", path) == runs


def test_the_peers_scores_are_asked_in_sql(lake: Lake, path: Path) -> None:
    import_loss_traces(lake, "e", path)
    scores = lake.sql("select peer_lira_score from samples order by sample_id")["peer_lira_score"]
    np.testing.assert_allclose(scores, SCORES)


def test_shadows_need_their_members(lake: Lake, path: Path, tmp_path: Path) -> None:
    add_shadows(path)
    with pytest.raises(
        InvalidInput, match=r"exp1_shadow_0, exp1_shadow_2, exp1_shadow_10; .*--keep.*\(3, 15\)"
    ):
        import_loss_traces(lake, "e", path)
    np.save(tmp_path / "keep.npy", KEEP)
    np.save(tmp_path / "y.npy", np.arange(N) % 4)
    runs = import_loss_traces(lake, "e", path, keep=tmp_path / "keep.npy", labels=tmp_path / "y.npy")
    assert [run.run for run in runs] == NAMES
    assert [run.info.role for run in runs] == ["target"] * 2 + ["shadow"] * 3
    members = [MEMBERS.sum(), MEMBERS.sum(), *KEEP.sum(1)]
    assert [run.members for run in runs] == members
    assert lake.samples("e")["label"].to_pylist() == (np.arange(N) % 4).tolist()
    np.save(tmp_path / "keep.npy", KEEP[:2])
    with pytest.raises(InvalidInput, match=r"shape \(2, 15\).*row for each of exp1_shadow_0.*\(3, 15\)"):
        import_loss_traces(lake, "f", path, keep=tmp_path / "keep.npy")


def test_members_without_lira_scores(lake: Lake, path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "keep.npy", MEMBERS[None])
    with pytest.raises(InvalidInput, match="is not needed: lira_scores/"):
        import_loss_traces(lake, "e", path, keep=tmp_path / "keep.npy")
    (path / "lira_scores" / "exp1_target").unlink()
    with pytest.raises(InvalidInput, match=r"training set of exp1;.*\(1, 15\)"):
        import_loss_traces(lake, "e", path)
    runs = import_loss_traces(lake, "e", path, keep=tmp_path / "keep.npy")
    assert [run.members for run in runs] == [MEMBERS.sum()] * 2
    assert "peer_lira_score" not in lake.samples("e").column_names


def test_the_scores_of_most_shadow_models_count(lake: Lake, path: Path) -> None:
    write_scores(path / "lira_scores" / "exp1_target_256.csv", np.arange(N), SCORES + 1)
    write_scores(path / "lira_scores" / "exp1_target_64", np.arange(N), SCORES + 2)
    write_scores(path / "lira_scores" / "exp11_target_512", np.arange(N), SCORES + 3)
    import_loss_traces(lake, "e", path)
    np.testing.assert_allclose(lake.samples("e")["peer_lira_score"], SCORES + 1)


class Heard(Silent):
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_labels_beside_the_scores(lake: Lake, path: Path, tmp_path: Path) -> None:
    labels = np.arange(N) % 4
    order = RNG.permutation(N)
    lines = [f"{i},{SCORES[i]},{bool(MEMBERS[i])},{labels[i]}" for i in order]
    file = path / "lira_scores" / "exp1_target"
    file.write_text("\n".join(["og_idx,lira_score,target_trained_on,label", *lines]))
    import_loss_traces(lake, "e", path)
    assert lake.samples("e")["label"].to_pylist() == labels.tolist()
    np.save(tmp_path / "y.npy", labels + 1)
    import_loss_traces(lake, "f", path, labels=tmp_path / "y.npy")  # what is asked for comes first
    assert lake.samples("f")["label"].to_pylist() == (labels + 1).tolist()
    for wrong, message in (("", "label is missing"), ("-1", "labels run from 0")):
        file.write_text(
            "\n".join(["og_idx,lira_score,target_trained_on,label", *lines[:-1], lines[-1][:-1] + wrong])
        )
        with pytest.raises(InvalidInput, match=message):
            import_loss_traces(lake, "g", path)


def test_what_is_not_read_is_named(lake: Lake, path: Path) -> None:
    for folder in ("free_train_losses", "rmia_2.0_scores", "figures"):
        (path / folder).mkdir()
    frame(LOSSES["exp1"]).write_parquet(path / "free_train_losses" / "exp1.pq")
    (path / "rmia_2.0_scores" / "exp1_target").write_text("og_idx,rmia\n")
    (path / "rmia_2.0_scores" / "exp10_target").write_text("og_idx,rmia\n")
    write_scores(path / "lira_scores" / "exp1_dual_track_both_0", np.arange(N))
    heard = Heard()
    import_loss_traces(lake, "e", path, progress=heard)
    assert heard.notes == [
        "files not used: free_train_losses/exp1.pq, lira_scores/exp1_dual_track_both_0, rmia_2.0_scores/exp1_target"
    ]


def test_losses_of_members_alone(lake: Lake, path: Path) -> None:
    (path / "losses").rename(path / "free_train_losses")
    with pytest.raises(
        InvalidInput, match=r"free_train_losses/ is of members alone; .*--track_computed_loss"
    ):
        import_loss_traces(lake, "e", path)


def test_several_experiments(lake: Lake, path: Path) -> None:
    frame(LOSSES["exp1"] + 1).write_parquet(path / "losses" / "exp10.pq")
    with pytest.raises(InvalidInput, match="several experiments \\(exp1, exp10\\); choose one with --target"):
        import_loss_traces(lake, "e", path)
    assert [run.run for run in import_loss_traces(lake, "e", path, target="exp1")] == NAMES[:2]
    with pytest.raises(InvalidOption, match="exp1_dual"):
        import_loss_traces(lake, "f", path, target="exp1_dual_track_both_0")
    with pytest.raises(InvalidInput, match="training set of exp10"):
        import_loss_traces(lake, "f", path, target="exp10")


def test_gaps_columns_in_any_order_and_an_index(lake: Lake, path: Path) -> None:
    values = LOSSES["exp1"].copy()
    values[3, 2] = values[4, -1] = np.nan
    order = RNG.permutation(N)
    shuffled = frame(values).with_columns(pl.all().fill_nan(None))[order]
    shuffled = shuffled.select(sorted(shuffled.columns, reverse=True))
    shuffled = shuffled.with_columns(pl.Series("__index_level_0__", order))
    shuffled.write_parquet(path / "losses" / "exp1.pq")
    import_loss_traces(lake, "e", path)
    found = lake.sql("select loss from traces where run = 'exp1' order by sample_id")["loss"].to_list()
    np.testing.assert_array_equal(np.array(found, dtype=float), values.astype(np.float32))
    ids = lake.sql("select sample_id from signals where run = 'exp1' order by all")["sample_id"].to_list()
    assert ids == [i for i in range(N) if i != 4]


def rewritten(file: str, values: pl.DataFrame) -> Callable[[Path], None]:
    return lambda path: values.write_parquet(path / file)


def cut(path: Path) -> None:
    file = path / "losses" / "exp1.pq"
    file.write_bytes(file.read_bytes()[:-9])


def text(file: str, content: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / file).write_text(content)

    return change


GOOD = frame(LOSSES["exp1"])
LOSS, SCORE = "losses/exp1.pq", "lira_scores/exp1_target"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, r"exp1\.pq: is not a readable Parquet file"),
        (text(LOSS, ""), "is not a readable Parquet file"),
        (rewritten(LOSS, GOOD.drop("3")), r"exp1\.pq: has no column 3: epochs must run from 0"),
        (rewritten(LOSS, GOOD.rename({"3": "03"})), "has no column 3"),
        (rewritten(LOSS, GOOD.rename({"3": "loss"})), "has the columns loss"),
        (rewritten(LOSS, GOOD.clear()), "has 0 rows"),
        (rewritten(LOSS, GOOD.cast({"3": pl.String})), "column 3 is"),
        (rewritten(LOSS, GOOD - 10), r"loss of losses/exp1\.pq query 0.* a cross-entropy is 0 or more"),
        (rewritten(LOSS, GOOD.with_columns(index=pl.lit(3))), "its index index must number the samples"),
        (rewritten("grad_norms/exp1.pq", GOOD[:-1]), r"grad_norms/exp1\.pq: has 14 rows"),
        (rewritten("confidences/exp1.pq", GOOD.drop("6")), r"confidences/exp1\.pq: has 6 epochs"),
        (rewritten("losses/exp1_dual_track_both_0.pq", GOOD[:-1]), r"both_0\.pq: has 14 rows"),
        (text(SCORE, "og_idx,lira_score\n0,1\n"), "has no column target_trained_on"),
        (text(SCORE, "og_idx,lira_score,target_trained_on\n0,1,True\n"), "og_idx must hold each.* it has 1"),
        (text(SCORE, "og_idx,lira_score,target_trained_on\n0,1,maybe\n"), "not a readable CSV file"),
        (text(SCORE, ""), "not a readable CSV file"),
        (lambda path: (path / LOSS).unlink(), r"holds duals or shadows alone.* EXP\.pq is needed"),
        (lambda path: (path / "losses").rename(path / "loss"), r"holds no losses/\*\.pq"),
    ],
)
def test_files_that_do_not_fit(lake: Lake, path: Path, change: Callable[[Path], None], message: str) -> None:
    change(path)
    with pytest.raises(InvalidInput, match=message):
        import_loss_traces(lake, "e", path)
    assert lake.experiments() == []


def test_other_values(lake: Lake, path: Path) -> None:
    import_loss_traces(lake, "e", path)
    rewritten(LOSS, GOOD + 1)(path)
    with pytest.raises(AlreadyExists, match=r"'exp1'.*other values"):
        import_loss_traces(lake, "e", path)
    write_scores(path / SCORE, np.arange(N), SCORES * 2)
    with pytest.raises(AlreadyExists, match="other samples"):
        import_loss_traces(lake, "e", path)
