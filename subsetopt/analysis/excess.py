"""Predicted excess of a subset minimum over the full one, from the effective number of parameters."""

from __future__ import annotations

import math

from subsetopt.errors import SettingError


def predicted_excess(parameters: float, samples: float, total: int) -> float:
    """Return (1/2) (1/K - 1/N) p, the excess of F at the minimum of K of N samples over F*, for p effective parameters.

    `samples` is K, `total` N, `parameters` p = tr(H^-1 C).
    """
    return 0.5 * predicted_optimism(parameters, samples, total)


def predicted_optimism(parameters: float, samples: float, total: int) -> float:
    """Return (1/K - 1/N) p, by how much the loss over all N exceeds that over the subset, at the subset's minimum."""
    return (1 / samples - 1 / total) * parameters


def estimated_minimum(on_subset: float, on_all: float) -> float:
    """Return an estimate of F* from F_S(w_S) and F(w_S) at the minimum w_S of a subset: their harmonic mean.

    To first order F* lies half-way, as in Takeuchi's expansion, but nearer to F_S(w_S) where the subset is nearly
    fitted exactly. An empirical rule; measured in reports/strategies/effective-ratio.md.
    """
    return 2 / (1 / on_subset + 1 / on_all)


def samples_for_excess(parameters: float, excess: float, total: int) -> int:
    """Return the smallest K whose predicted excess is at most `excess` (absolute): K >= 1 / (2 excess / p + 1 / N).

    Raises `SettingError` unless `excess` is above 0.
    """
    if not (math.isfinite(excess) and excess > 0):
        raise SettingError("excess", excess, "must be a finite number above 0", "try 0.05, 5 % of the loss")
    if parameters <= 0:
        return 1
    return min(total, math.ceil(1 / (2 * excess / parameters + 1 / total) * (1 - 1e-12)))
