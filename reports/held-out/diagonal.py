"""L-BFGS whose H0 is a diagonal of its pairs where these agree with it better than with the identity: a prototype.

`python reports/held-out/diagonal.py development|held-out [PROBLEM ...]` prints evaluations to max|g| <= 1e-6 and the
lowest loss. Dense arrays on the host, float64; see "A diagonal H0" in `lbfgs.md`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.bench import held_out
from subsetopt.solvers.conjugation import ASYMMETRY, STRICT_ASYMMETRY, conjugate
from subsetopt.solvers.cubic_correction import curvature_correction
from subsetopt.solvers.curvature_pairs import GAMMA_PAIRS
from subsetopt.solvers.lbfgs import LBFGS

PAIRS = 10  # newest ones of which the diagonal is made, and that decide on it
FEWEST = 3  # pairs that have been compared with the diagonal of those before them
MARGIN = 0.1  # mean gain in log cos^2 of the angle between s and D y
POWERS = (0.5, 1.0)  # of the diagonal
LEAST = 1e-4  # of the mean of the squares: added to each

Array = NDArray[np.float64]


def diagonal(S: Array, Y: Array) -> Array:
    """Return D (P,), of geometric mean 1, from the newest of the pairs (k, P): D_i^2 = sum s_i^2/s·y / sum y_i^2/s·y.

    D has the geometric mean of H⁻¹ and H where pairs are those of a diagonal Hessian.
    """
    curvature = (S[-PAIRS:] * Y[-PAIRS:]).sum(1, keepdims=True)
    a, b = ((rows[-PAIRS:] ** 2 / curvature).mean(0) for rows in (S, Y))
    d: Array = np.sqrt((a + LEAST * a.mean()) / (b + LEAST * b.mean()))
    d /= np.exp(np.log(d).mean())
    return d


def gains(S: Array, Y: Array) -> list[float]:
    """Return for each power of D, made of the pairs before the newest, log cos² of (s, D y) less that of (s, y).

    The angle is that in the metric of D⁻¹, in which D y is parallel to s where D is the inverse Hessian along s.
    """
    s, y, d = S[-1], Y[-1], diagonal(S[:-1], Y[:-1])
    plain = math.log((s @ s) * (y @ y))
    return [plain - math.log((s @ (s / d**power)) * (y @ (y * d**power))) for power in POWERS]


@dataclass
class DensePairs:
    """All pairs as rows of S and Y, and what `gains` said of each that has two before it."""

    size: int
    S: Array
    Y: Array
    told: list[list[float]] = field(default_factory=list)

    @property
    def order(self) -> range:
        """Say how many pairs there are."""
        return range(len(self.S))

    def learn(self, s: Array, y: Array) -> float:
        """Keep a curved pair; return the length of s."""
        length = float(np.linalg.norm(s))
        if s @ y > np.finfo(float).eps * length * np.linalg.norm(y):
            self.S, self.Y = (np.vstack([rows, row])[-self.size :] for rows, row in ((self.S, s), (self.Y, y)))
            if len(self.S) > 1:
                self.told.append(gains(self.S, self.Y))
        return length

    def scaling(self) -> Array:
        """Return the power of the diagonal that the newest pairs speak for, or ones."""
        told = np.array(self.told[-PAIRS:])
        if len(told) >= FEWEST and float(told.mean(0).max()) > MARGIN:
            return diagonal(self.S, self.Y) ** POWERS[int(told.mean(0).argmax())]
        return np.ones(self.S.shape[1])

    def apply(self, gradient: Tensor, square_norm: float, scale: float = 1.0) -> tuple[Tensor, float]:
        """Return (`scale` H g, g·H g) with H0 = gamma D; see `CurvaturePairs.apply`."""
        g, d, count = gradient.numpy(), self.scaling(), len(self.S)
        while True:
            S, Y = self.S[-count:], self.Y[-count:]
            SY, YD = S @ Y.T, Y * d
            gamma = float((SY.diagonal() / (Y * YD).sum(1))[-GAMMA_PAIRS:].max())
            newest = conjugate(SY, ASYMMETRY if len(self.S) >= len(g) else STRICT_ASYMMETRY)
            with_s, with_y = newest.weights(SY, YD @ Y.T, S @ g, YD @ g, gamma)
            direction = with_s @ S + with_y @ YD + gamma * d * g
            square = float(direction @ g)
            if 0 < square < math.inf or count == 1:
                return torch.from_numpy(scale * direction), square
            count //= 2


class DiagonalLBFGS(LBFGS):
    """L-BFGS with `DensePairs`."""

    def new_memory(self, w: Tensor) -> Any:
        """Return no pairs."""
        none = np.empty((0, w.numel()))
        return DensePairs(self.memory or 200, none, none)

    def forget(self, state: Any) -> Any:
        """Return no pairs."""
        return self.new_memory(state.w)

    def learn(self, memory: Any, state: Any, line: Any, trial: Any) -> tuple[Any, float]:
        """Keep (s, t y)."""
        slopes = trial.step * line.slope, trial.step * trial.slope
        t = curvature_correction(state.loss - trial.loss, *slopes, max(state.noise, trial.noise))
        s, y = trial.w - state.w, t * (trial.gradient - state.gradient)
        return memory, memory.learn(s.numpy(), y.numpy())


def solve(tracer: held_out.Tracer) -> None:
    """Take steps until the tracer has seen the goal, or the solver ends."""
    solver = DiagonalLBFGS(gtol=held_out.GTOL)
    state = solver.init(tracer, tracer.initial())
    while solver.terminate(state) is None:
        state = solver.step(tracer, state)


def main() -> None:
    """Print a line for each problem."""
    torch.set_num_threads(1)
    for name in sys.argv[2:] or held_out.names(sys.argv[1]):
        row = held_out.solved(held_out.problem(name), solve)
        print(name, row["reached"], row["lowest"][-1][1] if row["lowest"] else math.nan, flush=True)


if __name__ == "__main__":
    main()
