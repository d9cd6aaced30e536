"""torch's schedulers on `subsetopt.optim`: the rate is theirs, training goes on, and what has no meaning is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

from subsetopt.optim import KFAC, LBFGS, NewtonCG
from subsetopt.seeding import make_generator, seeded_globals

STEPS = 6
KINDS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=2), schedulers.CosineAnnealingLR(o, 8)], [2]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=10.0),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=STEPS + 1, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
}


def rates(kind: str, optimizer: Any, step: Callable[[], Any]) -> list[float]:
    """Return the rates under which the steps were taken."""
    scheduler, found = KINDS[kind](optimizer), []
    for _ in range(STEPS):
        found.append(float(optimizer.param_groups[0]["lr"]))
        loss = step()
        scheduler.step(loss) if kind == "ReduceLROnPlateau" else scheduler.step()
    scheduler.load_state_dict(scheduler.state_dict())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [LBFGS, NewtonCG, KFAC])
def test_the_rate_is_that_of_the_schedule_and_training_goes_on(make: Any, kind: str) -> None:
    """Reference: the rates that the same schedule gives SGD."""
    x = torch.randn(40, 4, generator=make_generator(0, "x"))
    y = torch.sin(x.sum(1, keepdim=True))
    with seeded_globals(0, "init"):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def loss() -> Tensor:
        return nn.functional.mse_loss(model(x), y)

    optimizer = make(model.parameters(), lr=0.5, **({} if make is KFAC else {"max_iter": 2}))

    def step() -> float:
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        return float(optimizer.step(closure).detach())

    before = float(loss().detach())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no learning rate")  # of NewtonCG, tested where it is
        found = rates(kind, optimizer, step)
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    assert found == pytest.approx(rates(kind, plain, lambda: plain.step() or 0.0))
    assert len(set(found)) > 2
    assert float(loss().detach()) < 0.9 * before


@pytest.mark.parametrize("make", [LBFGS, NewtonCG])
def test_a_cycle_of_momentum_is_refused_where_there_is_none(make: Any) -> None:
    with pytest.raises(ValueError, match="must support momentum") as caught:
        schedulers.OneCycleLR(make([nn.Parameter(torch.zeros(2))]), 0.5, total_steps=3)
    assert "\n" not in str(caught.value)
    optimizer = KFAC([nn.Parameter(torch.zeros(2))])
    schedulers.OneCycleLR(optimizer, 0.5, total_steps=3)
    assert 0.85 < optimizer.param_groups[0]["momentum"] < 0.95, "KFAC has one, and the cycle sets it"
