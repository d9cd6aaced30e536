"""Solve Burgers' equation by a physics-informed network: residuals as an objective, L-BFGS, then new points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subsetopt import Objective, Residuals, minimize, overdetermination_ratio

NU, SPEED, HEIGHT = 0.05, 0.4, 0.8


def exact(points: Tensor) -> Tensor:
    """Return the travelling wave u = c - a tanh(a (x - c t) / (2 nu)) at points (x, t)."""
    return SPEED - HEIGHT * torch.tanh(HEIGHT * (points[:, 0] - SPEED * points[:, 1]) / (2 * NU))


def burgers(model: Any, points: Tensor) -> Tensor:
    """Return u_t + u u_x - nu u_xx."""
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


def terms(count: int) -> Residuals:
    """Draw `count` points inside -1 <= x <= 1, 0 <= t <= 1, and a third as many on its edges."""
    inside, edge = torch.rand(count, 2) * 2 - 1, torch.rand(count // 3, 2) * 2 - 1
    inside[:, 1], edge[:, 1] = (inside[:, 1] + 1) / 2, (edge[:, 1] + 1) / 2
    edge[0::3, 1], edge[1::3, 0], edge[2::3, 0] = 0, -1, 1
    return Residuals({"interior": (burgers, inside), "boundary": (boundary, (edge, exact(edge)), 10.0)})


def main() -> None:
    """Minimise on 200 points, then on 600 others from there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 41), torch.linspace(0, 1, 21))
    w = None
    for count in (200, 600):
        objective = Objective.from_residual(model, terms(count))
        result = minimize(objective, w, max_evaluations=400)
        w = result.x
        ratio = overdetermination_ratio(model, objective.n_samples, objective.n_outputs).ratio
        error = (objective.flat.module(w)(grid)[:, 0] - exact(grid)).norm() / exact(grid).norm()
        print(f"{count} points, Q {ratio:.2f}: loss {result.loss:.2e}, relative error {error:.1e}")


if __name__ == "__main__":
    main()
