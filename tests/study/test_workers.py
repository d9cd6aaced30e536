"""Workers of a study: none goes on when the study is gone, and a request to stop is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from subsetopt.study.workers import StudyInterrupted, Workers, each, interruptible

ORPHAN = """
import os, sys, time
from subsetopt.study.workers import _numbered
def work(item):
    print(os.getpid(), flush=True)
    time.sleep(60)
study = os.getpid()
if os.fork() == 0:
    _numbered(study, 0, work, 0)
time.sleep(60)
"""


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _becomes(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process is alive")
def test_a_worker_ends_with_its_study() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        worker = int(study.stdout.readline())
        assert _alive(worker)
        study.kill()
        assert _becomes(lambda: not _alive(worker))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_interrupt_a_study_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as what is started in the background has it
    try:
        with pytest.raises(StudyInterrupted), interruptible():
            for _ in each(lambda item: os.kill(os.getpid(), number), [0, 1], Workers()):
                pass
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert signal.getsignal(signal.SIGTERM) is before
