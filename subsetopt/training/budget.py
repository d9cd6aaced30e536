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
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from subsetopt.training.workspace import Workspace


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


class Spending(Protocol):
    """The part of a phase's state that says what it may spend, in epoch-equivalents and seconds, and since when."""

    began: float
    affordable: float
    began_seconds: float
    affordable_seconds: float


class Steps(Spending, Protocol):
    """The part of a state that says how far a phase has come whose every step evaluates one gradient."""

    iterations: int
    loss: float


def record_of(workspace: Workspace, state: Steps) -> dict[str, Any]:
    """Return the record of such a phase; it knows no gradient norm."""
    return {
        "iteration": state.iterations,
        "loss": state.loss,
        "gradient_norm": None,
        "evaluations": state.iterations,
        "products": 0,
        "fraction": share_spent(workspace, state),
    }


def share_spent(workspace: Workspace, state: Spending) -> float:
    """Return the share spent, 0 to 1: of the cost, or of the seconds where these are limited and further on."""
    of_cost = (workspace.ledger.cost - state.began) / state.affordable if state.affordable > 0 else 1.0
    if math.isinf(state.affordable_seconds):
        return min(of_cost, 1.0)
    of_time = (workspace.clock.seconds - state.began_seconds) / max(state.affordable_seconds, 1e-9)
    return min(max(of_cost, of_time), 1.0)
