"""The eigenvalues of a curvature matrix as a histogram, and the damping that leaves a given number of directions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.host import host_read

BINS, BISECTIONS = 256, 60
BLOCK = 1 << 18  # eigenvalues in float64 at a time
NEGLIGIBLE = 1e-12  # of the largest eigenvalue: rounding
Part = tuple[Tensor, Tensor | None]
"""Eigenvalues, and how often each of them occurs: None for once."""
FLOOR = 0.01  # least damping, in mean eigenvalues: what few samples say of flat directions is noise


@dataclass(frozen=True)
class KfacSpectrum:
    """`counts` eigenvalues near each of `values`, both `(BINS,)` in float64 on the host; `mean` is that of all P."""

    values: Tensor
    counts: Tensor
    mean: float

    @classmethod
    def of(cls, eigenvalues: Tensor, times: Tensor | None = None) -> KfacSpectrum:
        """Count eigenvalues, none negative, in logarithmic bins, each so many `times`; one host synchronisation.

        Without eigenvalues, or with zeros alone, there are no counts, and every damping leaves no direction.
        """
        return cls.of_parts([(eigenvalues, times)])

    @classmethod
    def of_parts(cls, parts: Sequence[Part]) -> KfacSpectrum:
        """Return the same for eigenvalues in several tensors, which are not copied into one; same bits."""
        parts = [(values.flatten(), times) for values, times in parts if values.numel()]
        if not parts:
            return cls(_values(0.0, 0.0), torch.zeros(BINS, dtype=torch.float64, device="cpu"), 0.0)
        device = parts[0][0].device
        wide = accumulation_dtype(device)
        weighted = any(times is not None for _, times in parts)
        largest = torch.stack([values.max() for values, _ in parts]).max().to(wide)
        extremes, sums, numbers = [], [], []
        for values, often in _blocks(parts):
            extremes.append(torch.stack(_logs(values.to(wide), largest)[0].aminmax()))
            weights = often.to(wide) if weighted else torch.ones_like(values, dtype=wide)
            sums.append((values.to(wide) * weights).sum())
            numbers.append(weights.sum())
        low, high = torch.stack(extremes)[:, 0].min(), torch.stack(extremes)[:, 1].max()
        width = (high - low).clamp_min(1e-9) / BINS
        counts = torch.zeros(BINS, dtype=wide, device=device)
        for values, often in _blocks(parts):
            logs, kept = _logs(values.to(wide), largest)
            places = ((logs - low) / width).long().clamp_(0, BINS - 1)
            counts.scatter_add_(0, places, kept * often.to(logs) if weighted else kept.to(logs))
        average = torch.stack(sums).sum() / torch.stack(numbers).sum()
        lowest, bin_width, mean, *counted = host_read(torch.cat([torch.stack([low, width, average]), counts]))
        return cls(_values(lowest, bin_width), torch.tensor(counted, dtype=torch.float64, device="cpu"), mean)

    @property
    def largest(self) -> float:
        """The largest eigenvalue, to a bin's width; 0 without any."""
        return float(self.values[self.counts > 0].max()) if bool((self.counts > 0).any()) else 0.0

    def directions(self, damping: float) -> float:
        """Return sum_i (f_i / (f_i + damping))^2, the number of directions in which a damped step goes all the way.

        With gradients of covariance F/n it is also n times the noise in d'Fd of d = (F + damping I)^-1 g.
        """
        return float((self.counts * (self.values / (self.values + damping)).square()).sum())

    def traces(self, damping: float) -> tuple[float, float]:
        """Return sum_i f_i / (f_i + damping) and sum_i f_i^2 / (f_i + damping)."""
        shares = self.counts * self.values / (self.values + damping)
        return float(shares.sum()), float((shares * self.values).sum())

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


def _blocks(parts: Sequence[Part]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `BLOCK` eigenvalues at a time of all parts in a row, and how often each occurs."""
    values, times, length = list[Tensor](), list[Tensor](), 0
    for part, often in parts:
        often = torch.ones((), dtype=torch.long, device=part.device).expand_as(part) if often is None else often
        start = 0
        while start < len(part):
            stop = min(len(part), start + BLOCK - length)
            values.append(part[start:stop])
            times.append(often[start:stop])
            length, start = length + stop - start, stop
            if length == BLOCK:
                yield torch.cat(values), torch.cat(times)
                values, times, length = [], [], 0
    if length:
        yield torch.cat(values), torch.cat(times)


def _logs(wide: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of eigenvalues, of the largest in place of negligible ones, and which are none."""
    kept = wide > NEGLIGIBLE * largest
    return torch.where(kept, wide, largest).log_(), kept


def _values(low: float, width: float) -> Tensor:
    """Return the centres of the bins, none of which has anything in it where these are not finite."""
    if not math.isfinite(low):
        return torch.zeros(BINS, dtype=torch.float64, device="cpu")
    return (low + width * (torch.arange(BINS, dtype=torch.float64, device="cpu") + 0.5)).exp()
