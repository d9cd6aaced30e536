"""The noise of a gradient against Gaussian gradients of known signal and covariance, and what follows it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from subsetopt.training.phases.kfac_stream.noise import (
    ENOUGH,
    LEAST_SHARE,
    LEAST_STEPS,
    OF_CRITICAL,
    OF_ROOT,
    PASS_STEPS,
    SMALLEST_PART,
    STEPS,
    TRUST,
    UNMEASURED,
    GradientNoise,
)

P, SIZE = 40, 64


def gaussian(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean gradient, standard deviations of the samples' gradients, and the diagonal of M^-1: float64."""
    spread = torch.linspace(0.2, 3.0, P, dtype=torch.float64)
    return scale * torch.full((P,), 0.1, dtype=torch.float64), scale * spread, 1 / (spread.square() + 0.5) / scale**2


def measured(times: int, scale: float = 1.0, signal: bool = True, rescaled: bool = True) -> GradientNoise:
    """A noise that has learnt from subsets of `SIZE` samples, drawn with one seed."""
    mean, spread, inverse = gaussian(scale)
    generator, noise = torch.Generator().manual_seed(0), GradientNoise(rescaled=rescaled)
    for _ in range(times):
        drawn = torch.randn(2, P, generator=generator, dtype=torch.float64)
        first, second = (mean if signal else 0.0) + spread * drawn / (SIZE / 2) ** 0.5
        whole = (first + second) / 2
        noise.learn(float(first @ (inverse * second)), float(whole @ (inverse * whole)), SIZE)
    return noise


def test_signal_and_noise_are_unbiased(monkeypatch):
    """Means of many measurements against g'M^-1 g and tr(M^-1 C), to five standard errors."""
    monkeypatch.setattr("subsetopt.training.phases.kfac_stream.noise.MEMORY", 1.0)  # plain means
    mean, spread, inverse = gaussian()
    times, noise = 4000, measured(4000, rescaled=False)
    variances = inverse * spread.square()
    error = math.sqrt(2 * float(variances.square().sum())) / (SIZE / 2) / times**0.5
    assert noise.signal == pytest.approx(float(mean @ (inverse * mean)), abs=5 * error)
    assert noise.noise == pytest.approx(float(variances.sum()), rel=0.02)
    critical = float(variances.sum() / (mean @ (inverse * mean)))
    assert noise.critical(SIZE) == pytest.approx(critical, rel=0.1)
    assert noise.share(critical) == pytest.approx(0.5, abs=0.03)


def test_the_share_of_signal_is_nearly_unbiased_where_means_are_rescaled(monkeypatch):
    """Rare small measurements rescale the means: the share is that of the true signal, to a tenth."""
    monkeypatch.setattr("subsetopt.training.phases.kfac_stream.noise.MEMORY", 0.999)
    mean, spread, inverse = gaussian(2.0)
    signal, variance = float(mean @ (inverse * mean)), float((inverse * spread.square()).sum())
    assert measured(4000, 2.0).share(SIZE) == pytest.approx(signal / (signal + variance / SIZE), rel=0.1)


def test_the_share_of_signal_is_that_of_today_when_squared_gradients_have_fallen():
    """Early measurements a million times as large, nearly all signal; since then a tenth of it is."""
    shares = []
    for rescaled in (True, False):
        noise = GradientNoise(rescaled=rescaled)
        for size, share in [(1e6, 0.9)] * 3 + [(1.0, 0.1)] * 40:
            noise.learn(share * size, size, SIZE)
        shares.append(noise.share(SIZE))
    assert shares[0] < 0.3, "a tenth, and what is left of the first after forty with a weight of a tenth each"
    assert shares[1] == pytest.approx(0.9, abs=0.01), "means of squares are those of the earliest"


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_gradients_is_nothing_to_what_follows(scale):
    """Gradients times c with a metric of c^-2: M grows as the loss does, twice over, in squares of gradients."""
    plain, scaled = measured(20), measured(20, scale)
    assert scaled.share(SIZE) == pytest.approx(plain.share(SIZE), rel=1e-9)
    assert scaled.next_size(0.5, 1e5, 10.0, 16, 10**6) == plain.next_size(0.5, 1e5, 10.0, 16, 10**6)
    assert scaled.trust(300) == pytest.approx(plain.trust(300), rel=1e-9)


def test_noise_without_signal_asks_for_the_largest_subsets_and_the_shortest_steps():
    noise = measured(60, signal=False)
    for _ in range(60):
        size = noise.next_size(0.5, 30_720.0, 1.0, 16, 10**6)
    assert size == 30_720 / STEPS
    assert noise.trust(SIZE) < 0.3 * TRUST
    silent = GradientNoise(signal=-1.0, noise=3.0, measured=50)
    assert silent.share(SIZE) == LEAST_SHARE and silent.trust(SIZE) == TRUST * LEAST_SHARE


def test_signal_without_noise_asks_for_the_smallest_subsets():
    noise = GradientNoise(signal=1.0, noise=0.0, measured=50, size=1000.0)
    for _ in range(60):
        size = noise.next_size(0.5, 30_720.0, 0.0, 16, 10**6)
    assert size == round(30_720 / STEPS / SMALLEST_PART)
    assert noise.trust(size) == TRUST and noise.momentum(size) == 0.5
    for _ in range(60):
        size = noise.next_size(0.5, 30_720.0, 0.0, 16, 3200)
    assert size == 3200 / PASS_STEPS, "many passes over few samples"


def test_subsets_follow_the_critical_size_and_the_arithmetic_of_a_step():
    """The wanted size, far from all bounds: 0.7 of the critical one, or sqrt(arithmetic * critical) if that is more."""
    known = GradientNoise(signal=2.0, noise=2000.0, measured=50)
    assert known.critical(123.0) == pytest.approx(1000.0)
    for arithmetic, wanted in ((1.0, OF_CRITICAL * 1000), (2000.0, math.sqrt(2000 * 1000))):
        noise = replace(known, size=wanted)
        assert noise.next_size(0.5, 200_000.0, arithmetic, 16, 10**6) == round(wanted)
    best = min(range(10, 5000, 10), key=lambda b: (b + 2000) * (b + 1000) / b)  # cost over progress
    assert best == pytest.approx(math.sqrt(2000 * 1000), rel=0.01)


def test_what_can_be_paid_bounds_subsets_whatever_n():
    """As many steps as `STEPS`, or a share of the root of a large budget; where arithmetic takes as much, half of the
    first; never more samples than there are."""
    for pays in (3_000.0, 30_000.0, 3e6):
        noise = GradientNoise(signal=1e-9, noise=1.0, measured=50)
        for _ in range(100):
            size = noise.next_size(0.9, pays, 0.0, 16, 10**7)
        assert size == round(pays / max(STEPS, OF_ROOT * math.sqrt(pays)))
        assert noise.next_size(0.9, pays, 1e9, 16, 10**7) <= size * 1.15 + 1
    assert size == 6928, "3e6 samples in a quarter of their root, 433 steps"
    before = GradientNoise(signal=1e-9, noise=1.0, measured=50, size=3e6 / STEPS, of_root=0.0)
    assert before.next_size(0.9, 3e6, 0.0, 16, 10**7) == round(3e6 / STEPS), "streams of earlier versions"
    dear = GradientNoise(signal=1e-9, noise=1.0, measured=50)
    for _ in range(100):
        size = dear.next_size(0.9, 4800.0, 1e9, 16, 10**7)
    assert size == 4800 / LEAST_STEPS
    assert GradientNoise().next_size(0.0, math.inf, 1.0, 16, 300) <= 300
    assert GradientNoise().next_size(0.0, 0.0, 1.0, 16, 300) == 16


def test_what_is_not_finite_is_not_learnt_and_few_measurements_are_not_followed():
    noise = GradientNoise()
    for value in (math.nan, math.inf):
        noise.learn(value, 1.0, 10)
        noise.learn(1.0, value, 10)
    assert noise == GradientNoise()
    for _ in range(ENOUGH - 1):
        noise.learn(1.0, 1.0, 10)
        assert noise.share(10) == UNMEASURED
    noise.learn(1.0, 1.0, 10)
    assert noise.share(10) == 1.0


def of_all_halves(gradients: torch.Tensor, half: int) -> GradientNoise:
    """What is learnt from every pair of disjoint halves of a set of gradients, in plain means."""
    n = len(gradients)
    noise = GradientNoise(population=n)
    products, wholes = [], []
    for first in itertools.combinations(range(n), half):
        for second in itertools.combinations(sorted({*range(n)} - {*first}), half):
            g1, g2 = gradients[list(first)].mean(0), gradients[list(second)].mean(0)
            products.append(float(g1 @ g2))
            wholes.append(float(((g1 + g2) / 2).square().sum()))
    for _ in range(ENOUGH):
        noise.learn(sum(products) / len(products), sum(wholes) / len(wholes), 2 * half)
    return noise


@pytest.mark.parametrize(("half", "shift"), [(1, 0.0), (2, 0.3), (3, 0.0), (3, 0.3)])
def test_halves_of_a_finite_set_tell_its_gradient_and_its_variance_exactly(half, shift):
    """Over all ways to draw them. Before, the signal of a set whose gradient is zero was negative."""
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows - rows.mean(0) + shift
    noise = of_all_halves(rows, half)
    whole, variance = float(rows.mean(0).square().sum()), float(rows.var(0).sum())
    assert noise.noise == pytest.approx(variance)
    assert noise.whole_signal == pytest.approx(whole, abs=1e-12)
    for size in range(1, 6):
        means = torch.stack([rows[list(each)].mean(0) for each in itertools.combinations(range(6), size)])
        scatter = float((means - rows.mean(0)).square().sum(1).mean())
        assert noise.noise / noise.independent(size) == pytest.approx(scatter)
        share = whole / (whole + scatter)
        assert noise.share(size) == pytest.approx(max(LEAST_SHARE, share), abs=1e-9)
    assert noise.independent(6) == math.inf
    critical = noise.critical(2 * half)
    assert 1 / critical - 1 / 6 == pytest.approx(whole / variance, abs=1e-12)


def test_subsets_grow_to_all_samples_as_the_signal_vanishes():
    noise, size = replace(measured(50, signal=False), population=300), 0
    noise.signal = -noise.noise / 300
    for _ in range(60):
        size = noise.next_size(0.5, 300 * 1000.0, 0.0, 16, 300)
    assert size == 300 and noise.momentum(size) > 0
