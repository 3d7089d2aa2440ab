"""Faults of disks, of permissions and of clocks: what the lake does when they strike, and what it shows afterwards.

    python benchmarks/faults.py sweep          # every call of the operating system fails in turn
    python benchmarks/faults.py corruptions    # 1,000 random corruptions: does verify find them, what do readers do
    python benchmarks/faults.py full           # a disk that is full after so many bytes
    python benchmarks/faults.py forbidden      # a lake of somebody else's, and one on a disk that is read-only
    python benchmarks/faults.py clock          # a clock that jumps by a year, while garbage is collected

Each prints a table in Markdown, and exits with 1 where a promise was broken: an error explains itself, nothing that is
committed is half there or damaged, and the same command without the fault completes. A TMPDIR in memory saves most of
the time.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from fault_lake import ACTIVITIES, Activity, Broken, Passage, copy, state
from faulty_os import Faults, faulty
from losslake.store.errors import LosslakeError
from losslake.store.lake import Lake
from losslake.store.upkeep.gc import collect_garbage

ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EINTR, errno.EACCES)
INSIDE = [name for name in ACTIVITIES if name != "export"]
"""What is done through the lake's own file system alone."""

_NOBODY = 65534


@dataclass
class Outcome:
    """What came of the cases of one kind: how many, how many ended with an error that says what, the promises broken."""

    cases: int = 0
    errors: int = 0
    broken: list[str] = field(default_factory=list)


def passage_of(name: str, folder: Path) -> tuple[Path, Passage, list[str]]:
    """A lake to start from, what an undisturbed activity leads it through, and the calls that it makes."""
    activity = ACTIVITIES[name]
    start, root = folder / f"{name}-start", folder / name
    activity.start(start)
    copy(start, root)
    passage = Passage(state(root), {})
    faults = Faults(hook=lambda number: passage.note(state(root)))
    with faulty(faults):
        activity.do(root)
    passage.after = state(root)
    passage.note(passage.after)
    passage.check_done(root)
    return start, passage, faults.calls


def strike(
    activity: Activity, start: Path, root: Path, passage: Passage, trouble: AbstractContextManager[object]
) -> bool:
    """Do an activity in trouble, then once more without. Says whether it ended with an error; raises Broken."""
    copy(start, root)
    failed = False
    with trouble:
        try:
            activity.do(root)
        except LosslakeError as error:
            failed = True
            explain(str(error), root)
        except Exception as error:
            raise Broken(f"unexplained: {type(error).__name__}: {str(error)[:200]}") from error
    check_after(activity, root, passage, failed)
    return failed


def check_after(activity: Activity, root: Path, passage: Passage, failed: bool) -> None:
    """Raises Broken unless a lake is whole after an activity in trouble, and the same without trouble completes it."""
    passage.check(root)
    shown = state(root)
    if not failed and any(shown.get(path) != content for path, content in passage.after.items()):
        raise Broken("no error, and not all was done")
    try:
        activity.do(root)
    except Exception as error:
        raise Broken(f"the second time: {type(error).__name__}: {str(error)[:200]}") from error
    passage.check_done(root)


def explain(text: str, root: Path) -> None:
    """Raises Broken for an error that does not say where it happened."""
    if str(root.parent) not in text and not any(
        f"{folder}/" in text for folder in ("runs", "signals", "samples")
    ):
        raise Broken(f"does not say where: {text[:200]}")


def count(outcome: Outcome, case: str, do: Callable[[], bool]) -> None:
    """Add a case to an outcome."""
    outcome.cases += 1
    try:
        outcome.errors += do()
    except Broken as broken:
        outcome.broken.append(f"{case}: {broken}")


# --- calls that fail -----------------------------------------------------------------------------------------


def sweep(
    folder: Path, name: str, *, errnos: Sequence[int] = ERRNOS, step: int = 1, first: int = 0
) -> Outcome:
    """Let every call of an activity fail in turn, once and from then on; with ``step`` every so manieth case alone."""
    start, passage, calls = passage_of(name, folder)
    outcome, activity, root = Outcome(), ACTIVITIES[name], folder / "struck"
    every = (
        (at, error, lasting) for at in range(len(calls)) for error in errnos for lasting in (False, True)
    )
    # Python repeats an interrupted read or write, for as long as it is interrupted.
    cases = [
        Faults(at, error, lasting=lasting)
        for at, error, lasting in every
        if not (lasting and error == errno.EINTR)
    ][first::step]
    for faults in [*cases, Faults(short=True)]:
        case = (
            f"{name}, {errno.errorcode[faults.error]} {'from' if faults.lasting else 'at'} call {faults.at}"
        )
        count(outcome, case, partial(strike, activity, start, root, passage, faulty(faults)))
    return outcome


# --- a full disk ---------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, size: int = 8 << 20) -> Iterator[bool]:
    """A small disk of its own at a folder, where this user may mount one; says whether it is there."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", str(folder)]
    there = (
        shutil.which("mount") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full_after(disk: Path, room: int) -> Iterator[None]:
    """In the block a small disk has ``room`` bytes left."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - room))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """In the block no file of this process grows beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(folder: Path, name: str, rooms: Sequence[int]) -> Outcome:
    """Do an activity on a disk with so much room, and, which needs no disk of one's own, with files of so much at most."""
    start, passage, _ = passage_of(name, folder)
    outcome, activity = Outcome(), ACTIVITIES[name]
    disk = folder / "disk"
    with mounted(disk) as there:
        for room in rooms:
            if there:
                trouble = full_after(disk, room)
                count(
                    outcome,
                    f"{name}, {room} bytes left",
                    partial(strike, activity, start, disk / "lake", passage, trouble),
                )
            quota = files_up_to(room)
            count(
                outcome,
                f"{name}, files of {room} bytes",
                partial(strike, activity, start, folder / "struck", passage, quota),
            )
    return outcome


# --- what one may not do -------------------------------------------------------------------------------------


def forbidden(folder: Path, name: str) -> Outcome:
    """Do an activity as somebody else: where they may not look, where they may only look, and on a read-only disk."""
    start, passage, _ = passage_of(name, folder)
    outcome, activity, root = Outcome(), ACTIVITIES[name], folder / "struck"
    for mode, what in ((0o700, "a lake of somebody else's"), (0o755, "one to be read only")):

        def do(mode: int = mode) -> bool:
            copy(start, root)
            root.mkdir(exist_ok=True)
            os.chmod(folder, 0o755)
            _set_modes(root, mode)
            failed = _as_nobody(name, root)
            _set_modes(root, 0o700)
            check_after(activity, root, passage, failed)
            return failed

        count(outcome, f"{name}, {what}", do)
    with mounted(folder / "disk") as there:
        if there:
            at = folder / "disk" / "lake"
            count(
                outcome,
                f"{name}, read-only disk",
                lambda: strike(activity, start, at, passage, _read_only(folder / "disk")),
            )
    return outcome


def _set_modes(root: Path, mode: int) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(mode if path.is_dir() else mode & 0o644)


@contextmanager
def _read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def _as_nobody(name: str, root: Path) -> bool:
    """Do an activity in a process of nobody's; without root's rights in one of one's own, whose folders are read-only."""
    if os.geteuid() != 0:
        _set_modes(root, 0o500)
    done = subprocess.run(
        [sys.executable, __file__, "as-nobody", "--only", name, "--lake", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise Broken(f"unexplained: {done.stderr.strip()[-300:]}")
    if done.returncode == 1:
        explain(done.stderr, root)
    return done.returncode == 1


def _do_as_nobody(name: str, root: Path) -> None:
    with tempfile.TemporaryDirectory() as warm:  # all that is imported late: nobody may not read everything
        ACTIVITIES[name].start(Path(warm) / "lake")
        ACTIVITIES[name].do(Path(warm) / "lake")
        with contextlib.suppress(LosslakeError):
            Lake.open(Path(warm) / "none")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    try:
        ACTIVITIES[name].do(root)
    except LosslakeError as error:
        sys.exit(f"losslake: {error}")


# --- clocks --------------------------------------------------------------------------------------------------


def clock(folder: Path, name: str, moments: int = 6) -> Outcome:
    """Let the clock jump by a year, back or forth, at some moments, and garbage be collected from then on.

    What happened before a jump lies a year further back, or in the future, as file times say.
    """
    start, passage, calls = passage_of(name, folder)
    outcome, activity, root = Outcome(), ACTIVITIES[name], folder / "struck"
    for at in range(0, len(calls), max(1, len(calls) // moments)):
        for days in (-365, 365):

            def jump(number: int, at: int = at, days: int = days) -> None:
                if number == at:
                    _shift(root, -timedelta(days=days))
                if number == at + 1 and (root / "lake.json").exists():
                    collect_garbage(Lake.open(root))

            case = f"{name}, {days} days at call {at}"
            count(outcome, case, partial(strike, activity, start, root, passage, faulty(Faults(hook=jump))))
    if outcome.errors:
        outcome.broken.append(f"{name}: {outcome.errors} ended with an error")
    return outcome


def _shift(root: Path, by: timedelta) -> None:
    for path in root.rglob("*"):
        now = path.stat()
        os.utime(path, (now.st_atime + by.total_seconds(), now.st_mtime + by.total_seconds()))


# --- all of it -----------------------------------------------------------------------------------------------


def _print_corruptions(folder: Path, number: int, seed: int) -> list[str]:
    from corruptions import corrupt, whole_lake  # the analyses take seconds to import

    missed = []
    whole_lake(folder / "whole")
    for title, times in (
        ("by a program", False),
        ("without a trace in file times, as by a failing disk", True),
    ):
        found = corrupt(folder / "whole", folder / "lake", number, seed, keep_times=times)
        shutil.rmtree(folder / "lake")
        print(f"\nCorrupted {title}: verify finds {found.found} of {found.corruptions}\n")
        print("| reader | same rows | error | other rows | unclear error |\n| --- | --- | --- | --- | --- |")
        for name, answers in found.reads.items():
            counts = [answers[what] for what in ("same", "error", "other rows", "unclear")]
            print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)
        missed += [f"verify does not see {case}" for case in found.missed]
        missed += found.silent if not times else []
    return missed


def main() -> None:
    """Do what the command line says."""
    jobs: dict[str, Callable[[Path, str], Outcome]] = {
        "sweep": lambda folder, name: sweep(folder, name, step=given.step, first=given.seed),
        "full": lambda folder, name: full(folder, name, [0, *(2**k for k in range(9, 22))]),
        "forbidden": forbidden,
        "clock": clock,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*jobs, "corruptions", "as-nobody"))
    parser.add_argument("--only", action="append", help="one of what can be done to a lake; may be repeated")
    parser.add_argument("--step", type=int, default=1, help="of a sweep's cases, every so manieth")
    parser.add_argument("--count", type=int, default=1000, help="corruptions")
    parser.add_argument("--seed", type=int, default=0, help="of corruptions; of a sweep the first case")
    parser.add_argument("--lake", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "as-nobody":
        _do_as_nobody(given.only[0], given.lake)
        return
    broken = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        if given.what == "corruptions":
            broken = _print_corruptions(Path(folder), given.count, given.seed)
        else:
            print(
                "| what is done | cases | ended with an error | promises broken |\n| --- | --- | --- | --- |"
            )
            every = INSIDE if given.what in ("sweep", "clock") else list(ACTIVITIES)
            for name in given.only or every:
                outcome = jobs[given.what](Path(folder), name)
                print(f"| {name} | {outcome.cases} | {outcome.errors} | {len(outcome.broken)} |", flush=True)
                broken += outcome.broken
    print("\n".join(broken), file=sys.stderr)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
