"""The house: every wing is packaged and small enough to look over, and the pages about it name what is there."""

from __future__ import annotations

import ast
import fnmatch
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT

FLOORS = ("collect", "store", "analysis", "sql")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = sorted({path.parent for floor in FLOORS for path in (ROOT / floor).rglob("*.py")})


def package(folder: Path) -> str:
    return ".".join(("losslake", *folder.relative_to(ROOT).parts))


def layers(floor: str) -> list[list[str]]:
    contracts = {contract["id"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}
    return [[wing.strip() for wing in layer.split("|")] for layer in contracts[floor]["layers"]]


def test_every_folder_is_a_package_that_is_installed() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert listed == ["losslake", *map(package, FOLDERS)]


def test_every_file_that_is_no_module_is_installed() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for folder in FOLDERS:
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                patterns = data.get(package(folder), [])
                assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path


@pytest.mark.parametrize("folder", FOLDERS, ids=package)
def test_a_folder_says_what_it_holds_and_can_be_looked_over(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 22
    if folder.parent != ROOT:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


@pytest.mark.parametrize("floor", ["collect", "store", "analysis"])
def test_the_picture_is_the_contract(floor: str) -> None:
    drawn = re.search(rf"subgraph {floor}\n    direction TB\n    (.*)\n  end", PAGE)
    assert drawn is not None
    rows = [re.findall(r"\w+\[(\w+)\]", row) for row in drawn[1].split(" --> ")]
    assert rows == layers(floor)
    wings = [wing for layer in layers(floor) for wing in layer if (ROOT / floor / wing).is_dir()]
    assert re.findall(rf"^\| \[`{floor}/(\w+)/`\]", PAGE, re.M) == wings


def test_every_function_on_the_way_of_a_loss_is_there() -> None:
    way = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", PAGE, re.M)
    assert len(way) > 15
    for file, name in way:
        tree = ast.parse((ROOT / file).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, (file, name)


def test_every_bound_has_a_locked_version_in_its_range() -> None:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in locked.values())
    extras = PROJECT["project"]["optional-dependencies"].values()
    every = map(Requirement, [*PROJECT["project"]["dependencies"], *chain(*extras)])
    bounds = [each for each in every if each.name not in ("losslake", "torch", "torchvision")]
    assert len(bounds) > 40
    assert [str(each) for each in bounds if not each.specifier.contains(locked.get(each.name, "0"))] == []
    # Builds of PyTorch differ from machine to machine, and what comes with it has to be of the same.
    assert [name for name in locked if re.match("torch$|torchvision|triton|nvidia|cuda", name)] == []


def test_contributing_names_what_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    examples = re.compile("loss_ratio|top_overlap|loss_csv")
    files = [
        path for path in re.findall(r"\b[\w./-]+\.(?:py|sql|md|toml)\b", page) if not examples.search(path)
    ]
    assert len(files) > 25
    assert [path for path in files if not (ROOT / path).is_file()] == []
    constants = set(re.findall(r"`([A-Z][A-Z_]+)`", page)) - {"LOSSLAKE_SHARED_DATA"}
    code = "".join(path.read_text() for floor in (*FLOORS, "tests") for path in (ROOT / floor).rglob("*.py"))
    assert {name for name in constants if not re.search(rf"^{name}\b.* = ", code, re.M)} == set()
    parts = re.findall(r"^(\w+)\(\) \{", (ROOT / ".ci" / "run").read_text(), re.M)
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(parts)


def test_the_page_of_the_benchmarks_names_each_and_lists_its_sections() -> None:
    folder = ROOT / "benchmarks"
    page = (folder / "README.md").read_text()
    assert [path.name for path in folder.glob("*.py") if path.name not in page] == []
    headings = re.findall(r"^## (.*)$", page, re.M)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert re.findall(r"\]\(#([^)]*)\)", page.partition("\n## ")[0]) != []
    assert sorted(re.findall(r"\]\(#([^)]*)\)", page.partition("\n## ")[0])) == sorted(anchors)
