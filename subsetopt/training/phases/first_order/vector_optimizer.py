"""A torch optimizer of the one flat parameter, as a first-order phase steps, prices and saves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsetopt.training.phases.first_order.per_tensor import PerTensorOptimizer
from subsetopt.training.phases.first_order.step_price import StepPrice, StepWork


class VectorOptimizer:
    """Steps `optimizer` at a given rate; saved without its settings, which the run's configuration has."""

    def __init__(self, optimizer: torch.optim.Optimizer, work: StepWork = "varying") -> None:
        self._optimizer = optimizer
        self._price = StepPrice(work)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, rate: float) -> int:
        """Take one step along the parameter's gradient; return its floating-point operations (see `step_price.py`)."""
        self._optimizer.param_groups[0]["lr"] = rate
        return self._price.take(self._optimizer.step)

    def evaluated(self, w: Tensor) -> Tensor:
        """Return the parameters to evaluate and to hand on: `w` itself, or the averages that the optimizer keeps."""
        return self._optimizer.evaluated() if isinstance(self._optimizer, PerTensorOptimizer) else w.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the entries of the one parameter, empty before the first step."""
        entries: dict[str, Any] = self._optimizer.state_dict()["state"].get(0, {})
        return entries

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        if state_dict:
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": {0: dict(state_dict)}})
