"""L-BFGS whose initial inverse Hessian is gamma times the inverse of a preconditioner M, not gamma times the identity.

The ring holds M⁻¹ y_i instead of y_i. Its products with the s_i and y_i are then what the formulas of
`CurvaturePairs` need, of which none but the sum at the end meets a long vector: no root of M, and one product with M⁻¹
for each iteration (Nocedal & Wright 2006, section 7.2, for any initial inverse Hessian; Morales & Nocedal 2000 for
its use).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from subsetopt.objective.host import host_read
from subsetopt.saving import UNSAVED
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.inner_products import dot


@dataclass
class PreconditionedPairs(CurvaturePairs):
    """A ring whose row 2i + 1 is M⁻¹ y_i; `gram` holds s_i·y_j and y_i·M⁻¹ y_j. H0 is never a diagonal.

    `inverse` maps v to M⁻¹ v, M symmetric and positive definite; `scaled` is M⁻¹ g for the current gradient g, and
    `square` is g·M⁻¹ g.
    """

    inverse: Callable[[Tensor], Tensor] = field(metadata=UNSAVED, default=torch.clone)
    scaled: Tensor = field(metadata=UNSAVED, default_factory=lambda: torch.empty(0, device="cpu"))
    square: float = field(metadata=UNSAVED, default=0.0)

    may_scale: ClassVar[bool] = False

    @classmethod
    def around(
        cls, pairs: CurvaturePairs, inverse: Callable[[Tensor], Tensor], gradient: Tensor
    ) -> PreconditionedPairs:
        """Return the ring of `pairs`, empty or what `whole` returned, for the current gradient. One synchronisation."""
        scaled = inverse(gradient)
        (square,) = host_read(dot(gradient, scaled).reshape(1))
        known = pairs.rows, pairs.gram, pairs.with_gradient, pairs.order, pairs.measured
        return cls(*known, inverse=inverse, scaled=scaled, square=square)

    def whole(self) -> CurvaturePairs:
        """Return the ring without what belongs to M and the current gradient."""
        return CurvaturePairs(self.rows, self.gram, self.with_gradient, self.order, self.measured)

    def insert(
        self, s: Tensor, y: Tensor, gradient: Tensor, correction: float = 1.0, step: float | None = None
    ) -> float:
        """Keep (s, t M⁻¹ y); see `CurvaturePairs.insert`. One product with M⁻¹, one synchronisation."""
        scaled, at = self.inverse(gradient), self.free_rows()
        self.rows[at.start] = s
        image = torch.sub(scaled, self.scaled, out=self.rows[at.start + 1]).mul_(correction)
        pairs = ((s, s), (s, y), (y, y), (y, image), (gradient, scaled))
        self.rows_changed(at)
        rows = self.rows[: 2 * len(self.order) + 2]
        dots = torch.stack([dot(a, b) for a, b in pairs])
        *read, ss, sy, yy, y_image, square = host_read(torch.cat([self.inner_products(rows, gradient, None), dots]))
        with_gradient = np.array(read)
        curved = sy > torch.finfo(s.dtype).eps * math.sqrt(ss) * math.sqrt(yy) and y_image > 0
        self.keep(at, correction, with_gradient, correction * sy, correction * y_image, curved, step)
        self.scaled, self.square = scaled, square
        return math.sqrt(ss)

    def meet(self, gradient: Tensor) -> None:
        """Take the inner products with another current gradient. Two synchronisations."""
        super().meet(gradient)
        self.scaled = self.inverse(gradient)
        (self.square,) = host_read(dot(gradient, self.scaled).reshape(1))

    def learn(
        self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], correction: float, step: float
    ) -> float:
        """Insert the differences between two points (w, g); see `insert`."""
        (w, g), (new_w, new_g) = before, after
        return self.insert(new_w - w, new_g - g, new_g, correction, step)

    def apply(self, gradient: Tensor, square_norm: float, scale: float = 1.0) -> tuple[Tensor, float]:
        """Return (`scale` H g, g·H g) for the current gradient; see `CurvaturePairs.apply`."""
        return super().apply(self.scaled, self.square, scale)
