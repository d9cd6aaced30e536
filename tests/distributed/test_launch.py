"""What a signal does to a rank whose launcher has seen another one die."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, types
from subsetopt.distributed.launch import outlive_the_first_signal_after_a_loss
ranks = types.SimpleNamespace(lost=False)
outlive_the_first_signal_after_a_loss(ranks)
ranks.lost = {lost}
for _ in range({signals}):
    os.kill(os.getpid(), signal.SIGTERM)
print("said what happened")
"""


@pytest.mark.parametrize(
    ("lost", "signals", "code"), [(True, 1, 0), (True, 2, -signal.SIGTERM), (False, 1, -signal.SIGTERM)]
)
def test_a_rank_that_saw_a_loss_outlives_the_launchers_first_signal(lost: bool, signals: int, code: int) -> None:
    """Before: torchrun's SIGTERM could come between the end of the loop, which listens, and the line that says why."""
    script = SCRIPT.format(lost=lost, signals=signals)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout == ("said what happened\n" if code == 0 else "")


def test_a_handler_of_the_callers_stays() -> None:
    script = SCRIPT.replace("ranks = ", "signal.signal(signal.SIGTERM, lambda *_: print('mine'))\nranks = ")
    done = subprocess.run(
        [sys.executable, "-c", script.format(lost=True, signals=1)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "mine\nsaid what happened\n"
