"""`KFAC`: the mini-batch step of `kfac-stream` as a torch optimizer."""

from __future__ import annotations

from subsetopt.optim.kfac.optimizer import KFAC

__all__ = ["KFAC"]
