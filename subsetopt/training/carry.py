"""Curvature on its way from one phase to the next: what a solver has learnt on one subset, offered to a larger one.

A solver drops its curvature pairs when it is handed another objective, since a difference of gradients of two functions
is no curvature. Here each pair still belongs to one function, the smaller subset's, whose Hessian resembles that of the
larger one; that is an explicit request (`PhaseConfig.carry`), and the solver's `inherit` says what it does with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import SmoothObjective
from subsetopt.solvers.protocol import Solver


@dataclass
class CarriedCurvature:
    """The saved solver state at the end of the last phase that had something to hand on; part of every checkpoint."""

    method: str | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def put(self, method: str, solver: Solver, state: Any) -> None:
        """Keep what `solver` knows at `state`; a solver that has no `inherit` leaves nothing."""
        self.clear()
        if hasattr(solver, "inherit"):
            self.method = method
            self.tensors, self.numbers = solver.save(state)

    def take(self, method: str, solver: Solver, objective: SmoothObjective, state: Any, l2_change: float = 0.0) -> Any:
        """Return `state`, freshly started on `objective`, with the curvature kept; as it is after another method.

        `l2_change` is how much larger the L2 strength of `objective` is than that of the one before.
        """
        if self.method == method and hasattr(solver, "inherit"):
            previous = solver.restore(objective, self.tensors, self.numbers)
            # Not for a weaker one: curvature that the penalty had made nearly all of would be nearly none, or less.
            if l2_change > 0 and hasattr(solver, "penalised"):
                previous = solver.penalised(previous, l2_change)
            state = solver.inherit(state, previous)
        self.clear()
        return state

    def clear(self) -> None:
        """Forget."""
        self.method, self.tensors, self.numbers = None, {}, {}

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split into tensors and JSON-able numbers."""
        return dict(self.tensors), {"method": self.method, "numbers": self.numbers}

    def restore(self, tensors: Mapping[str, Tensor], saved: Mapping[str, Any] | None) -> None:
        """Take back what `save` returned; None (an older checkpoint) means nothing carried."""
        self.clear()
        if saved is not None and saved["method"] is not None:
            self.method, self.tensors, self.numbers = saved["method"], dict(tensors), dict(saved["numbers"])
