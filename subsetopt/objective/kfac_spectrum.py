"""The eigenvalues of a curvature matrix as a histogram, and the damping that leaves a given number of directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS, BISECTIONS = 256, 60
NEGLIGIBLE = 1e-12  # of the largest eigenvalue: rounding
FLOOR = 0.01  # least damping, in mean eigenvalues: what few samples say of flat directions is noise


@dataclass(frozen=True)
class KfacSpectrum:
    """`counts` eigenvalues near each of `values`, both `(BINS,)` in float64 on the host; `mean` is that of all P."""

    values: Tensor
    counts: Tensor
    mean: float

    @classmethod
    def of(cls, eigenvalues: Tensor) -> KfacSpectrum:
        """Count eigenvalues `(P,)`, none negative, in logarithmic bins; one host synchronisation."""
        kept = eigenvalues.double().cpu()
        mean = float(kept.mean())
        kept = kept[kept > NEGLIGIBLE * kept.max()].log()
        if not len(kept):
            return cls(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), mean)
        low, width = kept.min(), (kept.max() - kept.min()).clamp_min(1e-9) / BINS
        places = ((kept - low) / width).long().clamp_(0, BINS - 1)
        centres = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
        return cls(centres.exp(), torch.bincount(places, minlength=BINS).double(), mean)

    def directions(self, damping: float) -> float:
        """Return sum_i (f_i / (f_i + damping))^2, the number of directions in which a damped step goes all the way.

        With gradients of covariance F/n it is also n times the noise in d'Fd of d = (F + damping I)^-1 g.
        """
        return float((self.counts * (self.values / (self.values + damping)).square()).sum())

    def damping(self, directions: float) -> float:
        """Return the damping that leaves so many directions, but at least `FLOOR` mean eigenvalues."""
        low = max(FLOOR * self.mean, torch.finfo(torch.float64).tiny)
        if self.directions(low) <= directions:
            return low
        high = low
        while self.directions(high) > directions:
            low, high = high, 16.0 * high
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            if self.directions(middle) > directions:
                low = middle
            else:
                high = middle
        return high
