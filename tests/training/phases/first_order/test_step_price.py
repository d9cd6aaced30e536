"""What an optimizer's steps are charged for: nothing entry by entry, else what they multiply, when they do it."""

from __future__ import annotations

from typing import Any

import torch

from subsetopt.training.phases.first_order.step_price import StepPrice
from subsetopt.training.phases.first_order.vector_optimizer import VectorOptimizer

D = 5


class EveryThird(torch.optim.SGD):
    """Decomposes a matrix in every third step, as Shampoo and SOAP do now and then."""

    steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # the loss is nobody's business here
        if self.steps % 3 == 2:
            torch.linalg.eigh(torch.eye(D))
        self.steps += 1
        super().step()


def stepped(optimizer_type: type[torch.optim.Optimizer], work: Any, **settings: Any) -> list[int]:
    w = torch.zeros(D, requires_grad=True)
    w.grad = torch.ones(D)
    optimizer = VectorOptimizer(optimizer_type([w], lr=0.1, **settings), work)
    return [optimizer.step(0.1) for _ in range(6)]


def test_work_that_differs_between_steps_is_counted_when_it_is_done() -> None:
    assert stepped(EveryThird, "varying") == [0, 0, 9 * D**3, 0, 0, 9 * D**3]


def test_adam_multiplies_nothing_even_where_it_is_counted() -> None:
    assert stepped(torch.optim.Adam, "varying") == stepped(torch.optim.Adam, "entrywise") == [0] * 6


def test_fixed_work_is_counted_once_and_always_charged() -> None:
    price, calls = StepPrice("fixed"), []

    def step() -> None:
        calls.append(torch.eye(D) @ torch.eye(D))

    assert [price.take(step) for _ in range(3)] == [2 * D**3] * 3 and len(calls) == 3
