"""Adam: gradients divided by a running root mean square, entry by entry.

## What it does
Each step moves by lr m / (sqrt(v) + 1e-8), with running means m of g + weight_decay w and v of its square.

## Settings
- `lr` (0.001): peak learning rate; a comparison tunes it.
- `weight_decay` (the run's L2 strength): the L2 penalty of the loss itself, so it is rescaled with the gradient.
- `betas` ((0.9, 0.999)) and whatever else the class takes, as arguments: `adam(betas=(0.8,0.95))`.

## True cost
One gradient of the mini-batch per step; two vectors of memory.

## Source
`torch.optim.Adam`; Kingma and Ba 2015, arXiv 1412.6980.
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
    "adam",
    "Adam; weight decay is the L2 penalty of the loss",
    plan=(PlannedStrategy("adam", "mini-batch", "--solver none --handoff adam", ("--handoff-epochs",)),),
)
class Adam(FirstOrderMethod):
    """Adam with torch's defaults."""

    rate = 1e-3
    step_work = "entrywise"

    @classmethod
    def factory(cls) -> Callable[..., Any]:
        """Return torch's Adam, whose keywords it takes."""
        import torch

        return torch.optim.Adam

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return torch's Adam."""
        import torch

        from subsetopt.training.phases.first_order.eager import eager

        arguments = cls.arguments(config)
        made: torch.optim.Optimizer = eager(torch.optim.Adam)([w], lr, weight_decay=weight_decay, **arguments)
        return made
