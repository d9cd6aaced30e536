"""Stochastic gradient descent with momentum.

## What it does
Each step moves against a running sum of mini-batch gradients: v <- momentum v + g + weight_decay w, w <- w - lr v.

## Settings
- `lr` (0.05): peak learning rate; a comparison tunes it.
- `momentum` (0.9), `nesterov` (no): weight of the running sum, and whether the gradient is taken ahead of it.
- `weight_decay` (the run's L2 strength): the L2 penalty of the loss itself.
- `dampening` (0) and whatever else the class takes, as arguments: `sgd(dampening=0.1)`.

## True cost
One gradient of the mini-batch per step; no memory but one vector.

## Source
`torch.optim.SGD`; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from subsetopt.facts import PlannedStrategy
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS, FirstOrderMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subsetopt.objective import FlatModel
    from subsetopt.training.settings.phase import PhaseConfig


@OPTIMIZERS.register(
    "sgd",
    "stochastic gradient descent with momentum",
    plan=(PlannedStrategy("sgd", "mini-batch", "--solver none --handoff sgd", ("--handoff-epochs",)),),
)
class SGD(FirstOrderMethod):
    """Takes momentum and Nesterov's variant from the settings of the phase."""

    rate = 0.05
    step_work = "entrywise"
    of_phase = ("lr", "weight_decay", "momentum", "nesterov")

    @classmethod
    def factory(cls) -> Callable[..., Any]:
        """Return torch's SGD, whose keywords it takes."""
        import torch

        return torch.optim.SGD

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return torch's SGD."""
        import torch

        from subsetopt.training.phases.first_order.eager import eager

        arguments = cls.arguments(config)
        made: torch.optim.Optimizer = eager(torch.optim.SGD)(
            [w], lr, config.momentum, weight_decay=weight_decay, nesterov=config.nesterov, **arguments
        )
        return made
