"""L-BFGS for small problems on the host: the method of `solvers/lbfgs.py` with its algebra in numpy.

Where P is some thousands, an iteration is bound by the calls around the arithmetic, and numpy's cost less than torch's.
Steps, line search and stopping tests are `DescentSolver`'s; pairs are kept in float64 whatever the dtype of w.
Pairs are not made conjugate (`solvers/conjugation.py`): on small networks that costs more seconds, in the algebra of
each iteration, than the few evaluations that it saves. Nor is H0 a diagonal (`solvers/diagonal_scaling.py`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtrs
from torch import Tensor

from subsetopt.settings import setting
from subsetopt.solvers.cubic_correction import curvature_correction
from subsetopt.solvers.curvature_pairs import GAMMA_PAIRS
from subsetopt.solvers.descent import DescentSolver, DescentState, Line
from subsetopt.solvers.line_search import Trial

Floats = NDArray[np.float64]
RING_BYTES = 1 << 24  # what the pairs may take, but for the fewest
FEWEST, MOST = 10, 200


@dataclass
class HostPairs:
    """A ring of m pairs and a free slot: row 2i of `rows` (2m + 2, P) is s_i, row 2i + 1 is y_i.

    `sy` and `yy` (m + 1, m + 1) hold s_i·y_j for pairs i up to j and y_i·y_j, `with_gradient` (2m + 2,) the products of
    the rows with the current gradient. `order` lists the slots in use from the oldest to the newest; the free one
    follows the newest. Formulas and names are those of `CurvaturePairs`.
    """

    rows: Floats
    sy: Floats
    yy: Floats
    with_gradient: Floats
    order: list[int]

    @classmethod
    def empty(cls, m: int, parameters: int) -> Self:
        """Return a ring for m pairs; its memory is taken as pairs come in."""
        square = (m + 1, m + 1)
        return cls(
            np.zeros((2 * m + 2, parameters)), np.zeros(square, order="F"), np.zeros(square), np.zeros(2 * m + 2), []
        )

    def newest(self, count: int) -> tuple[Floats, Floats]:
        """Return copies of the newest `count` steps and gradient changes, each (k, P), oldest first."""
        slots = 2 * np.array(self.order[-count:], dtype=np.int64)
        return self.rows[slots], self.rows[slots + 1]

    def refill(self, s: Floats, y: Floats, gradient: Floats, eps: float) -> None:
        """Hold the pairs of s and y (k, P) with s·y > eps ||s|| ||y||, and no others, beside this gradient."""
        lengths = np.sqrt(np.einsum("ip,ip->i", s, s) * np.einsum("ip,ip->i", y, y))
        curved = np.einsum("ip,ip->i", s, y) > eps * lengths
        s, y = s[curved], y[curved]
        k = len(s)
        self.rows[0 : 2 * k : 2], self.rows[1 : 2 * k : 2] = s, y
        self.rows[2 * k : 2 * k + 2] = 0.0
        self.sy[:k, :k], self.yy[:k, :k] = s @ y.T, y @ y.T
        self.with_gradient[: 2 * k] = self.rows[: 2 * k] @ gradient
        self.with_gradient[2 * k :] = 0.0
        self.order = list(range(k))

    def insert(self, moved: tuple[Floats, Floats], changed: tuple[Floats, Floats], t: float, eps: float) -> float:
        """Keep s = w' - w, y = t (g' - g) of `moved` (w, w') and `changed` (g, g') if s·y > eps ||s|| ||y||.

        Returns ||s||.
        """
        m = len(self.sy) - 1
        slot = (self.order[-1] + 1) % (m + 1) if self.order else 0
        s, y = self.rows[2 * slot], self.rows[2 * slot + 1]
        np.subtract(moved[1], moved[0], out=s, dtype=np.float64)
        np.subtract(changed[1], changed[0], out=y, dtype=np.float64)
        if t != 1.0:
            y *= t
        used = 2 * len(self.order) + 2
        products = self.rows[:used] @ changed[1].astype(np.float64, copy=False)
        length, sy, yy = math.sqrt(float(s @ s)), float(s @ y), float(y @ y)
        with_y = products - self.with_gradient[:used]
        with_y *= t
        self.with_gradient[:used] = products
        if not sy > eps * length * math.sqrt(yy):
            self.rows[2 * slot : 2 * slot + 2] = 0.0  # y may have overflowed, and a direction sums over the free slot
            self.with_gradient[2 * slot : 2 * slot + 2] = 0.0
            return length
        self.sy[: used // 2, slot] = with_y[::2]
        self.yy[: used // 2, slot] = self.yy[slot, : used // 2] = with_y[1::2]
        self.sy[slot, slot], self.yy[slot, slot] = sy, yy
        self.order.append(slot)
        del self.order[:-m]
        return length

    def apply(self, gradient: Floats, square_norm: float) -> tuple[Floats, float]:
        """Return (H g, g·H g) for the current gradient, whose square norm is given (see `CurvaturePairs.apply`)."""
        pairs = len(self.order)
        while True:
            c, gamma = self._coefficients(pairs)
            square = float(c @ self.with_gradient + gamma * square_norm)
            if 0 < square < math.inf or pairs == 1:
                break
            pairs //= 2
        used = 2 * len(self.order) + 2
        product: Floats = c[:used] @ self.rows[:used]
        product += gamma * gradient
        return product, square

    def _coefficients(self, pairs: int) -> tuple[Floats, float]:
        slots = self._slots(pairs)
        R, YY = self.sy[slots][:, slots], self.yy[slots][:, slots]
        s, y = self.with_gradient[::2][slots], self.with_gradient[1::2][slots]
        D = R.diagonal()
        gamma = float((D[-GAMMA_PAIRS:] / YY.diagonal()[-GAMMA_PAIRS:]).max())
        p, _ = dtrtrs(R, s)
        c = np.zeros(len(self.with_gradient))
        c[1::2][slots] = -gamma * p
        c[::2][slots], _ = dtrtrs(R, D * p + gamma * (YY @ p - y), trans=1)
        return c, gamma

    def _slots(self, pairs: int) -> Any:
        first, last = self.order[-pairs], self.order[-1]
        return slice(first, last + 1) if last - first == pairs - 1 else np.array(self.order[-pairs:])


@dataclass(kw_only=True)
class HostState(DescentState[HostPairs]):
    """Iterate and pairs."""

    memory: HostPairs


@dataclass(frozen=True, kw_only=True)
class HostLBFGS(DescentSolver[HostPairs]):
    """L-BFGS with `memory` pairs on the host; None takes as many as are cheap to hold."""

    name: ClassVar[str] = "lbfgs"
    state_type: ClassVar[type[Any]] = HostState
    memory: int | None = setting(None, at_least=1)

    def new_memory(self, w: Tensor) -> HostPairs:
        """Return an empty ring."""
        affordable = RING_BYTES // (16 * w.numel())
        return HostPairs.empty(self.memory or min(MOST, max(FEWEST, affordable)), w.numel())

    def propose(self, memory: HostPairs, state: DescentState[HostPairs]) -> Line | None:
        """Return the quasi-Newton line; its first step is 1."""
        if not memory.order:
            return self.steepest(state)
        with np.errstate(all="ignore"):
            product, square = memory.apply(_wide(state.gradient), state.gradient_l2**2)
        direction = torch.from_numpy(-product).to(state.w.dtype)
        return Line(direction, -square, 1.0) if 0 < square < math.inf else None

    def learn(
        self, memory: HostPairs, state: DescentState[HostPairs], line: Line, trial: Trial
    ) -> tuple[HostPairs, float]:
        """Insert (w' - w, t (g' - g)), the differences of what is stored."""
        noise = max(state.noise, trial.noise)
        slopes = trial.step * line.slope, trial.step * trial.slope
        t = curvature_correction(state.loss - trial.loss, *slopes, noise)
        moved = state.w.numpy(), trial.w.numpy()
        with np.errstate(all="ignore"):
            length = memory.insert(
                moved, (state.gradient.numpy(), trial.gradient.numpy()), t, torch.finfo(state.w.dtype).eps
            )
        return memory, length

    def carry(self, state: HostState, carried: Carried, stiffer: float) -> HostState:
        """Return `state`, freshly started, with pairs learnt on another objective.

        `stiffer` is what the new one's L2 term has more: its curvature is known, so that y becomes y + `stiffer` s.
        """
        most = len(state.memory.sy) - 1
        s, y = carried.s[-most:], carried.y[-most:]
        state.memory.refill(s, y + stiffer * s, _wide(state.gradient), torch.finfo(state.w.dtype).eps)
        return dataclasses.replace(state, step_length=carried.step_length)


@dataclass(frozen=True)
class Carried:
    """Pairs, each (k, P) from the oldest to the newest, and the length of the last step, for a later solve."""

    s: Floats
    y: Floats
    step_length: float

    @classmethod
    def of(cls, state: HostState, count: int = MOST) -> Self:
        """Take the newest `count` pairs of a solve."""
        return cls(*state.memory.newest(count), state.step_length)


def _wide(vector: Tensor) -> Floats:
    values: Floats = vector.numpy().astype(np.float64, copy=False)
    return values
