"""Curvature of layers as it stands in the optimizer's state: taken in, solved with, multiplied by.

The state of a layer's weight holds the factors of weight and bias under the names of `Factor` and `Eigenvalues`; that
of a parameter without factors its `diagonal`. So torch's own `state_dict` saves and loads everything.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.kfac.eigenvalues import Eigenvalues, spectral_product
from subsetopt.objective.kfac.factor import Factor
from subsetopt.objective.kfac.second_moments import diagonal_moments, kronecker_moments
from subsetopt.objective.layers import Layer
from subsetopt.objective.patches import as_matrix, as_weight, is_transposed, sample_rows
from subsetopt.objective.sharding import SampleShare

DRIFT = 0.1  # of its Frobenius norm by which a moment changes before it is decomposed anew (see `Kfac`)

State = MutableMapping[str, Any]
Calls = list[tuple[Tensor, Tensor]]


@dataclass
class Estimate:
    """What one backward pass tells of a layer, on this rank: `moments` (A, G) of a Kronecker layer, or diagonals."""

    layer: Layer
    calls: Calls
    moments: list[Tensor]


def estimate(layer: Layer, calls: Calls, n: int, generator: torch.Generator, share: SampleShare) -> Estimate:
    """Return the moments of a layer whose `calls` are inputs and output gradients of n predictions."""
    gradients = [g for _, g in calls]
    read = Layer(layer.module, layer.weight, layer.bias, calls)
    if layer.kronecker:
        return Estimate(layer, calls, list(kronecker_moments(read, gradients, n, generator, share)))
    return Estimate(layer, [], [moment for moment in diagonal_moments(read, gradients, n) if moment is not None])


class Block:
    """The factors of a Kronecker layer: its weight, `(o, ...)`, and its bias if that is trained."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.a, self.g = Factor.from_state(state, "a."), Factor.from_state(state, "g.")
        self.values = Eigenvalues.from_state(state, "eigenvalues.")

    @staticmethod
    def fold(state: State, found: Estimate, memory: float, share: SampleShare, generator: torch.Generator) -> None:
        """Take an estimate, whose moments are those of all ranks, into the running means in `state`."""
        a, g = found.moments
        known = "a.moment" in state and state["a.moment"].shape == a.shape
        updates = int(state["updates"]) if known else 0
        pair = (
            (Factor.from_state(state, "a."), Factor.from_state(state, "g.")) if known else (Factor.of(a), Factor.of(g))
        )
        weight = max(1.0 / (updates + 1), 1.0 - memory)
        for factor, moment in zip(pair, (a, g), strict=True):
            change, before = factor.change(moment, weight)
            factor.take_in(moment, weight)
            if not factor.basis.shape[1] or bool(change > DRIFT * before):
                factor.refresh(generator)
        values = _eigenvalues(found, *pair, share)
        if known:
            values = Eigenvalues.from_state(state, "eigenvalues.").lerp(values, weight)
        state.update(pair[0].state("a.") | pair[1].state("g.") | values.state("eigenvalues."))
        state["updates"] = updates + 1
        if is_transposed(found.layer.module):
            state["transposed"] = True

    @property
    def spectrum(self) -> Tensor:
        """The eigenvalues, (o d,)."""
        return self.values.all(len(self.g.moment), len(self.a.moment))

    @property
    def has_bias_column(self) -> bool:
        """Whether the last column of the block is the bias."""
        return bool(self._state["bias"])

    def spectral(
        self, weight: Tensor, bias: Tensor | None, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the product of a function of the block, by its action on the eigenvalues, with weight and bias."""
        transposed = bool(self._state.get("transposed", False))
        matrix = as_matrix(weight, transposed)
        if self.has_bias_column:
            column = matrix.new_zeros(len(matrix)) if bias is None else bias
            matrix = torch.cat([matrix, column[:, None]], 1)
        else:
            matrix = matrix.clone()
        solved = spectral_product(self.a, self.g, self.values, matrix, function)
        own = solved[:, :-1] if self.has_bias_column else solved
        return as_weight(own, weight.shape, transposed), None if bias is None else solved[:, -1]


def fold_diagonal(state: State, moment: Tensor, memory: float) -> None:
    """Take a diagonal estimate into the running mean in `state`."""
    known = state.get("diagonal")
    updates = int(state["updates"]) if known is not None and known.shape == moment.shape else 0
    weight = max(1.0 / (updates + 1), 1.0 - memory)
    state["diagonal"] = moment.clone() if known is None or not updates else torch.lerp(known, moment, weight)
    state["updates"] = updates + 1


def _eigenvalues(found: Estimate, a: Factor, g: Factor, share: SampleShare) -> Eigenvalues:
    """Return them on the samples of all ranks."""
    bias = found.layer.bias is not None
    values = Eigenvalues.of(sample_rows(found.layer.module, bias, found.calls), a, g, share.total)
    share.ranks.sum_(*values.tensors)
    return values
