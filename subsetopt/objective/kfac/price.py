"""What an estimate of K-FAC costs: counted once, by running it without its results, in gradients of one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.flops import count_flops
from subsetopt.objective.kfac.eigenvalues import product_flops
from subsetopt.objective.kfac.factor import Factor
from subsetopt.objective.kfac.moments import MomentEstimator
from subsetopt.objective.losses import Loss
from subsetopt.objective.patches import as_matrix, is_transposed
from subsetopt.objective.sharding import SampleShare

COUNTED_SAMPLES = 8


class EstimatePrice:
    """Prices of the estimates that `moments` makes of a model, in gradients of one sample."""

    def __init__(self, flat: FlatModel, loss: Loss, moments: MomentEstimator) -> None:
        self._flat, self._loss, self._moments = flat, loss, moments
        self._counted: tuple[float, float] | None = None

    def estimate(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare, vectors: int) -> int:
        """Return what an estimate with factors of so many `vectors`, on all ranks, costs without decompositions."""
        if self._counted is None:
            self._counted = self._flops(w, x, y, share, vectors)
        return math.ceil(self._counted[0] * share.total)

    def decomposition(self, factors: Sequence[Factor]) -> int:
        """Return what decomposing these factors costs; an estimate was priced before."""
        assert self._counted is not None, "the estimate was priced first"
        gradient = self._counted[1]
        return math.ceil(sum(factor.price for factor in factors) / gradient) if gradient else 0

    def product_flops(self, vectors: int) -> int:
        """Return the operations of a product with factors that keep at most so many vectors, by their shapes."""
        views, total = self._flat.views(torch.empty(self._flat.size, device="meta")), 0
        for layer in self._moments.kronecker:
            assert layer.weight is not None, "a Kronecker layer has a trainable weight"
            o, d = as_matrix(views[layer.weight], is_transposed(layer.module)).shape
            widths = (d + (layer.bias is not None), o)
            a, g = (Factor.shaped(torch.empty(n, n, device="meta"), vectors) for n in widths)
            total += product_flops(a, g)
        return total

    def _flops(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare, vectors: int) -> tuple[float, float]:
        """Return the flops of an estimate over those of a gradient, per sample, and those of the gradient of one."""
        few = min(COUNTED_SAMPLES, len(x))
        estimate = count_flops(lambda: self._estimate_own(w, x, y, share, vectors))
        gradient = count_flops(lambda: self._gradient(w, x[:few], y[:few])) / few if few else 0.0
        gathered = share.ranks.gather((estimate, gradient))
        gradient = max(each for _, each in gathered)
        return (sum(all_ for all_, _ in gathered) / share.total / gradient, gradient) if gradient else (1.0, 0.0)

    def _estimate_own(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare, vectors: int) -> None:
        own = self._moments.own(w, x, y, torch.Generator(), share)
        for layer, calls, (a, g) in zip(self._moments.kronecker, own.calls, own.factors, strict=True):
            shaped = Factor.shaped(a, vectors), Factor.shaped(g, vectors)
            self._moments.own_eigenvalues(layer, calls, shaped, share.total)

    def _gradient(self, w: Tensor, x: Inputs, y: Tensor) -> None:
        leaves = self._flat.leaves(w)
        with self._flat.at(leaves, "deterministic") as evaluate:
            torch.autograd.grad(self._loss.total(evaluate(x), y, w.dtype), leaves, allow_unused=True)
