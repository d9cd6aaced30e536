"""One Kronecker factor of K-FAC: a symmetric second moment, and the eigenvectors of it that are worth having.

A wide factor is taken apart by one step of subspace iteration on its leading eigenvectors (Halko, Martinsson and Tropp
2011, section 4.5), from where it stood the time before. For a width of 785 and 64 vectors that is a twentieth of the
arithmetic of a whole decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.objective.flops import EIGH_FLOPS
from subsetopt.objective.tally import note_flops
from subsetopt.seeding import make_generator

RANK = 64  # eigenvectors of a factor at least `WIDE` times as wide
FEW = 16  # where products with all of them would cost too much
WIDE = 3
FEWEST, FULL_RANK = 16, 256  # eigenvectors of the widest; up to this width there are `RANK`
SKETCH = 16  # random directions in which the change of a wide moment is seen
TENSORS = ("moment", "decomposed", "basis")


@dataclass
class Factor:
    """A second moment (d, d) and `basis` (d, r), its leading eigenvectors; all of them where it is narrow.

    `decomposed` is the moment that was taken apart last; of a wide one its product (d, `SKETCH`) with fixed Gaussian
    vectors, which takes no second matrix: the relative norm of a change is the same in the mean. A new one keeps
    `vectors` of them at most where it is `WIDE` times as wide; one that has a basis keeps as many as that has.
    """

    moment: Tensor
    decomposed: Tensor
    basis: Tensor
    vectors: int = RANK

    @classmethod
    def of(cls, moment: Tensor, vectors: int = RANK) -> Factor:
        """Return a factor for moments of this shape that knows nothing yet, and takes no memory."""
        nothing = moment.new_zeros(()).expand_as(moment)
        if len(moment) >= WIDE * vectors:
            return cls(nothing, moment.new_zeros(len(moment), SKETCH), moment.new_zeros(len(moment), 0), vectors)
        return cls(nothing, nothing, nothing[:, :0], vectors)

    @classmethod
    def shaped(cls, moment: Tensor, vectors: int = RANK) -> Factor:
        """Return one with a basis of zeros, as wide as it will be: what arithmetic it takes is known by its shape."""
        factor = cls.of(moment, vectors)
        factor.basis = moment.new_zeros(len(moment), factor.rank)
        return factor

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], prefix: str) -> Factor:
        """Take back what `state` returned."""
        moment, decomposed, basis = (tensors[prefix + name] for name in TENSORS)
        factor = cls(moment, decomposed, basis)
        if not factor.is_wide:
            factor.basis = by_columns(factor.basis)
        return factor

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return its tensors under names that begin with `prefix`."""
        return {prefix + name: getattr(self, name) for name in TENSORS}

    @property
    def is_wide(self) -> bool:
        """Whether leading eigenvectors alone are kept."""
        d, kept = len(self.moment), self.basis.shape[1]
        return kept < d if kept else d >= WIDE * self.vectors

    @property
    def rank(self) -> int:
        """The number of eigenvectors: as a product takes operations by rank and width, fewer of the widest."""
        d = len(self.moment)
        if not self.is_wide:
            return d
        return self.basis.shape[1] or self._fewer(d)

    def _fewer(self, d: int) -> int:
        most = self.vectors
        wanted = 8 * round(most / 8 * math.sqrt(FULL_RANK / d))
        return max(min(FEWEST, most), min(most, wanted))

    @property
    def price(self) -> float:
        """Operations of the next `refresh`."""
        d, r = len(self.moment), self.rank
        if not self.is_wide:
            return EIGH_FLOPS * d**3
        passes = 1 if self.basis.shape[1] else 2
        return (2.0 * passes + 2.0) * d * d * r + (4.0 * passes + 4.0) * d * r**2 + EIGH_FLOPS * r**3

    def change(self, moment: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Return the norm of the change since the last decomposition, were `moment` taken in, and what it relates to.

        Frobenius norms, 0-d tensors.
        """
        norm = torch.linalg.matrix_norm
        changed = torch.lerp(self._seen(self.moment), self._seen(moment), weight)
        return norm(changed - self.decomposed), norm(self.decomposed)

    def take_in(self, moment: Tensor, weight: float) -> None:
        """Move the moment by a `weight` towards another, whose storage it takes over: one that was given away stays."""
        self.moment = torch.lerp(self.moment, moment, weight, out=moment)

    @property
    def is_sketched(self) -> bool:
        """Whether `decomposed` is a sketch; in the checkpoints of earlier versions it never is, and stays so."""
        return self.decomposed.shape[1] != len(self.moment)

    def _seen(self, moment: Tensor) -> Tensor:
        if not self.is_sketched:
            return moment
        d = len(moment)
        note_flops(2 * d * d * SKETCH)
        if not any(moment.stride()):  # the zeros of a new factor, which a product would write out
            return moment.new_zeros(d, SKETCH)
        generator = make_generator(d, "sketch of a moment")
        return moment @ moved(torch.randn(d, SKETCH, generator=generator), moment.device, moment.dtype)

    def refresh(self, generator: torch.Generator) -> None:
        """Find the eigenvectors of the moment anew, in the order of their eigenvalues."""
        moment, d = self.moment, len(self.moment)
        if not self.is_wide:
            self.basis = by_columns(torch.linalg.eigh(moment).eigenvectors)
        else:
            start = self.basis
            if not start.shape[1]:
                drawn = moved(torch.randn(d, self.rank, generator=generator), moment.device, moment.dtype)
                start = torch.linalg.qr(moment @ drawn).Q
            q = torch.linalg.qr(moment @ start).Q
            self.basis = q @ torch.linalg.eigh(q.T @ (moment @ q)).eigenvectors
        self.decomposed = self._seen(moment)


def by_columns(basis: Tensor) -> Tensor:
    """Return `basis` laid out by columns, as `eigh` gives it; a file has rows, with which products round otherwise."""
    return basis.mT.contiguous().mT
