"""Conjugacy coefficients: where the rules must agree, and that they differ where they must."""

from __future__ import annotations

import pytest
import torch

from subsetopt.solvers import make_solver, minimize
from subsetopt.solvers.minimize import run
from subsetopt.solvers.ncg import BetaRule, Products, beta
from tests.solvers.problems import PROBLEMS

RULES: tuple[BetaRule, ...] = ("hager-zhang", "pr+", "hs", "dy", "fr")


def products_at(step: float) -> Products:
    """Products after one steepest-descent step on x·H x / 2, H = diag(1, 10), from (1, 1)."""
    H = torch.tensor([1.0, 10.0], dtype=torch.float64)
    g = H * torch.ones(2, dtype=torch.float64)
    d = -g
    new = g + step * H * d
    y = new - g
    values = (g @ g, new @ new, new @ y, y @ y, d @ new, d @ y, d @ d)
    return Products(*map(float, values))


def test_all_rules_agree_on_a_quadratic_after_an_exact_line_search() -> None:
    exact = 101 / 1001  # g·g / g·H g
    values = [beta(rule, products_at(exact)) for rule in RULES]
    assert values == pytest.approx([values[0]] * len(RULES), rel=1e-10)
    assert values[0] > 0


def test_rules_by_hand_after_an_inexact_step() -> None:
    p = Products(gg=2.0, gg_new=3.0, gy=1.0, yy=4.0, dg=-0.5, dy=1.5, dd=2.0)
    assert beta("pr+", p) == 0.5
    assert beta("fr", p) == 1.5
    assert beta("hs", p) == pytest.approx(2 / 3)
    assert beta("dy", p) == 2.0
    assert beta("hager-zhang", p) == pytest.approx((1 + 2 * 4 * 0.5 / 1.5) / 1.5)
    assert beta("pr+", Products(2.0, 3.0, -1.0, 4.0, -0.5, 1.5, 2.0)) == 0.0


def test_hager_zhang_is_truncated_from_below() -> None:
    p = Products(gg=2.0, gg_new=3.0, gy=-9.0, yy=9.0, dg=1.0, dy=3.0, dd=2.0)
    assert beta("hager-zhang", p) == pytest.approx(0.4 * (1.0 - 3.0) / 2.0)


@pytest.mark.parametrize("rule", ["hager-zhang", "pr+", "hs"])
def test_every_practical_rule_solves_rosenbrock(rule: BetaRule) -> None:
    objective = PROBLEMS["rosenbrock-10"].objective()
    solver = make_solver("ncg", beta=rule)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "gradient"
    assert state.evaluations < 1500  # 450 to 940, by the rounding of the machine


def test_quadratic_in_six_dimensions_takes_six_iterations() -> None:
    """Linear conjugate gradients with exact line searches end after P iterations (Hestenes & Stiefel 1952)."""
    H = torch.arange(1.0, 7.0, dtype=torch.float64)
    objective = PROBLEMS["wood"].objective()
    objective.fun, objective.x0, objective.size = lambda x: 0.5 * (x * H) @ x, torch.ones(6, dtype=torch.float64), 6
    solver = make_solver("ncg", curvature=1e-9, gtol=1e-5)
    state, _ = run(solver, objective, solver.init(objective, objective.initial()))
    assert state.iterations <= 6


@pytest.mark.parametrize("size", [1, 3])
def test_shrinking_steps_are_not_tried_at_the_length_of_the_last_change(size: int) -> None:
    """On sum cosh(x - 3) slopes fall faster than steps: their ratio once led to x = 84, and to 28 evaluations."""
    tried: list[float] = []

    def fun(x: torch.Tensor) -> torch.Tensor:
        tried.append(float(x.detach().abs().max()))
        return torch.cosh(x - 3).sum()

    result = minimize(fun, torch.zeros(size, dtype=torch.float64), method="ncg")
    assert result.converged
    assert result.counts["evaluations"] <= 12
    assert max(tried) < 12
