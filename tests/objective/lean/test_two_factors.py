"""PReLU and GLU: passes that a Hessian product takes, and the kink. Values and derivatives: `test_layers.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.objective.lean.mode import lean_second_derivatives
from tests.objective.lean.test_mode import _Calls, randn

FULL = ("mul", "mul_", "add", "add_", "addcmul", "addcmul_", "where", "sum", "sigmoid_backward", "rsub", "sub", "cat")


def passes(function: Callable[..., Tensor], inputs: list[Tensor]) -> dict[str, int]:
    """Return how often a Hessian product of `function` walks over its data, by operators."""
    with lean_second_derivatives(in_cotangent_only=False):
        output = function(*inputs)
        first = torch.autograd.grad(output, inputs, torch.ones_like(output), create_graph=True)
    with _Calls() as calls:
        torch.autograd.grad(first, inputs, [torch.ones_like(part) for part in inputs])
    return {name: count for name, count in calls.counts.items() if name in FULL}


@pytest.mark.parametrize("slopes", [1, 4])
def test_prelu_takes_seven_passes(slopes: int) -> None:
    """dx s + da n; g' s + g da; the sum of g' n + g dx. torch takes two chains of `where` and products."""
    found = passes(F.prelu, [randn(3, 4), randn(slopes, seed=1)])
    assert found == {"mul": 3, "addcmul_": 3, "sum": 1}


def test_glu_takes_seven_passes_over_half_its_input() -> None:
    """s da + p db; both derivatives, and to them one term and two."""
    assert passes(F.glu, [randn(3, 4)]) == {"mul": 3, "addcmul": 1, "addcmul_": 3}


def test_at_the_kink_prelu_has_the_slope_that_torch_has_there() -> None:
    x, a = torch.tensor([[-1.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True), randn(1, seed=1)

    def second(total: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(total, [x, a], create_graph=True)
        return [*first, *torch.autograd.grad(sum(part.square().sum() for part in first), [x, a])]

    with lean_second_derivatives(in_cotangent_only=False):
        found = second(F.prelu(x, a).cosh().sum())
    for mine, torchs in zip(found, second(F.prelu(x, a).cosh().sum()), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-14, atol=1e-14)
