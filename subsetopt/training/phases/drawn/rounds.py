"""What a round of `--subset-draw residual` is, and what its end says of the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from subsetopt.data.inclusion import inclusion_probabilities, systematic_draw
from subsetopt.objective.host import host_read
from subsetopt.saving import UNSAVED
from subsetopt.seeding import make_generator
from subsetopt.solvers.inner_products import dot
from subsetopt.solvers.protocol import StopReason

AGREEMENT = 0.5  # of the decrease on all samples with that on the samples drawn, below which more are drawn
GROWTH = 2.0  # of the share then
LARGEST = 0.75  # share of the samples from which on all of them are cheaper than a draw and its full gradient
FEWEST_EVALUATIONS, MOST_EVALUATIONS = 12, 16
ROUND_COST = 4.0  # epoch-equivalents of a round's evaluations, within these: its start and end cost one and more
FIRST_RELAXATION, LEAST_RELAXATION = 0.85, 0.25  # share of the way of the solver that the first round goes, and any one


def evaluations_of(share: float) -> int:
    """Return how many evaluations a round has on a `share` of the samples, unless told otherwise."""
    return min(MOST_EVALUATIONS, max(FEWEST_EVALUATIONS, round(ROUND_COST / share)))


@dataclass(frozen=True)
class Draw:
    """Row numbers (K,), sorted, and how much each row of all N counts, float64 (N,): c_i K / (N p_i) for rows drawn."""

    rows: Tensor
    factors: Tensor


def drawn(scores: Tensor, given: Tensor | None, size: int, uniform: float, seed: int, number: int) -> Draw:
    """Return draw `number` of `size` rows of the residuals `scores` (N,); the same whenever it is asked for.

    `given` (N,) are the factors c_i that rows have in the mean over all, None where they are 1. The mean over the draw
    of the new factors times losses has as expected value the mean over all rows of c_i times losses.
    """
    chances = inclusion_probabilities(scores, size, uniform)
    rows = systematic_draw(chances, make_generator(seed, f"residual draw {number}"))
    factors = size / (len(scores) * chances)
    return Draw(rows, factors if given is None else factors * given.to(factors))


@dataclass
class RoundState:
    """A round under way, or with `whole` the solve on all samples that ends the phase.

    `solver` is the solver's state on the samples drawn, or on all; its counts are of the phase so far, and were `begun`
    evaluations when the round began. There, at `origin` (P,), the objective on all samples is `loss`, its gradient
    `gradient` (P,), and the samples' residuals are `scores` (N,); `drawn_loss` and `noise` (P,) are the objective on
    the samples drawn, and by how much its gradient is wrong; `correction` is the share of this that the round takes
    away. `relaxation` is the share of the solver's way that the round goes in the end, None in runs that versions
    without it began. `share` is that of the samples drawn, `history` what the rounds before came to, by number.
    """

    solver: Any = field(metadata=UNSAVED)
    origin: Tensor
    loss: float
    gradient: Tensor
    scores: Tensor
    noise: Tensor
    drawn_loss: float
    share: float
    correction: float = 0.0
    number: int = 0
    begun: int = 0
    whole: bool = False
    history: dict[str, Any] = field(default_factory=dict)
    stopped: StopReason | None = None
    relaxation: float | None = FIRST_RELAXATION


@dataclass(frozen=True)
class End:
    """Where a round ends: `w` (P,), and the corrected objective on the samples drawn there, `loss` and `gradient` (P,).

    Within the way the gradient is that of a quadratic, the loss that of one with its minimum where the solver ended.
    """

    w: Tensor
    loss: float
    gradient: Tensor


def end_of(state: RoundState, progress: float = 1.0) -> End:
    """Return the end of a round that has made a share `progress` of its evaluations.

    A solver on few samples goes too far: part of what it gains is theirs alone. What all samples said of the rounds
    before tells which share of its way is best, the more of it the nearer the round is to its own end.
    """
    solver = state.solver
    t = 1.0 if state.relaxation is None else 1.0 - (1.0 - state.relaxation) * min(1.0, progress)
    if t == 1.0:
        return End(solver.w, solver.loss, solver.gradient)
    w = torch.lerp(state.origin, solver.w, t)
    at_origin = state.gradient + (1.0 - state.correction) * state.noise
    loss = solver.loss + (1.0 - t) ** 2 * (state.drawn_loss - solver.loss)
    return End(w, loss, torch.lerp(at_origin, solver.gradient, t))


@dataclass(frozen=True)
class Verdict:
    """What all samples say at the end of a round.

    `agreement` is the decrease on all samples over that on those drawn; `correction` the share of the gradient's error
    at the origin that would have been left best at the end: <e1, e0> / <e0, e0>, within [0, 1]; `relaxation` the share
    of the solver's way on which the objective on all samples is lowest, None where the round has none.
    """

    agreement: float
    correction: float
    improved: bool
    relaxation: float | None


def judge(state: RoundState, end: End, loss: float, gradient: Tensor) -> Verdict:
    """Compare the end of a round with the objective `loss` and `gradient` (P,) on all samples there."""
    promised = state.drawn_loss - end.loss
    agreement = (state.loss - loss) / promised if promised > 0 else -math.inf
    # The gradient on the samples drawn, without the correction.
    error = end.gradient + state.correction * state.noise - gradient
    way = end.w - state.origin
    pairs = ((error, state.noise), (state.noise, state.noise), (state.gradient, way), (gradient, way))
    both, before, *slopes = host_read(torch.stack([dot(a, b) for a, b in pairs]))
    correction = min(1.0, max(0.0, both / before)) if before > 0 and math.isfinite(both) else 0.0
    improved = math.isfinite(loss) and loss < state.loss
    relaxation = state.relaxation
    if relaxation is not None:
        relaxation *= lowest_on_way(loss - state.loss, *slopes)
        relaxation = min(1.0, max(LEAST_RELAXATION, relaxation))
    return Verdict(agreement if math.isfinite(loss) else -math.inf, correction, improved, relaxation)


def entry_of(state: RoundState, samples: int, loss: float, verdict: Verdict) -> dict[str, Any]:
    """Return what the report says of a round on so many `samples` that ends at the objective `loss` on all samples."""
    return {
        "samples": samples,
        "evaluations": state.solver.evaluations - state.begun,
        "objective": loss if math.isfinite(loss) else None,
        "agreement": verdict.agreement if math.isfinite(verdict.agreement) else None,
        "correction": state.correction,
        "relaxation": 1.0 if state.relaxation is None else state.relaxation,
        "kept": verdict.improved,
    }


def lowest_on_way(change: float, slope: float, end_slope: float) -> float:
    """Return where the cubic with the slopes at 0 and 1, and the `change` of its value between, has its minimum.

    At most 2: further on it says nothing. 2 where it falls for ever, a half where one of them is not finite.
    """
    cubic, square = slope + end_slope - 2.0 * change, 3.0 * change - 2.0 * slope - end_slope
    discriminant = square * square - 3.0 * slope * cubic
    if not math.isfinite(discriminant):
        return 0.5
    if discriminant < 0.0 or slope >= 0.0:
        return 2.0 if slope < 0.0 else 1.0
    divisor = square + math.sqrt(discriminant)
    return min(2.0, -slope / divisor) if divisor > 0.0 else 2.0
