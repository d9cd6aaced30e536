"""Bands over seeds against scipy.stats and hand-made curves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from subsetopt.report.study.bands import Axis, seed_band
from subsetopt.report.study.files import CurvePoint


def _curve(seed: int, costs: list[float], losses: list[float]) -> list[CurvePoint]:
    return [CurvePoint("m", 1.0, seed, c, 2 * c, loss, "train") for c, loss in zip(costs, losses, strict=True)]


def test_mean_and_limits_are_those_of_scipy() -> None:
    ends = [1.0, 1.5, 3.0, 2.0]
    band = seed_band([p for s, end in enumerate(ends) for p in _curve(s, [0.0, 1.0], [4.0, end])], "cost", log=False)
    assert band is not None and band.seeds == 4
    low, high = stats.t.interval(0.95, 3, loc=np.mean(ends), scale=stats.sem(ends))
    np.testing.assert_allclose([band.mean[-1], band.low[-1], band.high[-1]], [np.mean(ends), low, high])
    np.testing.assert_allclose([band.mean[0], band.low[0], band.high[0]], 4.0)


def test_on_a_log_axis_the_mean_is_geometric_and_the_band_stays_positive() -> None:
    band = seed_band(_curve(0, [0.0, 1.0], [1.0, 1.0]) + _curve(1, [0.0, 1.0], [1.0, 0.01]), "cost", log=True)
    assert band is not None and (band.low > 0).all()
    assert band.mean[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(("axis", "end"), [("cost", 3.0), ("seconds", 6.0)])
def test_a_run_that_stopped_early_keeps_its_last_loss(axis: Axis, end: float) -> None:
    band = seed_band(_curve(0, [0.0, 1.0], [2.0, 1.0]) + _curve(1, [0.5, 3.0], [2.0, 0.0]), axis, log=False)
    assert band is not None
    assert band.x[0] == pytest.approx(0.5 * end / 3), "the common axis begins where every seed has a value"
    assert band.x[-1] == end and band.mean[-1] == pytest.approx(0.5)


def test_one_seed_has_no_spread_and_no_curve_no_band() -> None:
    band = seed_band(_curve(0, [0.0, 1.0], [2.0, 1.0]), "cost", log=False)
    assert band is not None
    np.testing.assert_array_equal(band.low, band.high)
    assert seed_band([], "cost", log=False) is None
