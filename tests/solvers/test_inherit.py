"""Curvature taken over on request: L-BFGS's pairs act on the new gradient as the two-loop recursion says."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.objective import FunctionObjective
from subsetopt.solvers import make_solver
from subsetopt.solvers.curvature_pairs import GAMMA_PAIRS
from subsetopt.solvers.lbfgs import LBFGS
from subsetopt.solvers.newton_cg import NewtonCG


def quadratic(scale: float) -> FunctionObjective:
    diagonal = scale * torch.logspace(0, 1, 8, dtype=torch.float64)
    return FunctionObjective(lambda w: 0.5 * (diagonal * w * w).sum() - w.sum(), torch.zeros(8, dtype=torch.float64))


def two_loop(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """H g by Nocedal and Wright (2006), algorithm 7.4, with H0 from the largest quotient of the newest pairs.

    The pairs, of one quadratic, are made conjugate first, from the newest on.
    """
    gamma = max((s @ y) / (y @ y) for s, y in pairs[-GAMMA_PAIRS:])
    conjugate: list[tuple[Tensor, Tensor]] = []
    for s, y in reversed(pairs):
        weights = [(s @ later_y) / (later_s @ later_y) for later_s, later_y in conjugate]
        for weight, (later_s, later_y) in zip(weights, conjugate, strict=True):
            s, y = s - weight * later_s, y - weight * later_y
        conjugate.append((s, y))
    pairs = conjugate[::-1]
    q, alphas = gradient.clone(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    r = gamma * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r += s * (alpha - (y @ r) / (s @ y))
    return r


def test_lbfgs_inherits_pairs_that_act_on_the_new_gradient() -> None:
    solver = make_solver("lbfgs", memory=4)
    assert isinstance(solver, LBFGS)
    first, second = quadratic(1.0), quadratic(1.5)
    old = solver.init(first, torch.ones(8, dtype=torch.float64))
    for _ in range(6):
        old = solver.step(first, old)
    pairs = [(old.memory.rows[2 * k].clone(), old.memory.rows[2 * k + 1].clone()) for k in old.memory.order]
    new = solver.inherit(solver.init(second, old.w), old)
    line = solver.propose(new.memory, new)
    assert line is not None and len(pairs) == 4
    assert torch.allclose(-line.direction, two_loop(pairs, new.gradient), rtol=1e-8)
    assert new.iterations == 0 and new.evaluations == 1 and new.loss == float(second.value(new.w))


def test_newton_inherits_its_radius() -> None:
    solver = make_solver("newton-cg")
    assert isinstance(solver, NewtonCG)
    old = solver.step(quadratic(1.0), solver.init(quadratic(1.0), torch.ones(8, dtype=torch.float64)))
    new = solver.inherit(solver.init(quadratic(2.0), old.w), old)
    assert new.trust_radius == old.trust_radius > 0
