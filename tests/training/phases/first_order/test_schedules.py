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


@pytest.mark.parametrize(("warmup", "decay"), [(0.02, 0.2), (0.1, 0.5), (0.0, 0.2), (0.5, 0.5), (0.0, 0.0), (0.0, 1.0)])
def test_wsd_rises_stays_and_falls(warmup, decay):
    """Reference: the trapezoid through (0, 0), (warmup, 1), (1 - decay, 1), (1, 0); its first step is not at rate 0."""
    import numpy as np

    shares = np.linspace(0, 1, 101)[1:-1]
    expected = np.interp(shares, [0, warmup, 1 - decay, 1], [0, 1, 1, 0]) if warmup or decay else np.ones(99)
    if not decay:
        expected = np.ones(99)
    factors = np.array([rate_factor("wsd", share, warmup=warmup, decay=decay) for share in shares])
    np.testing.assert_allclose(
        np.where(factors > 0.041, factors, 0), np.where(expected > 0.041, expected, 0), atol=1e-9
    )
    assert rate_factor("wsd", 0.0, warmup=warmup, decay=decay) > 0
    assert rate_factor("wsd", 1.0, warmup=warmup, decay=decay) == (0 if decay else 1)
