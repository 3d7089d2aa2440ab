"""What one model's losses tell of its leak as a whole: how far the losses of non-members reach beyond those of members."""

from __future__ import annotations

from typing import Annotated

from ...store.errors import InvalidOption
from ..scores import Finding
from ..scoring.run import FPRS
from ..scoring.stored import SCORE, keep_scores
from ..source import Source
from ..statistics.metric import Metric
from ..statistics.roc import Floats, firm, split, tpr_at_fpr


def tail(
    source: Source,
    scores: tuple[str, ...],
    *,
    fnr: Annotated[tuple[float, ...], "false-negative rates of the TNR"] = FPRS,
) -> Finding:
    """An estimate of LiRA's TPR at a low FPR without shadow models: the loss attack's TNR at as low an FNR.

    tnr_at_fnr: the share of non-members whose loss lies above nearly all members', all but the share fnr of these. What a model has
    learnt by heart is missing from the high losses of its members, so a tail that non-members alone have tells of records at risk; without
    a leak TNR is FNR. It says how much is exposed and not who. The interval covers the choice of records, not how far LiRA is from the estimate: over
    48 recipes of small models, LiRA's TPR at an FPR of 1% lay within a factor of two of it for 88% of the models, at 0.1% for 64%
    (benchmarks/README.md); of long trained ones it is too high. Members that are easier than non-members by themselves have the same tail.

    Needs: the target's losses of members and of non-members; a rate takes a member expected beyond the threshold.

    Source: Dodd et al. 2025, "The Tail Tells All: Estimating Model-Level Membership Inference Vulnerability Without Reference Models".
    """
    for rate in fnr:
        if not 0 < rate < 1:
            raise InvalidOption(f"a false-negative rate lies between 0 and 1, not at {rate}")
    metrics: list[Metric] = []
    notes: list[str] = []
    for name, kept in keep_scores(source, scores, SCORE).items():
        notes += [f"{name}: {note}" for note in kept.scores.notes]
        members, others = split(*kept.scores.arrays())
        if min(len(members), len(others)) == 0:
            notes.append(f"{name}: there are no scores of both members and non-members")
            continue
        found = [tnr_at_fnr(members, others, rate) for rate in sorted(set(fnr))]
        metrics += [
            Metric(m.metric, m.value, m.ci_low, m.ci_high, m.n, {"score": name, **m.parameters})
            for m in found
        ]
        rough = next(
            (m for m in found if m.value is not None and firm(m.parameters["fnr"], len(members))), None
        )
        if rough is not None:
            notes.append(
                f"{name}: without shadow models, LiRA's TPR at an FPR of {rough.parameters['fnr']:g} is put at about {rough.value:.2g} (guessing: "
                f"{rough.parameters['fnr']:g}), if members are drawn like the others; on small models mostly right within a factor of two"
            )
        coarse = [f"{m.parameters['fnr']:g}" for m in found if not m.parameters["resolved"]]
        if coarse:
            notes.append(
                f"{name}: {len(members)} members cannot resolve an FNR of {', '.join(coarse)}: only the interval of its TNR is given"
            )
    return Finding(tuple(metrics), tuple(notes))


def tnr_at_fnr(members: Floats, others: Floats, fnr: float) -> Metric:
    """The highest TNR whose FNR is at most ``fnr``, of sorted scores where higher = member.

    It is the TPR of the attack that looks for non-members, with the same interval.
    """
    found = tpr_at_fpr(-others[::-1], -members[::-1], fnr)
    about = {"fnr": fnr, "resolved": found.parameters["resolved"], "members": len(members)}
    return Metric("tnr_at_fnr", found.value, found.ci_low, found.ci_high, len(others), about)
