"""Samples of unequal weight: f(w) = sum_i s_i T_i / sum_i s_i m_i, written as the mean of c_i T_i.

s_i are the user's weights (1 where there are none), T_i is the summed loss of sample i and m_i its mass: what the loss
divides by (the class weight of the label, the number of tokens that count; 1 for most losses). The factors
c_i = s_i K / sum_j s_j m_j are fixed once for all K samples, so that chunks, ranks, random parts and mini-batches add
up to the same function: each of them takes a mean of c_i T_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.errors import DataError


def normalised(mass: Tensor | None, weights: Tensor | None, samples: int) -> Tensor | None:
    """Return the factors c_i, float64 `(samples,)` on the CPU; None where all are 1.

    `mass` has m_i and `weights` s_i, None where they are all 1. Raises `DataError` where nothing has any mass.
    """
    if mass is None and weights is None:
        return None
    s = torch.ones(samples, dtype=torch.float64, device="cpu") if weights is None else weights
    whole = float(s.sum() if mass is None else (s * mass.double().cpu()).sum())
    if not whole > 0:
        what = (
            "targets: they are all ignored, or of classes of weight 0" if bool(s.any()) else "sample_weight: all are 0"
        )
        raise DataError(f"{what}, for {samples} samples; nothing is left to train on")
    return s * (samples / whole)
