"""AdamW: Adam with decoupled weight decay.

## What it does
Adam's step on the gradient alone, and w <- (1 - lr weight_decay) w beside it.

## Settings
- `lr` (0.001): peak learning rate; a comparison tunes it.
- `weight_decay` (0.01, torch's own default): not the run's L2 strength, which means something else.
- `coupled_l2` (no): the run's L2 in the gradient and no decoupled decay, as comparisons have it; this is Adam.
- `betas` ((0.9, 0.999)) and whatever else the class takes, as arguments: `adamw(betas=(0.8,0.95))`.

## True cost
One gradient of the mini-batch per step; two vectors of memory.

## Source
`torch.optim.AdamW`; Loshchilov and Hutter 2019, arXiv 1711.05101.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS, FirstOrderMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subsetopt.objective import FlatModel
    from subsetopt.training.settings.phase import PhaseConfig


@OPTIMIZERS.register("adamw", "Adam with decoupled weight decay")
class AdamW(FirstOrderMethod):
    """AdamW with torch's defaults."""

    rate = 1e-3
    step_work = "entrywise"
    decoupled_decay = 0.01

    @classmethod
    def factory(cls) -> Callable[..., Any]:
        """Return torch's AdamW, whose keywords it takes."""
        import torch

        return torch.optim.AdamW

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return torch's AdamW."""
        import torch

        from subsetopt.training.phases.first_order.eager import eager

        arguments = cls.arguments(config)
        made: torch.optim.Optimizer = eager(torch.optim.AdamW)([w], lr, weight_decay=weight_decay, **arguments)
        return made
