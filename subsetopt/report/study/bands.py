"""Mean curve and its 95 % band over the seeds of one method, on a common axis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from subsetopt.report.study.files import CurvePoint

Axis = Literal["cost", "seconds"]
Floats = npt.NDArray[np.float64]
_POINTS = 80


@dataclass(frozen=True)
class Band:
    """A mean curve over n seeds with pointwise 95 % limits; all arrays have shape (points,)."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int


def seed_band(points: Iterable[CurvePoint], axis: Axis, *, log: bool) -> Band | None:
    """Return the mean curve of several seeds against cost or seconds, None where there is no curve.

    Every seed is interpolated linearly on a common grid that begins where the last seed has its first value; a run
    that stopped earlier than others keeps its last value. The band is Student's t interval, mean ± t·s/√n. With `log`
    all of this happens on the logarithms: the line is the geometric mean, and the band cannot fall below zero.
    """
    curves = _by_seed(points, axis)
    if not curves:
        return None
    start, end = max(x[0] for x, _ in curves), max(x[-1] for x, _ in curves)
    grid = np.linspace(start, end, _POINTS if end > start else 1)
    losses = np.stack([np.interp(grid, x, np.log(y) if log else y) for x, y in curves])
    mean = losses.mean(axis=0)
    half = _half_width(losses)
    low, high = mean - half, mean + half
    if log:
        mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
    return Band(grid, mean, low, high, len(curves))


def _half_width(samples: Floats) -> Floats:
    """Return t·s/√n of `samples` with shape (n, points); zero for a single seed, whose spread is unknown."""
    n = len(samples)
    if n < 2:
        return np.zeros(samples.shape[1])
    quantile = float(stdtrit(n - 1, 0.975))
    return np.asarray(quantile * samples.std(axis=0, ddof=1) / np.sqrt(n))


def _by_seed(points: Iterable[CurvePoint], axis: Axis) -> list[tuple[Floats, Floats]]:
    seeds: defaultdict[int, list[CurvePoint]] = defaultdict(list)
    for point in points:
        seeds[point.seed].append(point)
    return [_ordered(seeds[seed], axis) for seed in sorted(seeds)]


def _ordered(points: Sequence[CurvePoint], axis: Axis) -> tuple[Floats, Floats]:
    pairs = sorted(((getattr(point, axis), point.value) for point in points), key=lambda pair: pair[0])
    return np.array([x for x, _ in pairs], dtype=float), np.array([y for _, y in pairs], dtype=float)
