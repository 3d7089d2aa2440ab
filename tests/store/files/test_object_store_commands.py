"""Every command with a lake at a URL, in an S3 server and in Azurite that the tests start themselves."""

from __future__ import annotations

import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import click
import duckdb
import numpy as np
import pytest
from losslake.cli import _run, cli
from losslake.demo import _report_of
from losslake.store.files.filesystem import files_at
from places import LAKES

pytestmark = pytest.mark.usefixtures("one_thread", "warm_workers")

SMALL = "--samples 60 --model mlp --widths 8 --epochs 2 --batch-size 32 --device cpu"


@pytest.fixture(params=["s3", "azure"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a lake; its name needs quoting in a URL."""
    return f"{request.getfixturevalue(request.param)}/of mine/{tmp_path.name}"


FINISHED = """
import numpy as np
from sklearn.tree import DecisionTreeClassifier

x = np.random.default_rng(0).normal(size=(200, 4))
y = (x[:, 0] > 0).astype(int)
members, others = (lambda: (x[:100], y[:100])), (lambda: (x[100:], y[100:]))


def model():
    return DecisionTreeClassifier(random_state=0).fit(x[:100], y[:100])
"""


class Person:
    """Somebody at a command line."""

    def __init__(self, lake: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.lake, self._capsys = lake, capsys
        self.used: set[str] = set()

    def __call__(self, line: str, *, code: int = 0, **words: object) -> str:
        """What a command prints; ``words`` stand for themselves, whatever is in them."""
        told = [word.format_map(words) for word in shlex.split(line)]
        command, name = cli, []
        while isinstance(command, click.Group):
            name.append(told[len(name)])
            command = command.get_command(click.Context(command), name[-1])
        self.used.add(" ".join(name))
        ended = _run([*told, "--lake", self.lake], debug=True)
        said = self._capsys.readouterr()
        assert ended == code, said.err
        return said.out


def commands(group: Any = cli, prefix: str = "") -> set[str]:
    """Every command that takes a lake."""
    found = set()
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        elif any(param.name == "lake" for param in command.params):
            found.add(f"{prefix}{name}")
    return found


def test_every_command(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{s3}/of mine/{tmp_path.name}"
    do = Person(place, capsys)
    grad = "--grad-norms train --checkpoint-every 1"
    assert "members" in do(f"collect target --experiment e --dataset digits --population 0.25 {SMALL} {grad}")
    assert f"2 shadow runs in {place}" in do("collect shadows --experiment e --count 2 --jobs 1")
    assert "shard 1/2" in do("collect shadows --experiment e --count 6 --jobs 2 --shard 1/2")
    do("collect shadows --experiment e --count 6 --jobs 1 --shard 2/2 --stack 2")
    do("collect references --experiment e --count 1 --size 10 --jobs 1")
    do("collect distilled --experiment e --count 1 --jobs 1")
    do("collect leave-one-out --experiment e --sample 3 --repeats 1 --jobs 1")
    arrays = tmp_path / "arrays.npz"
    keep = np.arange(24).reshape(3, 8) % 2 == 0
    np.savez(arrays, labels=np.arange(8) % 2, keep=keep, phi=np.arange(24.0).reshape(3, 8))
    do("collect import arrays {arrays} --experiment other --target run-0000", arrays=arrays)

    assert "6 shadow" in do("lake info")
    assert "target" in do("lake runs --experiment e --format csv")
    assert "loss" in do("analyze all --experiment other --jobs 2")
    do("analyze rmia --experiment e --mode offline --out {out}", out=tmp_path / "rmia.csv")
    assert (tmp_path / "rmia.csv").stat().st_size > 100
    assert "spearman" in do("analyze spearman lt-iqr lira --experiment e")
    assert "pass" in do("analyze gate --experiment e --max-auc 1")
    do("report --experiment e --out {out}", out=tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 100_000

    count = "select count(*) as n from signals"
    before = json.loads(do("sql {query} --format json", query=count))
    assert json.loads(do("sql --query loss --param target=target --experiment e --format json"))
    assert "became" in do("lake compact --experiment e --least 2")
    assert json.loads(do("sql {query} --format json", query=count)) == before
    for views in ("", "--views"):
        out = tmp_path / f"lake{views}.duckdb"
        assert "signals" in do(f"lake export {{out}} {views}", out=out)
    with duckdb.connect(str(tmp_path / "lake.duckdb"), read_only=True) as exported:
        assert exported.sql(count).fetchall() == [(before[0]["n"],)]

    of_sample = "select count(*) as n from signals where experiment = 'e' and sample_id = 17"
    assert json.loads(do("sql {query} --format json", query=of_sample)) != [{"n": 0}]
    assert "would remove" in do("lake forget --experiment e --sample 17 --dry-run")
    assert "removed of 1 samples" in do("lake forget --experiment e --sample 17")
    assert json.loads(do("sql {query} --format json", query=of_sample)) == [{"n": 0}]
    assert "removed" in do("lake remove --experiment other --yes")
    do("lake gc --older-than 0")
    assert "0 damaged, 0 leftovers" in do("lake verify")
    assert "format 2 already" in do("lake migrate")
    do("lake publish", code=2)  # tables are links to files, which there are none of in a store
    (tmp_path / "finished.py").write_text(FINISHED)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = do(
        "audit --model finished:model --members finished:members --nonmembers finished:others --shadows 2"
    )
    assert f"kept in {place}" in told
    missing = {name for name in commands() - do.used if not name.startswith("analyze ")}
    assert missing == {"demo"}  # it does what the others do, for a minute


def test_from_training_to_forgetting(azure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do = Person(f"{azure}/of mine/{tmp_path.name}", capsys)
    do(f"collect target --experiment e --dataset digits --population 0.25 {SMALL}")
    do("collect shadows --experiment e --count 4 --jobs 1")
    assert "auc" in do("analyze lira")
    do("report --out {out}", out=tmp_path / "report.json")
    count = "select count(*) as n from signals"
    before = do("sql {query} --format json", query=count)
    assert "became" in do("lake compact --experiment e --least 2")
    assert do("sql {query} --format json", query=count) == before
    do("lake export {out}", out=tmp_path / "lake.duckdb")
    assert "removed of 1 samples" in do("lake forget --sample 17")
    assert do("sql {query} --format json", query=count) != before
    do("lake gc --older-than 0")
    assert "0 damaged, 0 leftovers" in do("lake verify")


def test_migrate(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(LAKES / "format-1.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    files = files_at(place)
    for path in (tmp_path / "format-1").rglob("*.*"):
        if path.is_file():
            files.put(str(path.relative_to(tmp_path / "format-1")), path.read_bytes())
    do = Person(place, capsys)
    before = do("sql {query} --format json", query="from signals order by all")
    do("lake compact", code=1)
    assert "brought to format 2" in do("lake migrate")
    assert do("sql {query} --format json", query="from signals order by all") == before
    assert "0 damaged" in do("lake verify")


@pytest.mark.parametrize(
    ("lake", "report"),
    [("a/b/", "a/b-report.html"), ("s3://b/p q/", "p q-report.html"), ("az://b", "b-report.html")],
)
def test_where_the_report_of_the_demo_goes(lake: str, report: str) -> None:
    assert _report_of(lake) == Path(report)
