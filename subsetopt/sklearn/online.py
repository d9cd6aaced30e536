"""Passes over mini-batches for `partial_fit`: Adam, since a minimum of one batch would forget all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.protocol import SmoothObjective

BATCH = 200
RATE = 1e-3


@dataclass
class OnlinePass:
    """Adam (Kingma & Ba 2015) with its usual settings, whose moments are kept from call to call."""

    state: dict[str, Any] = field(default_factory=dict)

    def over(self, objectives: Sequence[SmoothObjective], w: Tensor) -> Tensor:
        """Take one step for each of `objectives` from w; return where that leads."""
        parameter = torch.nn.Parameter(w.clone())
        optimizer = torch.optim.Adam([parameter], lr=RATE)
        if self.state:
            optimizer.load_state_dict(self.state)
        for objective in objectives:
            parameter.grad = objective.value_and_gradient(parameter.detach())[1]
            optimizer.step()
        self.state = optimizer.state_dict()
        return parameter.detach()
