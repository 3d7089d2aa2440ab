"""Every declared analysis and evaluation has help, SQL whose parameters are the ones bound, a chart, a command and a test.

None that is written is left undeclared, and no SQL text and no chart is left over.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from types import ModuleType
from typing import Any

import click
import losslake.sql
import polars as pl
import pyarrow as pa
import pytest
from in_sql import InSql
from losslake.analysis import attacks, charts, evaluations, language, measures
from losslake.analysis.commands import analyze_group
from losslake.analysis.declare import Analysis, Evaluation, parse_options, variant_of
from losslake.analysis.evaluations.catalogue import EVALUATIONS, run_evaluation
from losslake.analysis.scoring.catalogue import ANALYSES, find
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.sql import read_sql
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake
from places import ROOT

ENTRIES: tuple[Analysis | Evaluation, ...] = (*ANALYSES, *EVALUATIONS)
NO_QUERY = {"views", "views_spark", "macros_duckdb", "macros_spark"}
OF_EVERY_ANALYSIS = {"training_sets", "training_counts", "token_counts", "token_marks"}
"""What every analysis that compares with other runs asks first, the first two on Spark; see `Source.need_shadows`."""


each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
each_analysis = pytest.mark.parametrize("entry", ANALYSES, ids=lambda entry: entry.name)
each_evaluation = pytest.mark.parametrize("entry", EVALUATIONS, ids=lambda entry: entry.name)


@pytest.fixture
def lake(everything: Lake) -> Lake:
    return everything


@pytest.fixture
def source(lake: Lake) -> Iterator[Source]:
    with InSql.open(lake, "tests", find=find) as opened:
        yield opened


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """The name of every SQL text that is run, with the parameters bound to it."""
    seen = []
    query = Source.query

    def recording(
        self: Source,
        name: str,
        parameters: Mapping[str, Any],
        given: Mapping[str, pa.Table] | None = None,
    ) -> pl.DataFrame:
        seen.append((name, set(parameters)))
        return query(self, name, parameters, given)

    monkeypatch.setattr(Source, "query", recording)
    return seen


def statement(name: str) -> str:
    """An SQL text without its comments."""
    return re.sub(r"--.*", "", read_sql(name))


def header(name: str) -> str:
    return "\n".join(line for line in read_sql(name).splitlines() if line.startswith("--"))


def parameters_of(text: str) -> set[str]:
    return set(re.findall(r"\$(\w+)", text))


def test_names_are_distinct() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert [find(analysis.name) for analysis in ANALYSES] == list(ANALYSES)


@each
def test_help(entry: Analysis | Evaluation) -> None:
    summary = entry.description.splitlines()[0]
    assert 20 < len(summary) < 110
    assert summary.endswith(".")
    if isinstance(entry, Analysis):
        assert "Higher = " in entry.description or "higher = " in entry.description
        assert "Source:" in entry.description
    for option in entry.options:
        assert option.help
        assert option.help[0].islower() or not option.help[0].isalpha()
        assert not option.help.endswith(".")
        assert isinstance(option.default, (option.kind, tuple, type(None)))
        assert not option.choices or option.default in option.choices


@each_analysis
def test_sql_and_what_is_bound_agree(
    entry: Analysis, source: Source, asked: list[tuple[str, set[str]]]
) -> None:
    run_analysis(source, entry)
    check_sql(entry, asked)


@each_evaluation
def test_sql_and_what_is_bound_agree_in_evaluations(
    entry: Evaluation, source: Source, asked: list[tuple[str, set[str]]]
) -> None:
    for name in ("lt-iqr", "lira", *entry.default_scores):
        run_analysis(source, find(name))
    asked.clear()
    run_evaluation(source, entry, entry.default_scores or ("lt-iqr", "lira"))
    check_sql(entry, asked)


def check_sql(entry: Analysis | Evaluation, asked: list[tuple[str, set[str]]]) -> None:
    assert {name for name, _ in asked} == set(entry.sql)
    for name, bound in asked:
        assert parameters_of(statement(name)) == bound


@pytest.mark.parametrize(
    "name", sorted({name for entry in ENTRIES for name in entry.sql} | OF_EVERY_ANALYSIS)
)
def test_sql_headers_name_every_parameter_and_the_grain(name: str) -> None:
    assert parameters_of(header(name)) == parameters_of(statement(name))
    assert "-- Grain: one row" in header(name)
    assert statement(name).count(";") <= 1


def test_no_sql_text_is_left_over() -> None:
    there = {
        file.name.removesuffix(".sql") for file in files(losslake.sql).iterdir() if file.name.endswith(".sql")
    }
    assert there - NO_QUERY - OF_EVERY_ANALYSIS == {name for entry in ENTRIES for name in entry.sql}


def public_functions(package: ModuleType) -> Iterator[Callable[..., Any]]:
    """The public functions that the modules of a package define."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                yield function


def computes_scores_or_a_finding(function: Callable[..., Any]) -> bool:
    """Whether it has the signature of an analysis, (source, *, ...), or of an evaluation, (source, scores, *, ...)."""
    signature = inspect.signature(function)
    given = [name for name, one in signature.parameters.items() if one.kind is not one.KEYWORD_ONLY]
    return (signature.return_annotation, given) in (
        ("Scores", ["source"]),
        ("Finding", ["source", "scores"]),
    )


@pytest.mark.parametrize(
    "package", [attacks, language, measures, evaluations], ids=lambda package: package.__name__
)
def test_every_one_that_is_written_is_declared(package: ModuleType) -> None:
    written = [function for function in public_functions(package) if computes_scores_or_a_finding(function)]
    assert len(written) > 3
    declared = {entry.compute for entry in ENTRIES}
    left = [function.__name__ for function in written if function not in declared]
    assert left == [], "name them in scoring/catalogue.py or evaluations/catalogue.py"


@each
def test_it_has_tests_of_its_own(entry: Analysis | Evaluation) -> None:
    folders = [
        ROOT / "tests" / "analysis" / name for name in ("attacks", "language", "measures", "evaluations")
    ]
    texts = [file.read_text() for folder in folders for file in folder.glob("test_*.py")]
    named = re.compile(rf"""\b{entry.compute.__name__}\b|["']{entry.name}["'[]""")
    module = entry.compute.__module__.removeprefix("losslake.").replace(".", "/")
    folder, _, file = module.rpartition("/")
    assert any(named.search(text) for text in texts), f"write tests/{folder}/test_{file}.py"


def test_no_chart_is_left_over() -> None:
    drawn = [
        function
        for function in public_functions(charts)
        if str(inspect.signature(function).return_annotation).startswith("alt.")
    ]
    assert len(drawn) > 20
    texts = {file: file.read_text() for file in (ROOT / "analysis").rglob("*.py")}
    for function in drawn:
        own = ROOT / "analysis" / "charts" / f"{function.__module__.split('.')[-1]}.py"
        named = re.compile(rf"\b{function.__name__}\b")
        assert any(named.search(text) for file, text in texts.items() if file != own), function.__name__


def explained_metrics() -> set[str]:
    """The metrics that docs/words.md has a row of."""
    section = re.search(r"^## Metrics\n(.*?)^## ", (ROOT / "docs" / "words.md").read_text(), re.M | re.S)
    assert section is not None
    rows = re.findall(r"^\| (`.*?`) \|", section[1], re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def written_metrics() -> Iterator[str]:
    """A pattern for each name that a `Metric` is made with in the code, whatever data it takes to have one."""
    for file in (ROOT / "analysis").rglob("*.py"):
        if "report" in file.parts:  # whose metrics are those of others
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in ("Metric", "share", "_share") and isinstance(first, ast.Constant):
                yield str(first.value)
            elif called == "Metric" and isinstance(first, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else r"\w+" for part in first.values
                )


def test_every_metric_is_explained_and_no_other() -> None:
    explained, written = explained_metrics(), set(written_metrics())
    assert len(written) > 40
    assert {name for name in written if not any(re.fullmatch(name, each) for each in explained)} == set()
    texts = "\n".join(file.read_text() for file in (ROOT / "analysis").rglob("*.py"))
    patterns = [name for name in written if "\\" in name]
    assert {
        each
        for each in explained
        if f'"{each}"' not in texts and not any(re.fullmatch(name, each) for name in patterns)
    } == set()


@each_analysis
def test_scores_and_chart(entry: Analysis, source: Source) -> None:
    outcome = run_analysis(source, entry)
    frame = outcome.scores.frame
    assert frame.columns[:2] == ["sample_id", "member"]
    assert frame.schema["score"] == pl.Float64
    assert frame["sample_id"].to_list() == sorted(set(frame["sample_id"]))
    assert frame["score"].drop_nulls().is_finite().all()
    assert [metric.metric for metric in outcome.metrics][:2] == ["auc", "tpr_at_fpr"]
    # Metrics of its own are named in the docstring, and so in the help and in docs/.
    assert [own.metric for own in outcome.scores.metrics if own.metric not in entry.description] == []
    assert {metric.metric for metric in outcome.metrics} <= explained_metrics()
    assert entry.chart(outcome.scores).to_dict()


@each_evaluation
def test_evaluations_and_chart(entry: Evaluation, source: Source) -> None:
    finding = run_evaluation(source, entry, entry.default_scores or ("lt-iqr", "lira"))
    assert finding.metrics
    named = f"{entry.name} auc tpr_at_fpr {entry.description}"
    assert [metric.metric for metric in finding.metrics if metric.metric not in named] == []
    assert {metric.metric for metric in finding.metrics} <= explained_metrics()
    assert entry.chart(finding).to_dict()


@each
def test_command(entry: Analysis | Evaluation) -> None:
    command = analyze_group.get_command(click.Context(analyze_group), entry.name)
    assert command.help is not None
    assert entry.description in command.help
    assert f"Example:\n  losslake analyze {entry.name} " in command.help
    assert command.short_help == entry.description.splitlines()[0]
    flags = {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}
    assert {f"--{option.name}" for option in entry.options} <= flags
    assert {"--lake", "--experiment", "--target", "--metrics"} <= flags
    assert all(param.help for param in command.params if isinstance(param, click.Option))


@each
def test_the_documented_defaults_are_the_default_variant(entry: Analysis | Evaluation) -> None:
    defaults = {option.name: option.default for option in entry.options}
    parsed = parse_options(entry.options, defaults, entry.name)
    assert parsed == {option.keyword: option.default for option in entry.options}
    assert variant_of(entry.options, parsed) == ""


@each
def test_unknown_options_are_refused(entry: Analysis | Evaluation) -> None:
    with pytest.raises(InvalidOption, match=f"{entry.name} has no option 'colour'"):
        parse_options(entry.options, {"colour": "red"}, entry.name)
    for option in entry.options:
        if option.choices:
            with pytest.raises(InvalidOption, match="must be one of"):
                parse_options(entry.options, {option.name: "sideways"}, entry.name)
        elif option.kind in (int, float):
            given = ("many",) if option.many else "many"
            with pytest.raises(
                InvalidOption, match=f"{option.name} of {entry.name} must be {option.kind.__name__}"
            ):
                parse_options(entry.options, {option.name: given}, entry.name)
