"""Saving and restoring at any step: the path goes on bit for bit, without an evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from subsetopt.objective.protocol import BudgetExhausted, Purpose
from subsetopt.saving import join, split
from subsetopt.solvers import make_solver
from tests.solvers.problems import PROBLEMS, TorchObjective

SOLVERS = ["lbfgs", "ncg", "newton-cg"]


def round_trip(solver: Any, objective: Any, state: Any) -> Any:
    tensors, numbers = solver.save(state)
    return solver.restore(objective, tensors, json.loads(json.dumps(numbers)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", SOLVERS)
def test_restored_solve_goes_on_bit_for_bit_without_an_evaluation(method: str, dtype: torch.dtype) -> None:
    """Saved after every one of 25 steps (L-BFGS with 7 pairs: empty, half-filled and wrapped rings)."""
    settings = {"memory": 7} if method == "lbfgs" else {}
    solver = make_solver(method, gtol=0.0, **settings)
    straight, resumed = (PROBLEMS["rosenbrock-10"].objective(dtype) for _ in range(2))
    a = solver.init(straight, straight.initial())
    b = round_trip(solver, resumed, solver.init(resumed, resumed.initial()))
    for _ in range(25):
        a = solver.step(straight, a)
        b = round_trip(solver, resumed, solver.step(resumed, b))
        assert torch.equal(a.w, b.w)
        assert (a.loss, a.gradient_norm, a.stalled) == (b.loss, b.gradient_norm, b.stalled)
        assert torch.equal(a.best_w, b.best_w)
    assert straight.evaluations == resumed.evaluations == b.evaluations


@pytest.mark.parametrize("method", SOLVERS)
def test_saved_state_is_not_touched_by_further_steps(method: str) -> None:
    objective = PROBLEMS["rosenbrock-10"].objective()
    solver = make_solver(method)
    state = solver.init(objective, objective.initial())
    for _ in range(5):
        state = solver.step(objective, state)
    tensors, numbers = solver.save(state)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    text = json.dumps(numbers)
    for again in (state, solver.restore(objective, tensors, numbers), solver.restore(objective, tensors, numbers)):
        for _ in range(5):
            again = solver.step(objective, again)
    assert json.dumps(numbers) == text
    assert all(torch.equal(tensors[name], copies[name]) for name in tensors)


class Limited(TorchObjective):
    """Raises `BudgetExhausted` at the call after the `limit`-th."""

    limit = 10**9

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        if self.evaluations >= self.limit:
            raise BudgetExhausted
        return super().value_and_gradient(w, purpose)


@pytest.mark.parametrize("method", SOLVERS)
def test_budget_exhausted_at_any_call_leaves_a_state_that_goes_on_as_if_nothing_had_happened(method: str) -> None:
    case = PROBLEMS["wood"]
    solver = make_solver(method)
    reference = case.objective()
    expected = solver.init(reference, reference.initial())
    objective = Limited(case.fun, case.x0)
    state = solver.init(objective, objective.initial())
    for _ in range(20):
        expected = solver.step(reference, expected)
        for allowed in range(30):
            objective.limit = objective.evaluations + allowed
            try:
                state = solver.step(objective, state)
                break
            except BudgetExhausted:
                continue
        assert torch.equal(state.w, expected.w)
        assert state.evaluations == expected.evaluations


def test_scipy_keeps_its_best_point_when_the_budget_ends() -> None:
    case = PROBLEMS["rosenbrock-10"]
    objective = Limited(case.fun, case.x0)
    objective.limit = 30
    solver = make_solver("scipy:L-BFGS-B")
    state = solver.init(objective, objective.initial())
    start = state.loss
    state = solver.step(objective, state)
    assert solver.terminate(state) == "budget"
    assert state.loss < start
    assert float(objective.value(state.w)) == state.loss


@dataclass
class Inner:
    """A dataclass within a dataclass."""

    a: Tensor
    n: list[int]


@dataclass
class Outer:
    """All that a state may hold."""

    inner: Inner
    b: Tensor
    same_as_b: Tensor
    none: Tensor | None
    number: float


def test_splitting_shares_what_was_shared_and_keeps_every_bit() -> None:
    b = torch.tensor([0.1, 1e-300], dtype=torch.float64)
    state = Outer(Inner(torch.zeros(0), [1, 2]), b, b, None, float("inf"))
    tensors, numbers = split(state)
    assert set(tensors) == {"inner.a", "b"}
    back = join(Outer, tensors, json.loads(json.dumps(numbers)))
    assert back.same_as_b is back.b
    assert torch.equal(back.b, b)
    assert (back.none, back.number, back.inner.n) == (None, float("inf"), [1, 2])
