"""`weight_decay`, `maximize` and `infeasible` of the optimizers with `step(closure)`: closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS, NewtonCG
from subsetopt.seeding import make_generator


@pytest.mark.parametrize("kind", [LBFGS, NewtonCG])
@pytest.mark.parametrize("maximize", [False, True])
def test_weight_decay_and_maximize_end_at_the_ridge_solution(kind: Any, maximize: bool) -> None:
    draw = make_generator(0, "ridge")
    x, y = (torch.randn(60, n, generator=draw, dtype=torch.float64) for n in (4, 1))
    w = nn.Parameter(torch.zeros(4, 1, dtype=torch.float64))
    optimizer = kind([w], weight_decay=0.1, maximize=maximize, tolerance_grad=1e-9, max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = ((x @ w - y) ** 2).mean() * (-1 if maximize else 1)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    for _ in range(3):
        optimizer.step(closure)
    ridge = torch.linalg.solve(2 * x.T @ x / 60 + 0.1 * torch.eye(4, dtype=torch.float64), 2 * x.T @ y / 60)
    torch.testing.assert_close(w.detach(), ridge, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(first, (y**2).mean() * (-1 if maximize else 1))  # what the closure gave, not the sum


@pytest.mark.parametrize("kind", [LBFGS, NewtonCG])
def test_an_error_of_the_closure_at_a_trial_shortens_the_step_when_asked(kind: Any) -> None:
    """min sum(1 / a + a) has a = 1; a Cholesky factor exists for a > 0 only, which the first trial leaves."""
    failures = 0

    def step(infeasible: Any) -> tuple[Tensor, Any]:
        a = nn.Parameter(torch.tensor([5.0, 3.0], dtype=torch.float64))
        optimizer = kind([a], infeasible=infeasible)

        def closure() -> Tensor:
            nonlocal failures
            optimizer.zero_grad()
            failures += bool((a.detach() <= 0).any())
            loss: Tensor = (torch.linalg.cholesky(torch.diag(a)).diagonal() ** -2).sum() + a.sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return a.detach(), optimizer

    a, optimizer = step((torch.linalg.LinAlgError,))
    assert failures > 0, "the problem would not show anything"
    torch.testing.assert_close(a, torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)
    with pytest.raises(torch.linalg.LinAlgError):
        step(())
    with pytest.raises(UserError, match="infeasible"):
        kind([nn.Parameter(torch.ones(1))], infeasible="LinAlgError")
    assert "infeasible" not in optimizer.state_dict()["param_groups"][0]


def test_an_error_where_a_step_begins_is_raised() -> None:
    a = nn.Parameter(torch.tensor([-1.0], dtype=torch.float64))
    optimizer = LBFGS([a], infeasible=ValueError)

    def closure() -> Tensor:
        raise ValueError("not here")

    with pytest.raises(ValueError, match="not here"):
        optimizer.step(closure)
    assert float(a.detach()) == -1.0
