"""Schedules against torch's own."""

import pytest
import torch

from subsetopt.training.phases.first_order.schedules import rate_factor

STEPS = 40


def torch_rates(make_scheduler):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "make_scheduler"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_equals_the_scheduler_of_torch(name, make_scheduler):
    assert [rate_factor(name, step / STEPS) for step in range(STEPS)] == pytest.approx(
        torch_rates(make_scheduler), abs=1e-7
    )


def test_one_cycle_rises_to_one_after_thirty_percent_and_falls_to_zero():
    factors = [rate_factor("one-cycle", step / 100) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 25)
    assert max(factors) == factors[30] == pytest.approx(1)
    assert factors[100] == pytest.approx(0, abs=1e-12)
