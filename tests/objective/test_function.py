"""Plain torch functions as objectives: closed-form Rosenbrock derivatives, shapes, dtypes, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.objective import CountingMeter, FunctionObjective


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def test_rosenbrock_value_gradient_and_hessian_in_closed_form() -> None:
    meter = CountingMeter()
    objective = FunctionObjective(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), meter)
    w = objective.initial()
    value, gradient = objective.value_and_gradient(w)
    assert float(value) == pytest.approx(24.2) and float(objective.value(w)) == pytest.approx(24.2)
    torch.testing.assert_close(gradient, torch.tensor([-215.6, -88.0], dtype=torch.float64))
    products = objective.linearise(w)
    columns = torch.stack([products.hvp(unit) for unit in torch.eye(2, dtype=torch.float64)], 1)
    torch.testing.assert_close(columns, torch.tensor([[1330.0, 480.0], [480.0, 200.0]], dtype=torch.float64))
    assert meter.calls == {"gradient": 1, "forward": 1, "linearise": 1, "hvp": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fun_sees_the_shape_and_dtype_of_x0_and_x0_stays(dtype: torch.dtype) -> None:
    seen = set()

    def fun(x: Tensor) -> Tensor:
        seen.add((tuple(x.shape), x.dtype))
        return (x * x).sum()

    x0 = torch.arange(6, dtype=dtype).reshape(3, 2).t()
    objective = FunctionObjective(fun, x0)
    value, gradient = objective.value_and_gradient(objective.initial())
    assert seen == {((2, 3), dtype)} and value.dtype == torch.float64 and gradient.dtype == dtype
    torch.testing.assert_close(gradient, 2 * x0.reshape(-1))
    objective.initial().zero_()
    assert objective.initial().tolist() == x0.reshape(-1).tolist()


@pytest.mark.parametrize("fun", [lambda x: x.sum(), lambda x: 3 * x[0], lambda x: x[0] ** 2 + 5 * x[1]])
def test_linear_parts_give_a_zero_product_instead_of_a_crash(fun: Callable[[Tensor], Tensor]) -> None:
    objective = FunctionObjective(fun, torch.ones(3))
    product = objective.linearise(objective.initial()).hvp(torch.tensor([0.0, 1.0, 1.0]))
    assert product.tolist() == [0, 0, 0]


def test_gauss_newton_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="curvature='hessian'"):
        FunctionObjective(rosenbrock, torch.zeros(2)).linearise(torch.zeros(2)).ggnvp(torch.zeros(2))


@pytest.mark.parametrize(
    ("fun", "x0", "message"),
    [
        (lambda x: x * 2, torch.zeros(2), r"returns shape \(2,\)"),
        (lambda x: 3.0, torch.zeros(2), "returns float"),
        (lambda x: x.detach().sum(), torch.zeros(2), "does not depend on x"),
        (lambda x: torch.tensor(1.0), torch.zeros(2), "does not depend on x"),
        (lambda x: x.sum().long(), torch.zeros(2), "torch.int64"),
        (rosenbrock, torch.zeros(2, dtype=torch.int64), "floating-point"),
        (rosenbrock, [0.0, 0.0], "list"),
        (rosenbrock, torch.zeros(0), "no elements"),
    ],
)
def test_unusable_functions_are_refused_in_one_line(fun: Any, x0: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        objective = FunctionObjective(fun, x0)
        objective.value_and_gradient(objective.initial())
    assert "\n" not in str(caught.value)
