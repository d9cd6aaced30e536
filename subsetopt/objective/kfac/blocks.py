"""F as it is known: Kronecker blocks of layers, a diagonal for everything else, and exact damped inverses.

(F + damping I)^-1 = (V (x) U) diag(1 / (S + damping)) (V (x) U)' for a block with factors A and G, whose eigenvectors
V and U are kept, and eigenvalues S in that basis (see `estimate.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.kfac.damping import Part
from subsetopt.objective.kfac.diagonals import Diagonals
from subsetopt.objective.kfac.eigenvalues import Eigenvalues, product_flops, spectral_product
from subsetopt.objective.kfac.factor import Factor
from subsetopt.objective.kfac.moments import MomentEstimator
from subsetopt.objective.layers import Layer
from subsetopt.objective.patches import as_matrix, as_weight, is_transposed


class Blocks:
    """The matrix of a model: `factors` and `values` (eigenvalues) of its layers, in their order, diagonals of the rest.

    Zero as long as nothing is known. `moments` tells which layers have factors; `missed` are the places of parameters
    that are used outside of their layer's calls: they have no block, though their layer has factors.
    """

    def __init__(self, flat: FlatModel, moments: MomentEstimator) -> None:
        self._flat, self._moments = flat, moments
        self.factors: list[tuple[Factor, Factor]] = []
        self.values: list[Eigenvalues] = []
        self.rest = Diagonals(flat)
        self.missed: set[int] = set()

    def parts(self, v: Tensor, function: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Yield, by places, the product of v with a function of F, given by its action on the eigenvalues.

        The function returns new tensors. What is yielded of a layer may be written over its part of v.
        """
        source = self._flat.views(v)
        for place in self._places_without():
            yield place, function(self.rest[place]).mul_(source[place])
        for layer, a, g, values in self._blocks():
            assert layer.weight is not None, "a Kronecker layer has a trainable weight"
            weight, bias = source[layer.weight], None if layer.bias is None else source[layer.bias]
            matrix = as_matrix(weight, is_transposed(layer.module))
            own = matrix.clone() if bias is None else torch.cat([matrix, bias[:, None]], 1)
            solved = spectral_product(a, g, values, own, function)
            yield (
                layer.weight,
                as_weight(solved if bias is None else solved[:, :-1], weight.shape, is_transposed(layer.module)),
            )
            if layer.bias is not None:
                yield layer.bias, solved[:, -1]

    def layer_inverse(self, weight: int, l2: float) -> Callable[[Tensor], Tensor] | None:
        """Return v -> (B + (l2 + s) I)^-1 v, B the block of the linear layer whose weight has this place.

        v is its weight and then its bias in a row, s the mean eigenvalue of B. None where there is no such block.
        """
        for layer, a, g, values in self._blocks():
            if layer.weight == weight:
                o, d = len(g.moment), len(a.moment)
                shift = l2 + values.all(o, d).mean()
                break
        else:
            return None
        inputs = d - (layer.bias is not None)

        def inverse(v: Tensor) -> Tensor:
            matrix = torch.cat([v[: o * inputs].view(o, inputs), v[o * inputs :].view(o, d - inputs)], 1)
            solved = spectral_product(a, g, values, matrix, lambda known: (known + shift).reciprocal())
            return torch.cat([solved[:, :inputs].reshape(-1), solved[:, inputs:].reshape(-1)])

        return inverse

    def counted_eigenvalues(self) -> list[Part]:
        """Return the eigenvalues of F, and how often each occurs: of diagonals, which are not copied, once."""
        pairs = [values.counted(len(g.moment), len(a.moment)) for _, a, g, values in self._blocks()]
        return [*pairs, *((self.rest[place], None) for place in self._places_without())]

    @property
    def product_flops(self) -> int:
        """Operations of one product with a function of F."""
        return sum(product_flops(a, g) for _, a, g, _ in self._blocks())

    def _blocks(self) -> Iterator[tuple[Layer, Factor, Factor, Eigenvalues]]:
        """Return the layers that have factors, with what is known of them; none before the first update."""
        known = zip(self._moments.kronecker, self.factors, self.values, strict=bool(self.factors))
        return ((layer, a, g, values) for layer, (a, g), values in known if layer.weight not in self.missed)

    def _places_without(self) -> list[int]:
        """Return the places of parameters that are in no block."""
        covered = {place for layer, *_ in self._blocks() for place in (layer.weight, layer.bias)}
        return [place for place in range(len(self._flat.shapes)) if place not in covered]
