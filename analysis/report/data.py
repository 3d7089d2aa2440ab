"""What a report is made of: every number gathered from the lake, none of it laid out yet; and what it calls scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...store.format.records import Experiment, Run
from ...store.format.schema import CROSS_ENTROPY
from ..charts.roc import Curve
from ..charts.traces import Band
from ..remedies import of_audit
from ..scores import Finding, Scores
from ..statistics.metric import Metric

if TYPE_CHECKING:
    from .audit import Audit
    from .compared import Compared
    from .verdict import Judgement

Floats = npt.NDArray[np.float64]

LABELS = {
    "lira": "LiRA",
    "lira[mode=offline]": "LiRA offline",
    "rmia": "RMIA",
    "ramia": "RaMIA",
    "loss": "loss attack",
    "residual": "residual attack",
    "trajectory": "trajectory attack",
    "kde": "KDE attack",
    "attack-p": "attack P",
    "attack-r": "attack R",
    "attack-s": "attack S",
    "attack-d": "attack D",
    "attack-l": "attack L",
    "shadow-nn": "shadow network",
    "entropy": "entropy attack",
    "calibrated": "calibrated loss",
    "min-k": "Min-K%",
    "min-k[plus-plus=true]": "Min-K%++",
    "zlib": "zlib attack",
    "lowercase": "lowercase attack",
    "exposure": "exposure of canaries",
    "lt-iqr": "LT-IQR",
    "free": "free score",
    "memorization": "memorization",
    "privacy-score": "privacy score",
    "influence": "influence",
    "hellinger": "Hellinger distance",
    "ood": "out-of-distribution score",
    "subpopulation": "subpopulations",
    "vulnerability": "vulnerability over models",
    "suspects": "doubt of the label",
    "trace[aggregate=final]": "final loss",
    "trace[aggregate=mean]": "mean loss",
}

_NAMING = ("score", "first", "second", "against")
"""Parameters of metrics whose value is a score's name."""

LOSSES = ("trace[aggregate=final]", "trace[aggregate=mean]")
"""Final loss and mean loss, which LT-IQR is compared with."""


@dataclass(frozen=True)
class Scored:
    """A score of the experiment's samples. ``name`` as a command takes it, ``label`` as people say it."""

    name: str
    label: str
    scores: Scores

    def by_sample(self) -> dict[int, float]:
        """Score by sample id, of the samples that have one."""
        known = self.scores.frame.filter(self.scores.frame["score"].is_not_null())
        return dict(zip(known["sample_id"].to_list(), known["score"].to_list(), strict=True))


@dataclass(frozen=True)
class Said:
    """What an evaluation said. ``variant`` names its scores and options as the lake does."""

    evaluation: str
    variant: str
    finding: Finding


@dataclass(frozen=True)
class Ask:
    """An analysis by name, what it would add to a report, and the kinds of data it needs."""

    name: str
    adds: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Attack:
    """A score judged as a membership attack: AUC and TPR at each FPR, and its ROC curve."""

    scored: Scored
    metrics: tuple[Metric, ...]
    curve: Curve

    @property
    def label(self) -> str:
        return self.scored.label

    @property
    def auc(self) -> Metric:
        return next(metric for metric in self.metrics if metric.metric == "auc")

    @property
    def tprs(self) -> tuple[Metric, ...]:
        """TPR at each FPR, the lowest FPR first."""
        found = [metric for metric in self.metrics if metric.metric == "tpr_at_fpr"]
        return tuple(sorted(found, key=lambda metric: float(metric.parameters["fpr"])))


@dataclass(frozen=True)
class Headline:
    """The attack the report leads with, at the lowest asked FPR that the target's non-members resolve.

    ``found`` holds the ids of the members above the threshold, which the attack names, some of them by luck; ``accused``
    counts the non-members above it. ``fpr`` and ``tpr`` are None, and nobody is found, where no asked FPR is resolved.
    """

    attack: Attack
    wanted: float
    fpr: float | None
    tpr: Metric | None
    found: frozenset[int] = frozenset()
    accused: int = 0
    found_name: ClassVar[str] = "named by the attack"

    @property
    def members(self) -> int:
        return self.attack.curve.members

    @property
    def non_members(self) -> int:
        return self.attack.curve.non_members


@dataclass(frozen=True)
class Again:
    """In how many of the ``models`` that were trained on a record's members the attack finds it, with the share's 95% interval."""

    found: int
    models: int
    ci_low: float
    ci_high: float

    @property
    def told(self) -> str:
        return f"Found in {self.found} of {self.models} models of these members (95%: {self.ci_low:.0%}–{self.ci_high:.0%})"


@dataclass(frozen=True)
class Record:
    """One of the most exposed records. ``scores`` are (label, score, rank among those shown to be ranked).

    ``called`` is its class in words; ``found`` tells whether the leading attack names it, None where none could be judged. ``facts`` are the
    samples' own columns, where there is no picture. ``suspicion`` says in words what `suspects` makes of it, ``again``
    how many of the target and its duals give it away; None without duals.
    """

    sample_id: int
    key: str | None
    label: int | None
    class_name: str | None
    called: str
    group: str | None
    found: bool | None
    scores: tuple[tuple[str, float, int], ...]
    picture: bytes | None
    facts: tuple[tuple[str, str], ...]
    trace: Floats | None
    grad_norms: Floats | None = None
    suspicion: str = ""
    again: Again | None = None

    @property
    def name(self) -> str:
        return f"sample {self.sample_id}"


@dataclass(frozen=True)
class Traces:
    """The target's traces of one signal: the spread of all members. ``source`` is eval or train."""

    source: str
    band: Band


@dataclass(frozen=True)
class Report:
    """All that a report tells of one experiment.

    ``attacks`` are judged against the target's membership, the leading one first; ``judgement`` is what they allow to be
    said. ``lt_iqr``, ``memorization``
    and ``privacy_score`` are None where the lake has nothing to compute them from; ``absent`` says why, by name.
    ``comparison`` holds precision@k, recall@k and correlations against the leading attack. ``findings`` are all other
    evaluations, ``others`` the scores that are kept in the lake beside those named here. ``suspects`` parts records into
    kinds, and ``suspected`` are those that may be mislabelled, the likeliest first. ``ranked_by`` says what
    ``exposed`` is ordered by. The lake is ``kept``, or gone when somebody reads this; ``shell``: an audit's reader is told of options and not of arguments.
    ``again`` is in how many of the target and its duals the leading attack finds each record, None without duals.
    ``about`` says of each sample, by its id, its class and group; empty where none has any.
    """

    experiment: Experiment
    lake: str
    made: str
    version: str
    audit: Audit
    target: Run | None
    runs: tuple[Run, ...]
    attacks: tuple[Attack, ...]
    headline: Headline | None
    fprs: tuple[float, ...]
    judgement: Judgement
    lt_iqr: Scored | None
    memorization: Scored | None
    privacy_score: Scored | None
    comparison: Finding | None
    pairing: Finding | None
    findings: tuple[Said, ...]
    others: tuple[Scored, ...]
    suspects: Scored | None
    suspected: tuple[Record, ...]
    traces: Traces | None
    grad_norms: Traces | None
    ranked_by: str
    exposed: tuple[Record, ...]
    about: tuple[str, ...]
    asks: tuple[Ask, ...]
    notes: tuple[tuple[str, str], ...]
    absent: tuple[tuple[str, str], ...]
    compared: Compared | None = None
    again: Scored | None = None
    kept: bool = True
    shell: bool = False

    @property
    def dataset(self) -> str:
        """The data set's name. Of a path only the last part: a report is passed on, the folders are nobody's business."""
        told = self.experiment.dataset
        run = self.target or next(iter(self.runs), None)
        name = str(told.get("name") or (run and run.info.dataset) or told.get("spec") or "")
        without = "given to the audit" if of_audit(self.experiment) else "not named"
        return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or without

    @property
    def loss_is(self) -> str:
        """Which loss the target recorded, with its unit where that is known."""
        loss = str(self.target.info.extra.get("loss", CROSS_ENTROPY) if self.target else CROSS_ENTROPY)
        return f"{loss}, nats" if CROSS_ENTROPY in loss else loss

    @property
    def nats(self) -> str:
        """What to add to the name of a number in the loss's unit."""
        return ", nats" if self.loss_is.endswith("nats") else ""

    @property
    def shadows(self) -> tuple[Run, ...]:
        return self.of_role("shadow")

    def said(self, evaluation: str) -> tuple[Said, ...]:
        """What an evaluation said, once for each choice of scores and options."""
        return tuple(one for one in self.findings if one.evaluation == evaluation)

    def finding(self, evaluation: str) -> Finding | None:
        """The first that an evaluation said, with scores called by their labels; None where it said nothing."""
        return next((labelled(one.finding) for one in self.said(evaluation)), None)

    def attack(self, analysis: str) -> Attack | None:
        """The attack of that name, whatever its options; None where the report has none."""
        return next((one for one in self.attacks if one.scored.name.partition("[")[0] == analysis), None)

    def other(self, analysis: str) -> Scored | None:
        """The kept score of that analysis, None where there is none."""
        return next((one for one in self.others if one.name.partition("[")[0] == analysis), None)

    def of_role(self, role: str) -> tuple[Run, ...]:
        """The runs of a role, the report's target left out."""
        name = self.target.run if self.target else None
        return tuple(run for run in self.runs if run.info.role == role and run.run != name)


def beats_guessing(tpr: Metric) -> bool:
    """Whether a TPR lies above what guessing reaches at its FPR, its whole interval."""
    return tpr.value is not None and tpr.ci_low is not None and tpr.ci_low > float(tpr.parameters["fpr"])


def metric_of(finding: Finding | None, name: str, **parameters: Any) -> Metric | None:
    """The first metric of that name with these parameters, None where there is none."""
    for metric in finding.metrics if finding else ():
        has = metric.parameters
        if metric.metric == name and all(has.get(key) == value for key, value in parameters.items()):
            return metric
    return None


def correlation(finding: Finding | None, first: str, second: str) -> Metric | None:
    """Spearman's rho of two scores, in whichever order it was computed."""
    one = metric_of(finding, "spearman", first=first, second=second)
    return one or metric_of(finding, "spearman", first=second, second=first)


def score_name(analysis: str, variant: str) -> str:
    """``lira``, ``lira[mode=offline]``: a kept score as a command takes it."""
    return f"{analysis}[{variant}]" if variant else analysis


def label_of(name: str) -> str:
    """What to call a score; of options that have no label of their own the text stands behind."""
    if name in LABELS:
        return LABELS[name]
    analysis, _, options = name.partition("[")
    label = LABELS.get(analysis, analysis)
    return f"{label} ({options.removesuffix(']')})" if options else label


def labelled(finding: Finding) -> Finding:
    """The same metrics with the scores that their parameters name called by their labels."""
    return Finding(
        tuple(
            replace(
                metric,
                parameters={
                    name: label_of(str(value)) if name in _NAMING else value
                    for name, value in metric.parameters.items()
                },
            )
            for metric in finding.metrics
        ),
        finding.notes,
    )
