"""Residuals in one pass with the gradient, against p - y, z - y and autograd sample by sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.objective import CountingMeter, Objective, model_loss
from subsetopt.objective.corrected import CorrectedObjective
from subsetopt.objective.sample_residuals import gradient_and_residuals
from subsetopt.seeding import make_generator

N = 23
G = make_generator(0, "residuals")
X = torch.randn(N, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, 3, (N,), generator=G)
VALUES = torch.randn(N, 2, generator=G, dtype=torch.float64)
WEIGHTS = torch.rand(N, generator=G, dtype=torch.float64)


def network(outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_value_and_gradient_are_those_of_the_objective_and_residuals_p_minus_y(chunk_size: int | None) -> None:
    model, meter = network(3), CountingMeter()
    objective = Objective(model, X, LABELS, l2=0.1, chunk_size=chunk_size, meter=meter)
    w, before = objective.initial(), meter.calls["gradient"] if hasattr(meter, "calls") else None
    value, gradient, residuals = gradient_and_residuals(objective, w)
    expected_value, expected_gradient = objective.value_and_gradient(w)
    assert torch.allclose(value, expected_value) and torch.allclose(gradient, expected_gradient)
    p = model(X).detach().softmax(1) - nn.functional.one_hot(LABELS, 3)
    assert torch.allclose(residuals, p.norm(dim=1))
    assert before is None or meter.calls["gradient"] == before + 2


def test_residuals_of_squared_loss_are_outputs_minus_targets_times_what_a_sample_counts() -> None:
    model = network(2)
    objective = Objective(model, X, VALUES, loss="mse", sample_weight=WEIGHTS)
    _, _, residuals = gradient_and_residuals(objective, objective.initial())
    counts = WEIGHTS * N / WEIGHTS.sum()
    assert torch.allclose(residuals, counts * (model(X).detach() - VALUES).norm(dim=1))  # 2 / M is 1


@pytest.mark.parametrize("kind", ["function", "module", "model", "residual"])
def test_any_loss_has_the_norm_of_its_slope_in_the_outputs(kind: str) -> None:
    model = network(2)

    def huber(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.huber_loss(outputs, targets, reduction="none").sum(1)

    def whole(net: Any, batch: Any) -> Tensor:
        return huber(net(batch[0]), batch[1])

    if kind == "residual":
        objective = Objective.from_residual(model, lambda net, x: net(x) - 1.0, X)
        expected = 2 * (model(X).detach() - 1.0).norm(dim=1)
    else:
        loss: Any = {"function": huber, "module": nn.HuberLoss(reduction="none"), "model": model_loss(whole)}[kind]
        objective = Objective(model, X, VALUES, loss=loss)
        z = model(X).detach().requires_grad_()
        losses = huber(z, VALUES) / (2 if kind == "module" else 1)
        (slope,) = torch.autograd.grad(losses.sum(), z)
        expected = losses.detach() if kind == "model" else slope.norm(dim=1)
    _, _, residuals = gradient_and_residuals(objective, objective.initial())
    assert torch.allclose(residuals, expected)


def test_given_factors_take_the_place_of_weights() -> None:
    model, factors = network(2), torch.linspace(0, 3, N, dtype=torch.float64)
    objective = Objective(model, X, VALUES, loss="mse", indices=[2, 5, 7], sample_factor=factors)
    per_sample = (model(X).detach() - VALUES).square().mean(1)
    expected = (factors * per_sample)[[2, 5, 7]].sum() / 3
    assert torch.allclose(objective.value(objective.initial()), expected)


def test_a_corrected_objective_has_the_gradient_of_all_samples_at_its_origin() -> None:
    model = network(3)
    full, part = Objective(model, X, LABELS, l2=0.1), Objective(model, X, LABELS, l2=0.1, indices=range(9))
    w = full.initial()
    slope = full.value_and_gradient(w)[1] - part.value_and_gradient(w)[1]
    corrected = CorrectedObjective(part, slope, w)
    assert torch.allclose(corrected.value_and_gradient(w)[1], full.value_and_gradient(w)[1])
    assert torch.allclose(corrected.value(w), part.value(w))
    v = torch.randn(w.shape, generator=make_generator(1, "v"), dtype=w.dtype)
    step = 1e-5
    difference = (corrected.value(w + step * v) - corrected.value(w - step * v)) / (2 * step)
    assert torch.allclose(difference, corrected.value_and_gradient(w)[1] @ v, rtol=1e-6)
    assert torch.allclose(corrected.linearise(w).hvp(v), part.linearise(w).hvp(v))
    assert corrected.identity != CorrectedObjective(part, slope, w, 1).identity
