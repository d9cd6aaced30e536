"""Schedule-free Adam: no schedule; gradients at an interpolation, the answer is an average.

## What it does
Three points: z takes Adam's steps, x is the running average of z, and gradients are taken at y = (1 - b1) z + b1 x. The
phase evaluates and hands on x: held-out checks, curves, the finished model. BatchNorm's statistics are those of the
batches at y.

## Settings
- `lr` (0.0025): learning rate, constant unless a schedule is asked for; a comparison tunes it.
- `weight_decay` (the run's L2 strength): the L2 penalty of the loss at y; one in the optimizer's own
  arguments is decoupled, as its authors have it.
- `betas` ((0.9, 0.999)), `warmup_steps` (0) and whatever else the class takes, as arguments:
  `schedule-free(warmup_steps=100)`.

## True cost
One gradient of the mini-batch per step; two vectors of memory. Needs the extra `[optimizers]`.

## Source
`pytorch_optimizer.ScheduleFreeAdamW`; Defazio et al. 2024, arXiv 2405.15682.
"""

from __future__ import annotations

from subsetopt.training.phases.first_order.foreign import ForeignMethod
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS


@OPTIMIZERS.register("schedule-free", "Adam without a schedule, evaluated at an average (extra [optimizers])")
class ScheduleFree(ForeignMethod):
    """Schedule-free AdamW of pytorch_optimizer."""

    path = "pytorch_optimizer:ScheduleFreeAdamW"
    name = "schedule-free"
    package = "optimizers"
    rate = 2.5e-3
    step_work = "entrywise"
    schedule = "constant"
