"""Intervals, paired tests and ranks over seeds, from scipy.stats; nothing here knows about training.

Methods share seeds, and with them the data split and the initial weights, so differences are taken seed by seed.
Holm's correction and the ranks are a few lines here: statsmodels and scikit-posthocs are a large dependency for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
POWER = 0.8
Verdict = Literal["better", "worse", "no difference"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedTest:
    """A paired difference `a - b` over the seeds that both have; `p_adjusted` is Holm's over its family.

    `detectable` is the true difference, of either sign, that such a study would have shown with probability `POWER`.
    """

    a: str
    b: str
    n: int
    difference: float | None
    interval: Interval | None
    p: float | None
    p_adjusted: float | None
    detectable: float | None
    verdict: Verdict


@dataclass(frozen=True)
class MeanRanks:
    """Mean ranks (1 is best) over the seeds that all methods have, and Friedman's test that they are all alike."""

    ranks: dict[str, float]
    n: int
    statistic: float | None
    p: float | None


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return Student's t interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0.0:
        return mean, mean
    low, high = stats.t.interval(level, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def paired_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t test that the mean difference is zero; None for fewer than two.

    Differences without any spread have no t statistic. All zero, they are no evidence (p = 1); all equal to another
    value, their p is that of the sign-flip test, 2 / 2^n.
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=float)
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return 1.0 if not values.any() else 2.0 ** (1 - len(values))
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979): at most 5 % of families have one wrongly below 0.05."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_difference(
    differences: Sequence[float], comparisons: int, power: float = POWER, level: float = LEVEL
) -> float | None:
    """Return the mean difference that the paired t test finds with probability `power`; None without any scatter.

    The scatter is that of `differences`, the level Bonferroni's for this many `comparisons`, which Holm's procedure
    asks of the first to be shown. Exact for normal differences: with nu = n - 1 and the critical value c,
    P(|T| > c) = E[Phi(d - c s) + Phi(-d - c s)], s^2 ~ chi^2_nu / nu, at d = difference sqrt(n) / deviation.
    """
    n = len(differences)
    values = np.asarray(differences, dtype=float)
    if n < 2 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None
    return _detectable_shift(n, comparisons, power, level) * float(np.std(values, ddof=1)) / math.sqrt(n)


@cache
def _detectable_shift(n: int, comparisons: int, power: float, level: float) -> float:
    """Return the noncentrality d of `detectable_difference`."""
    critical = float(stats.t.isf((1 - level) / (2 * comparisons), n - 1))
    quantiles = (np.arange(2000) + 0.5) / 2000
    scaled = critical * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))

    def missing(shift: float) -> float:
        found = stats.norm.cdf(shift - scaled) + stats.norm.cdf(-shift - scaled)
        return float(found.mean()) - power

    return float(optimize.brentq(missing, 0.0, critical * 10 + 10))


def compare_all(
    values: Mapping[str, Mapping[int, float]],
    higher_is_better: bool,
    level: float = LEVEL,
    baseline: str | None = None,
) -> list[PairedTest]:
    """Compare every pair of `{method: {seed: value}}`, or every method with `baseline` alone.

    These comparisons are one family for Holm's correction.
    """
    pairs = list(combinations(values, 2))
    if baseline is not None:
        pairs = [(name, baseline) for name in values if name != baseline]
    differences = [[values[a][seed] - values[b][seed] for seed in values[a] if seed in values[b]] for a, b in pairs]
    p_values = [paired_p(items) for items in differences]
    known = [p for p in p_values if p is not None]
    adjusted = iter(holm(known))
    rows = []
    for (a, b), items, p in zip(pairs, differences, p_values, strict=True):
        p_adjusted = None if p is None else next(adjusted)
        difference = float(np.mean(items)) if items else None
        verdict = _verdict(difference, p_adjusted, higher_is_better, 1 - level)
        detectable = detectable_difference(items, len(known), level=level)
        interval = mean_interval(items, level)
        rows.append(PairedTest(a, b, len(items), difference, interval, p, p_adjusted, detectable, verdict))
    return rows


def rank_all(values: Mapping[str, Mapping[int, float]], higher_is_better: bool) -> MeanRanks | None:
    """Rank the methods within each seed that all have; None without such a seed. Friedman's test needs three methods.

    Equal values share the mean of their ranks.
    """
    names = [name for name in values if values[name]]
    shared = [seed for seed in values[names[0]] if all(seed in values[name] for name in names)] if names else []
    if not shared:
        return None
    table = np.array([[values[name][seed] for name in names] for seed in shared])
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    means = {name: float(mean) for name, mean in zip(names, ranks.mean(axis=0), strict=True)}
    if len(names) < 3 or len(shared) < 2 or (ranks == ranks[:, :1]).all():
        return MeanRanks(means, len(shared), None, None)
    test = stats.friedmanchisquare(*table.T)
    return MeanRanks(means, len(shared), float(test.statistic), float(test.pvalue))


def _verdict(difference: float | None, p: float | None, higher_is_better: bool, alpha: float) -> Verdict:
    if difference is None or p is None or math.isnan(p) or p >= alpha:
        return "no difference"
    return "better" if (difference > 0) == higher_is_better else "worse"
