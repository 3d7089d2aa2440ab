"""Every analysis there is, in the order in which help and report show them."""

from __future__ import annotations

import difflib

from ...store.errors import InvalidOption
from ...store.lake import Lake
from ..declare import Analysis
from ..source import Source

ANALYSES: tuple[Analysis, ...] = (
    Analysis("lt-iqr", "measures.trace:lt_iqr", ("trace",), "charts.scores:score_by_membership"),
    Analysis("free", "measures.trace:free", ("trace",), "charts.scores:score_by_membership"),
    Analysis("trace", "measures.trace:trace", ("trace",), "charts.scores:score_by_membership"),
    Analysis("lira", "attacks.lira:lira", ("lira",), "charts.scores:score_by_membership", attack=True),
    Analysis("rmia", "attacks.rmia:rmia", ("rmia",), "charts.scores:score_by_membership", attack=True),
    Analysis("ramia", "attacks.ramia:ramia", ("rmia",), "charts.scores:score_by_membership", attack=True),
    Analysis("loss", "attacks.loss:loss", ("loss",), "charts.scores:score_by_membership", attack=True),
    Analysis("residual", "attacks.residual:residual", (), "charts.scores:score_by_membership", attack=True),
    Analysis(
        "trajectory", "attacks.residual:trajectory", (), "charts.scores:score_by_membership", attack=True
    ),
    Analysis("kde", "attacks.kde:kde", ("loss",), "charts.kde:kde_chart", attack=True),
    Analysis(
        "attack-p",
        "attacks.attack_p_s:attack_p",
        ("loss", "attack_p"),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "attack-r",
        "attacks.attack_r_d_l:attack_r",
        ("attack_same_sample",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "attack-s",
        "attacks.attack_p_s:attack_s",
        ("loss", "attack_s"),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "attack-d",
        "attacks.attack_r_d_l:attack_d",
        ("attack_same_sample",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "attack-l",
        "attacks.attack_r_d_l:attack_l",
        ("attack_same_sample",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "shadow-nn",
        "attacks.shadow_nn:shadow_nn",
        ("loss",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "entropy", "attacks.entropy:entropy", ("loss",), "charts.scores:score_by_membership", attack=True
    ),
    Analysis(
        "calibrated",
        "attacks.loss:calibrated",
        ("calibrated",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis("min-k", "language.min_k:min_k", ("min_k",), "charts.scores:score_by_membership", attack=True),
    Analysis("zlib", "language.normalised:zlib", ("zlib",), "charts.scores:score_by_membership", attack=True),
    Analysis(
        "lowercase",
        "language.normalised:lowercase",
        ("lowercase",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "exposure",
        "language.exposure:exposure",
        ("exposure",),
        "charts.scores:score_by_membership",
        attack=True,
    ),
    Analysis(
        "memorization",
        "measures.memorization:memorization",
        ("memorization",),
        "charts.scores:memorization_histogram",
    ),
    Analysis("influence", "measures.influence:influence", (), "charts.scores:influence_histogram"),
    Analysis(
        "privacy-score",
        "measures.privacy_score:privacy_score",
        ("privacy_score",),
        "charts.scores:score_histogram",
    ),
    Analysis(
        "hellinger",
        "measures.privacy_score:hellinger",
        ("hellinger", "memorization"),
        "charts.scores:score_histogram",
    ),
    Analysis("ood", "measures.ood:ood", (), "charts.scores:score_by_membership"),
    Analysis("subpopulation", "measures.subpopulation:subpopulation", (), "charts.groups:cluster_sizes"),
    Analysis("suspects", "measures.suspects:suspects", ("trace",), "charts.scores:suspects_by_kind"),
    Analysis("vulnerability", "measures.vulnerability:vulnerability", (), "charts.models:found_histogram"),
)


def open_source(lake: Lake, experiment: str, target: str | None = None) -> Source:
    """An experiment opened for any analysis; see `Source.open`."""
    return Source.open(lake, experiment, target, find=find)


def find(name: str) -> Analysis:
    """The analysis of that name. Raises InvalidOption with the nearest names."""
    for analysis in ANALYSES:
        if analysis.name == name:
            return analysis
    names = [analysis.name for analysis in ANALYSES]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidOption(f"there is no analysis {name!r}; {hint}(analyses: {', '.join(names)})")
