"""Squared residuals with derivatives of the network inside, against dense Jacobians and autograd on all points."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from subsetopt import minimize
from subsetopt.errors import DataError, ModelError, SettingError, UserError
from subsetopt.objective import Objective
from subsetopt.objective.residuals import Residuals
from subsetopt.seeding import make_generator, seeded_globals

G = make_generator(0, "residuals")
INTERIOR = torch.rand(23, 2, generator=G, dtype=torch.float64)
EDGE = torch.rand(9, 2, generator=G, dtype=torch.float64)
VALUES = torch.rand(9, generator=G, dtype=torch.float64)
WEIGHT = 7.0


def network() -> nn.Module:
    with seeded_globals(0, "residuals"):
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def burgers(model: Any, points: Tensor) -> Tensor:
    points = points.requires_grad_()
    u = model(points)
    (du,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (dux,) = torch.autograd.grad(du[:, 0].sum(), points, create_graph=True)
    return du[:, 1] + u[:, 0] * du[:, 0] - 0.1 * dux[:, 0]


def boundary(model: Any, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    points, values = data
    u = model(points)[:, 0]
    return u - values, 0.5 * u


def by_func(model: Any, points: Tensor) -> Tensor:
    return vmap(jacrev(lambda x: model(x)[0]))(points)


TERMS = {"interior": (burgers, INTERIOR), "edge": (boundary, (EDGE, VALUES), WEIGHT)}


def dense(w: Tensor) -> Tensor:
    """Return all residuals, each times the root of how much its square counts in f."""
    model = network()
    parts = torch.split(w, [p.numel() for p in model.parameters()])
    named = {k: part.view(p.shape) for (k, p), part in zip(model.named_parameters(), parts, strict=True)}

    def call(x: Tensor) -> Tensor:
        return functional_call(model, named, (x,))

    one, two = boundary(call, (EDGE, VALUES))
    inside = burgers(call, INTERIOR.clone()) / math.sqrt(len(INTERIOR))
    return torch.cat([inside, torch.cat([one, two]) * math.sqrt(WEIGHT / len(EDGE))])


@pytest.mark.parametrize("chunk_size", [None, 1, 10])
def test_several_terms_are_the_weighted_sum_of_their_mean_squares(chunk_size: int | None) -> None:
    objective = Objective.from_residual(network(), TERMS, l2=0.01, chunk_size=chunk_size)
    w = objective.initial().requires_grad_()
    expected = dense(w).square().sum() + 0.005 * w.square().sum()
    (gradient,) = torch.autograd.grad(expected, w)
    value, got = objective.value_and_gradient(w.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(objective.value(w.detach()), expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(got, gradient, rtol=1e-10, atol=1e-13)
    assert objective.n_samples == 32
    assert objective.n_outputs == 2


@pytest.mark.parametrize("chunk_size", [None, 10])
def test_products_are_those_of_the_dense_hessian_and_of_the_residual_jacobian(chunk_size: int | None) -> None:
    objective = Objective.from_residual(network(), TERMS, chunk_size=chunk_size)
    w = objective.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    J = torch.autograd.functional.jacobian(dense, w)
    H = torch.autograd.functional.hessian(lambda w: dense(w).square().sum(), w)
    products = objective.linearise(w)
    torch.testing.assert_close(products.ggnvp(v), 2 * J.T @ (J @ v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(products.hvp(v), H @ v, rtol=1e-10, atol=1e-12)
    assert products.note == ""


def test_derivatives_by_torch_func_are_the_same() -> None:
    objective = Objective.from_residual(network(), by_func, INTERIOR, chunk_size=10)
    w = objective.initial().requires_grad_()
    weight, bias, out = w[:10].view(5, 2), w[10:15], w[15:20]
    slope = (1 - torch.tanh(INTERIOR @ weight.T + bias).square()) * out
    expected = (slope @ weight).square().sum(1).mean()
    (gradient,) = torch.autograd.grad(expected, w)
    value, got = objective.value_and_gradient(w.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(got, gradient, rtol=1e-10, atol=1e-13)


def test_a_subset_takes_each_terms_mean_over_its_own_points() -> None:
    rows = torch.tensor([0, 5, 9, 25, 30])
    part = Objective.from_residual(network(), TERMS, indices=rows)
    terms = {
        "interior": (burgers, INTERIOR[[0, 5, 9]]),
        "edge": (boundary, (EDGE[[2, 7]], VALUES[[2, 7]]), WEIGHT),
    }
    alone = Objective.from_residual(network(), terms)
    w = part.initial()
    for a, b in zip(part.value_and_gradient(w), alone.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    with pytest.raises(DataError, match="'edge': none of the 2 points"):
        Objective.from_residual(network(), TERMS, indices=torch.tensor([0, 1]))


def test_weights_of_points_are_those_of_repeated_points() -> None:
    repeats = torch.arange(32) % 3
    weighted = Objective.from_residual(network(), TERMS, sample_weight=repeats)
    repeated = Objective.from_residual(network(), TERMS, indices=torch.arange(32).repeat_interleave(repeats))
    w = weighted.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    for a, b in zip(weighted.value_and_gradient(w), repeated.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weighted.linearise(w).ggnvp(v), repeated.linearise(w).ggnvp(v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_a_solver_finds_the_solution_of_poissons_equation(method: str) -> None:
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]

    def poisson(model: Any, points: Tensor) -> Tensor:
        points = points.requires_grad_()
        u = model(points)
        (du,) = torch.autograd.grad(u.sum(), points, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), points, create_graph=True)
        return ddu + math.pi**2 * torch.sin(math.pi * points.detach())

    with seeded_globals(0, "poisson"):
        model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    terms = {"interior": (poisson, x), "ends": (lambda model, points: model(points), ends, 100.0)}
    objective = Objective.from_residual(model, terms)
    options: dict[str, Any] = {"curvature": "ggn"} if method == "newton-cg" else {}
    result = minimize(objective, method=method, max_evaluations=400, **options)
    with torch.no_grad():
        error = (objective.flat.module(result.x)(x) - torch.sin(math.pi * x)).abs().max()
    assert float(error) < 1e-2


@pytest.mark.parametrize(
    ("residual", "points", "kind", "message"),
    [
        ({}, None, SettingError, "no terms"),
        ({"a": burgers}, None, SettingError, r"give \(function, points\)"),
        ({"a": (burgers, INTERIOR, -1)}, None, SettingError, "weight of 'a' = -1: must be a finite number >= 0"),
        ({"a": (burgers, INTERIOR, math.nan)}, None, SettingError, "weight"),
        ({"a": (3, INTERIOR)}, None, SettingError, "give a function"),
        (burgers, None, SettingError, "collocation points"),
        (burgers, [[0.0, 1.0]], DataError, "needs a tensor|needs tensors"),
        (lambda model, x: model(x).square().mean(), INTERIOR, ModelError, "not their squares or mean"),
        (lambda model, x: model(x) - model(x).mean(), INTERIOR, ModelError, "depend on the others beside it"),
        (lambda model, x: x.sum(1), INTERIOR, ModelError, "do not depend on its parameters"),
        (lambda model, x: model(x) / 0, INTERIOR, ModelError, "inf|nan"),
    ],
)
def test_what_are_no_residuals_is_refused_in_one_line(
    residual: Any, points: Any, kind: type[UserError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        Objective.from_residual(network(), residual, points)
    assert "\n" not in str(caught.value)


def test_kfac_needs_a_model_called_once() -> None:
    objective = Objective.from_residual(network(), burgers, INTERIOR)
    with pytest.raises(SettingError, match="use 'diagonal' or 'none'"):
        objective.preconditioner("kfac")
    result = minimize(objective, method="newton-cg", preconditioner="diagonal", curvature="ggn", max_iterations=3)
    assert result.loss < float(objective.value(objective.initial()))


def test_terms_have_a_name_and_a_weight_in_the_identity() -> None:
    def heavier(weight: float) -> Objective:
        return Objective.from_residual(network(), Residuals({"a": (burgers, INTERIOR, weight)}))

    assert heavier(2.0).identity == heavier(2.0).identity
    assert heavier(2.0).identity != heavier(3.0).identity
