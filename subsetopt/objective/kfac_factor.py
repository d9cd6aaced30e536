"""One Kronecker factor of K-FAC: a symmetric second moment, and what of its eigendecomposition is worth having.

A wide factor is taken apart by one step of subspace iteration on its leading eigenvectors (Halko, Martinsson and Tropp
2011, section 4.5), from where it stood the time before; all other directions share their mean eigenvalue. For a width
of 785 and 64 vectors that is a twentieth of the arithmetic of a whole decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

EIGH_FLOPS = 9.0  # d^3 operations of a symmetric eigendecomposition with vectors (Golub and Van Loan 2013, section 8.3)
RANK = 64  # eigenvectors of a factor at least `WIDE` times as wide
WIDE = 3
TENSORS = ("moment", "decomposed", "basis", "spectrum", "rest")


@dataclass
class Factor:
    """A second moment M (d, d), near V diag(spectrum) V' + rest (I - V V') with V = `basis` (d, r).

    `decomposed` is the moment that was taken apart last; `rest` is a 0-d tensor, zero where r = d.
    """

    moment: Tensor
    decomposed: Tensor
    basis: Tensor
    spectrum: Tensor
    rest: Tensor

    @classmethod
    def of(cls, moment: Tensor) -> Factor:
        """Return a factor for moments of this shape that knows nothing yet."""
        nothing = torch.zeros_like(moment)
        return cls(nothing, nothing, nothing[:, :0], moment.new_zeros(0), moment.new_zeros(()))

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], prefix: str) -> Factor:
        """Take back what `state` returned."""
        return cls(*(tensors[prefix + name] for name in TENSORS))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return its tensors under names that begin with `prefix`."""
        return {prefix + name: getattr(self, name) for name in TENSORS}

    @property
    def eigenvalues(self) -> Tensor:
        """All d of them."""
        return torch.cat([self.spectrum, self.rest.expand(len(self.moment) - len(self.spectrum))])

    @property
    def price(self) -> float:
        """Operations of the next `refresh`."""
        d = len(self.moment)
        if not _is_wide(d):
            return EIGH_FLOPS * d**3
        passes = 1 if self.basis.shape[1] else 2
        return (2.0 * passes + 2.0) * d * d * RANK + (4.0 * passes + 4.0) * d * RANK**2 + EIGH_FLOPS * RANK**3

    def refresh(self, generator: torch.Generator) -> None:
        """Decompose the moment anew; rounding may leave eigenvalues just below zero, which are set to zero."""
        moment, d = self.moment, len(self.moment)
        if not _is_wide(d):
            spectrum, self.basis = torch.linalg.eigh(moment)
            self.spectrum = spectrum.clamp_min_(0.0)
        else:
            start = self.basis
            if not start.shape[1]:
                start = torch.linalg.qr(moment @ torch.randn(d, RANK, generator=generator).to(moment)).Q
            q = torch.linalg.qr(moment @ start).Q
            spectrum, vectors = torch.linalg.eigh(q.T @ (moment @ q))
            self.spectrum, self.basis = spectrum.clamp_min_(0.0), q @ vectors
            self.rest = ((moment.trace() - self.spectrum.sum()) / (d - RANK)).clamp_min_(0.0)
        self.decomposed = moment


def spectral_product(a: Factor, g: Factor, matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the product of `function` of G (x) A with a layer's `matrix` (o, d), o the width of g and d that of a.

    The eigenvalues are g_i a_j; where both have a rest, each pair of kinds of directions has its own term.
    """
    left, right = g.basis, a.basis
    both = function(torch.outer(g.spectrum, a.spectrum))
    rotated = left.T @ matrix @ right
    if left.shape[0] == left.shape[1] and right.shape[0] == right.shape[1]:
        return left @ (both * rotated) @ right.T
    ga, ag, rest = function(g.spectrum * a.rest), function(a.spectrum * g.rest), function(a.rest * g.rest)
    inner = (both - ga[:, None] - ag + rest) * rotated
    inner = left @ (inner @ right.T + (ga - rest)[:, None] * (left.T @ matrix))
    return inner + ((ag - rest) * (matrix @ right)) @ right.T + rest * matrix


def _is_wide(d: int) -> bool:
    return d >= WIDE * RANK
