"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

## What it does
Keeps running means of G G^T and G^T G of every matrix (a convolution has one factor per axis), and takes Adam's step
in their eigenbases, which a QR step brings up to date every `precondition_frequency` steps. The first step only fills
them.

## Settings
- `lr` (0.01): peak learning rate; a comparison tunes it.
- `weight_decay` (the run's L2 strength): the L2 penalty of the loss; one in the optimizer's own arguments
  is decoupled, as its authors have it.
- `betas` ((0.95, 0.95)), `precondition_frequency` (10), `max_precondition_dim` (10000) and whatever else the class
  takes, as arguments: `soap(precondition_frequency=20)`.

## True cost
One gradient of the mini-batch per step, and products of matrices as wide as the layers; memory of two such matrices per
axis. Needs the extra `[optimizers]`.

## Source
`pytorch_optimizer.SOAP`; Vyas et al. 2024, arXiv 2409.11321.
"""

from __future__ import annotations

from subsetopt.training.phases.first_order.foreign import ForeignMethod
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS


@OPTIMIZERS.register("soap", "Adam in the eigenbasis of Shampoo's preconditioner (extra [optimizers])")
class Soap(ForeignMethod):
    """SOAP of pytorch_optimizer."""

    path = "pytorch_optimizer:SOAP"
    name = "soap"
    package = "optimizers"
    rate = 1e-2
