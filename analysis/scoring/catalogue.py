"""Every analysis there is, in the order in which help and report show them."""

from __future__ import annotations

import difflib

from ...store.errors import InvalidOption
from ...store.lake import Lake
from ..attacks.attack_p_s import attack_p, attack_s
from ..attacks.attack_r_d_l import attack_d, attack_l, attack_r
from ..attacks.entropy import entropy
from ..attacks.kde import kde
from ..attacks.lira import lira
from ..attacks.loss import calibrated, loss
from ..attacks.ramia import ramia
from ..attacks.rmia import rmia
from ..attacks.shadow_nn import shadow_nn
from ..charts import scores as charts
from ..charts.groups import cluster_sizes
from ..charts.kde import kde_chart
from ..charts.models import found_histogram
from ..declare import Analysis
from ..measures.influence import influence
from ..measures.memorization import memorization
from ..measures.ood import ood
from ..measures.privacy_score import hellinger, privacy_score
from ..measures.subpopulation import subpopulation
from ..measures.trace import lt_iqr, trace
from ..measures.vulnerability import vulnerability
from ..source import Source

ANALYSES: tuple[Analysis, ...] = (
    Analysis("lt-iqr", lt_iqr, ("trace",), charts.score_by_membership),
    Analysis("trace", trace, ("trace",), charts.score_by_membership),
    Analysis("lira", lira, ("lira",), charts.score_by_membership, attack=True),
    Analysis("rmia", rmia, ("rmia",), charts.score_by_membership, attack=True),
    Analysis("ramia", ramia, ("rmia",), charts.score_by_membership, attack=True),
    Analysis("loss", loss, ("loss",), charts.score_by_membership, attack=True),
    Analysis("kde", kde, ("loss",), kde_chart, attack=True),
    Analysis("attack-p", attack_p, ("loss", "attack_p"), charts.score_by_membership, attack=True),
    Analysis("attack-r", attack_r, ("attack_same_sample",), charts.score_by_membership, attack=True),
    Analysis("attack-s", attack_s, ("loss", "attack_s"), charts.score_by_membership, attack=True),
    Analysis("attack-d", attack_d, ("attack_same_sample",), charts.score_by_membership, attack=True),
    Analysis("attack-l", attack_l, ("attack_same_sample",), charts.score_by_membership, attack=True),
    Analysis("shadow-nn", shadow_nn, ("loss",), charts.score_by_membership, attack=True),
    Analysis("entropy", entropy, ("loss",), charts.score_by_membership, attack=True),
    Analysis("calibrated", calibrated, ("calibrated",), charts.score_by_membership, attack=True),
    Analysis("memorization", memorization, ("memorization",), charts.memorization_histogram),
    Analysis("influence", influence, (), charts.influence_histogram),
    Analysis("privacy-score", privacy_score, ("privacy_score",), charts.score_histogram),
    Analysis("hellinger", hellinger, ("hellinger", "memorization"), charts.score_histogram),
    Analysis("ood", ood, (), charts.score_by_membership),
    Analysis("subpopulation", subpopulation, (), cluster_sizes),
    Analysis("vulnerability", vulnerability, (), found_histogram),
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
