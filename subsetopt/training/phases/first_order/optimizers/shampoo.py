"""Shampoo: gradients of a matrix multiplied by inverse roots of their second moments on either side.

## What it does
Adds up G G^T and G^T G of every matrix (a convolution has one factor per axis), and takes the step L^(-1/4) G R^(-1/4)
(for two axes). Vectors have one factor.

## Settings
- `lr` (0.1): peak learning rate; a comparison tunes it.
- `weight_decay` (the run's L2 strength): the L2 penalty of the loss; one in the optimizer's own arguments
  replaces it.
- `momentum` (0.9; the class itself has 0), `preconditioning_compute_steps` (1), `matrix_eps` (1e-6) and whatever else
  the class takes, as arguments: `shampoo(momentum=0.0)`. Inverse roots at every tenth step alone diverge on digits.

## True cost
One gradient of the mini-batch per step, products of matrices as wide as the layers, and their inverse roots every
`preconditioning_compute_steps` steps, which show in seconds. Needs the extra `[optimizers]`.

## Source
`pytorch_optimizer.Shampoo`; Gupta, Koren and Singer 2018, arXiv 1802.09568.
"""

from __future__ import annotations

from subsetopt.training.phases.first_order.foreign import ForeignMethod
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS


@OPTIMIZERS.register(
    "shampoo", "gradients times inverse roots of their second moments, axis by axis (extra [optimizers])"
)
class Shampoo(ForeignMethod):
    """Shampoo of pytorch_optimizer, with momentum."""

    path = "pytorch_optimizer:Shampoo"
    name = "shampoo"
    package = "optimizers"
    rate = 0.1
    defaults = {"momentum": 0.9}  # noqa: RUF012 (never changed)
