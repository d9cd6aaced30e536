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
    away. `share` is that of the samples drawn, `history` what the rounds before came to, by number.
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


@dataclass(frozen=True)
class Verdict:
    """What all samples say at the end of a round.

    `agreement` is the decrease on all samples over that on those drawn; `correction` the share of the gradient's error
    at the origin that would have been left best at the end: <e1, e0> / <e0, e0>, within [0, 1].
    """

    agreement: float
    correction: float
    improved: bool


def judge(state: RoundState, loss: float, gradient: Tensor) -> Verdict:
    """Compare the end of a round with the objective `loss` and `gradient` (P,) on all samples there."""
    promised = state.drawn_loss - state.solver.loss
    agreement = (state.loss - loss) / promised if promised > 0 else -math.inf
    # The gradient on the samples drawn, without the correction.
    error = state.solver.gradient + state.correction * state.noise - gradient
    both, before = host_read(torch.stack([dot(error, state.noise), dot(state.noise, state.noise)]))
    correction = min(1.0, max(0.0, both / before)) if before > 0 and math.isfinite(both) else 0.0
    improved = math.isfinite(loss) and loss < state.loss
    return Verdict(agreement if math.isfinite(loss) else -math.inf, correction, improved)
