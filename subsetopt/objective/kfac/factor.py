"""One Kronecker factor of K-FAC: a symmetric second moment, and the eigenvectors of it that are worth having.

A wide factor is taken apart by one step of subspace iteration on its leading eigenvectors (Halko, Martinsson and Tropp
2011, section 4.5), from where it stood the time before. For a width of 785 and 64 vectors that is a twentieth of the
arithmetic of a whole decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.objective.flops import EIGH_FLOPS

RANK = 64  # eigenvectors of a factor at least `WIDE` times as wide
WIDE = 3
TENSORS = ("moment", "decomposed", "basis")


@dataclass
class Factor:
    """A second moment (d, d) and `basis` (d, r), its leading eigenvectors; all of them where it is narrow.

    `decomposed` is the moment that was taken apart last.
    """

    moment: Tensor
    decomposed: Tensor
    basis: Tensor

    @classmethod
    def of(cls, moment: Tensor) -> Factor:
        """Return a factor for moments of this shape that knows nothing yet."""
        nothing = torch.zeros_like(moment)
        return cls(nothing, nothing, nothing[:, :0])

    @classmethod
    def shaped(cls, moment: Tensor) -> Factor:
        """Return one with a basis of zeros, as wide as it will be: what arithmetic it takes is known by its shape."""
        factor = cls.of(moment)
        factor.basis = moment.new_zeros(len(moment), RANK if factor.is_wide else len(moment))
        return factor

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], prefix: str) -> Factor:
        """Take back what `state` returned."""
        factor = cls(*(tensors[prefix + name] for name in TENSORS))
        if not factor.is_wide:
            factor.basis = by_columns(factor.basis)
        return factor

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return its tensors under names that begin with `prefix`."""
        return {prefix + name: getattr(self, name) for name in TENSORS}

    @property
    def is_wide(self) -> bool:
        """Whether `RANK` eigenvectors alone are kept."""
        return len(self.moment) >= WIDE * RANK

    @property
    def price(self) -> float:
        """Operations of the next `refresh`."""
        d = len(self.moment)
        if not self.is_wide:
            return EIGH_FLOPS * d**3
        passes = 1 if self.basis.shape[1] else 2
        return (2.0 * passes + 2.0) * d * d * RANK + (4.0 * passes + 4.0) * d * RANK**2 + EIGH_FLOPS * RANK**3

    def refresh(self, generator: torch.Generator) -> None:
        """Find the eigenvectors of the moment anew, in the order of their eigenvalues."""
        moment, d = self.moment, len(self.moment)
        if not self.is_wide:
            self.basis = by_columns(torch.linalg.eigh(moment).eigenvectors)
        else:
            start = self.basis
            if not start.shape[1]:
                drawn = moved(torch.randn(d, RANK, generator=generator), moment.device, moment.dtype)
                start = torch.linalg.qr(moment @ drawn).Q
            q = torch.linalg.qr(moment @ start).Q
            self.basis = q @ torch.linalg.eigh(q.T @ (moment @ q)).eigenvectors
        self.decomposed = moment


def by_columns(basis: Tensor) -> Tensor:
    """Return `basis` laid out by columns, as `eigh` gives it; a file has rows, with which products round otherwise."""
    return basis.mT.contiguous().mT
