"""The commit protocol under any interleaving: what `protocol.Protocol` holds a lake to, with steps that hypothesis draws.

In the suite a few seconds of it. ``LOSSLAKE_PROTOCOL_SECONDS=600 pytest -n 0 -s tests/store/write/test_protocol.py`` goes on for
ten minutes, with other steps each time.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence

import published
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from protocol import CLOCKS, HOUR, KINDS, Protocol
from published import Published

SECONDS = float(os.environ.get("LOSSLAKE_PROTOCOL_SECONDS", "0"))
HOSTS = st.sampled_from([*CLOCKS])
CALLS = st.integers(0, 20) | st.integers(0, 150) | st.integers(0, 600) | st.just(1_000_000)

done: Counter[str] = Counter()


class Machines(RuleBasedStateMachine):
    """Processes on three machines, whose clocks are an hour apart and jump."""

    holds = Protocol
    lakes = 12
    kinds: Sequence[str] = KINDS

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Protocol | None = None

    @initialize(indexed=st.booleans())
    def make(self, indexed: bool) -> None:
        self.protocol = self.holds(indexed=indexed)

    @rule(
        what=st.sampled_from([*["start"] * 4, *["go on"] * 4, "kill", "time", "jump"]),
        kind=st.sampled_from(range(80)),
        host=HOSTS,
        which=st.integers(0, 7),
        calls=CALLS,
        seconds=st.sampled_from([1.0, 600.0, 2 * HOUR, 30 * HOUR]),
        asleep=st.sampled_from(["", "", "a", "b"]),
    )
    def step(
        self, what: str, kind: int, host: str, which: int, calls: int, seconds: float, asleep: str
    ) -> None:
        """One rule, so that each kind of step is as likely after every other."""
        if self.protocol is None:
            return
        match what:
            case "start":
                self.protocol.start(self.kinds[kind % len(self.kinds)], host, which, calls)
            case "go on":
                self.protocol.go_on(which, calls)
            case "kill":
                self.protocol.kill(which)
            case "time":
                self.protocol.time(seconds, asleep)
            case _:
                self.protocol.jump(host, HOUR if which % 2 else -HOUR)

    def teardown(self) -> None:
        if self.protocol is None:
            return
        try:
            self.protocol.end(kill=len(self.protocol.work) % 2 == 0)
            done["lakes"] += 1
            done["steps"] += self.protocol.steps
            for work in self.protocol.work:
                how = "done" if work.done else "refused" if work.refused else "killed"
                done[f"{work.kind}, {how}"] += 1
                done["calls"] += len(work.process.calls)
        finally:
            self.protocol.close()


class MachinesThatPublish(Machines):
    """The same where other engines read the lake's tables, and an experiment comes and goes."""

    holds = Published
    lakes = 4
    kinds = published.KINDS


@pytest.mark.parametrize("machines", [Machines, MachinesThatPublish])
def test_no_interleaving_breaks_the_protocol(machines: type[Machines]) -> None:
    done.clear()
    end = time.monotonic() + SECONDS
    while True:
        run_state_machine_as_test(
            machines,
            settings=settings(
                max_examples=50 if SECONDS else machines.lakes,
                stateful_step_count=30 if SECONDS else 14,
                deadline=None,
                database=None,
                derandomize=not SECONDS,
                phases=[Phase.generate] if SECONDS else [Phase.generate, Phase.shrink],
                suppress_health_check=[*HealthCheck],
            ),
        )
        if time.monotonic() > end:
            break
    print("\n" + "\n".join(f"| {what} | {count} |" for what, count in sorted(done.items())))
    assert done["steps"] > 50
    assert done["write, done"] > 10


@pytest.mark.parametrize("kind", sorted({*KINDS}) if SECONDS else ["write"])
@pytest.mark.parametrize("other", sorted({*KINDS}) if SECONDS else ["forget"])
def test_one_in_the_middle_of_another(kind: str, other: str) -> None:
    """What one does whole on another machine before any call of the first, in the suite before some of them."""
    for calls in range(0, 2000, 1 if SECONDS else 29):
        protocol = Protocol(indexed=True)
        try:
            for which in (0, 1):
                protocol.start("write", "a", which, 1_000_000)
            protocol.start(kind, "a", 2, calls)
            if not protocol.work[-1].process.at_work:
                break
            protocol.start(other, "b", 1, 1_000_000)
            protocol.end(kill=False)
        finally:
            protocol.close()
    assert calls > 30


@pytest.mark.parametrize("other", ["gc", "forget", "compact"])
def test_a_training_that_was_killed_is_gone_on_with(other: str) -> None:
    """Killed before any of its calls, in the suite before some, and then others look after the lake."""
    went_on = 0
    for calls in range(0, 2000, 1 if SECONDS else 41):
        protocol = Protocol()
        try:
            protocol.start("train", "a", 0, calls)
            if not protocol.work[-1].process.at_work:
                break
            protocol.kill(0)
            protocol.time(2 * HOUR)
            protocol.start(other, "b", 1, 1_000_000)
            protocol.start("train", "c", 0, 1_000_000)
            first, last = protocol.work[0], protocol.work[-1]
            assert last.done or "is in the lake already" in str(last.process.error)
            # What was forgotten meanwhile the first one knew: then all begins anew.
            told = protocol.checkpointed[first.mark][-1:] if other != "forget" else []
            assert not last.done or last.process.answer >= max(told, default=0)
            went_on += bool(last.process.answer)
            protocol.end(kill=False)
        finally:
            protocol.close()
    assert calls > 100
    assert (went_on > 0) == (other != "forget")


SLEEPERS = [("compact", "forget"), ("compact", "remove"), ("forget", "compact")]


def before_changes(kind: str) -> list[int]:
    """After how many calls work of a kind is about to put a manifest, its claim looked for next; not the first and the last ones."""
    protocol = three_runs(kind, 1_000_000)
    made = protocol.work[-1].process.calls
    protocol.close()
    return [number - 1 for number, name in enumerate(made) if name == "replace"][2:-2]


def three_runs(kind: str, calls: int) -> Protocol:
    """A lake of three runs, in which machine "a" begins such work."""
    protocol = Protocol(indexed=True)
    for which in (0, 1, 2):
        protocol.start("write", "c", which, 1_000_000)
    protocol.start(kind, "a", 2 if kind == "remove" else 3, calls)
    return protocol


@pytest.mark.parametrize(
    ("kind", "other"),
    [(kind, other) for kind in sorted({*KINDS}) for other in ("compact", "forget", "gc", "remove")]
    if SECONDS
    else SLEEPERS,
)
def test_a_machine_that_sleeps_while_others_go_on(kind: str, other: str) -> None:
    """It wakes up when others count it as gone: what it had in hand does not come over what they have done since."""
    tried = range(8, 2000) if SECONDS else before_changes(kind)[::2]
    for calls in tried:
        protocol = three_runs(kind, calls)
        try:
            if not protocol.work[-1].process.at_work:
                break
            protocol.time(26 * HOUR, asleep="a")
            for each in (other, "gc"):
                protocol.start(each, "b", 1, 1_000_000)
            protocol.end(kill=False)
        finally:
            protocol.close()
    assert len(tried) > 1
