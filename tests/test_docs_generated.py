"""Pages made from the program are up to date, every command is documented, and every analysis says what it needs.

The pages that people write name all there is as well.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from losslake.analysis.declare import Analysis, Evaluation
from losslake.analysis.evaluations.catalogue import EVALUATIONS
from losslake.analysis.scoring.catalogue import ANALYSES
from losslake.collect.data.load import load_dataset
from losslake.collect.data.named import DATASET_NAMES
from losslake.collect.importers.layouts import LAYOUTS
from losslake.collect.models.build import MODEL_NAMES
from losslake.sql import read_sql
from losslake.store.format import paths
from losslake.store.lake import Lake
from losslake.store.query.views import VIEWS
from places import ROOT

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
UPDATE = "LOSSLAKE_DOCS=update pytest tests/test_docs_generated.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _load()
PAGES: dict[str, str] = generate.pages()
COMMANDS: dict[str, click.Command] = dict(generate.walk())


@pytest.mark.parametrize("path", PAGES)
def test_page_is_up_to_date(path: str) -> None:
    file = DOCS / path
    if os.environ.get("LOSSLAKE_DOCS") == "update":
        file.parent.mkdir(exist_ok=True)
        file.write_text(PAGES[path])
    written = file.read_text() if file.exists() else ""
    assert written == PAGES[path], f"docs/{path} is out of date; write it again with: {UPDATE}"


def test_no_page_is_left_over() -> None:
    assert {f"analyses/{file.name}" for file in (DOCS / "analyses").iterdir()} <= set(PAGES)


@pytest.mark.parametrize("path", COMMANDS)
def test_command_is_documented(path: str) -> None:
    command = COMMANDS[path]
    text = inspect.cleandoc(command.help or "")
    assert text, f"{path} has no help: give its function a docstring"
    if not isinstance(command, click.Group):
        assert re.search(r"^Examples?:$", text, re.M), f"{path} shows no example in its help"
        assert path in text.partition("Example")[2], f"the example of {path} is of another command"
    missing = [
        param.opts[0]
        for param in command.params
        if isinstance(param, click.Option) and not param.hidden and not param.help
    ]
    assert missing == [], f"options of {path} have no help"
    assert f"## `{path}`\n" in PAGES["commands.md"]


@pytest.mark.parametrize("entry", [*ANALYSES, *EVALUATIONS], ids=lambda entry: entry.name)
def test_entry_says_what_it_needs(entry: Analysis | Evaluation) -> None:
    assert re.search(r"^Needs: \S", entry.description, re.M), (
        f"the docstring of {entry.name} has no paragraph 'Needs: ...', what the lake must hold for it"
    )


@pytest.mark.parametrize("entry", [*ANALYSES, *EVALUATIONS], ids=lambda entry: entry.name)
def test_readme_names_every_analysis(entry: Analysis | Evaluation) -> None:
    cells = re.findall(r"^\| (`[^|]*) \|", README, re.M)
    listed = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    # `attack-p`, `-r`, `-s`: the first word stands once.
    listed |= {f"attack{name}" for name in listed if name.startswith("-")}
    assert entry.name in listed, "it has no row in the tables of README.md"


def test_readme_names_every_data_set_and_model() -> None:
    [listed] = re.findall(r"^Data: .*?\n\n", README, re.M | re.S)
    words = set(re.findall(r"[\w-]+", listed))
    assert {*DATASET_NAMES, *MODEL_NAMES} - words == set()
    assert [name for name in DATASET_NAMES if name not in (load_dataset.__doc__ or "")] == []


def test_importing_names_every_layout() -> None:
    commands = re.findall(r"^\$ losslake collect import ([\w-]+)", (DOCS / "importing.md").read_text(), re.M)
    names = {layout.name for layout in LAYOUTS}
    assert names - {"lira-pytorch"} == set(commands)  # lira-pytorch: another name of lira
    assert {name for name in names if f"`{name}`" not in README and f"import {name} " not in README} == {
        "lira-pytorch"
    }


def test_schema_lists_every_view_with_its_columns(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    text = (DOCS / "schema.md").read_text()
    with lake.connect() as connection:
        columns = {view: [row[:2] for row in connection.sql(f"describe {view}").fetchall()] for view in VIEWS}
    sections = re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", text, re.M | re.S)
    described = {
        view: re.findall(r"^\| (\w+) \| ([A-Z][\w \[\]]*) \|", section, re.M) for view, section in sections
    }
    assert described == columns


def test_schema_names_every_macro_and_folder() -> None:
    text = (DOCS / "schema.md").read_text()
    inner = {
        "slope_of",
        "within_floor",
        "tail_polynomial",
        "log_upper_tail",
        "smallest",
        "log_gamma_half",
        "tetragamma",
    }
    inner |= {"as_normal", "added_terms", "first_log_term", "log_sum_of", "log_t_upper_tail"}
    macros = set(re.findall(r"^create macro (\w+)", read_sql("macros_duckdb"), re.M)) - inner
    assert {name for name in macros if f"`{name}(" not in text} == set()
    folders = set(re.findall(r"[f]?\"([a-z]+)/", inspect.getsource(paths))) | {
        paths.CHECKPOINTS,
        paths.CLAIMS,
        paths.LEASES,
    }
    assert {name for name in folders if f"`{name}/" not in text} == set()
