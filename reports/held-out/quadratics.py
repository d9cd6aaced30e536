"""Rotated quadratics, eigenvalues from 1 to the condition number, from 0: evaluations and lowest max|g| by solver."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subsetopt.bench.algebra import Formula, scipy_lbfgs
from subsetopt.bench.contestants import ours, torch_lbfgs
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.objective.protocol import BudgetExhausted, Purpose

LIMIT, GTOL = 5000, 1e-9
SOLVERS = {"lbfgs": ours("lbfgs"), "ncg": ours("ncg"), "torch-100": torch_lbfgs(100), "scipy-100": scipy_lbfgs(100)}


@dataclass
class Lowest(EvaluationRecorder):
    """A recorder of the lowest max|g|."""

    lowest: float = field(default=math.inf)

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        loss, gradient = super().value_and_gradient(w, purpose)
        self.lowest = min(self.lowest, float(gradient.abs().max()))
        return loss, gradient


def rotated(size: int, condition: float, dtype: torch.dtype) -> Formula:
    """Return w·A w / 2 - b·w from 0."""
    draw = torch.Generator().manual_seed(size)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    eigenvalues = torch.logspace(0, math.log10(condition), size, dtype=torch.float64)
    matrix = (basis * eigenvalues @ basis.T).to(dtype)
    b = torch.randn(size, generator=draw, dtype=torch.float64).to(dtype)

    def formula(w: Tensor) -> tuple[Tensor, Tensor]:
        image = matrix @ w
        return (0.5 * torch.dot(w, image) - torch.dot(b, w)).double(), image - b

    return Formula(formula, torch.zeros(size, dtype=dtype))


def solved(name: str, size: int, condition: float, dtype: torch.dtype) -> str:
    """Return evaluations and the lowest max|g| of a solve."""
    recorder = Lowest(rotated(size, condition, dtype), LIMIT)
    with contextlib.suppress(BudgetExhausted):
        SOLVERS[name](recorder, GTOL, 10**6)
    return f"{recorder.evaluations}: {recorder.lowest:.1e}"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| dtype | size, condition |", " | ".join(SOLVERS), "|")
    print("| --- | --- |", " | ".join("---:" for _ in SOLVERS), "|")
    for dtype in (torch.float64, torch.float32):
        for size in (50, 200, 1000):
            for condition in (1e4, 1e6):
                cells = [solved(name, size, condition, dtype) for name in SOLVERS]
                case = f"| {str(dtype)[6:]} | {size}, {condition:.0e} |".replace("e+0", "e")
                print(case, " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
