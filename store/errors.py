"""Every error losslake raises on purpose. The command line turns each into one line and an exit code."""

from __future__ import annotations


class LosslakeError(Exception):
    """Something went wrong that the message explains: what, where, and what to do. Exit code 1."""

    exit_code = 1


class InvalidInput(LosslakeError):
    """Data that cannot be right: shapes that disagree, a label out of range, NaN logits."""


class InvalidOption(LosslakeError):
    """A name or value the caller chose does not exist or does not fit: wrong usage. Exit code 2."""

    exit_code = 2


class NotFound(LosslakeError):
    """No such lake, experiment, run or score."""


class AlreadyExists(LosslakeError):
    """A run or experiment of that name is committed and is never overwritten."""


class NotEnoughData(LosslakeError):
    """The lake holds too little for the question: an empty experiment, no shadow runs, no traces."""


class CorruptLake(LosslakeError):
    """A file the lake relies on is missing, damaged or unreadable."""


class NewerFormat(LosslakeError):
    """The lake was written by a newer losslake than this one."""


class OlderFormat(LosslakeError):
    """The lake is of an older losslake: it can be read, and has to be migrated before anything is written to it."""


class ForgottenMeanwhile(LosslakeError):
    """Samples were forgotten while something was computed from rows of theirs: nothing of it is kept."""


class QueryRefused(LosslakeError):
    """Ad-hoc SQL that would do more than read the lake, or that the engine rejected."""


class LimitReached(LosslakeError):
    """A query used up the time, the memory or the temporary space that it was given."""


class TrainingFailed(LosslakeError):
    """A training run could not finish: it diverged, or a worker died. Nothing of it is committed."""


class MissingExtra(LosslakeError):
    """An optional dependency is not installed; the message names the extra to install."""


def in_one_line(error: Exception) -> str:
    """What an engine's error says, some of which do in several lines."""
    return " ".join(str(error).split())
