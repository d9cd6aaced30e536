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
from subsetopt.objective.host import host_read
from subsetopt.objective.protocol import SmoothObjective
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.descent import DescentSolver, DescentState, Line
from subsetopt.solvers.host import ring_products
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.settings import setting

RING_BYTES = 1 << 28  # 256 MiB: what up to 100 pairs may take
SMALL_RING_BYTES = 1 << 24  # 16 MiB: what up to 200 pairs may take
GAMMA_PAIRS = 5  # newest pairs among which H0 is chosen


@dataclass
class CurvaturePairs:
    """A ring of m pairs and a free slot: row 2i of `rows` (2m + 2, P) is s_i, row 2i + 1 is y_i.

    `gram` (2m + 2, 2m + 2) holds the inner products of each y_j with the rows of pairs up to j, and `with_gradient`
    (2m + 2,) those of the rows with the current gradient, both in float64. `order` lists the slots in use from the
    oldest pair to the newest; the free one follows the newest.
    """

    rows: Tensor
    gram: NDArray[np.float64]
    with_gradient: NDArray[np.float64]
    order: list[int]

    @classmethod
    def empty(cls, m: int, w: Tensor) -> CurvaturePairs:
        """Return a ring for m pairs of vectors like w."""
        count = 2 * m + 2
        return cls(w.new_zeros(count, w.numel()), np.zeros((count, count)), np.zeros(count), [])

    def insert(self, s: Tensor, y: Tensor, gradient: Tensor, correction: float = 1.0) -> float:
        """Keep (s, t y), t = `correction`, if s·y > eps·||s||·||y||, in place of the oldest where the ring is full.

        `gradient` is the one at the new point and y its change: what the pairs in use have to do with y is the
        difference of what they have to do with both gradients, so that the ring meets one new vector and not three.
        Returns ||s||. One synchronisation.
        """
        slots = len(self.rows) // 2
        slot = (self.order[-1] + 1) % slots if self.order else 0
        at = slice(2 * slot, 2 * slot + 2)
        self.rows[at.start] = s
        torch.mul(y, correction, out=self.rows[at.start + 1])
        *with_gradient, ss, sy, _, yy = host_read(self.inner_products(gradient, self.rows[at]))
        with_y = correction * (np.array(with_gradient) - self.with_gradient[: len(with_gradient)])
        self.with_gradient[: len(with_gradient)] = with_gradient
        if sy > torch.finfo(s.dtype).eps * math.sqrt(ss) * math.sqrt(yy):
            self.gram[: len(with_y), at.start + 1] = self.gram[at.start + 1, : len(with_y)] = with_y
            self.gram[at, at] = [[ss, sy], [sy, yy]]
            self.order.append(slot)
            del self.order[: 1 - slots]  # the oldest, where none is free
        else:
            self.rows[at] = 0  # y may have overflowed, and a direction sums over the free slot, too
            self.with_gradient[at] = 0.0
        return math.sqrt(ss)

    def meet(self, gradient: Tensor) -> None:
        """Take the inner products with another current gradient. One synchronisation."""
        if self.order:
            read = host_read(self.inner_products(gradient, self.rows[:0]))
            self.with_gradient[: len(read)] = read

    def whole(self) -> CurvaturePairs:
        """Return what is to be saved: the ring itself, unless it is spread over ranks."""
        return self

    def inner_products(self, gradient: Tensor, pair: Tensor) -> Tensor:
        """Return those of the rows in use, and of the free ones, with g; then those within `pair` (c, P); float64."""
        rows = self.rows[: 2 * len(self.order) + 2]
        return torch.cat([ring_products(rows, gradient[None]).flatten(), ring_products(pair, pair).flatten()])

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
        used = 2 * len(self.order) + 2
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
        correction = curvature_correction(state.loss - trial.loss, *slopes, noise)
        s, y = trial.w - state.w, trial.gradient - state.gradient
        return memory, memory.insert(s, y, trial.gradient, correction)
