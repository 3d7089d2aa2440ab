"""What Python users see: signatures that say every option, and answers that can be read."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any, get_args, get_type_hints

import losslake
import numpy as np
import pytest
from losslake.analysis.evaluations.catalogue import find_evaluation
from losslake.analysis.scores import Finding, as_html, as_text
from losslake.analysis.scoring.catalogue import ANALYSES
from losslake.analysis.scoring.options import AnalysisOptions
from losslake.analysis.scoring.run import FPRS
from losslake.analysis.statistics.metric import Metric
from losslake.api import Lake
from losslake.auditing import audit
from losslake.collect.callbacks.huggingface import huggingface_callback
from losslake.collect.callbacks.lightning import lightning_callback
from losslake.collect.fleet.own_loop import shadow_runs
from losslake.collect.grad_norms.eval_pass import per_sample_grad_norms
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidOption

MakeLake = Callable[..., Lake]


@pytest.mark.parametrize(
    ("public", "behind"),
    [
        (losslake.audit, audit),
        (Lake.start_run, start_run),
        (Lake.shadow_runs, shadow_runs),
        (losslake.lightning_callback, lightning_callback),
        (losslake.huggingface_callback, huggingface_callback),
        (losslake.per_sample_grad_norms, per_sample_grad_norms),
    ],
)
def test_public_signatures_say_what_those_behind_them_take(public: Any, behind: Any) -> None:
    def told(function: Any) -> list[tuple[str, Any, Any]]:
        parameters = list(inspect.signature(function).parameters.values())
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in ("self", "lake")]

    assert told(public) == told(behind)
    kinds = {p.kind for p in inspect.signature(public).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    text = pydoc.render_doc(public)
    assert all(name in text for name, _, _ in told(behind))


def test_start_run_is_told_in_the_same_words() -> None:
    public, behind = inspect.getdoc(Lake.start_run), inspect.getdoc(start_run)
    assert public is not None
    assert behind is not None
    assert public.replace("lake.start_run", "start_run") == behind


def test_the_options_of_analyze_are_those_that_analyses_declare() -> None:
    declared: dict[str, tuple[type, bool, set[str]]] = {}
    for analysis in ANALYSES:
        for option in analysis.options:
            known = declared.setdefault(option.keyword.rstrip("_"), (option.kind, option.many, set()))
            assert known[:2] == (option.kind, option.many)
            known[2].update(option.choices)
    hints = get_type_hints(AnalysisOptions)
    assert list(hints) == list(declared)
    for name, (kind, many, choices) in declared.items():
        said = {part for part in (get_args(hints[name]) or (hints[name],)) if part is not type(None)}
        if choices:
            assert said == choices, name
        else:
            assert said == ({kind, ...} if many else {kind}), name
    shown = str(inspect.signature(Lake.analyze))
    assert "**" not in shown
    assert all(f" {name}: " in shown for name in declared)


def test_compare_has_the_options_of_its_evaluation() -> None:
    said = inspect.signature(Lake.compare).parameters
    for option in find_evaluation("compare").options:
        assert said[option.keyword].default == option.default
        if option.choices:
            assert all(f"'{choice}'" in str(said[option.keyword].annotation) for choice in option.choices)


def test_the_rates_of_analyze_are_those_of_the_command_line(lake: Lake) -> None:
    assert inspect.signature(Lake.analyze).parameters["fprs"].default == FPRS

    def rates(**given: Any) -> list[float]:
        metrics = lake.analyze("loss", experiment="tests", **given).metrics
        return [metric.parameters["fpr"] for metric in metrics if metric.metric == "tpr_at_fpr"]

    assert rates() == list(FPRS)
    assert rates(fprs=[0.05, 0.2]) == [0.05, 0.2]
    assert rates(fprs=np.array([0.25])) == [0.25]
    assert rates(fprs=()) == []
    for wrong in (0.05, ["few"], [None], [0.0], [1.5], [float("nan")]):
        with pytest.raises(InvalidOption, match="false-positive rate"):
            lake.analyze("loss", experiment="tests", fprs=wrong)  # type: ignore[arg-type]


# --- answers -------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def seen_in(html: str) -> list[str]:
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    return tags.seen


@pytest.fixture
def lake(lake_of: MakeLake) -> Lake:
    rng = np.random.default_rng(0)
    keep = rng.permuted(np.tile(np.arange(8)[:, None] < 4, 40), axis=0)
    made = lake_of(keep, rng.normal(0, 2, (8, 40)) + keep, traces={"loss": rng.random((40, 4))})
    return Lake.open(made.path)


def test_an_outcome_can_be_read(lake: Lake) -> None:
    outcome = lake.analyze("lira", experiment="tests", mode="offline")
    auc = next(metric for metric in outcome.metrics if metric.metric == "auc")
    lines = repr(outcome).splitlines()
    assert lines[0] == "lira[mode=offline]: scores of 40 samples"
    assert lines[1].split() == ["auc", f"{auc.value:.4g}", f"{auc.ci_low:.4g}", "to", f"{auc.ci_high:.4g}"]
    assert outcome.chart().to_dict()
    html = outcome._repr_html_()
    assert {"table", "svg"} <= set(seen_in(html))
    assert "<script" not in html


def test_a_finding_can_be_read(lake: Lake) -> None:
    finding = lake.compare("lt-iqr", "loss", experiment="tests", fpr=0.1)
    assert repr(finding).startswith("compare of lt-iqr, loss\n  vulnerable ")
    assert finding.chart().to_dict()
    assert {"table", "svg"} <= set(seen_in(finding._repr_html_()))


def test_a_finding_put_together_by_hand_has_no_chart() -> None:
    finding = Finding((Metric("auc", 0.5),))
    assert repr(finding) == "finding\n  auc  0.5"
    assert "svg" not in seen_in(finding._repr_html_())
    with pytest.raises(InvalidOption, match="put together by hand"):
        finding.chart()


def test_names_do_nothing_to_a_terminal_or_a_page() -> None:
    bad = Metric("auc", None, 0.1, float("inf"), 3, {"group": "<script>\x1b[2J\u2028"})
    text = as_text("a\x1b", [bad], ["n\x07"])
    assert all(line.isprintable() for line in text.split("\n"))
    assert "not resolved  0.1 or more" in text
    html = as_html("a\x1b<b>", [bad], ["<i>\x07"], None)
    assert {"script", "b", "i"}.isdisjoint(seen_in(html))
    assert not any(letter in html for letter in "\x1b\x07\u2028")
