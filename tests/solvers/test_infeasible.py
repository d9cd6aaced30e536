"""A function that raises outside its domain, against the minimum inside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from subsetopt import minimize
from subsetopt.errors import ModelError, SettingError
from subsetopt.objective import Objective

KINDS = (torch.linalg.LinAlgError,)


def barrier(x: Tensor) -> Tensor:
    """trace(A) - log det A for A = [[x0, x1], [x1, x2]], whose minimum is at A = I; no Cholesky factor outside."""
    A = torch.stack([x[0], x[1], x[1], x[2]]).view(2, 2)
    return 100 * (A.trace() - 2 * torch.linalg.cholesky(A).diagonal().log().sum())


@pytest.mark.parametrize("method", ["lbfgs", "ncg", "newton-cg"])
def test_a_search_steps_back_from_where_the_loss_raises(method: str) -> None:
    start = torch.tensor([20.0, 3.0, 0.5], dtype=torch.float64)
    result = minimize(barrier, start, method=method, infeasible=KINDS, gtol=1e-6)
    assert result.converged
    torch.testing.assert_close(result.x, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-6)


def test_raises_as_ever_where_nobody_asked() -> None:
    start = torch.tensor([20.0, 3.0, 0.5], dtype=torch.float64)
    with pytest.raises(torch.linalg.LinAlgError):
        minimize(barrier, -start)
    with pytest.raises(torch.linalg.LinAlgError):
        minimize(barrier, -start, infeasible=(ZeroDivisionError,))


def test_an_infeasible_start_is_told() -> None:
    result = minimize(barrier, torch.tensor([-1.0, 0.0, 1.0]), infeasible=KINDS)
    assert result.stop_reason == "non_finite"
    assert not result.converged


def test_an_objective_over_samples_may_raise_too() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            if float(self.scale.detach()) <= 0.5:
                raise ArithmeticError("outside")
            return x - 3 * self.scale.log()

    x = torch.zeros(4, 1, dtype=torch.float64)
    objective = Objective(Root(), x, x, "mse")
    result = minimize(objective, infeasible=(ArithmeticError,))
    assert float(result.x) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ModelError):
        objective.value(torch.tensor([0.1], dtype=torch.float64))


@pytest.mark.parametrize("kinds", [3, ("LinAlgError",), (ValueError(),)])
def test_what_is_no_exception_is_refused(kinds: object) -> None:
    with pytest.raises(SettingError, match="no kind of exception"):
        minimize(barrier, torch.ones(3), infeasible=kinds)  # type: ignore[arg-type] # the mistake under test
