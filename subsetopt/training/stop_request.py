"""Ctrl-C and termination signals as a request to stop, which the loop looks at between two steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from subsetopt.training.progress import Progress

SAME = 2.0  # seconds within which a second signal may be the first one, passed on

_taken = 0


def requests_taken() -> int:
    """Return how many requests to stop the runs of this process have taken so far.

    A run that was asked in its last step, or that fails, ends as if it had not been; who runs many asks here.
    """
    return _taken


class StopRequest:
    """`asked` is true after the first signal; the second raises `KeyboardInterrupt`.

    Where a launcher has `relayed` them, signals that follow at once count as one: the terminal has sent them already.
    """

    def __init__(self, progress: Progress, relayed: bool) -> None:
        self._progress, self._relayed = progress, relayed
        self._last = -math.inf
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block; outside the main thread, which alone gets any, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        global _taken
        now = time.monotonic()
        again, self._last = not self._relayed or now - self._last > SAME, now
        if self.asked and again:
            raise KeyboardInterrupt
        self.asked = True
        _taken += 1
        self._progress.message("stopping after this step; once more to stop at once")
