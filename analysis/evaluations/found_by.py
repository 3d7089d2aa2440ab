"""What an attack finds, as the truth that cheap scores of the same records are held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.correlation import rank_correlation
from ..statistics.intervals import clopper_pearson
from ..statistics.metric import Metric
from ..statistics.roc import split, threshold_at_fpr, whole_part
from .compare import expected_hits

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FoundBy:
    """An attack's ``score`` by sample id (NaN: none) and its ``threshold`` at the FPR on the target's non-members."""

    name: str
    fpr: float
    score: Floats
    threshold: float
    notes: tuple[str, ...]

    def judge(
        self, sample_id: npt.NDArray[np.int64], value: Floats, k: float, parameters: dict[str, object]
    ) -> list[Metric]:
        """precision_at_k of a score of members, and its Spearman correlation with the attack's.

        ``sample_id`` and ``value`` (members,) without NaN; members that the attack has no score of are left out.
        Precision is that of `compare`: members tied at the edge of the top k count by their expected share.
        """
        attacked = self.score[sample_id]
        known = ~np.isnan(attacked)
        attacked, value = attacked[known], value[known]
        count = whole_part(k, len(value))
        about = {**parameters, "against": self.name}
        at_k = {**about, "fpr": self.fpr, "k": k, "records": count}
        precision = Metric("precision_at_k", None, n=0, parameters=at_k)
        if count:
            hits = expected_hits(value, attacked > self.threshold, count)
            precision = Metric("precision_at_k", hits / count, *clopper_pearson(hits, count), count, at_k)
        return [precision, rank_correlation(value, attacked, {**about, "among": "members"})]


def found_by(source: Source, attack: str, fpr: float) -> FoundBy:
    """What an attack finds in the target at an FPR. Raises NotEnoughData where it cannot be computed."""
    check_at(fpr)
    frame = keep_scores(source, (attack,))[attack].scores.frame
    score = np.full(source.lake.experiment(source.experiment).samples, np.nan)
    score[frame["sample_id"].to_numpy()] = frame["score"].fill_null(np.nan).to_numpy()
    member = np.zeros(len(score), dtype=bool)
    known = np.zeros(len(score), dtype=bool)
    known[frame.filter(frame["member"].is_not_null())["sample_id"].to_numpy()] = True
    member[frame.filter(frame["member"])["sample_id"].to_numpy()] = True
    others = split(score[known], member[known])[1]
    threshold = threshold_at_fpr(others, fpr) if len(others) else np.inf
    coarse = len(others) * fpr < 1
    told = f"{len(others)} non-members cannot resolve an FPR of {fpr:g}: found means above every one of them"
    return FoundBy(attack, fpr, score, threshold, (told,) if coarse else ())


def check_at(fpr: float) -> None:
    """Raises InvalidOption for a rate outside 0..1."""
    if not 0 < fpr < 1:
        raise InvalidOption(f"a false-positive rate lies between 0 and 1, not {fpr}")


def check_k(k: float) -> None:
    """Raises InvalidOption for a share outside 0..1."""
    if not 0 < k <= 1:
        raise InvalidOption(f"k is a share of the members between 0 and 1, not {k}")
