"""The verdicts of a gate as lines, as JSON and as JUnit's XML, which pipelines draw."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from ...version import __version__
from ..output import aligned
from ..statistics.metric import Metric
from .check import Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, not even escaped."""


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Whether every rule was kept, and there was one."""
    return bool(verdicts) and all(verdict.status == "pass" for verdict in verdicts)


def gate_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One aligned line a rule: status, rule, value, 95% interval, and why it was not kept."""
    return aligned([_cells(verdict) for verdict in verdicts])


def _cells(verdict: Verdict) -> tuple[str, ...]:
    value, interval = _numbers(verdict.metric)
    return verdict.status, verdict.rule.name, value, interval, verdict.reason.replace("\n", " ")


def _numbers(metric: Metric | None) -> tuple[str, str]:
    if metric is None:
        return "-", "-"
    value = "-" if metric.value is None else f"{metric.value:.4f}"
    if metric.ci_low is None:
        return value, "-"
    high = "any" if metric.ci_high is None else f"{metric.ci_high:.4f}"
    return value, f"{metric.ci_low:.4f} to {high}"


def gate_json(verdicts: Sequence[Verdict], experiment: str, target: str) -> str:
    """One object: passed, experiment, target, version, and rules with what each was compared with and why."""
    whole = {
        "passed": passed(verdicts),
        "experiment": experiment,
        "target": target or None,
        "losslake": __version__,
        "rules": [_json(verdict) for verdict in verdicts],
    }
    return json.dumps(whole, indent=1, allow_nan=False)


def _json(verdict: Verdict) -> dict[str, Any]:
    rule, metric = verdict.rule, verdict.metric
    told = {} if metric is None else metric.to_json()
    about = {name: getattr(rule, name) for name in ("fpr", "above", "delta")}
    return {
        "rule": rule.name,
        "status": verdict.status,
        "metric": rule.metric,
        "score": rule.score,
        **{name: value for name, value in about.items() if value is not None},
        "max": rule.max,
        "compare": rule.compare,
        "compared": verdict.compared,
        **{name: told.get(name) for name in ("value", "ci_low", "ci_high", "n")},
        "reason": verdict.reason or None,
        "notes": list(verdict.notes),
    }


def gate_junit(verdicts: Sequence[Verdict], experiment: str, target: str) -> str:
    """A test suite with a case a rule: a broken one is a failure, one that cannot be told an error."""
    counts = {
        status: sum(verdict.status == status for verdict in verdicts) for status in ("FAIL", "UNRESOLVED")
    }
    suite = ElementTree.Element(
        "testsuite",
        name="losslake gate",
        tests=str(len(verdicts)),
        failures=str(counts["FAIL"]),
        errors=str(counts["UNRESOLVED"]),
        skipped="0",
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_xml(f"{experiment}.{target or 'no target'}"),
            name=_xml(verdict.rule.name),
        )
        line = _xml("  ".join(filter(None, _cells(verdict))))
        if verdict.status != "pass":
            kind = "failure" if verdict.status == "FAIL" else "error"
            ElementTree.SubElement(case, kind, message=_xml(verdict.reason), type=verdict.status).text = line
        said = "\n".join((line, *verdict.notes))
        ElementTree.SubElement(case, "system-out").text = _xml(said)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
