"""What share of its cost, or of its seconds, a phase has spent. Schedules follow it, to end with the budget."""

from __future__ import annotations

import math
from typing import Any, Protocol

from subsetopt.training.workspace import Workspace


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
