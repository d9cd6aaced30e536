"""`torch.optim`'s face of the solvers, for training loops that people already have."""

from __future__ import annotations

from subsetopt.optim.full_batch import full_batch_closure
from subsetopt.optim.kfac import KFAC
from subsetopt.optim.lbfgs import LBFGS
from subsetopt.optim.newton_cg import NewtonCG

__all__ = ["KFAC", "LBFGS", "NewtonCG", "full_batch_closure"]
