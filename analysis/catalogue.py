"""Every analysis there is, in the order in which help and report show them."""

from __future__ import annotations

import difflib

from ..store.errors import InvalidOption
from . import charts, charts_groups, charts_influence, charts_kde, charts_models
from .attack_d import attack_d
from .attack_l import attack_l
from .attack_p import attack_p
from .attack_r import attack_r
from .attack_s import attack_s
from .calibrated import calibrated
from .declare import Analysis
from .entropy import entropy
from .hellinger import hellinger
from .influence import influence
from .kde import kde
from .lira import lira
from .loss_attack import loss
from .memorization import memorization
from .ood import ood
from .privacy_score import privacy_score
from .ramia import ramia
from .rmia import rmia
from .shadow_nn import shadow_nn
from .subpopulation import subpopulation
from .trace import lt_iqr, trace
from .vulnerability import vulnerability

ANALYSES: tuple[Analysis, ...] = (
    Analysis("lt-iqr", lt_iqr, ("trace",), charts.score_by_membership),
    Analysis("trace", trace, ("trace",), charts.score_by_membership),
    Analysis("lira", lira, ("lira",), charts.score_by_membership, attack=True),
    Analysis("rmia", rmia, ("rmia",), charts.score_by_membership, attack=True),
    Analysis("ramia", ramia, ("rmia",), charts.score_by_membership, attack=True),
    Analysis("loss", loss, ("loss",), charts.score_by_membership, attack=True),
    Analysis("kde", kde, ("loss",), charts_kde.kde_chart, attack=True),
    Analysis("attack-p", attack_p, ("loss", "attack_p"), charts.score_by_membership, attack=True),
    Analysis("attack-r", attack_r, ("attack_same_sample",), charts.score_by_membership, attack=True),
    Analysis("attack-s", attack_s, ("loss", "attack_s"), charts.score_by_membership, attack=True),
    Analysis("attack-d", attack_d, ("attack_same_sample",), charts.score_by_membership, attack=True),
    Analysis("attack-l", attack_l, ("attack_same_sample",), charts.score_by_membership, attack=True),
    Analysis("shadow-nn", shadow_nn, ("loss",), charts.score_by_membership, attack=True),
    Analysis("entropy", entropy, ("loss",), charts.score_by_membership, attack=True),
    Analysis("calibrated", calibrated, ("calibrated",), charts.score_by_membership, attack=True),
    Analysis("memorization", memorization, ("memorization",), charts.memorization_histogram),
    Analysis("influence", influence, (), charts_influence.influence_histogram),
    Analysis("privacy-score", privacy_score, ("privacy_score",), charts.score_histogram),
    Analysis("hellinger", hellinger, ("hellinger", "memorization"), charts.score_histogram),
    Analysis("ood", ood, (), charts.score_by_membership),
    Analysis("subpopulation", subpopulation, (), charts_groups.cluster_sizes),
    Analysis("vulnerability", vulnerability, (), charts_models.found_histogram),
)


def find(name: str) -> Analysis:
    """The analysis of that name. Raises InvalidOption with the nearest names."""
    for analysis in ANALYSES:
        if analysis.name == name:
            return analysis
    names = [analysis.name for analysis in ANALYSES]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidOption(f"there is no analysis {name!r}; {hint}(analyses: {', '.join(names)})")
