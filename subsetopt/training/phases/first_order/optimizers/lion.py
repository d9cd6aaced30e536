"""Lion: the sign of an interpolated momentum.

## What it does
Each step moves every entry by lr times the sign of b1 m + (1 - b1) g, then m <- b2 m + (1 - b2) g.

## Settings
- `lr` (0.0003): peak learning rate, three to ten times below Adam's; a comparison tunes it.
- `weight_decay` (the run's L2 strength): the L2 penalty of the loss; one in the optimizer's own arguments
  is decoupled, as its authors have it.
- `betas` ((0.9, 0.99)) and whatever else the class takes, as arguments: `lion(betas=(0.95,0.98))`.

## True cost
One gradient of the mini-batch per step; one vector of memory. Needs the extra `[optimizers]`.

## Source
`pytorch_optimizer.Lion`; Chen et al. 2023, arXiv 2302.06675.
"""

from __future__ import annotations

from subsetopt.training.phases.first_order.foreign import ForeignMethod
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS


@OPTIMIZERS.register("lion", "the sign of an interpolated momentum (extra [optimizers])")
class Lion(ForeignMethod):
    """Lion of pytorch_optimizer."""

    path = "pytorch_optimizer:Lion"
    name = "lion"
    package = "optimizers"
    rate = 3e-4
    step_work = "entrywise"
