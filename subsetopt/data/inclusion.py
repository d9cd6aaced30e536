"""Draws with unequal probabilities: each sample's chance to be drawn, and a draw that has exactly these chances.

A sum over the rows drawn, each divided by its chance, has the mean of the sum over all rows (Horvitz and Thompson 1952,
"A generalization of sampling without replacement from a finite universe").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inclusion_probabilities(scores: Tensor, size: int, uniform: float) -> Tensor:
    """Return p_i = min(1, kappa ((1 - uniform) s_i / sum s + uniform / N)) with sum p = size, float64 (N,) on the CPU.

    `scores` (N,) are s_i >= 0; where they are all zero, or one is not finite, all rows have the same chance. `size` is
    1 to N, `uniform` in (0, 1] the part that all rows share alike, so that none has weights without bound.
    """
    s = scores.detach().to("cpu", torch.float64)
    largest = float(s.max())
    # Scaled by the largest first: the sum of huge or tiny scores must neither overflow nor vanish.
    s = s / largest if math.isfinite(largest) and largest > 0 else torch.ones_like(s)
    share = (1.0 - uniform) * s / s.sum() + uniform / len(s)
    ordered, order = share.sort(descending=True, stable=True)
    rest = ordered.flip(0).cumsum(0).flip(0)  # what is left when the larger ones are certain
    certain = torch.arange(len(s), dtype=torch.float64, device="cpu")
    factor = (size - certain) / rest
    count = int((factor * ordered >= 1.0).to(torch.int8).argmin()) if size < len(s) else len(s)
    probabilities = torch.ones_like(share)
    if count < len(s):
        probabilities[order[count:]] = (factor[count] * ordered[count:]).clamp(max=1.0)
    return probabilities


def systematic_draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each row with its own chance p_i, sum p of them in all; returns sorted int64 row numbers.

    Systematic sampling (Madow 1949) in a random order: the rows lie one after the other on a line, each as long as its
    chance, and those are drawn on which points at distance 1 fall, the first of them at random. `probabilities` (N,)
    are float64 in (0, 1], and their sum is a whole number.
    """
    sure = (probabilities >= 1.0).nonzero().flatten()
    others = (probabilities < 1.0).nonzero().flatten()
    others = others[torch.randperm(len(others), generator=generator)]
    start = torch.rand((), generator=generator, dtype=torch.float64)
    if not len(others):
        return sure
    ends = probabilities[others].cumsum(0)
    ends[-1] = ends[-1].round()  # rounding must not move the last point off the line
    points = (ends - start).ceil()
    drawn = points > torch.cat([points.new_zeros(1), points[:-1]])
    return torch.cat([sure, others[drawn]]).sort().values
