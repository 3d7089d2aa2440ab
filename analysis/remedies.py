"""How somebody comes by models and records that an analysis lacks: that depends on who collected the experiment."""

from __future__ import annotations

from ..store.format.records import AUDIT, Experiment
from ..store.lake import Lake


def of_own_loop(experiment: Experiment) -> bool:
    """Whether its models come from a training loop of one's own, which `losslake collect` cannot run."""
    return experiment.dataset.get("recorded_by") == "start_run"


def of_audit(experiment: Experiment) -> bool:
    """Whether its models come from `losslake.audit`, which fits their shadow models, too."""
    return experiment.dataset.get("recorded_by") == AUDIT


def collect_shadows(lake: Lake, experiment: str, some: str = "some") -> str:
    """What to do for shadow models: 'losslake collect' trains neither those of a loop of one's own nor those of an audit."""
    if of_audit(lake.experiment(experiment)):
        return f"have {some} fitted by losslake.audit(..., shadows=32), from a shell by losslake audit ... --shadows 32"
    if not of_own_loop(lake.experiment(experiment)):
        return f"collect {some} with 'losslake collect shadows'"
    return f"train {some} with your own loop: for run in lake.shadow_runs({experiment!r}, count=32)"


def set_aside(lake: Lake, experiment: str) -> str:
    """What to do for population records, which nobody trains on."""
    if of_audit(lake.experiment(experiment)):
        return "give the audit some (canaries' candidates are none): population= of losslake.audit, --population of 'losslake audit', under another experiment name"
    if of_own_loop(lake.experiment(experiment)):
        return "set some aside: pool 'population' in the samples of start_run"
    return "set some aside with --population when collecting"
