"""The known solution of Burgers' equation, against its start and the equation itself; the solves that are compared."""

from __future__ import annotations

import math

import pytest
import torch

from subsetopt.bench.physics import NU, cole_hopf, solved, solvers


def test_cole_hopf_begins_at_the_start_and_solves_the_equation() -> None:
    x = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    early = cole_hopf(torch.stack([x, torch.full_like(x, 1e-9)], 1))
    torch.testing.assert_close(early, -torch.sin(math.pi * x), rtol=0, atol=1e-6)
    points = torch.stack([x, torch.full_like(x, 0.2)], 1).requires_grad_()
    u = cole_hopf(points)
    (du,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (dux,) = torch.autograd.grad(du[:, 0].sum(), points)
    residual = du[:, 1] + u * du[:, 0] - NU * dux[:, 0]
    assert float(residual.detach().abs().max()) < 1e-6 * float(du.detach().abs().max())


@pytest.mark.parametrize("name", ["poisson", "burgers"])
def test_loss_and_error_are_those_of_the_lowest_point(name: str) -> None:
    few, more = (solved(name, 0, torch.float64, solvers()["lbfgs"], calls) for calls in (5, 40))
    assert few["evaluations"] == 5
    assert more["loss"] < few["loss"]
    assert 0 < more["error"] < 1.5
