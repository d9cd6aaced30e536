"""What an L-BFGS spends per evaluation outside the loss, by parameters and pairs: ours and the peers by turns."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from subsetopt.bench.contestants import Contestant, Solved, ours, torch_lbfgs
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.bench.timing import Clock, sorted_by_turns, synchronise
from subsetopt.objective.protocol import BudgetExhausted, Linearisation, Purpose

SIZES, QUICK_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7), (10**3,)
PAIRS, QUICK_PAIRS = (10, 20, 100), (3,)
DTYPES = (torch.float32, torch.float64)
LARGEST_RING = 2**31  # bytes of pairs beyond which a cell is left out
CONDITION = 1e6
EVALUATIONS = 2  # per iteration, at most: at the floor of float32 torch's search goes on without end
PEERS = ("torch", "scipy")


class Formula:
    """A loss whose gradient is a formula: no graph, so that what a solver does is most of the time."""

    def __init__(self, formula: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor) -> None:
        self.formula, self._start = formula, start
        self.size, self.dtype, self.device = start.numel(), start.dtype, start.device

    @property
    def identity(self) -> Hashable:
        """This formula."""
        return id(self.formula)

    def initial(self) -> Tensor:
        """Return the starting point."""
        return self._start.clone()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return the loss."""
        return self.formula(w)[0]

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        return self.formula(w)

    def linearise(self, w: Tensor) -> Linearisation:
        """Raise `NotImplementedError`: no solver here asks for products."""
        raise NotImplementedError


def quadratic(size: int, dtype: torch.dtype, device: torch.device) -> Formula:
    """Return sum_i h_i (w_i - 1)^2 / 2 from 0, h from 1 to `CONDITION`."""
    h = torch.logspace(0, math.log10(CONDITION), size, dtype=torch.float64).to(device, dtype)

    def formula(w: Tensor) -> tuple[Tensor, Tensor]:
        error = w - 1
        gradient = h * error
        return 0.5 * torch.dot(gradient, error).double(), gradient

    return Formula(formula, torch.zeros(size, dtype=dtype, device=device))


def chain(size: int, dtype: torch.dtype, device: torch.device) -> Formula:
    """Return Rosenbrock's function of `size` variables, sum 100 (w_{i+1} - w_i^2)^2 + (1 - w_i)^2."""

    def formula(w: Tensor) -> tuple[Tensor, Tensor]:
        a, valley, slope = w[:-1], w[1:] - w[:-1].square(), 1 - w[:-1]
        gradient = torch.zeros_like(w)
        gradient[:-1] = -400 * a * valley - 2 * slope
        gradient[1:] += 200 * valley
        return (100 * torch.dot(valley, valley) + torch.dot(slope, slope)).double(), gradient

    start = torch.ones(size, dtype=dtype, device=device)
    start[::2] = -1.2
    return Formula(formula, start)


PROBLEMS = {"quadratic": quadratic, "chain": chain}


def contestants(pairs: int) -> dict[str, Contestant]:
    """Return ours and the peers with that many pairs."""
    return {
        "ours": ours("lbfgs", memory=pairs),
        "torch": torch_lbfgs(pairs),
        "scipy": scipy_lbfgs(pairs),
    }


def scipy_lbfgs(pairs: int) -> Contestant:
    """Return scipy's L-BFGS-B, which is compiled and works in float64 on the host, without its own tests."""

    def solve(recorder: EvaluationRecorder, gtol: float, iterations: int) -> Solved:
        def fun(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            loss, gradient = recorder.value_and_gradient(torch.from_numpy(x).to(recorder.device, recorder.dtype))
            return float(loss), gradient.cpu().double().numpy()

        options = {"maxcor": pairs, "ftol": 0.0, "gtol": gtol, "maxfun": 10**9, "maxiter": iterations}
        minimize: Any = optimize.minimize  # its stubs know no function that returns a pair of unequal types
        start = recorder.initial().cpu().double().numpy()
        result = minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
        return Solved(torch.from_numpy(result.x), int(result.nit), str(result.message))

    return solve


def measure_algebra(repeats: int, quick: bool, device: torch.device, clock: Clock) -> list[dict[str, Any]]:
    """Return a row for each problem, dtype, size and number of pairs.

    `seconds` are medians over the repeats, `ratios` those of ours to each peer by repeat: median, least and most.
    """
    sizes, pairs = (QUICK_SIZES, QUICK_PAIRS) if quick else (SIZES, PAIRS)
    cells = [(problem, dtype, size, m) for problem in PROBLEMS for dtype in DTYPES for size in sizes for m in pairs]
    return [_cell(*cell, repeats, device, clock) for cell in cells if _ring_bytes(*cell[1:]) <= LARGEST_RING]


def _solve(contestant: Contestant, recorder: EvaluationRecorder, iterations: int) -> None:
    with contextlib.suppress(BudgetExhausted):
        contestant(recorder, 0.0, iterations)


def _ring_bytes(dtype: torch.dtype, size: int, pairs: int) -> int:
    return 2 * pairs * size * dtype.itemsize


def _cell(
    problem: str, dtype: torch.dtype, size: int, pairs: int, repeats: int, device: torch.device, clock: Clock
) -> dict[str, Any]:
    objective = PROBLEMS[problem](size, dtype, device)
    table = contestants(pairs)
    iterations = max(60, 2 * pairs) if size < 10**6 else pairs + 10
    for contestant in table.values():
        _solve(contestant, EvaluationRecorder(objective, EVALUATIONS * 3, clock=clock), 3)
    seconds: dict[str, list[float]] = {name: [] for name in table}
    for repeat in range(repeats):
        for name in sorted_by_turns(table, repeat):
            recorder = EvaluationRecorder(objective, EVALUATIONS * iterations, clock=clock)
            synchronise(device)
            start = clock()
            _solve(table[name], recorder, iterations)
            synchronise(device)
            seconds[name].append((clock() - start - recorder.inside) / recorder.evaluations)
    ratios = {peer: [a / b for a, b in zip(seconds["ours"], seconds[peer], strict=True)] for peer in PEERS}
    return {
        "problem": problem,
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": size,
        "pairs": pairs,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {peer: [statistics.median(values), min(values), max(values)] for peer, values in ratios.items()},
    }
