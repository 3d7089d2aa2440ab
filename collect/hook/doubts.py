"""What a run tells its user of when it happens: an order that nothing shows, members in no batch, batches after its end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ...store.errors import InvalidInput
from ...store.write.run_writer import RunWriter
from .. import ranks
from .positions import Positions, labels_tell
from .recorder import TraceRecorder


def check_order(
    experiment: str, not_shown: Sequence[Positions], labels: np.ndarray, *, compared: bool
) -> None:
    """Whether anything shows which record is which sample; ``compared``: targets were compared with ``labels``.

    It is the same in all runs that one loop records, and so are the words, which Python by itself prints once.

    Raises InvalidInput where something speaks against it and no labels speak for it, and warns where nothing does.
    """
    for positions in not_shown:
        if compared and labels_tell(labels, positions.ids):
            continue
        if positions.doubt is not None:
            raise InvalidInput(positions.doubt)
        if ranks.writes():
            warnings.warn(
                f"nothing shows which record is which sample in experiment {experiment!r}: record i of the loader's data set is taken for "
                "member i, and the loss compares no labels that would tell; pass watch_loader ids=, the sample id of each record, or key=, "
                "the field of a batch that names its samples",
                stacklevel=5,
            )
            return


def tell_of_sigmoids(run: str, odd: str) -> None:
    """``odd`` says what is odd about outputs that all look like sigmoids', under a loss of logits; "" where nothing is."""
    if odd and ranks.writes():
        warnings.warn(
            f"{odd}. Run {run!r} records the loss that the loop computes, of sigmoids of sigmoids",
            stacklevel=5,
        )


def tell_it_has_ended(run: str) -> None:
    """Batches come, and are not recorded."""
    if ranks.writes():
        warnings.warn(
            f"run {run!r} has ended, and records nothing of the batches that come now; start another run for them",
            stacklevel=5,
        )


def tell_who_was_in_no_batch(run: str, members: np.ndarray, missing: np.ndarray) -> None:
    """Masks over the samples: who is a member, and which of these no batch held."""
    if missing.any():
        warnings.warn(
            f"{int(missing.sum())} of {int(members.sum())} members of run {run!r} were in no batch that was recorded, the "
            f"first of them sample {int(missing.argmax())}; attacks take every member for trained on: are members= right?",
            stacklevel=5,
        )


def tell_of_a_lone_point(run: str, epochs: int) -> None:
    """The eval trace has the point before training, and none of the epochs after it."""
    warnings.warn(
        f"trace_eval of run {run!r} was called before training alone, and its eval trace says nothing of the {epochs} "
        "epochs; call it after each of them too",
        stacklevel=5,
    )


def tell_it_is_dropped(run: str, experiment: str) -> None:
    """Another process has committed the same shadow run."""
    warnings.warn(
        f"another process has committed run {run!r} of experiment {experiment!r} meanwhile, with the same members; what was "
        "recorded here is dropped",
        stacklevel=5,
    )


def tell_of_its_other_name(run: str, experiment: str, name: str) -> None:
    """Its name ``run`` was taken, and it is committed as ``name``."""
    warnings.warn(
        f"another process has committed a run {run!r} of experiment {experiment!r} meanwhile; this one is in the lake as "
        f"{name!r}",
        stacklevel=5,
    )


def leave(recorder: TraceRecorder, writer: RunWriter) -> None:
    """What becomes of a run that nobody has committed or discarded, and nobody holds any more, or whose program ends."""
    recorded = recorder.recording or recorder.epochs or writer.staged_epochs()
    recorder.stop()
    writer.discard()
    if recorded:
        warnings.warn(
            f"run {writer.run!r} of experiment {writer.experiment!r} was never committed, and what it recorded ({recorder.epochs} epochs) is lost: "
            "use it as 'with lake.start_run(...) as run:', or end with run.commit()",
            stacklevel=2,
        )
