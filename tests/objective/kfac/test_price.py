"""What an estimate of K-FAC is charged, and operations of products that are known by shapes alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt.objective import BudgetExhausted, make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.kfac.factor import FEW, RANK
from subsetopt.seeding import make_generator
from tests.objective.kfac.kfac_nets import Recorder, built


def test_an_update_is_charged_with_its_arithmetic_before_it_is_made():
    flat = built(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10))
    x, y = torch.randn(64, 30, dtype=torch.float64), torch.arange(64) % 10
    kfac, meter = Kfac(flat, make_loss("cross_entropy")), Recorder(limit=10)
    with pytest.raises(BudgetExhausted):
        kfac.update(flat.initial(), x, y, make_generator(0, "g"), meter)
    assert kfac.updates == 0
    meter.limit = 10**9
    kfac.update(flat.initial(), x, y, make_generator(0, "g"), meter)
    # Per sample, in products of the two layers' sizes: forward, gradients in outputs, A and G, their rotations and the
    # products of their squares and of what bases leave out, against a gradient's.
    forward = 30 * 20 + 20 * 10
    estimate = forward + 20 * 10 + (30**2 + 20**2) + (20**2 + 10**2)
    estimate += (31**2 + 20**2 + 31 * 20) + (21**2 + 10**2 + 21 * 10) + (31 + 20 + 1) + (21 + 10 + 1)
    gradient = 2 * forward + 20 * 10
    cubes = 31**3 + 20**3 + 21**3 + 10**3
    assert [(kind, purpose) for kind, _, purpose in meter.entries] == [("gradient", "product")] * 2
    assert meter.entries[0][1] == pytest.approx(64 * estimate / gradient, abs=1)
    assert meter.entries[1][1] == pytest.approx(9 * cubes / (2 * gradient), abs=1)


@pytest.mark.parametrize("dear", [float("inf"), 1000.0])
def test_factors_keep_few_eigenvectors_where_a_product_would_be_dear(dear: float) -> None:
    """The operations of whole factors are counted by shapes alone; the damped inverse is exact with few vectors."""
    conv, linear = nn.Conv2d(1, 60, 3), nn.Linear(60, 3)
    flat = built(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    x, y = torch.randn(6, 1, 5, 5, dtype=torch.float64), torch.arange(6) % 3
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", dear=dear)
    foreseen = kfac.prices.product_flops(RANK)
    kfac.update(flat.initial(), x, y, make_generator(0, "g"))
    v = torch.randn(flat.size, dtype=torch.float64)
    solved = kfac.apply(v.clone(), 0.1)
    torch.testing.assert_close(kfac.product(solved) + 0.1 * solved, v)
    if dear > foreseen:
        assert kfac.product_flops == foreseen and "vectors" not in kfac.state_dict()
        return
    assert kfac.product_flops == kfac.prices.product_flops(FEW) < 0.7 * foreseen
    assert [(a.rank, g.rank) for a, g in kfac._blocks.factors] == [(10, FEW), (FEW, 3)]
    again = Kfac(flat, make_loss("cross_entropy"), draw="empirical", dear=dear)
    again.load_state_dict(kfac.state_dict())
    assert again.vectors == FEW and torch.equal(again.apply(v.clone(), 0.1), solved)
