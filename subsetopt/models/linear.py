"""Linear model: least squares for squared loss, multinomial logistic regression for cross-entropy."""

from __future__ import annotations

import math

from torch import nn

from subsetopt.models.build import MODELS


@MODELS.register("linear", "linear in the flattened inputs: least squares or logistic regression")
def linear(in_shape: tuple[int, ...], n_outputs: int, *, bias: bool = True) -> nn.Module:
    """Return one linear layer on the flattened inputs; P = n_outputs (in + 1)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), n_outputs, bias=bias))
