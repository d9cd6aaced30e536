"""Closed forms of coverage and occupancy against the samplers themselves."""

import math

import numpy as np
import pytest

from subsetopt.errors import SettingError
from subsetopt.samplers import make_sampler
from subsetopt.samplers.coverage import (
    expected_coverage,
    expected_epochs_to_cover,
    occupancy_pmf,
    simulate_coverage,
)


@pytest.mark.parametrize("name", ["full", "fixed-subset", "rs2", "srs"])
@pytest.mark.parametrize("fraction", [0.05, 0.3])
def test_closed_forms_agree_with_the_samplers(name, fraction):
    """Reference: 40 simulated runs of the sampler; 4 standard errors (rounding where there is no variance)."""
    n, epochs, repeats = 400, 8, 40
    simulated = simulate_coverage(name, n, fraction, epochs, repeats=repeats)
    for epoch in range(1, epochs + 1):
        runs = simulated.coverage[:, epoch - 1]
        error = 4 * runs.std(ddof=1) / math.sqrt(repeats) + 1e-12
        assert abs(runs.mean() - expected_coverage(name, n, fraction, epoch)) <= error
    pmf = occupancy_pmf(name, n, fraction, epochs)
    assert pmf.sum() == pytest.approx(1.0, abs=1e-9)
    for visits in range(simulated.occupancy.shape[1]):
        runs = simulated.occupancy[:, visits]
        expected = pmf[visits] if visits < len(pmf) else 0.0
        assert abs(runs.mean() - expected) <= 4 * math.sqrt(max(expected, 1e-4) / (n * repeats)) + 1e-12


@pytest.mark.parametrize("name", ["rs2", "srs"])
def test_what_was_never_visited_is_what_is_not_covered(name):
    """Occupancy at zero and coverage are two closed forms of one number."""
    assert 1 - occupancy_pmf(name, 1000, 0.1, 7)[0] == pytest.approx(expected_coverage(name, 1000, 0.1, 7), rel=1e-12)


def test_limits_of_the_paper():
    """Soft random sampling at large N: coverage 1 - e^{-rT}, Poisson visits, (ln N + 0.577) / r epochs."""
    assert expected_coverage("srs", 10**6, 0.1, 7) == pytest.approx(1 - math.exp(-0.7), rel=1e-5)
    poisson = [math.exp(-0.7) * 0.7**k / math.factorial(k) for k in range(6)]
    np.testing.assert_allclose(occupancy_pmf("srs", 10**6, 0.1, 7)[:6], poisson, rtol=1e-4)
    assert expected_epochs_to_cover("srs", 10**6, 0.1) == pytest.approx((math.log(10**6) + 0.5772) / 0.1, rel=1e-4)


@pytest.mark.parametrize("name", ["rs2", "srs"])
def test_epochs_to_cover_against_runs_of_the_sampler(name):
    """Reference: 300 runs; whole epochs for rs2, for srs the epoch fraction at which the last sample came."""
    n, fraction, runs = 60, 0.2, []
    for seed in range(300):
        sampler, seen, draws = make_sampler(name, n, 1, seed=seed, fraction=fraction), set(), 0
        while len(seen) < n:
            seen.add(int(sampler.propose().indices))
            draws += 1
        epochs = draws / (n * fraction)
        runs.append(math.ceil(epochs - 1e-9) if name == "rs2" else epochs)
    error = 4 * np.std(runs) / math.sqrt(len(runs))
    assert abs(np.mean(runs) - expected_epochs_to_cover(name, n, fraction)) <= error + (0.05 if name == "rs2" else 0)


def test_what_is_never_drawn_is_never_covered():
    assert expected_epochs_to_cover("fixed-subset", 100, 0.5) == math.inf
    assert expected_epochs_to_cover("full", 100, 0.5) == 1
    assert expected_epochs_to_cover("rs2", 100, 1.0) == 1
    assert expected_coverage("srs", 100, 0.5, 0) == 0


@pytest.mark.parametrize(
    "arguments", [("nw-sketch", 10, 0.1, 1), ("srs", 0, 0.1, 1), ("srs", 10, 1.5, 1), ("srs", 10, 0.1, -1)]
)
def test_bad_arguments_are_told(arguments):
    with pytest.raises(SettingError):
        expected_coverage(*arguments)
