"""What identifies an audit, and whether a lake still gives the numbers of a report."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from losslake.analysis.report.audit import audit_from_json, audit_json, data_digest, recipe_digest
from losslake.analysis.report.check import check_report, read_report
from losslake.analysis.report.command import SHOWN
from losslake.analysis.report.command import report as command
from losslake.analysis.report.gather import gather
from losslake.analysis.report.page import build, page, printed_page
from losslake.analysis.report.shown import lines_of
from losslake.analysis.report.words import verdict
from losslake.analysis.report.write import write_report
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.scoring.stored import keep_scores
from losslake.store.errors import InvalidInput, InvalidOption, NotFound
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget

from .test_report import HOSTILE, QUOTES, make

SAMPLES = 120


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake and its report in both forms."""
    folder = tmp_path_factory.mktemp("audited")
    lake = make(folder / "lake", samples=SAMPLES)
    write_report(lake, "e", folder / "report.html")
    write_report(lake, "e", folder / "report.json")
    return folder


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    """A copy of that lake, to be changed."""
    shutil.copytree(made / "lake", tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


def digests(lake: Lake) -> tuple[str, str]:
    runs = lake.runs("e")
    target = next((run for run in runs if run.info.role == "target"), None)
    return data_digest(lake.experiment("e"), runs), recipe_digest(target, runs)


def add_run(lake: Lake, name: str, *, seed: int = 1, recipe: dict[str, Any] | None = None) -> None:
    rng = np.random.default_rng(seed)
    ids = np.arange(SAMPLES)
    with lake.write_run("e", name, members=(rng.random(SAMPLES) < 0.5) & (ids != 5)) as writer:
        phi = rng.normal(size=SAMPLES).astype(np.float32)
        writer.append_signals(ids, np.zeros(SAMPLES, np.int16), None, loss=np.exp(-phi), phi=phi)
        writer.commit(RunInfo(role="shadow", recipe=recipe or {}))


def test_digest_of_the_data_follows_the_rows_and_nothing_else(lake: Lake) -> None:
    before = digests(lake)
    compact(lake, "e", least=2)
    assert any(file.shared for run in lake.runs("e") for file in run.files)
    assert digests(lake) == before
    gather(lake, "e")  # keeps results
    assert digests(lake) == before
    forget(lake, "e", [5])
    forgotten = digests(lake)
    assert forgotten[0] != before[0]
    add_run(lake, "late")
    more = digests(lake)
    assert len({before[0], forgotten[0], more[0]}) == 3
    assert {before[1], forgotten[1], more[1]} == {before[1]}  # the target's recipe is what it was
    lake.remove("e", "late")
    assert digests(lake) == forgotten


def test_digest_of_the_data_of_other_rows_or_roles_is_another(made: Path, tmp_path: Path) -> None:
    digest = digests(Lake.open(made / "lake"))[0]
    found = {digest}
    for name, options in (
        ("leak", {"leak": 3.9}),
        ("few", {"shadows": 5}),
        ("no-target", {"target": False}),
        ("no-pictures", {"pictures": False}),
    ):
        found.add(digests(make(tmp_path / name, samples=SAMPLES, **options))[0])  # type: ignore[arg-type]
    assert len(found) == 5


def test_digest_of_the_recipe_is_of_the_target(tmp_path: Path) -> None:
    infos = [
        RunInfo(role="target", recipe={"lr": 0.1, "widths": [1, 2]}, seed=0),
        RunInfo(role="target", recipe={"widths": [1, 2], "lr": 0.1}, seed=0),
        RunInfo(role="target", recipe={"lr": 0.2, "widths": [1, 2]}, seed=0),
        RunInfo(role="target", recipe={"lr": 0.1, "widths": [1, 2]}, seed=1),
        RunInfo(role="target", recipe={"lr": 0.1, "widths": [1, 2]}, seed=0, model="mlp"),
        RunInfo(role="target", recipe={"lr": 0.1, "widths": [1, 2]}, seed=0, epochs=3),
    ]
    lake = make(tmp_path / "lake", samples=SAMPLES, shadows=0)
    found = []
    for number, info in enumerate(infos):
        with lake.write_run("e", f"r{number}", members=np.zeros(SAMPLES, np.bool_)) as writer:
            writer.append_epoch("eval", 0, np.arange(SAMPLES), loss=np.ones(SAMPLES, np.float32))
            run = writer.commit(info)
        found.append(recipe_digest(run, [run]))
    assert found[0] == found[1]  # in whatever order the names were given
    assert len(set(found)) == 5


def test_every_form_of_the_report_says_which_audit_it_is(made: Path) -> None:
    told = json.loads((made / "report.json").read_text("utf-8"))["audit"]
    audit = audit_from_json(told)
    assert audit_json(audit) == told
    assert (told["data_sha256"], told["recipe_sha256"]) == digests(Lake.open(made / "lake"))
    assert told["lake"] == "lake"  # its name: where it lies is nobody's business
    report = gather(Lake.open(made / "lake"), "e")
    assert report.audit == audit
    said, sections = verdict(report), build(report)
    for text in (page(report, said, sections), printed_page(report, said, sections)):
        first = text.partition('aria-label="Sections"')[0]
        assert audit.line in first
        assert audit.command in re.sub("<[^>]*>", "", first)
        assert f"data {told['data_sha256'][:16]}" in first
        assert told["data_sha256"] in text.partition('aria-label="Sections"')[2]
        assert str(made) not in text
    answer = CliRunner().invoke(command, ["--lake", str(made / "lake"), "--out", str(made / "again.html")])
    assert f"audit: {audit.line}" in answer.stderr


def test_same_lake_same_command_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    lake = Lake.open(made / "lake")
    for suffix in (".html", ".json"):
        one, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        write_report(lake, "e", one)
        write_report(lake, "e", other)
        assert one.read_bytes() == other.read_bytes()
        assert b"2023-11-14T22:13:20+00:00" in one.read_bytes()


def test_a_lake_gives_the_numbers_of_its_report(made: Path, lake: Lake) -> None:
    for name in ("report.html", "report.json"):
        found = check_report(lake, made / name)
        assert found.numbers > 300
        assert (found.told, found.differs) == ((), ())
    compact(lake, "e", least=2)
    found = check_report(lake, made / "report.html")
    assert (found.told, found.differs) == ((), ())
    # What was asked since is in no report from before, and takes nothing away from it.
    answer = CliRunner().invoke(command, ["--lake", lake.path, "--check", str(made / "report.html")])
    assert answer.exit_code == 0
    assert answer.stdout.splitlines()[-1].startswith(f"all {found.numbers} numbers of ")


def test_what_a_lake_does_not_give_any_more_is_listed(made: Path, lake: Lake) -> None:
    add_run(lake, "late")
    found = check_report(lake, made / "report.html")
    assert [one.partition(":")[0] for one in found.told] == ["the data"]
    assert any(one.startswith("lira auc: 0.") and "in the report, 0." in one for one in found.differs)
    assert not any(one.startswith("loss auc") for one in found.differs)  # which asks the target alone
    answer = CliRunner().invoke(command, ["--lake", lake.path, "--check", str(made / "report.html")])
    assert answer.exit_code == 1
    lines = answer.stdout.splitlines()
    assert lines[1].startswith("changed: the data: ")
    assert len(found.differs) > SHOWN
    assert [line for line in lines if line.startswith("differs: ")] == [
        *(f"differs: {one}" for one in found.differs[:SHOWN]),
        f"differs: and {len(found.differs) - SHOWN} more",
    ]
    assert lines[-1].startswith(f"{len(found.differs)} of the {found.numbers} numbers of ")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("attacks", 0, "metrics", 0, "value"), 0.123456, "lira auc: 0.123456"),
        (("attacks", 2, "metrics", 1, "ci_high"), 0.001, "rmia tpr_at_fpr"),
        (("verdict", "level"), "none found", "verdict level: none found in the report"),
        (("verdict", "named"), 1, "verdict named: 1 in the report"),
        (("memorization", 0, "n"), 7, "memorization mean"),
        (("findings", 0, "metrics", 0, "epoch"), 99, "evolution mean"),
        (("most_exposed", 0, "scores", "LiRA", "rank"), 5, "sample "),
        (("most_exposed", 0, "sample_id"), 0, "sample 0 "),
    ],
)
def test_a_number_that_was_changed_in_the_file_is_found(
    path: tuple[Any, ...], value: Any, told: str, made: Path, tmp_path: Path
) -> None:
    held = json.loads((made / "report.json").read_text("utf-8"))
    inner = held
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (tmp_path / "forged.json").write_text(json.dumps(held))
    found = check_report(Lake.open(made / "lake"), tmp_path / "forged.json")
    assert found.differs
    assert all(one.startswith(told) for one in found.differs), found.differs


def test_text_that_losslake_did_not_write_is_found(made: Path, lake: Lake, tmp_path: Path) -> None:
    text = (made / "report.html").read_text("utf-8")
    assert check_report(lake, made / "report.html").strange == ()
    # The lake may have another name, and more may have been asked of it since.
    shutil.copytree(lake.path, tmp_path / "moved")
    moved = Lake.open(tmp_path / "moved")
    with open_source(moved, "e") as source:
        keep_scores(source, ["kde", "lira[variance=pooled]", "vulnerability"])
    assert check_report(moved, made / "report.html").strange == ()
    names = re.search(r"names \d+ of the \d+ training records", text)
    row = re.search(r'<td class="number">[\d.]+% <span', text)
    assert names is not None
    assert row is not None
    changed = text.replace(names[0], "names 0 of the 999 training records").replace(
        row[0], row[0].replace(">", ">0", 1).replace("0", "9", 1), 1
    )
    changed = changed.replace("<h2 ", "<p>All is well.</p><h2 ", 1)
    (tmp_path / "changed.html").write_text(changed)
    found = check_report(lake, tmp_path / "changed.html")
    assert found.differs == ()
    assert found.strange is not None
    assert any("verdict: All is well." in line for line in found.strange)
    assert any("names 0 of the 999" in line for line in found.strange)
    assert any(line.startswith("attacks: ") for line in found.strange)
    answer = CliRunner().invoke(command, ["--lake", lake.path, "--check", str(tmp_path / "changed.html")])
    assert answer.exit_code == 1
    assert "not of losslake: verdict: All is well." in answer.stdout
    held = json.loads((made / "report.json").read_text("utf-8"))
    held["verdict"]["title"] = "No leak found"
    (tmp_path / "changed.json").write_text(json.dumps(held))
    assert check_report(lake, tmp_path / "changed.json").strange == ("title of the verdict: No leak found",)
    # What has changed in the lake is told as numbers, and the text is not looked at.
    add_run(lake, "shadow-9999")
    assert check_report(lake, tmp_path / "changed.html").strange is None


SAID = "<p>All is well.</p>"


@pytest.mark.parametrize(
    ("before", "added"),
    [
        ("<main>", f"<main>{SAID}"),
        ("</header>", f"{SAID}</header>"),
        ("</footer>", f"{SAID}</footer>"),
        ("</nav>", f"</nav>{SAID}"),
        ("</section>", f"</section>{SAID}"),
        ("<h1", f"</button></svg>{SAID}<h1"),
        ("<h1", f"<section></section>{SAID}<h1"),
        ("<h1", f"</section><section id='notes'>{SAID}</section><section id='verdict'><h1"),
        ("<h1", f"<svg>{SAID}<h1"),
        ("<h1", f"<svg>{SAID}</svg><h1"),
        ("<h1", f"<noscript>{SAID}</noscript><h1"),
        ("<h1", "<button>All is well.</button><h1"),
        ("<h1", '<iframe src="data:text/html,All is well."></iframe><h1'),
        ("</head>", '<meta http-equiv="refresh" content="0;url=https://example.com"></head>'),
        ("<title>", "<title>No leak: "),
        ("</style>", "#verdict { display: none }</style>"),
        ("<h1", "<style>#verdict { display: none }</style><h1"),
        ("<h1", "<script>document.body.textContent = 'All is well.'</script><h1"),
        ('<section id="verdict"', '<section id="verdict" style="display: none"'),
        ('<section id="verdict"', '<section id="verdict" hidden'),
        ('<section id="verdict"', '<section id="verdict" onclick="this.textContent = \'\'"'),
    ],
)
def test_what_is_shown_or_hidden_anywhere_in_a_page_is_found(made: Path, before: str, added: str) -> None:
    whole = (made / "report.html").read_text("utf-8")
    text = re.sub(
        r"(<script nonce[^>]*>|<style>).*?(?=</)", r"\1", whole, flags=re.DOTALL
    )  # which take long to read
    own = lines_of(text)
    assert before in text
    found = lines_of(text.replace(before, added, 1))
    strange = [
        (place, line) for place, lines in found.items() for line in lines if line not in own.get(place, ())
    ]
    assert [place for place, _ in strange if place not in ("questions", "notes", "sql", "nav")]


def test_numbers_that_differ_in_the_last_digits_are_the_same(made: Path, tmp_path: Path) -> None:
    held = json.loads((made / "report.json").read_text("utf-8"))
    metric = held["attacks"][0]["metrics"][0]
    for factor, same in ((1 + 1e-9, True), (1 + 1e-4, False)):
        changed = json.loads(json.dumps(held))
        changed["attacks"][0]["metrics"][0]["value"] = metric["value"] * factor
        (tmp_path / "other.json").write_text(json.dumps(changed))
        assert (check_report(Lake.open(made / "lake"), tmp_path / "other.json").differs == ()) == same


def test_options_of_the_report_are_its_own(lake: Lake, tmp_path: Path) -> None:
    make(Path(lake.path), samples=SAMPLES, leak=0, experiment="private")
    out = tmp_path / "report.html"
    report = write_report(lake, "e", out, defended="private", pictures=False, fprs=(0.2, 0.05))
    assert (
        report.audit.command == "losslake report --experiment e --target target --with private --no-pictures"
    )
    found = check_report(lake, out)
    assert (found.told, found.differs, found.audit) == ((), (), report.audit)


def test_what_is_no_report_is_refused(made: Path, tmp_path: Path) -> None:
    lake = Lake.open(made / "lake")
    for name, text, error in (
        ("a.pdf", "x", InvalidOption),
        ("a.html", "<html>", InvalidInput),
        ("a.json", "{", InvalidInput),
        ("b.json", "[" * 100_000, InvalidInput),
        ("c.json", "[]", InvalidInput),
        ("d.json", '{"audit": {}}', InvalidInput),
        ("e.json", '{"audit": null}', InvalidInput),
        ("f.html", '<script type="application/json" id="numbers">{"x": 1}</script>', InvalidInput),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(error, match=name):
            check_report(lake, tmp_path / name)
    (tmp_path / "g.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput):
        check_report(lake, tmp_path / "g.json")
    with pytest.raises(NotFound):
        check_report(lake, tmp_path / "gone.html")
    with pytest.raises(NotFound):  # of another lake
        check_report(make(tmp_path / "other", samples=60, experiment="x"), made / "report.html")


@pytest.mark.parametrize("name", ["audit", "verdict", "attacks", "most_exposed", "findings"])
@pytest.mark.parametrize("value", [None, 3, "text", [1], {"x": 1}])
def test_parts_of_a_report_that_are_no_such_thing_are_refused(
    name: str, value: Any, made: Path, tmp_path: Path
) -> None:
    held = json.loads((made / "report.json").read_text("utf-8"))
    (tmp_path / "odd.json").write_text(json.dumps({**held, name: value}))
    with pytest.raises(InvalidInput, match=r"odd\.json"):
        check_report(Lake.open(made / "lake"), tmp_path / "odd.json")


def test_check_takes_nothing_but_the_lake(made: Path) -> None:
    for more in (["--experiment", "e"], ["--out", "x.html"], ["--no-pictures"]):
        answer = CliRunner().invoke(
            command, ["--lake", str(made / "lake"), "--check", str(made / "report.html"), *more]
        )
        assert answer.exit_code == 2
        assert "leave out all but --lake" in answer.stderr


def test_names_from_the_lake_stay_text_in_what_the_page_holds(made: Path) -> None:
    held = read_report(made / "report.html")
    assert held["most_exposed"][0]["key"].startswith(QUOTES)
    assert HOSTILE not in (made / "report.html").read_text("utf-8").partition('id="numbers"')[2]
