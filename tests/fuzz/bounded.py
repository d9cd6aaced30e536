"""Runs the command line in this process for a bounded time, as the fuzz tests do."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import FrameType

from subsetopt_cli.main import run

SECONDS = 60


class Hang(BaseException):
    """The command did not come to an end."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise `Hang` in this thread after `seconds`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def command(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and what it wrote to standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), bounded(SECONDS):
        code = run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()
