"""Physics-informed networks: L-BFGS beside torch's and scipy's, `python -m subsetopt.bench.physics OUT`.

Poisson's equation u'' = -pi² sin(pi x) on [-1, 1], and Burgers' u_t + u u_x = nu u_xx, nu = 0.01 / pi, from -sin(pi x),
with its solution by Cole and Hopf. Each line of OUT is a solve of `CALLS` evaluations: loss and relative L2 error.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subsetopt import Objective, Residuals
from subsetopt.bench.contestants import ours, torch_lbfgs
from subsetopt.bench.held_out import Solve, Tracer, scipy_lbfgs
from subsetopt.objective.protocol import BudgetExhausted

CALLS = 2000
NU = 0.01 / math.pi
NODES = 100  # of Gauss and Hermite
WIDTHS = {"poisson": (1, 20, 20, 1), "burgers": (2, 20, 20, 20, 1)}


def poisson(model: Any, x: Tensor) -> Tensor:
    """Return u'' + pi² sin(pi x)."""
    x.requires_grad_()
    (du,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
    residual: Tensor = (ddu + math.pi**2 * torch.sin(math.pi * x))[:, 0]
    return residual


def burgers(model: Any, points: Tensor) -> Tensor:
    """Return u_t + u u_x - nu u_xx at points (x, t)."""
    points.requires_grad_()
    u = model(points)[:, 0]
    (du,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (dux,) = torch.autograd.grad(du[:, 0].sum(), points, create_graph=True)
    residual: Tensor = du[:, 1] + u * du[:, 0] - NU * dux[:, 0]
    return residual


def boundary(model: Any, data: tuple[Tensor, Tensor]) -> Tensor:
    """Return u minus its known value."""
    residual: Tensor = model(data[0])[:, 0] - data[1]
    return residual


def cole_hopf(points: Tensor) -> Tensor:
    """Return the solution of Burgers' equation at points (x, t), t > 0, float64 (Basdevant et al. 1986).

    u = -int sin(pi (x - z)) f(x - z) e^(-z²/4 nu t) dz / int f(x - z) e^(-z²/4 nu t) dz, f(y) = e^(-cos(pi y)/2 pi nu).
    """
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite.hermgauss(NODES))
    shifted = math.pi * (points[:, :1] - 2 * torch.sqrt(NU * points[:, 1:]) * nodes)
    exponents = -torch.cos(shifted) / (2 * math.pi * NU)
    factors = weights * torch.exp(exponents - exponents.amax(1, keepdim=True))
    return -(factors * torch.sin(shifted)).sum(1) / factors.sum(1)


def problem(name: str, seed: int, dtype: torch.dtype) -> tuple[Objective, Callable[[Tensor], float]]:
    """Return the objective of a network with random weights and points, and its relative L2 error on a grid."""
    torch.manual_seed(seed)
    layers = [layer for a, b in itertools.pairwise(WIDTHS[name]) for layer in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    if name == "poisson":
        inside, edge = torch.rand(64, 1) * 2 - 1, torch.tensor([[-1.0], [1.0]])
        grid = torch.linspace(-1, 1, 401, dtype=torch.float64)[:, None]
        known, exact = torch.zeros(2), torch.sin(math.pi * grid[:, 0])
    else:
        inside, edge = torch.rand(400, 2) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0]), torch.rand(100, 2)
        edge[:, 0] = edge[:, 0] * 2 - 1
        edge[:50, 1], edge[50:75, 0], edge[75:, 0] = 0, -1, 1
        axes = torch.linspace(-1, 1, 101, dtype=torch.float64), torch.linspace(0.02, 1, 50, dtype=torch.float64)
        grid = torch.cartesian_prod(*axes)
        start = -torch.sin(math.pi * edge[:, 0])
        known, exact = torch.where(edge[:, 1] == 0, start, 0.0), cole_hopf(grid)
    residual: Callable[..., Tensor] = poisson if name == "poisson" else burgers
    terms = {"interior": (residual, inside.to(dtype)), "boundary": (boundary, (edge.to(dtype), known.to(dtype)))}
    objective = Objective.from_residual(model, Residuals(terms))

    def error(w: Tensor) -> float:
        found = objective.flat.module(w)(grid.to(dtype))[:, 0].double()
        return float(((found - exact).norm() / exact.norm()).detach())

    return objective, error


def solvers() -> dict[str, Solve]:
    """Return L-BFGS of this package, torch and scipy."""
    return {
        "lbfgs": lambda tracer: _ignore(ours("lbfgs")(tracer, 0.0, 10**6)),
        "torch-100": lambda tracer: _ignore(torch_lbfgs(100)(tracer, 0.0, 10**6)),
        "torch-10": lambda tracer: _ignore(torch_lbfgs(10)(tracer, 0.0, 10**6)),
        "scipy-10": scipy_lbfgs(10),
    }


def solved(name: str, seed: int, dtype: torch.dtype, solve: Solve, calls: int = CALLS) -> dict[str, Any]:
    """Return loss and error at the lowest point that `solve` met within `calls` evaluations."""
    objective, error = problem(name, seed, dtype)
    tracer = _Lowest(objective, calls)
    with contextlib.suppress(BudgetExhausted):
        solve(tracer)
    return {"loss": tracer.lowest[-1][1], "error": error(tracer.point), "evaluations": tracer.evaluations}


class _Lowest(Tracer):
    """A tracer that keeps the lowest point."""

    point: Tensor

    def value_and_gradient(self, w: Tensor, purpose: Any = "train") -> tuple[Tensor, Tensor]:
        """Return loss and gradient, noted."""
        records = len(self.lowest)
        result = super().value_and_gradient(w, purpose)
        self.reached = None
        if len(self.lowest) > records:
            self.point = w.clone()
        return result


def _ignore(result: object) -> None:
    """Drop what a contestant returns: the tracer has it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Solve each problem from each seed with each solver; append to the file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=CALLS)
    chosen = parser.parse_args(arguments)
    cases = itertools.product(range(chosen.seeds), ("float64", "float32"), WIDTHS, solvers().items())
    with chosen.output.open("a", encoding="utf-8") as file:
        for seed, dtype, name, (solver, solve) in cases:
            row = solved(name, seed, getattr(torch, dtype), solve, chosen.calls)
            file.write(json.dumps({"problem": name, "dtype": dtype, "seed": seed, "solver": solver, **row}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
