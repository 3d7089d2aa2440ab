"""The confusion matrix of an attack that says "member" where the evidence speaks for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .intervals import clopper_pearson
from .metric import Metric


@dataclass(frozen=True)
class Confusion:
    """Counts of records by what they are and what the attack says."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    @property
    def records(self) -> int:
        return self.true_positives + self.false_negatives + self.false_positives + self.true_negatives

    def metrics(self) -> tuple[Metric, ...]:
        """The four rates, accuracy and precision with Clopper-Pearson intervals; the counts as ``records``.

        confusion is the share of the members (or of the non-members) that the attack says this of. Accuracy and
        precision depend on how many members there are for each non-member. Nothing can be said without records.
        """
        members = self.true_positives + self.false_negatives
        others = self.false_positives + self.true_negatives
        named = self.true_positives + self.false_positives
        right = self.true_positives + self.true_negatives
        cells = (
            ("member", "member", self.true_positives, members),
            ("member", "non-member", self.false_negatives, members),
            ("non-member", "member", self.false_positives, others),
            ("non-member", "non-member", self.true_negatives, others),
        )
        return (
            *(
                _share("confusion", hits, of, {"is": truth, "said": said, "records": hits})
                for truth, said, hits, of in cells
            ),
            _share("accuracy", right, self.records, {}),
            _share("precision", self.true_positives, named, {}),
        )


def confusion(said: npt.NDArray[np.bool_], member: npt.NDArray[np.bool_]) -> Confusion:
    """Count records that the attack says are members (``said``) against those that are."""
    return Confusion(
        int((said & member).sum()),
        int((~said & member).sum()),
        int((said & ~member).sum()),
        int((~said & ~member).sum()),
    )


def _share(name: str, hits: int, of: int, parameters: dict[str, str | int]) -> Metric:
    low, high = clopper_pearson(hits, of)
    return Metric(name, hits / of if of else None, low, high, of, parameters)
