"""Limited-memory BFGS: the direction is a quasi-Newton product of the gradient with the newest curvature pairs.

## What it does
Each step moves along -H g, where H is the BFGS update of a multiple of the identity (or of a preconditioner) by the
newest pairs s = w' - w, y = g' - g, and meets the Wolfe conditions. With room for 50 pairs, or for 10 under a loss of
10 000 samples or more, of at most 131072 parameters on the host, the identity gives way to a diagonal of the newest 10
pairs where these speak for it.

## Settings
- `memory` (none: 200 pairs where they are cheap to hold, 10 to 100 elsewhere): a comparison tunes it.
- `shard_memory` (false): spread the pairs over processes.
- `preconditioner` ("none"), `factor_share` (0.125), `damping` (1.0), `seed` (0): K-FAC or diagonal factors as the first
  matrix, estimated once on a share of the samples.
- `decrease` (0.0001), `curvature` (0.9), `strong_wolfe` (false), `max_trials` (25): the line search.

## True cost
One evaluation of loss and gradient per step, seldom two, and 8 m P operations with m pairs of P parameters: a third of
the cost on a tenth of the digits with 60 pairs. Memory for two vectors per pair.

## Source
Liu and Nocedal 1989, Mathematical Programming 45; for diagonals of pairs Gilbert and Lemaréchal 1989, same volume.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from torch import Tensor

from subsetopt.data.given.memory import require_room
from subsetopt.distributed import current
from subsetopt.errors import SettingsConflictError
from subsetopt.facts import Knob, PlannedStrategy
from subsetopt.objective.protocol import SampledObjective, SmoothObjective
from subsetopt.saving import UNSAVED, join
from subsetopt.settings import setting
from subsetopt.solvers import SOLVERS, diagonal_scaling
from subsetopt.solvers.cubic_correction import curvature_correction
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.descent import FIRST_DECREASE, DescentSolver, DescentState, Line
from subsetopt.solvers.factors import Factors, PreconditionerSettings
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.preconditioned_pairs import PreconditionedPairs
from subsetopt.solvers.sharded_pairs import ShardedPairs

RING_BYTES = 1 << 28  # 256 MiB: what up to 100 pairs may take
SMALL_RING_BYTES = 1 << 24  # 16 MiB: what up to 200 pairs may take


def affordable_pairs(w: Tensor) -> int:
    """Return 200 where they take little memory, else as many as fit in `RING_BYTES`, between 10 and 100."""
    pair = 2 * w.numel() * w.element_size()
    return max(min(200, SMALL_RING_BYTES // pair), min(100, max(10, RING_BYTES // pair)))


def _is_dear(objective: SmoothObjective) -> bool:
    """Return whether an evaluation costs far more than a diagonal H0: its samples say so, where it has any."""
    return bool(getattr(objective, "n_samples", 0) >= diagonal_scaling.DEAR_SAMPLES)


@dataclass(kw_only=True)
class LBFGSState(DescentState[CurvaturePairs]):
    """Iterate, curvature pairs, and the factors of the preconditioner once they are estimated."""

    memory: CurvaturePairs
    factors: Factors | None = field(default=None, metadata=UNSAVED)


@SOLVERS.register(
    "lbfgs",
    "limited-memory BFGS, Gram form, Wolfe line search",
    knob=Knob("memory", 32.0, whole=True),
    plan=(
        PlannedStrategy(
            "lbfgs", "full batch", "--solver none --handoff full --handoff-solver lbfgs", ("--handoff-epochs",)
        ),
    ),
)
@dataclass(frozen=True, kw_only=True)
class LBFGS(DescentSolver[CurvaturePairs], PreconditionerSettings):
    """L-BFGS with `memory` curvature pairs (Liu & Nocedal 1989); None takes as many as are cheap to hold.

    Long memory is what saved evaluations in our measurements: 100 pairs need half as many as 20 on tanh networks, 200
    a little fewer still. `shard_memory` spreads the pairs over the ranks of a run (see `sharded_pairs.py`). With a
    `preconditioner` M, estimated once at the first iterate, the first matrix is a multiple of M⁻¹ (see
    `preconditioned_pairs.py`).
    """

    name: ClassVar[str] = "lbfgs"
    memory_name: ClassVar[str] = "memory"
    state_type: ClassVar[type[LBFGSState]] = LBFGSState
    memory: int | None = setting(None, at_least=1)
    shard_memory: bool = setting(False)
    factor_share: float = setting(0.125, above=0, at_most=1)
    damping: float = setting(1.0, above=0)

    def __post_init__(self) -> None:
        """Raise `SettingsConflictError`: M⁻¹ meets whole vectors."""
        if self.shard_memory and self.preconditioner != "none":
            problem = f"shard_memory = true does not go with preconditioner = {self.preconditioner}"
            raise SettingsConflictError(problem, "leave one of them out")

    def new_memory(self, w: Tensor) -> CurvaturePairs:
        """Return an empty ring."""
        pairs = self.memory or affordable_pairs(w)
        self.require_room(w)
        if self.shard_memory:
            return ShardedPairs.none(pairs, w, current())
        return CurvaturePairs.empty(pairs, w)

    def require_room(self, w: Tensor) -> None:
        """Raise `SettingError` where the ring of the `memory` asked for, of vectors like w, has no room."""
        if self.memory is None:
            return
        rows = 2 * self.memory + 2
        ring: float = rows * w.numel() * w.element_size() / (current().size if self.shard_memory else 1)
        products: float = 8 * rows**2  # on the host, in float64
        remedy = "100 pairs are long, 200 the most that paid"
        if w.device.type == "cpu":
            products += ring
        else:
            require_room(self.memory_name, self.memory, ring, remedy, w.device)
        require_room(self.memory_name, self.memory, products, remedy)

    def init(self, objective: SmoothObjective, w: Tensor) -> DescentState[CurvaturePairs]:
        """Evaluate at a copy of w, shape (P,); raises `SettingError` for what the objective cannot give."""
        self.require(objective)
        state = super().init(objective, w)
        state.memory.dear = _is_dear(objective)
        return state

    def ready(self, objective: SmoothObjective, state: DescentState[CurvaturePairs]) -> DescentState[CurvaturePairs]:
        """Return the state with a preconditioner, where one is wanted."""
        given, state = state, cast(LBFGSState, super().ready(objective, state))
        if state is not given:
            state.memory.dear = _is_dear(objective)
        factors = self.factors(objective) if state.factors is None else None
        if factors is None:
            return state
        factors = self.updated(objective, state.w, state.iterations, factors)
        memory = self._around(state.memory, objective, factors, state.gradient)
        return dataclasses.replace(state, memory=memory, factors=factors)

    def forget(self, state: DescentState[CurvaturePairs]) -> CurvaturePairs:
        """Return a memory without pairs, around the same preconditioner."""
        empty = self.new_memory(state.w)
        empty.dear = state.memory.dear
        if isinstance(state.memory, PreconditionedPairs):
            return PreconditionedPairs.around(empty, state.memory.inverse, state.gradient)
        return empty

    def save(self, state: DescentState[CurvaturePairs]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state, with the pairs of all ranks, so that any number of ranks can restore it."""
        tensors, numbers = super().save(dataclasses.replace(state, memory=state.memory.whole()))
        factors = cast(LBFGSState, state).factors
        if factors is None:
            return tensors, numbers
        factor_tensors, factor_numbers = factors.save()
        return tensors | factor_tensors, numbers | factor_numbers

    def restore(
        self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> DescentState[CurvaturePairs]:
        """Rebuild the state; each rank takes its part of spread pairs."""
        factors = self.restored(objective, tensors, numbers)
        numbers = {
            "measured_noise": 0.0,
            "memory.measured": 0,
            "memory.told": [],
            "memory.dear": False,
            **numbers,
        }  # former versions saved none
        state = join(LBFGSState, tensors, numbers, identity=objective.identity, factors=factors)
        if self.shard_memory:
            state.memory = ShardedPairs.spread(state.memory, state.w, current())
        if factors is not None:
            state.memory = self._around(state.memory, objective, factors, state.gradient)
        return state

    def penalised(self, state: LBFGSState, strength: float) -> LBFGSState:
        """Return `state` with the pairs that it would have had with strength/2 ||w||^2 added to its objective."""
        if type(state.memory) is not CurvaturePairs:  # spread over ranks, or around a preconditioner: as they are
            return state
        return dataclasses.replace(state, memory=state.memory.shifted(strength))

    def inherit(self, state: LBFGSState, previous: LBFGSState) -> LBFGSState:
        """Return `state`, freshly started, with the pairs of `previous`, which learnt them on another objective.

        An explicit request: by itself a solver drops its pairs when the objective changes. One synchronisation.
        """
        previous.memory.meet(state.gradient)
        return dataclasses.replace(
            state, memory=previous.memory, step_length=previous.step_length, factors=previous.factors
        )

    def propose(self, memory: CurvaturePairs, state: DescentState[CurvaturePairs]) -> Line | None:
        """Return the quasi-Newton line; its first step is 1."""
        if not memory.order:
            return self._first_line(memory, state)
        direction, square = memory.apply(state.gradient, state.gradient_l2**2, -1.0)
        return Line(direction, -square, 1.0) if 0 < square < math.inf else None

    def learn(
        self, memory: CurvaturePairs, state: DescentState[CurvaturePairs], line: Line, trial: Trial
    ) -> tuple[CurvaturePairs, float]:
        """Insert (w' - w, t (g' - g)), the differences of what is stored, so that rounding in w' is part of s."""
        noise = max(state.noise, trial.noise)
        slopes = trial.step * line.slope, trial.step * trial.slope
        correction = curvature_correction(state.loss - trial.loss, *slopes, noise)
        return memory, memory.learn((state.w, state.gradient), (trial.w, trial.gradient), correction, trial.step)

    def _first_line(self, memory: CurvaturePairs, state: DescentState[CurvaturePairs]) -> Line:
        """Return that of -g, or of -M⁻¹ g with Newton's step where its slope does not promise too much."""
        if not isinstance(memory, PreconditionedPairs) or not 0 < memory.square < math.inf:
            return self.steepest(state)
        step = min(1.0, FIRST_DECREASE * abs(state.loss) / memory.square or 1.0)
        return Line(-memory.scaled, -memory.square, step)

    def _around(
        self, memory: CurvaturePairs, objective: SmoothObjective, factors: Factors, gradient: Tensor
    ) -> PreconditionedPairs:
        inverse = factors.inverse(cast(SampledObjective, objective).l2, self.damping)
        return PreconditionedPairs.around(memory, inverse, gradient)
