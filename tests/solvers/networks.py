"""A small network in float64 with samples, and a meter whose budget ends where a test wants it to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subsetopt import Objective
from subsetopt.objective import CountingMeter
from subsetopt.objective.protocol import BudgetExhausted, CallKind, Purpose
from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver


def random(*shape: int, name: str) -> Tensor:
    return torch.randn(*shape, generator=make_generator(5, name), dtype=torch.float64)


def network(widths: tuple[int, int, int] = (6, 5, 3), samples: int = 40, meter: Any = None) -> Objective:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], widths[2])).double()
    x = random(samples, widths[0], name="x")
    y = (x @ random(*widths[::2], name="teacher")).argmax(1)
    return Objective(model, x, y, l2=1e-2, chunk_size=16, meter=meter)


class Limited(CountingMeter):
    """Raises `BudgetExhausted` at the call after the `limit`-th."""

    limit = 10**9

    def charge(self, kind: CallKind, samples: int, purpose: Purpose) -> None:
        if self.calls.total() >= self.limit:
            raise BudgetExhausted
        super().charge(kind, samples, purpose)


def assert_exhaustion_changes_nothing(method: str, steps: int, **settings: Any) -> None:
    """Steps that a budget cuts off at any call, and that are taken again, are those of a solve that never was."""
    solver, meter = make_solver(method, **settings), Limited()
    reference, objective = network(), network(meter=meter)
    expected, state = solver.init(reference, reference.initial()), solver.init(objective, objective.initial())
    for _ in range(steps):
        expected = solver.step(reference, expected)
        for allowed in range(40):
            meter.limit = meter.calls.total() + allowed
            try:
                state = solver.step(objective, state)
                break
            except BudgetExhausted:
                continue
        assert torch.equal(state.w, expected.w)
