"""Audits in temporary lakes, one after another in one process, as a service makes them: what they leave behind."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import losslake
import numpy as np
import pytest
from losslake.store.errors import InvalidInput
from losslake.store.files import tokens
from losslake.store.write import leases
from sklearn.dummy import DummyClassifier
from warm import HANGS

SIDES = [(np.random.default_rng(i).normal(size=(30, 2)), np.arange(30) % 2) for i in (0, 1)]


def _open_files() -> int:
    here = Path("/proc/self/fd")
    return len(list(here.iterdir())) if here.exists() else 0


def test_a_service_that_audits_again_and_again_gathers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = DummyClassifier().fit(*SIDES[0])

    def kept() -> tuple[Any, ...]:
        gc.collect()
        names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("losslake-audit"))
        here = str(tmp_path.resolve())  # leases of other tests may end meanwhile
        held = {root for root, _ in (*leases._endings, *leases._renewed)} | set(tokens._processes)
        memory = {root for root in held if root.startswith(here)}
        return names, atexit._ncallbacks(), memory

    losslake.audit(model, *SIDES)
    threads, before, opened = set(threading.enumerate()), kept(), _open_files()
    for _ in range(3):
        losslake.audit(model, *SIDES)
        with pytest.raises(InvalidInput):
            losslake.audit(model, SIDES[0], SIDES[0])
    # A thread of another lake may have a file open in this moment, then or now.
    until = time.monotonic() + HANGS
    while _open_files() > opened or set(threading.enumerate()) - threads:
        assert time.monotonic() < until
        gc.collect()
        time.sleep(0.01)
    assert kept() == before
    assert before[0] == []


def test_a_fork_leaves_the_temporary_lake_to_its_parent() -> None:
    audit = losslake.audit(DummyClassifier().fit(*SIDES[0]), *SIDES)
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(HANGS))
        code = 1
        with contextlib.suppress(BaseException):
            del audit
            gc.collect()
            code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert Path(audit.lake.path).exists()
    assert audit.lake.sql("select count(*) as n from signals")["n"][0] == 60
