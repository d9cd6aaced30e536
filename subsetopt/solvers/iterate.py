"""What every solver here shares: the evaluated point, the best point, the counts, and the tests that end a solve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from subsetopt.objective.protocol import Purpose, SmoothObjective
from subsetopt.solvers.host import dot, host_read
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.protocol import StopReason
from subsetopt.solvers.settings import setting
from subsetopt.solvers.state import UNSAVED

NOISE_FACTOR = 4.0  # rounding error of a loss, in units of eps·|f|
PATIENCE = 20  # iterations without a representable gain before the precision floor is declared


@dataclass(kw_only=True)
class Iterate:
    """The part of a solver's state that the loop around it sees (see `protocol.State`).

    `gradient` and `gradient_l2` (its Euclidean norm) belong to `w`, as do `loss` and `gradient_norm` (max|g|).
    `scale` is a size of the loss at the start that is never zero, `failure` the reason why no step is possible.
    """

    w: Tensor
    gradient: Tensor
    loss: float
    gradient_norm: float
    gradient_l2: float
    # the lowest point; among points whose losses differ by rounding only, the one with the smallest gradient
    best_w: Tensor
    best_loss: float
    best_gradient_norm: float
    # fixed at the start
    initial_l2: float
    scale: float
    identity: Hashable = field(metadata=UNSAVED)
    # when loss or gradient last gained more than rounding
    gained_loss: float
    gained_l2: float
    stalled: int = 0
    # cumulative
    iterations: int = 0
    evaluations: int = 0
    products: int = 0
    failure: str | None = None


S = TypeVar("S", bound=Iterate)


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """The tests that end a solve: max|g| <= gtol, ||g|| <= rtol·||g0||, and limits on iterations and evaluations."""

    gtol: float = setting(1e-6, at_least=0)
    rtol: float = setting(0.0, at_least=0)
    max_iterations: int | None = setting(None, at_least=0)
    max_evaluations: int | None = setting(None, at_least=1)

    def terminate(self, state: Iterate) -> StopReason | None:
        """Return why to stop at `state`, or None; the gradient test comes first, limits come last."""
        if not (math.isfinite(state.loss) and math.isfinite(state.gradient_norm)):
            return StopReason.NON_FINITE
        if state.gradient_norm <= self.gtol or state.gradient_l2 <= self.rtol * state.initial_l2:
            return StopReason.GRADIENT
        if state.failure is not None:
            return StopReason(state.failure)
        if self.max_iterations is not None and state.iterations >= self.max_iterations:
            return StopReason.MAX_ITERATIONS
        if self.max_evaluations is not None and state.evaluations >= self.max_evaluations:
            return StopReason.MAX_EVALUATIONS
        return None

    def evaluations_left(self, state: Iterate) -> int:
        """Return how many evaluations the limit still admits."""
        return (1 << 62 if self.max_evaluations is None else self.max_evaluations) - state.evaluations


def evaluate(
    objective: SmoothObjective, w: Tensor, purpose: Purpose = "train", step: float = 0.0, along: Tensor | None = None
) -> Trial:
    """Evaluate loss and gradient at w and read all that a search needs of them, in one synchronisation.

    `along` is the direction of the slope; without it the slope is 0.
    """
    loss, gradient = objective.value_and_gradient(w, purpose)
    dots = [dot(gradient, other) for other in (gradient, along) if other is not None]
    numbers = host_read(torch.stack([loss.detach().double(), gradient.abs().amax().double(), *dots]))
    value, largest, square = numbers[:3]
    return Trial(step, value, numbers[3] if along is not None else 0.0, largest, square, w, gradient)


def start_fields(objective: SmoothObjective, w: Tensor) -> dict[str, Any]:
    """Evaluate at a copy of `w`; return the fields of `Iterate` there."""
    w = w.detach().to(objective.device, objective.dtype, copy=True)
    start = evaluate(objective, w)
    l2 = math.sqrt(start.square_norm) if start.finite else math.inf
    (w_square,) = host_read(dot(w, w).reshape(1))
    return {
        **_at(start),
        **_best(start),
        "initial_l2": l2,
        "scale": abs(start.loss) + l2 * (math.sqrt(w_square) or 1.0),
        "identity": objective.identity,
        "gained_loss": start.loss,
        "gained_l2": l2,
        "evaluations": 1,
    }


def restart_fields(objective: SmoothObjective, state: Iterate) -> dict[str, Any]:
    """Evaluate a changed objective at `state.w`; what was measured on the old one no longer counts."""
    counts = {name: getattr(state, name) for name in ("iterations", "products")}
    return {**start_fields(objective, state.w), **counts, "evaluations": state.evaluations + 1}


def advance(objective: SmoothObjective, state: S, trial: Trial, evaluations: int, **changes: Any) -> S:
    """Return the state at the accepted `trial`, one iteration on; notes the best point, stalling and divergence."""
    noise = rounding_noise(objective, state.loss)
    l2 = math.sqrt(trial.square_norm)
    gained = trial.loss < state.gained_loss - noise or l2 < 0.9 * state.gained_l2
    lower = trial.loss < state.best_loss - noise
    flatter = trial.loss <= state.best_loss + noise and trial.gradient_norm < state.best_gradient_norm
    failure = state.failure
    if trial.loss < -state.scale / torch.finfo(torch.float64).eps:
        failure = StopReason.UNBOUNDED.value
    elif not gained and state.stalled + 1 >= PATIENCE:
        failure = StopReason.PRECISION_FLOOR.value
    return dataclasses.replace(
        state,
        **_at(trial),
        **(_best(trial) if lower or flatter else {}),
        gained_loss=min(trial.loss, state.gained_loss) if gained else state.gained_loss,
        gained_l2=min(l2, state.gained_l2) if gained else state.gained_l2,
        stalled=0 if gained else state.stalled + 1,
        iterations=state.iterations + 1,
        evaluations=evaluations,
        failure=failure,
        **changes,
    )


def rounding_noise(objective: SmoothObjective, loss: float) -> float:
    """Return the size of a change in `loss` that cannot be told from rounding in the objective's dtype."""
    return NOISE_FACTOR * torch.finfo(objective.dtype).eps * abs(loss)


def _at(point: Trial) -> dict[str, Any]:
    return {
        "w": point.w,
        "gradient": point.gradient,
        "loss": point.loss,
        "gradient_norm": point.gradient_norm,
        "gradient_l2": math.sqrt(point.square_norm) if point.finite else math.inf,
    }


def _best(point: Trial) -> dict[str, Any]:
    return {"best_w": point.w, "best_loss": point.loss, "best_gradient_norm": point.gradient_norm}
