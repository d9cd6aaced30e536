"""Coverage and occupancy of the redrawn uniform samplers: closed forms, and the samplers themselves counted.

Coverage after T epochs is the expected share of samples visited at least once; occupancy is the distribution of the
number of visits of one sample. m = floor(fraction N) rows are drawn per epoch and r = m / N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from subsetopt.samplers.credit import add_at
from subsetopt.samplers.factory import make_sampler
from subsetopt.seeding import derive_seed
from subsetopt.settings import check_choice, check_count, check_fraction, rows_of

NAMES = ("full", "fixed-subset", "rs2", "srs")
_TAIL = 1e-12
_SHOWN = 1e-6  # rarer numbers of visits are left out of a comparison, unless they occurred

Vector = NDArray[np.float64]


def expected_coverage(name: str, n: int, fraction: float, epochs: int) -> float:
    """Return the expected share of `n` samples seen after `epochs` epochs of "full", "fixed-subset", "rs2" or "srs".

    rs2: 1 - (1 - r)^T. srs: 1 - (1 - 1/N)^{mT}. Raises `SettingError` for other names and for values out of range.
    """
    m = _rows(name, n, fraction, epochs)
    if name in ("full", "fixed-subset"):
        return m / n if epochs else 0.0
    if name == "rs2":
        return 1.0 - (1.0 - m / n) ** epochs
    return -math.expm1(m * epochs * math.log1p(-1 / n)) if n > 1 else float(epochs > 0)


def occupancy_pmf(name: str, n: int, fraction: float, epochs: int) -> Vector:
    """Return the probabilities that one sample is visited 0, 1, 2, ... times in `epochs` epochs.

    rs2: Binomial(T, r). srs: Binomial(mT, 1/N), cut where the tail beyond is below 1e-12. full and fixed-subset: T
    visits with probability 1 and r, otherwise none.
    """
    # Not at the top: the registry imports this module in every run, and scipy.stats alone takes most of a second.
    from scipy.stats import binom

    m = _rows(name, n, fraction, epochs)
    if name == "rs2":
        return np.asarray(binom.pmf(np.arange(epochs + 1), epochs, m / n), dtype=np.float64)
    if name == "srs":
        longest = int(binom.isf(_TAIL, m * epochs, 1 / n)) if epochs else 0
        return np.asarray(binom.pmf(np.arange(longest + 1), m * epochs, 1 / n), dtype=np.float64)
    pmf = np.zeros(epochs + 1)
    pmf[0] += 1 - m / n
    pmf[epochs] += m / n
    return pmf


def expected_epochs_to_cover(name: str, n: int, fraction: float) -> float:
    """Return the expected number of epochs until every sample has been seen; infinite where some never are.

    srs is the coupon collector: N H_N draws, about (ln N + 0.577) / r epochs (a fractional number: the last epoch
    counts up to the draw that completes the cover). rs2 takes whole epochs: sum over t >= 0 of 1 - (1 - (1 - r)^t)^N,
    with samples treated as independent, which they are up to O(1/N).
    """
    m = _rows(name, n, fraction, 1)
    if name in ("full", "fixed-subset"):
        return 1.0 if m == n else math.inf
    if name == "srs":
        return n * float((1.0 / np.arange(1, n + 1)).sum()) / m
    if m == n:
        return 1.0
    log_miss = math.log1p(-m / n)
    horizon = math.ceil((math.log(n) - math.log(_TAIL)) / -log_miss) + 1
    t = np.arange(1, horizon)
    return 1.0 + float(-np.expm1(n * np.log1p(-np.exp(t * log_miss))).sum())


@dataclass(frozen=True)
class CoverageSimulation:
    """`coverage` `(repeats, epochs)` after each epoch, `occupancy` `(repeats, most visits + 1)` shares of samples."""

    coverage: Vector
    occupancy: Vector


def simulate_coverage(
    name: str, n: int, fraction: float, epochs: int, seed: int = 0, repeats: int = 10
) -> CoverageSimulation:
    """Run the sampler itself `repeats` times, each from a seed of its own, and count what it proposes."""
    _rows(name, n, fraction, epochs)
    check_count("repeats", repeats)
    settings: dict[str, Any] = {} if name == "full" else {"fraction": fraction}
    coverage = np.empty((repeats, epochs))
    visits = torch.zeros(repeats, n, dtype=torch.int64, device="cpu")
    for repeat in range(repeats):
        sampler = make_sampler(name, n, n, seed=derive_seed(seed, f"coverage {repeat}"), **settings)
        for epoch in range(epochs):
            drawn = sampler.propose().indices
            add_at(visits[repeat], drawn, torch.ones_like(drawn))
            coverage[repeat, epoch] = float((visits[repeat] > 0).double().mean())
    most = int(visits.max())
    occupancy = torch.stack([torch.bincount(row, minlength=most + 1) for row in visits]).double() / n
    return CoverageSimulation(coverage, occupancy.numpy())


def compare_coverage(
    names: Sequence[str], n: int, fraction: float, epochs: int, seed: int = 0, repeats: int = 10
) -> dict[str, Any]:
    """Return closed forms beside simulations as JSON-able numbers, for each of the samplers `names`.

    `coverage` has one entry per epoch 1 .. T: the closed form, and mean, least and greatest share over the repeats.
    `occupancy` has one entry per number of visits 0, 1, 2, ..., both lists equally long. Raises `SettingError`.
    """
    document: dict[str, Any] = {"samples": n, "fraction": fraction, "epochs": epochs, "repeats": repeats, "seed": seed}
    check_count("epochs", epochs)
    for name in names:
        simulated = simulate_coverage(name, n, fraction, epochs, seed, repeats)
        pmf, counted = occupancy_pmf(name, n, fraction, epochs), simulated.occupancy.mean(0)
        most = max(np.flatnonzero(pmf > _SHOWN).max(), np.flatnonzero(counted).max()) + 1
        document.setdefault("samplers", {})[name] = {
            "rows_per_epoch": _rows(name, n, fraction, epochs),
            "epochs_to_cover": expected_epochs_to_cover(name, n, fraction),
            "coverage": {
                "closed_form": [expected_coverage(name, n, fraction, epoch) for epoch in range(1, epochs + 1)],
                "simulated": simulated.coverage.mean(0).tolist(),
                "least": simulated.coverage.min(0).tolist(),
                "greatest": simulated.coverage.max(0).tolist(),
            },
            "occupancy": {
                "closed_form": np.pad(pmf, (0, most))[:most].tolist(),
                "simulated": np.pad(counted, (0, most))[:most].tolist(),
            },
        }
    return document


def _rows(name: str, n: int, fraction: float, epochs: int) -> int:
    """Check the arguments and return m, the rows drawn per epoch."""
    check_choice("sampler", name, NAMES)
    check_count("samples", n)
    check_fraction(fraction)
    check_count("epochs", epochs, least=0)
    return n if name == "full" else rows_of(fraction, n)
