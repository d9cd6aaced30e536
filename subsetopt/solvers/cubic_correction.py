"""The curvature at the end of a step, by the cubic through the losses and slopes of both ends."""

from __future__ import annotations


def curvature_correction(decrease: float, slope: float, new_slope: float, noise: float) -> float:
    """Return t such that t s·y is the curvature sᵀH s at the end of a step rather than its mean along the step.

    It belongs to the cubic through both losses and slopes (Biggs 1973; Zhang, Deng & Chen 1999): t = 1 + theta / s·y,
    theta = 6 (f - f') + 3 (g + g')·s, within [1/2, 2]; `slope` and `new_slope` are g·s and g'·s, `decrease` is f - f'.
    1 where the rounding error of the losses, `noise`, could move t by more than a hundredth.
    """
    sy = new_slope - slope
    if not 1200 * noise <= sy:
        return 1.0
    return min(max(1 + (6 * decrease + 3 * (slope + new_slope)) / sy, 0.5), 2.0)
