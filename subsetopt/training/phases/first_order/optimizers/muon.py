"""Muon: orthogonalised momentum for the matrices inside a network, AdamW for the rest.

## What it does
The update of a matrix is its momentum with all singular values set to about one, by five Newton-Schulz steps. Biases,
gains, the last layer, and the first where another is left, go to AdamW.

## Settings
- `lr` (0.01): peak learning rate of all parameters; updates are scaled by 0.2 sqrt(max(rows, columns)), so that it
  means what it means for AdamW. A comparison tunes it.
- `weight_decay` (0.01): decoupled.
- `coupled_l2` (no): the run's L2 in the gradient and no decoupled decay, as comparisons have it.

## True cost
One gradient of the mini-batch per step, and fifteen products per matrix, charged as the method's own arithmetic: more
than the gradient itself where batches are small beside the width of layers. Needs torch 2.9.

## Source
`torch.optim.Muon`; Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS, FirstOrderMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subsetopt.objective import FlatModel
    from subsetopt.training.settings.phase import PhaseConfig


@OPTIMIZERS.register("muon", "orthogonalised momentum for inner matrices, AdamW for the rest (torch 2.9)")
class MuonMethod(FirstOrderMethod):
    """Muon on views of the flat parameter; see `first_order/muon.py`."""

    rate = 1e-2
    step_work = "fixed"
    decoupled_decay = 0.01

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return Muon for the inner matrices of `flat`, with AdamW for the rest."""
        from subsetopt.training.phases.first_order.muon import Muon

        return Muon(flat, w, lr, weight_decay)

    @classmethod
    def check(cls, flat: FlatModel, setting: str) -> None:
        """Raise `SettingError` where torch has no Muon, or the model no matrix for it."""
        from subsetopt.training.phases.first_order.muon import check_muon

        check_muon(flat, setting)
