"""`losslake audit`: the same audit from the shell, of a model that a function returns and records in files."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import losslake
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from losslake.audit_command import as_options, command
from losslake.cli import main
from losslake.collect.audit.named import named_classes
from losslake.store.errors import MissingExtra
from sklearn.ensemble import RandomForestClassifier

MODULE = """
import numpy as np
import polars as pl
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def table(name):
    found = pl.read_csv(name)
    return found[["a", "b", "c"]].to_numpy(), found["sick"].to_numpy()


def forest():
    return RandomForestClassifier(20, random_state=0).fit(*table("train.csv"))


def outsider():
    x = np.random.default_rng(9).normal(size=(100, 3))
    return RandomForestClassifier(20, random_state=1).fit(x, x[:, 0] > 0)


def train(members, seed):
    frame = members
    return RandomForestClassifier(20, random_state=seed).fit(frame[["a", "b", "c"]].to_numpy(), frame["sick"].to_numpy())


def others():
    return table("others.csv")


def texts():
    frame = pl.read_csv("texts.csv")
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(frame["text"].to_list(), frame["label"].to_list())


def broken():
    raise RuntimeError("no file model.bin")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("others", 120), ("population", 30)):
        x = rng.normal(size=(count, 3)).round(6)
        frame = pl.DataFrame(x, schema=["a", "b", "c"]).with_columns(
            sick=pl.Series(rng.integers(0, 2, count)), who=pl.Series([f"{name}{i:03d}" for i in range(count)])
        )
        frame.write_csv(tmp_path / f"{name}.csv")
        frame.write_parquet(tmp_path / f"{name}.parquet")
        np.savez(tmp_path / f"{name}.npz", x=x, y=frame["sick"].to_numpy())
    name = f"audited_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDITED", name)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(command, list(arguments))
    return done.exit_code, done.stdout, str(done.exception or "")


def names(folder: Path) -> str:
    return next(path.stem for path in folder.glob("audited_*.py"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_it_says_what_python_says(folder: Path, kind: str) -> None:
    module = names(folder)
    sides = (
        "--members",
        f"train.{kind}",
        "--nonmembers",
        f"others.{kind}",
        "--population",
        f"population.{kind}",
    )
    more = (
        ()
        if kind == "npz"
        else ("--label", "sick", "--key", "who", "--features", "a", "--features", "b", "--features", "c")
    )
    code, out, error = run(
        "--model",
        f"{module}:forest",
        *sides,
        *more,
        "--shadows",
        "4",
        "--lake",
        "lake",
        "--out",
        "audit.json",
    )
    assert (code, error) == (0, "")
    table = {name: pl.read_csv(f"{name}.csv") for name in ("train", "others", "population")}
    train, others, population = (
        (f[["a", "b", "c"]].to_numpy(), f["sick"].to_numpy()) for f in table.values()
    )
    model = RandomForestClassifier(20, random_state=0).fit(*train)
    here = losslake.audit(model, train, others, population=population, shadows=4)
    lines = out.splitlines()
    assert lines[:2] == str(here).splitlines()[:2]
    assert lines[-1] == "audit.json"
    assert json.loads(Path("audit.json").read_text())["verdict"]["level"] == here.level
    kept = losslake.open("lake").scores("lira")["score"].to_numpy()
    assert np.allclose(kept, here.scores("lira")["score"].to_numpy())
    keys = losslake.open("lake").samples("audit")["key"].to_pylist()
    assert keys[0] == ("members/0" if kind == "npz" else "train000")


def test_functions_name_records_and_train(folder: Path) -> None:
    module = names(folder)
    code, out, error = run(
        "--model", f"{module}:forest", "--members", "train.npz", "--nonmembers", f"{module}:others", "--references", f"{module}:outsider"
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert "not kept: with --lake NAME" in out
    columns = ("--label", "sick", "--features", "a", "--features", "b", "--features", "c")
    sides = (
        "--members",
        "train.csv",
        "--nonmembers",
        "others.csv",
        "--train",
        f"{module}:train",
        "--shadows",
        "2",
    )
    code, out, error = run("--model", f"{module}:forest", *sides, *columns, "--lake", "lake")
    assert (code, error) == (0, "")
    assert len(losslake.open("lake").runs("audit", "shadow")) == 2


def test_what_is_wrong_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = names(folder)
    sides = ["--members", "train.npz", "--nonmembers", "others.npz"]
    for arguments, code, said in (
        (["--model", f"{module}:broken", *sides], 1, "RuntimeError: no file model.bin"),
        (["--model", "forest.pkl", *sides], 2, "package.module:function"),
        (["--model", "train.npz", *sides], 2, "a function of yours that loads it"),
        (
            ["--model", f"{module}:forest", "--members", "gone.csv", "--nonmembers", "others.csv"],
            1,
            "no file gone.csv",
        ),
        (
            ["--model", f"{module}:forest", "--members", "train.csv", "--nonmembers", "others.csv"],
            2,
            "name that of the labels with --label, one of:",
        ),
        (
            ["--model", f"{module}:forest", "--members", "train.npz", "--nonmembers", "train.npz"],
            1,
            "nobody can be both",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["audit", *arguments])
        assert ended.value.code == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("losslake: ")]
        assert len(lines) == 1
        assert said in lines[0]


def test_where_the_report_goes_is_looked_at_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = names(folder)
    (folder / "taken").write_text("a file")
    (folder / "folder.html").mkdir()
    monkeypatch.setattr(
        "losslake.collect.audit.named.called", lambda spec: pytest.fail("the model was loaded")
    )

    def no_weasyprint() -> None:
        raise MissingExtra("a report as PDF needs the extra 'pdf'")

    monkeypatch.setattr("losslake.analysis.report.write.need_weasyprint", no_weasyprint)
    sides = ("--members", "train.npz", "--nonmembers", "others.npz", "--lake", "lake")
    for out, said in (
        ("x.exe", "end the name in one of"),
        ("taken/x.html", "cannot write taken/x.html: Not a directory"),
        ("taken/deeper/x.html", "Not a directory"),
        ("folder.html", "cannot write folder.html: Is a directory"),
        ("x.pdf", "needs the extra 'pdf'"),
    ):
        code, _, error = run("--model", f"{module}:forest", *sides, "--out", out)
        assert code == 1, out
        assert said in error
    assert not (folder / "lake").exists()


def test_the_shell_is_told_of_options(folder: Path) -> None:
    module = names(folder)
    sides = ("--members", "train.npz", "--nonmembers", "others.npz", "--shadows", "2")
    code, out, error = run("--model", f"{module}:forest", *sides, "--out", "audit.html")
    assert (code, error) == (0, "")
    page = Path("audit.html").read_text().partition('<script type="application/json"')[0]
    assert "losslake audit ... --lake audits --experiment audit-private" in page
    for told in (out, page):
        assert "losslake.audit(" not in told
        assert "shadows=" not in told
        assert "losslake-audit-" not in told  # a folder that is gone
    for gone in ("losslake report", "losslake analyze", "losslake sql", "--check", "lake “lake”"):
        assert gone not in page, gone
    code, out, error = run("--model", f"{module}:forest", *sides, "--lake", "kept", "--out", "kept.html")
    page = Path("kept.html").read_text().partition('<script type="application/json"')[0]
    assert "kept in" in out
    code, told, error = run("--model", f"{module}:forest", *sides[:4], "--out", "none.html")
    assert (code, error) == (0, "")
    assert "losslake audit ... --shadows 64" in Path("none.html").read_text()
    assert "lake “kept”" in page
    assert "Again: losslake report --experiment audit --target target." in re.sub("<[^>]*>", "", page)
    assert "--out report.html" not in page  # which is what its reader reads


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("name it with label=, one of: a, b", "name it with --label, one of: a, b"),
        ("say output='logits'", "say --output logits"),
        ('overlap="leave out" leaves it out', "--overlap 'leave out' leaves it out"),
        ("read as 0.025 (least_probability)", "read as 0.025 (--least-probability)"),
        ("have some by losslake.audit(..., shadows=32)", "have some by losslake audit ... --shadows 32"),
        ("give classes=, the labels", "give --classes, the labels"),
        ("say with forward= how", "say with --forward how"),
        ("give label= and seed_of=, the", "give --label and seed_of=, the"),  # the shell has no seed_of
        ("the model has max_features='sqrt' and key 3", "the model has max_features='sqrt' and key 3"),
    ],
)
def test_arguments_become_options(python: str, shell: str) -> None:
    assert as_options(python) == shell


def test_one_column_of_text_is_taken_as_it_is(folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"])
    for name in ("texts", "other_texts"):
        told = [" ".join(rng.choice(words, 6)) for _ in range(80)]
        pl.DataFrame({"text": told, "label": rng.integers(0, 2, 80)}).write_csv(f"{name}.csv")
    given = (
        "--model",
        f"{names(folder)}:texts",
        "--members",
        "texts.csv",
        "--nonmembers",
        "other_texts.csv",
        "--overlap",
        "leave out",
    )
    code, _, error = run(*given)
    assert code == 1
    assert error.endswith("such as a text, is named by --features text")
    code, out, error = run(*given, "--features", "text", "--shadows", "2")
    assert (code, error) == (0, "")
    assert "2 shadow models" in out


PARTS = """
import numpy as np
import torch


def records(first):
    drawn = torch.Generator().manual_seed(first)
    return [
        {"a": torch.rand(2, generator=drawn), "b": torch.rand(3, generator=drawn), "sick": i % 2} for i in range(60)
    ]


def seen():
    return records(0)


def unseen():
    return records(1)


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.both = torch.nn.Linear(5, 2)

    def forward(self, parts):
        return {"score": self.both(parts)}


def network():
    torch.manual_seed(0)
    return Two()


def together(rows):
    parts = torch.stack([torch.cat([row["a"], row["b"]]) for row in rows])
    return {"parts": parts, "sick": torch.tensor([row["sick"] for row in rows])}


def ask(model, batch):
    return model(batch["parts"])["score"], batch["sick"]


def served():
    return lambda batch: np.stack([np.asarray(batch)[:, 0], -np.asarray(batch)[:, 0]], 1)
"""


def test_records_of_several_inputs_are_told_how_they_are_called(folder: Path) -> None:
    """``--forward`` and ``--collate`` mean what they mean in Python, and an error names them as options."""
    module = f"parts_{folder.name}"
    (folder / f"{module}.py").write_text(PARTS)
    sides = (
        *("--model", f"{module}:network", "--members", f"{module}:seen", "--nonmembers", f"{module}:unseen"),
    )
    how = ("--forward", f"{module}:ask", "--collate", f"{module}:together")
    code, _, error = run(*sides, *how, "--lake", "lake")
    assert (code, error) == (0, "")
    made = importlib.import_module(module)
    here = losslake.audit(made.network(), made.seen(), made.unseen(), forward=made.ask, collate=made.together)
    kept = losslake.open("lake").scores("loss", experiment="audit")["score"].to_numpy()
    assert np.array_equal(kept, here.scores("loss")["score"].to_numpy())
    code, _, error = run(*sides)
    assert code == 1
    assert "forward=" not in error
    assert "--forward" in error


def test_classes_name_the_outputs_of_a_function(folder: Path) -> None:
    module = f"served_{folder.name}"
    (folder / f"{module}.py").write_text(PARTS)
    sides = ["--model", f"{module}:served", "--label", "sick", "--features", "a", "--features", "b"]
    for name, option in (("train", "--members"), ("others", "--nonmembers")):
        frame = pl.read_csv(f"{name}.csv").with_columns(pl.col("sick").replace_strict({0: "no", 1: "yes"}))
        frame.write_csv(f"{name}_named.csv")
        sides += [option, f"{name}_named.csv"]
    said = {}
    for classes in ("no,yes", "yes, no"):
        code, _, error = run(*sides, "--classes", classes, "--lake", classes[:2])
        assert (code, error) == (0, "")
        said[classes] = losslake.open(classes[:2]).scores("loss", experiment="audit")["score"].to_numpy()
    sign = pl.concat([pl.read_csv("train.csv"), pl.read_csv("others.csv")])
    logit = np.where(sign["sick"] == 0, 1, -1) * 2 * sign["a"].to_numpy()
    assert np.allclose(said["no,yes"], -np.logaddexp(0, -logit), atol=1e-5)
    assert np.allclose(said["yes, no"], -np.logaddexp(0, logit), atol=1e-5)
    code, _, error = run(*sides)
    assert code != 0
    assert "--classes" in error


@pytest.mark.parametrize(
    ("words", "labels"), [("0,1", [0, 1]), ("no, yes", ["no", "yes"]), ("1,b", ["1", "b"])]
)
def test_classes_are_numbers_where_all_are(words: str, labels: list[int] | list[str]) -> None:
    assert named_classes(words) == labels
