"""What every solver here shares: the evaluated point, the best point, the counts, and the tests that end a solve."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from subsetopt.objective.host import host_read
from subsetopt.objective.memory import keep_freed_memory
from subsetopt.objective.protocol import Purpose, SmoothObjective
from subsetopt.saving import UNSAVED
from subsetopt.settings import setting
from subsetopt.solvers.inner_products import dot, point_numbers, precision
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.protocol import StopReason

LOSS_ULPS, PARAMETER_ULPS = 4.0, 1.0  # assumed relative errors of f and of each w_i, in units of eps
CONTRADICTION = 1e3  # multiples of the noise: a promised decrease that rounding cannot have hidden
CRAWL = 10.0  # multiples of the noise: a trust-region iteration that lowers the loss by less, on average, is a crawl
PATIENCE = 20  # iterations without a representable gain before the precision floor is declared
LONG_PATIENCE = 0.25  # as a share of the iterations so far, where the gradient is not yet at its own rounding level


@dataclass(kw_only=True)
class Iterate:
    """The part of a solver's state that the loop around it sees (see `protocol.State`).

    `gradient`, `gradient_l2` (its Euclidean norm), `loss`, `gradient_norm` (max|g|) and `noise` (the size of a change
    in loss that rounding may explain) belong to `w`. `start_length` is ||w|| at the start (1 where that is 0),
    `scale` a size of the loss there; `failure` is the reason why no further step is possible.
    """

    w: Tensor
    gradient: Tensor
    loss: float
    gradient_norm: float
    gradient_l2: float
    noise: float
    # the lowest point; among points whose losses differ by rounding only, the one with the smallest gradient
    best_w: Tensor
    best_loss: float
    best_gradient_norm: float
    # fixed at the start
    initial_l2: float
    start_length: float
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

    def point(self, slope: float) -> Trial:
        """Return `w` as the start of a line along which the slope is `slope`."""
        square = self.gradient_l2**2
        return Trial(0.0, self.loss, slope, self.gradient_norm, square, self.noise, self.w, self.gradient)


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

    `along` is the direction of the slope; without it the slope is 0. An objective on the host may have
    `measures_on_host(w, along, purpose)`, which returns the gradient, and f, max|g|, g·g, ||g∘w||² and g·d as floats.
    """
    if (measures := getattr(objective, "measures_on_host", None)) is not None:
        gradient, value, largest, square, sensitivity, slope = measures(w, along, purpose)
        noise = rounding_noise(objective.dtype, value, sensitivity)
        return Trial(step, value, slope, largest, square, noise, w, gradient)
    loss, gradient = objective.value_and_gradient(w, purpose)
    value, largest, square, sensitivity, *slopes = point_numbers(loss, gradient, w, along)
    noise = rounding_noise(objective.dtype, value, sensitivity)
    return Trial(step, value, slopes[0] if slopes else 0.0, largest, square, noise, w, gradient)


def start_fields(objective: SmoothObjective, w: Tensor) -> dict[str, Any]:
    """Evaluate at a copy of `w`; return the fields of `Iterate` there."""
    keep_freed_memory()
    w = w.detach().to(objective.device, objective.dtype, copy=True)
    start = evaluate(objective, w)
    l2 = math.sqrt(start.square_norm) if start.finite else math.inf
    (w_square,) = host_read(dot(w, w).reshape(1))
    length = math.sqrt(w_square) or 1.0
    return {
        **_at(start),
        **_best(start),
        "initial_l2": l2,
        "start_length": length,
        "scale": abs(start.loss) + l2 * length,
        "identity": objective.identity,
        "gained_loss": start.loss,
        "gained_l2": l2,
        "evaluations": 1,
    }


def restart_fields(objective: SmoothObjective, state: Iterate) -> dict[str, Any]:
    """Evaluate a changed objective at `state.w`; what was measured on the old one no longer counts."""
    counts = {name: getattr(state, name) for name in ("iterations", "products")}
    return {**start_fields(objective, state.w), **counts, "evaluations": state.evaluations + 1}


def advance(state: S, trial: Trial, evaluations: int, crawl: float = 0.0, **changes: Any) -> S:
    """Return the state at the accepted `trial`, one iteration on; notes the best point, stalling and divergence.

    An iteration counts as stalled where the loss has fallen by less than `crawl` times the noise for each since the
    last that counted. For a first-order method, whose thousands of iterations may gain little each, `crawl` is 0.
    """
    noise = state.noise
    l2 = math.sqrt(trial.square_norm)
    least = (noise + precision(state.w.dtype) ** 2 * state.scale) * (1 + crawl * state.stalled)
    gained = trial.loss < state.gained_loss - least or l2 < 0.9 * state.gained_l2
    lower = trial.loss < state.best_loss - noise
    flatter = trial.loss <= state.best_loss + noise and trial.gradient_norm < state.best_gradient_norm
    failure = state.failure
    if trial.loss < -state.scale / precision(torch.float64):
        failure = StopReason.UNBOUNDED.value
    elif not gained and state.stalled + 1 >= PATIENCE and state.stalled + 1 >= _patience(state, trial):
        failure = StopReason.PRECISION_FLOOR.value
    return changed(
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


def changed(state: S, **changes: Any) -> S:
    """Return a copy of `state` with other values: what `dataclasses.replace` does, in a third of its time."""
    copy: S = object.__new__(type(state))
    vars(copy).update(vars(state), **changes)
    return copy


def _patience(state: Iterate, trial: Trial) -> float:
    """Return after how many iterations without a gain the precision floor is reached.

    Where the loss no longer shows a decrease the gradient still does, and on an ill-conditioned problem its norm falls
    by fits and starts. It is rounding from about eps ||g0|| down, or from `gradient_rounding` where that is larger.
    """
    l2 = math.sqrt(trial.square_norm)
    if l2 <= precision(state.w.dtype) * state.initial_l2 or l2 <= gradient_rounding(state.point(0.0), trial):
        return PATIENCE
    return max(PATIENCE, LONG_PATIENCE * state.iterations)


def gradient_rounding(start: Trial, trial: Trial) -> float:
    """Return how far relative errors of the size eps in each w_i move the gradient: eps ||H|| ||w||.

    ||H|| is taken to be ||y|| / ||s|| of the last step, which is no larger; where rounding makes up y it is, but then
    the gradient is at its floor as well. 0 where the step is 0. One synchronisation.
    """
    s, y = trial.w - start.w, trial.gradient - start.gradient
    ss, yy, ww = host_read(torch.stack([dot(s, s), dot(y, y), dot(trial.w, trial.w)]))
    return precision(s.dtype) * math.sqrt(ww * (yy / ss)) if ss > 0 and math.isfinite(yy) else 0.0


def promised_decrease(start: Trial, trial: Trial) -> float:
    """Return by how much the loss must have fallen at `trial` if slopes are to be believed; 0 where they turn.

    A search that fails although this exceeds the noise has met a gradient that contradicts the loss.
    """
    return -0.5 * start.slope * trial.step if trial.slope < 0.5 * start.slope else 0.0


def rounding_noise(dtype: torch.dtype, loss: float, sensitivity: float) -> float:
    """Return the rounding error of the loss: of its value, and of w itself.

    `sensitivity` is ||g∘w||²: relative errors of the size eps in each w_i move the loss by about eps ||g∘w||.
    """
    spread = math.sqrt(sensitivity) if sensitivity >= 0 else math.nan
    return precision(dtype) * (LOSS_ULPS * abs(loss) + PARAMETER_ULPS * spread)


def _at(point: Trial) -> dict[str, Any]:
    return {
        "w": point.w,
        "gradient": point.gradient,
        "loss": point.loss,
        "noise": point.noise,
        "gradient_norm": point.gradient_norm,
        "gradient_l2": math.sqrt(point.square_norm) if point.finite else math.inf,
    }


def _best(point: Trial) -> dict[str, Any]:
    return {"best_w": point.w, "best_loss": point.loss, "best_gradient_norm": point.gradient_norm}
