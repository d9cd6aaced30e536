"""Weighted sums of the gradients of single samples, for the price of one gradient whatever the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.objective import Objective


class SampleGradients:
    """The matrix J (K, P) of the samples' gradients g_i = dl_i/dw at `w`, without the L2 term, by its products alone.

    Rows are in the order of the objective's chunks, as `targets` has them. With BatchNorm a sample's loss depends on
    its chunk, and g_i is the derivative of that loss as it stands there.
    """

    def __init__(self, objective: Objective, w: Tensor) -> None:
        self._objective = objective
        self._w = objective.flat.check(w).detach().clone()

    @property
    def targets(self) -> Tensor:
        """The targets of the K samples, on the device."""
        return torch.cat([self._objective.chunk(index)[1] for index in range(len(self._objective.edges))])

    def combine(self, weights: Tensor) -> Tensor:
        """Return J' e = sum_i e_i g_i, shape (P,), for weights e of shape (K,); charged as one gradient.

        Raises `UserError` for a loss that is known as a mean only.
        """
        source = self._objective
        if weights.shape != (source.n_samples,):
            raise SettingError("weights", tuple(weights.shape), f"must have shape ({source.n_samples},)", "one per row")
        source.charge_product("gradient", source.n_samples)
        weights = weights.to(self._w)
        with exact_arithmetic(source.device, source.allow_tf32):
            leaves = source.flat.leaves(self._w)
            result = torch.zeros_like(self._w)
            for leaf, view in zip(leaves, source.flat.views(result), strict=True):
                leaf.grad = view
            with source.flat.at(leaves, "deterministic") as evaluate:
                for index, (start, stop) in enumerate(source.edges):
                    x, y = source.chunk(index)
                    losses = source.loss.per_sample(evaluate(x), y)
                    weighted = losses @ weights[start:stop]
                    weighted.backward(inputs=leaves)
        return result
