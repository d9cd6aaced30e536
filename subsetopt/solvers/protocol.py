"""The one protocol, the one result and the one enum of stop reasons that all solvers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from torch import Tensor

from subsetopt.objective.protocol import SmoothObjective


class StopReason(StrEnum):
    """Why a phase ended. Only the first group counts as converged."""

    GRADIENT = "gradient"  # max|g| <= gtol or ||g|| <= rtol * ||g0||
    NOISE = "noise"  # ||g||^2 is below the sampling noise of the subset gradient, a test the user asked for
    VALIDATION = "validation"  # held-out loss has stopped improving, a test the user asked for

    PRECISION_FLOOR = "precision_floor"  # no further decrease is representable in this dtype
    MAX_ITERATIONS = "max_iterations"
    MAX_EVALUATIONS = "max_evaluations"
    BUDGET = "budget"  # the cost budget in epoch-equivalents is spent
    LINE_SEARCH = "line_search"  # no acceptable step although the precision floor is not reached
    WRONG_GRADIENT = "wrong_gradient"  # no acceptable step, and the gradient is not that of the loss
    NON_FINITE = "non_finite"  # the starting point has no finite loss or gradient
    UNBOUNDED = "unbounded"  # the loss falls without limit
    JOINED = "joined"  # every subset's minimum is reached; the parameters are their average
    SCHEDULE_END = "schedule_end"  # a first-order phase ran its planned steps
    CALLBACK = "callback"  # the user's callback asked to stop
    INTERRUPTED = "interrupted"  # Ctrl-C or a termination signal

    @property
    def converged(self) -> bool:
        """True only for the gradient test or a test the user asked for."""
        return self in (StopReason.GRADIENT, StopReason.NOISE, StopReason.VALIDATION)


class State(Protocol):
    """What every solver's state offers to the loop around it; concrete states are plain dataclasses.

    `w` is the current iterate; `gradient`, `loss` and `gradient_norm` (max|g|) belong to exactly that w, and
    `best_loss` and `best_gradient_norm` to `best_w`, the lowest point seen. Counts are cumulative since `init`.
    """

    w: Tensor
    gradient: Tensor
    loss: float
    gradient_norm: float
    best_w: Tensor
    best_loss: float
    best_gradient_norm: float
    iterations: int
    evaluations: int
    products: int


class Solver(Protocol):
    """`init`, `step` until `terminate` gives a reason. A solver object holds settings only; progress is in State."""

    @property
    def name(self) -> str:
        """The registered name."""

    def init(self, objective: SmoothObjective, w: Tensor) -> Any:
        """Evaluate at w and return the initial state."""

    def step(self, objective: SmoothObjective, state: Any) -> Any:
        """Take one iteration and return the new state; the old one is not to be used afterwards."""

    def terminate(self, state: Any) -> StopReason | None:
        """Return why to stop, or None to continue."""

    def save(self, state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state into named tensors and JSON-able numbers, exactly."""

    def restore(self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Any:
        """Rebuild the state that `save` split, bit for bit, without evaluating the objective."""


@dataclass(frozen=True)
class SolveResult:
    """Outcome of a solve. `loss` and `gradient_norm` (max|g|) belong to `x`, the point returned.

    `counts` has at least `evaluations` (loss and gradient together) and `products` (HVPs and GGN products). `fun`,
    `success`, `message`, `nit` and `nfev` are the same under the names of scipy's `OptimizeResult`.
    """

    x: Tensor
    loss: float
    gradient_norm: float
    converged: bool
    stop_reason: StopReason
    iterations: int
    counts: Mapping[str, int]

    @property
    def fun(self) -> float:
        """The loss at `x`."""
        return self.loss

    @property
    def success(self) -> bool:
        """Whether the gradient test, or another that was asked for, is met."""
        return self.converged

    @property
    def message(self) -> str:
        """The reason of the stop in words."""
        return self.stop_reason.value.replace("_", " ")

    @property
    def nit(self) -> int:
        """Iterations."""
        return self.iterations

    @property
    def nfev(self) -> int:
        """Evaluations of loss and gradient together."""
        return self.counts["evaluations"]
