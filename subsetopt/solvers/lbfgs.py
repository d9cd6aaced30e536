"""Limited-memory BFGS whose direction is found among inner products.

H g is a linear combination of the pairs (s_i, y_i) and g. Its coefficients follow from inner products alone, so that an
iteration needs one matrix product with the ring of pairs to learn a step and one to form the direction, and no loop
over vectors of length P (Byrd, Nocedal & Schnabel 1994; Chen, Wang & Zhou 2014).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from torch import Tensor

from subsetopt.distributed import current
from subsetopt.objective.protocol import SmoothObjective
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.descent import DescentSolver, DescentState, Line
from subsetopt.solvers.host import host_read, ring_products
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.settings import setting

RING_BYTES = 1 << 28  # 256 MiB: what up to 100 pairs may take
SMALL_RING_BYTES = 1 << 24  # 16 MiB: what up to 200 pairs may take
GAMMA_PAIRS = 5  # newest pairs among which H0 is chosen


@dataclass
class CurvaturePairs:
    """A ring of m pairs: row 2i of `rows` (2m, P) is s_i, row 2i + 1 is y_i.

    `gram` (2m, 2m) holds the inner products of the rows and `with_gradient` (2m,) those with the current gradient, both
    in float64. `order` lists the slots in use from the oldest pair to the newest.
    """

    rows: Tensor
    gram: NDArray[np.float64]
    with_gradient: NDArray[np.float64]
    order: list[int]

    @classmethod
    def empty(cls, m: int, w: Tensor) -> CurvaturePairs:
        """Return a ring for m pairs of vectors like w."""
        return cls(w.new_zeros(2 * m, w.numel()), np.zeros((2 * m, 2 * m)), np.zeros(2 * m), [])

    def insert(self, s: Tensor, y: Tensor, gradient: Tensor) -> float:
        """Keep the pair if s·y > eps·||s||·||y||, in place of the oldest where the ring is full; return ||s||.

        `gradient` is the one at the new point. One synchronisation.
        """
        used = 2 * len(self.order)
        vectors = torch.stack([s, y, gradient])
        read = np.array(host_read(self.inner_products(vectors).flatten())).reshape(used + 3, 3)
        with_rows, own = read[:used], read[used:]
        self.with_gradient[:used] = with_rows[:, 2]
        length_s, length_y = math.sqrt(own[0, 0]), math.sqrt(own[1, 1])
        if own[0, 1] > torch.finfo(s.dtype).eps * length_s * length_y:
            full = used == len(self.rows)
            slot = self.order.pop(0) if full else len(self.order)
            self.order.append(slot)
            at = [2 * slot, 2 * slot + 1]
            self.rows[at[0]], self.rows[at[1]] = s, y
            self.gram[:used, at] = with_rows[:, :2]
            self.gram[at, :used] = with_rows[:, :2].T
            self.gram[np.ix_(at, at)] = own[:2, :2]
            self.with_gradient[at] = own[:2, 2]
        return length_s

    def meet(self, gradient: Tensor) -> None:
        """Take the inner products with another current gradient. One synchronisation."""
        used = 2 * len(self.order)
        if used:
            self.with_gradient[:used] = host_read(self.inner_products(gradient[None]).flatten())[:used]

    def whole(self) -> CurvaturePairs:
        """Return what is to be saved: the ring itself, unless it is spread over ranks."""
        return self

    def inner_products(self, vectors: Tensor) -> Tensor:
        """Return those of the pairs in use and of `vectors` (c, P), with `vectors`: float64, shape (2 pairs + c, c)."""
        used = 2 * len(self.order)
        return torch.cat([ring_products(self.rows[:used], vectors), ring_products(vectors, vectors)])

    def coefficients(self, pairs: int) -> tuple[NDArray[np.float64], float]:
        """Return (c, gamma) with H g = rowsᵀ c + gamma g from the newest `pairs` (Byrd, Nocedal & Schnabel, eq. 3.1).

        With R the upper triangle of SᵀY, D its diagonal and p = R⁻¹ Sᵀg:
        H g = gamma g - gamma Y p + S R⁻ᵀ [(D + gamma YᵀY) p - gamma Yᵀg]. gamma is the largest s·y / y·y of the newest
        few pairs: that quotient leans to the stiff directions, the more so the worse the conditioning.
        """
        s = 2 * np.array(self.order[-pairs:])
        y = s + 1
        R = np.triu(self.gram[np.ix_(s, y)])
        YY = self.gram[np.ix_(y, y)]
        D = np.diag(R)
        gamma = float((D / np.diag(YY))[-GAMMA_PAIRS:].max())
        p = solve_triangular(R, self.with_gradient[s], check_finite=False)
        inner = D * p + gamma * (YY @ p - self.with_gradient[y])
        c = np.zeros(len(self.gram))
        c[y] = -gamma * p
        c[s] = solve_triangular(R, inner, trans="T", check_finite=False)
        return c, gamma

    def apply(self, gradient: Tensor, square_norm: float) -> tuple[Tensor, float]:
        """Return (H g, g·H g) for the current gradient, whose square norm is given. No synchronisation.

        Where rounding in R leaves g·H g not positive, the older half of the pairs is left out, again and again: it is
        not positive in the end only if the newest pair alone fails, too.
        """
        pairs = len(self.order)
        while True:
            with np.errstate(over="ignore", invalid="ignore"):
                c, gamma = self.coefficients(pairs)
                square = float(c @ self.with_gradient + gamma * square_norm)
            if 0 < square < math.inf or pairs == 1:
                break
            pairs //= 2
        used = 2 * len(self.order)
        weights = torch.from_numpy(c[:used]).to(gradient.device, gradient.dtype)
        return torch.addmv(gradient, self.rows[:used].T, weights, beta=gamma), square


def affordable_pairs(w: Tensor) -> int:
    """Return 200 where they take little memory, else as many as fit in `RING_BYTES`, between 10 and 100."""
    pair = 2 * w.numel() * w.element_size()
    return max(min(200, SMALL_RING_BYTES // pair), min(100, max(10, RING_BYTES // pair)))


def curvature_correction(decrease: float, slope: float, new_slope: float, noise: float) -> float:
    """Return t such that t s·y is the curvature sᵀH s at the end of a step rather than its mean along the step.

    It belongs to the cubic through both losses and slopes (Biggs 1973; Zhang, Deng & Chen 1999): t = 1 + theta / s·y,
    theta = 6 (f - f') + 3 (g + g')·s, within [1/2, 2]; `slope` and `new_slope` are g·s and g'·s, `decrease` is f - f'.
    1 where the rounding error of the losses, `noise`, could move t by more than a hundredth.
    """
    sy = new_slope - slope
    if not 1200 * noise <= sy:
        return 1.0
    return min(max(1 + (6 * decrease + 3 * (slope + new_slope)) / sy, 0.5), 2.0)


@dataclass(kw_only=True)
class LBFGSState(DescentState[CurvaturePairs]):
    """Iterate and curvature pairs."""

    memory: CurvaturePairs


@SOLVERS.register("lbfgs", "limited-memory BFGS, Gram form, Wolfe line search")
@dataclass(frozen=True, kw_only=True)
class LBFGS(DescentSolver[CurvaturePairs]):
    """L-BFGS with `memory` curvature pairs (Liu & Nocedal 1989); None takes as many as are cheap to hold.

    Long memory is what saved evaluations in our measurements: 100 pairs need half as many as 20 on tanh networks, 200
    a little fewer still. `shard_memory` spreads the pairs over the ranks of a run (see `sharded_pairs.py`).
    """

    name: ClassVar[str] = "lbfgs"
    state_type: ClassVar[type[LBFGSState]] = LBFGSState
    memory: int | None = setting(None, at_least=1)
    shard_memory: bool = setting(False)

    def new_memory(self, w: Tensor) -> CurvaturePairs:
        """Return an empty ring."""
        pairs = self.memory or affordable_pairs(w)
        if self.shard_memory:
            from subsetopt.solvers.sharded_pairs import ShardedPairs  # here, since it builds on this file

            return ShardedPairs.none(pairs, w, current())
        return CurvaturePairs.empty(pairs, w)

    def save(self, state: DescentState[CurvaturePairs]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state, with the pairs of all ranks, so that any number of ranks can restore it."""
        return super().save(dataclasses.replace(state, memory=state.memory.whole()))

    def restore(
        self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> DescentState[CurvaturePairs]:
        """Rebuild the state; each rank takes its part of spread pairs."""
        state = super().restore(objective, tensors, numbers)
        if self.shard_memory:
            from subsetopt.solvers.sharded_pairs import ShardedPairs

            state.memory = ShardedPairs.spread(state.memory, state.w, current())
        return state

    def inherit(self, state: LBFGSState, previous: LBFGSState) -> LBFGSState:
        """Return `state`, freshly started, with the pairs of `previous`, which learnt them on another objective.

        An explicit request: by itself a solver drops its pairs when the objective changes. One synchronisation.
        """
        previous.memory.meet(state.gradient)
        return dataclasses.replace(state, memory=previous.memory, step_length=previous.step_length)

    def propose(self, memory: CurvaturePairs, state: DescentState[CurvaturePairs]) -> Line | None:
        """Return the quasi-Newton line; its first step is 1."""
        if not memory.order:
            return self.steepest(state)
        product, square = memory.apply(state.gradient, state.gradient_l2**2)
        return Line(-product, -square, 1.0) if 0 < square < math.inf else None

    def learn(
        self, memory: CurvaturePairs, state: DescentState[CurvaturePairs], line: Line, trial: Trial
    ) -> tuple[CurvaturePairs, float]:
        """Insert (w' - w, t (g' - g)), the differences of what is stored, so that rounding in w' is part of s."""
        noise = max(state.noise, trial.noise)
        slopes = trial.step * line.slope, trial.step * trial.slope
        y = trial.gradient - state.gradient
        y *= curvature_correction(state.loss - trial.loss, *slopes, noise)
        return memory, memory.insert(trial.w - state.w, y, trial.gradient)
