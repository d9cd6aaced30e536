"""The seconds a run has worked, and their limits: what the ledger is for epoch-equivalents.

Several ranks read one clock, that of rank 0, wherever a limit in seconds makes it decide anything.

Seconds spent on looking at held-out data for the curves are taken out, as evaluation is in the ledger. A budget in
seconds makes a run depend on the machine and on chance; one in epoch-equivalents does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of a run that may be interrupted and resumed; `budget` (None for no limit) covers all phases."""

    def __init__(self, budget: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.budget = math.inf if budget is None else budget
        self.limit = self.budget
        self._now = now
        self._zero = now()

    @property
    def seconds(self) -> float:
        """Seconds since the start, those before an interruption included."""
        return self._now() - self._zero

    @property
    def limited(self) -> bool:
        """True where the phase, or the run, has a limit in seconds."""
        return not math.isinf(self.limit)

    @property
    def over(self) -> bool:
        """True when the phase, or the run, has used up its seconds."""
        return self.limited and self.seconds >= self.limit

    def follow(self, now: Callable[[], float]) -> None:
        """Read another clock from the next `start` on."""
        self._now = now

    def start(self, seconds: float = 0.0) -> None:
        """Begin to count, from `seconds` for a resumed run."""
        self._zero = self._now() - seconds

    def open_phase(self, start: float, seconds: float | None) -> None:
        """Limit a phase that began at `start` to `seconds`, within the budget of the run."""
        self.limit = self.budget if seconds is None else min(self.budget, start + seconds)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out the seconds of the enclosed work."""
        begin = self._now()
        try:
            yield
        finally:
            self._zero += self._now() - begin
