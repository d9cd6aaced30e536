"""The least damping against gradients of known covariance and the risk of damped steps."""

from __future__ import annotations

import math

import pytest
import torch

from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.training.phases.kfac_stream.least_damping import (
    DOWN,
    FORESEEN,
    OF_RIDGE,
    PASSES,
    UP,
    LeastDamping,
    foreseen,
)

EIGENVALUES = torch.logspace(-3, 1, 400, dtype=torch.float64)
SIZE, TAU = 80, 0.05
"""Samples of a subset, and the mean square distance to the minimum per parameter."""


def traces(damping: float) -> tuple[float, float]:
    shares = EIGENVALUES / (EIGENVALUES + damping)
    return float(shares.sum()), float((shares * EIGENVALUES).sum())


def learnt(damping: float, excess: float = 1.0, scale: float = 1.0, spread: float = 1.0) -> tuple[LeastDamping, float]:
    """A bound from one measurement without error, and the noise: the covariance of gradients is `excess` times F."""
    least, noise = LeastDamping(), excess * traces(damping)[0]
    least.learn(KfacSpectrum.of(scale * EIGENVALUES), scale * damping, noise, spread)
    return least, noise


def test_traces_are_sums_over_eigenvalues():
    assert KfacSpectrum.of(EIGENVALUES).traces(0.3) == pytest.approx(traces(0.3), rel=1e-3)


@pytest.mark.parametrize("damping", [0.003, 0.3])
def test_the_bound_is_a_share_of_the_damping_of_least_risk(damping):
    """Errors d with mean squares TAU, gradients F d + noise of covariance F/SIZE: E (d - M^-1 g)'F(d - M^-1 g)."""
    least, noise = learnt(damping)
    least.level = 0.0
    found = least.bound(TAU * traces(damping)[1], noise, SIZE) / OF_RIDGE

    def risk(tried: float) -> float:
        kept, shrunk = tried / (EIGENVALUES + tried), EIGENVALUES / (EIGENVALUES + tried)
        return float((EIGENVALUES * TAU * kept.square() + shrunk.square() / SIZE).sum())

    best = min((found * 1.1**power for power in range(-20, 21)), key=risk)
    assert found == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(("excess", "times"), [(0.5, 0.25), (4.0, 4.0 / FORESEEN), (1e6, UP), (0.0, DOWN)])
def test_noise_beyond_what_is_foreseen_raises_the_damping(excess, times):
    least, _ = learnt(0.01, excess)
    assert least.level == pytest.approx(0.01 * times, rel=1e-2)
    assert least.bound(1e12, 0.0, SIZE) == least.level


def test_directions_that_factors_have_missed_are_found_by_their_noise():
    """Noise R/damping beside F's own: the level is where both are `FORESEEN` times F's, whatever it began with."""
    missed, damping = 5.0, 1e-4
    least = LeastDamping()
    for _ in range(60):
        least.learn(KfacSpectrum.of(EIGENVALUES), damping, traces(damping)[0] + missed / damping, 1.0)
        damping = least.level
    assert (traces(damping)[0] + missed / damping) / traces(damping)[0] == pytest.approx(FORESEEN, rel=1e-2)


@pytest.mark.parametrize("admitted", [FORESEEN, 2.0])
def test_noise_of_any_size_does_not_raise_the_damping_without_end(admitted):
    """Noise a thousand times F's at any damping, as where samples of the factors were all sure: nothing ends it."""
    least, damping = LeastDamping(), 1e-2
    for _ in range(60):
        least.learn(KfacSpectrum.of(EIGENVALUES), damping, 1e3 * traces(damping)[0], 1.0, admitted=admitted)
        damping = least.level
    assert damping == pytest.approx(float(EIGENVALUES.max()), rel=0.05)


def test_scale_and_caution_are_taken_out():
    plain, noise = learnt(0.01, 12.0)
    scaled, _ = learnt(0.01, 12.0, scale=1e8)
    assert scaled.bound(2.0, noise, SIZE) == pytest.approx(1e8 * plain.bound(2.0, noise, SIZE), rel=1e-6)
    wide, cautious = learnt(0.01, 12.0, spread=3.0)[0], LeastDamping()
    assert wide.level == pytest.approx(plain.level / 3)
    cautious.learn(KfacSpectrum.of(EIGENVALUES), 0.01, noise, 1.0, caution=0.5)
    assert cautious.level == pytest.approx(plain.level / 4)


def test_nothing_known_bounds_nothing():
    empty = KfacSpectrum.of(EIGENVALUES[:0])
    for least, spectrum, noise in (
        (LeastDamping(known=False), KfacSpectrum.of(EIGENVALUES), 1.0),
        (LeastDamping(), KfacSpectrum.of(EIGENVALUES), math.nan),
        (LeastDamping(), empty, 1.0),
    ):
        least.learn(spectrum, 0.1, noise, 1.0)
        assert least.bound(1.0, 1.0, SIZE) == 0.0
    silent, _ = learnt(0.01, 0.0)
    assert silent.bound(-1.0, -1.0, SIZE) == silent.level


def test_less_noise_is_admitted_in_longer_streams_but_what_signal_excuses():
    assert foreseen(2.0, 0.5) == foreseen(PASSES, 0.9) == FORESEEN
    assert foreseen(2 * PASSES, 0.5) == FORESEEN / 2
    assert foreseen(1000.0, 0.0) == 1.0
    assert foreseen(1000.0, 0.75) == pytest.approx(4.0)  # signal and noise as large as noise of four times F
    assert foreseen(1000.0, 1.0) == FORESEEN


def test_a_damping_that_nothing_satisfies_ends_at_the_largest_eigenvalue():
    """Noise above tr F at every damping: before, such a level grew sixteenfold in each step, to overflow."""
    spectrum, least, damping = KfacSpectrum.of(EIGENVALUES), LeastDamping(), 0.01
    for _ in range(300):
        least.learn(spectrum, damping, 5.0 * spectrum.traces(damping)[0], 1.0, admitted=1.0)
        damping = least.level
    assert damping == pytest.approx(float(EIGENVALUES.max()), rel=0.05)
