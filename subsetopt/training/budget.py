"""What a run and its phases may spend: seconds on a clock, as epoch-equivalents in the ledger, and both in a budget.

Several ranks read one clock, that of rank 0, wherever a limit in seconds makes it decide anything.

Seconds spent on looking at held-out data for the curves are taken out, as evaluation is in the ledger. A budget in
seconds makes a run depend on the machine and on chance; one in epoch-equivalents does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from subsetopt.saving import UNSAVED
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.ledger import Ledger


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


@dataclass(frozen=True)
class Budget:
    """What a run may spend: epoch-equivalents in the ledger, seconds on the clock; its phases get parts of both."""

    ledger: Ledger
    clock: Clock = field(default_factory=Clock)

    def for_phase(self, reserve: float = 0.0) -> PhaseBudget:
        """Return what a phase that starts now may spend; `reserve` epoch-equivalents are kept for what finishes it."""
        ledger, clock = self.ledger, self.clock
        end = StopReason.BUDGET if ledger.limit >= ledger.budget else StopReason.SCHEDULE_END
        ledger.reserve(reserve)
        began, seconds = ledger.cost, clock.seconds
        return PhaseBudget(ledger, clock, began, ledger.limit - began, end, seconds, clock.limit - seconds)


@dataclass
class PhaseBudget:
    """What a phase may spend and since when; schedules, records and stops ask it. Part of the phase's state.

    `began` and `affordable` are the cost at its start and what it may spend, in epoch-equivalents; `began_seconds` and
    `affordable_seconds` the same in seconds; `end` says why the phase stops when they are spent. `ledger` and `clock`
    are the run's.
    """

    ledger: Ledger = field(metadata=UNSAVED, repr=False)
    clock: Clock = field(metadata=UNSAVED, repr=False)
    began: float
    affordable: float
    end: StopReason
    began_seconds: float = 0.0
    affordable_seconds: float = math.inf

    @property
    def share_spent(self) -> float:
        """The share spent, 0 to 1: of the cost, or of the seconds where these are limited and further on."""
        of_cost = (self.ledger.cost - self.began) / self.affordable if self.affordable > 0 else 1.0
        if math.isinf(self.affordable_seconds):
            return min(of_cost, 1.0)
        of_time = (self.clock.seconds - self.began_seconds) / max(self.affordable_seconds, 1e-9)
        return min(max(of_cost, of_time), 1.0)

    def total(self, share: float) -> float:
        """Return what the phase may spend in epoch-equivalents; where only seconds end it, foreseen from `share`."""
        if math.isfinite(self.affordable):
            return self.affordable
        return (self.ledger.cost - self.began) / max(share, 1e-9)

    def part(self, parts: int) -> Callable[[], bool]:
        """Return a test that is true as soon as one of `parts` equal parts of cost or seconds is spent from now on."""
        until = self.ledger.cost + self.affordable / parts
        until_seconds = self.clock.seconds + self.affordable_seconds / parts if self.clock.limited else math.inf
        return lambda: self.ledger.cost >= until or (self.clock.limited and self.clock.seconds >= until_seconds)


class Steps(Protocol):
    """The part of a state that says how far a phase has come whose every step evaluates one gradient."""

    budget: PhaseBudget
    iterations: int
    loss: float


def record_of(state: Steps) -> dict[str, Any]:
    """Return the record of such a phase; it knows no gradient norm."""
    return {
        "iteration": state.iterations,
        "loss": state.loss,
        "gradient_norm": None,
        "evaluations": state.iterations,
        "products": 0,
        "fraction": state.budget.share_spent,
    }
