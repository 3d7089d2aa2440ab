"""The privacy score of Carlini et al.: how far apart a sample's phi lies with and without it."""

from __future__ import annotations

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source, with_membership


def privacy_score(source: Source) -> Scores:
    """Privacy score: d = |mean_in - mean_out| / (sd_in + sd_out) of phi over shadow runs.

    Standard deviations divide by n. Higher = the two groups of models are easier to tell apart: more exposed.

    Needs: two or more shadow runs with and two or more without each sample.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", section VII-B.
    """
    shadows = source.need_shadows()
    frame = source.query("privacy_score", {"target": source.target_name})
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"the privacy score needs two shadow runs with and two without a sample; experiment {source.experiment!r} has "
            f"{len(shadows)} shadow runs"
        )
    notes = count_unscored(frame, "fewer than two shadow runs trained on them, or without them")
    return Scores(with_membership(source, frame), notes)
