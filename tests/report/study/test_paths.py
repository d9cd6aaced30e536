"""Paths of polylines: nothing moves by more than the tolerance, and the text says the same corners."""

from __future__ import annotations

import numpy as np
import pytest

from subsetopt.report.study.paths import path_data, thinned
from tests.report.study.study_fixture import vertices


@pytest.mark.parametrize("tolerance", [0.0, 0.25, 2.0])
def test_every_vertex_that_is_left_out_lies_within_the_tolerance(tolerance: float) -> None:
    """Reference: the distance to the nearest of many points on the thinned line."""
    x = np.linspace(60.0, 350.0, 300)
    y = 100 + 40 * np.sin(x / 20) + np.random.default_rng(1).normal(0, 0.3, 300)
    keep = thinned(x, y, tolerance)
    assert keep[0] == 0 and keep[-1] == 299
    fine = np.linspace(60.0, 350.0, 40_000)
    line = np.interp(fine, x[keep], y[keep])
    distances = [np.hypot(fine - a, line - b).min() for a, b in zip(x, y, strict=True)]
    assert max(distances) <= tolerance + 0.01
    assert len(keep) == 300 if tolerance == 0.0 else len(keep) < 200


def test_steps_are_relative_rounded_to_a_tenth_and_do_not_drift() -> None:
    x, y = np.array([60.0, 60.04, 61.5, 61.5, 70.0]), np.array([10.0, 20.06, 19.7, 0.2, -0.3])
    d = path_data(x, y, 0.0)
    assert d == "M60 10l0 10.1l1.5-.4l0-19.5l8.5-.5"
    assert np.allclose(vertices(d), np.stack([x, y], axis=1), atol=0.0501)


def test_points_and_closed_lines_are_paths_too() -> None:
    assert path_data(np.array([5.0]), np.array([7.25]), 0.25) == "M5 7.2"
    same = np.array([1.0, 4.0, 1.0])
    assert thinned(same, same, 0.25).tolist() == [0, 1, 2], "a line that returns to its start is no point"
