"""What a report calls scores: a name as a command takes it, and a label as people say it."""

from __future__ import annotations

from dataclasses import replace

from ..scores import Finding

LABELS = {
    "lira": "LiRA",
    "lira[mode=offline]": "LiRA offline",
    "rmia": "RMIA",
    "ramia": "RaMIA",
    "loss": "loss attack",
    "kde": "KDE attack",
    "attack-p": "attack P",
    "attack-r": "attack R",
    "attack-s": "attack S",
    "attack-d": "attack D",
    "attack-l": "attack L",
    "shadow-nn": "shadow network",
    "entropy": "entropy attack",
    "calibrated": "calibrated loss",
    "lt-iqr": "LT-IQR",
    "memorization": "memorization",
    "privacy-score": "privacy score",
    "influence": "influence",
    "hellinger": "Hellinger distance",
    "ood": "out-of-distribution score",
    "subpopulation": "subpopulations",
    "vulnerability": "vulnerability over models",
    "trace[aggregate=final]": "final loss",
    "trace[aggregate=mean]": "mean loss",
}


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


_NAMING = ("score", "first", "second", "against")
"""Parameters of metrics whose value is a score's name."""
