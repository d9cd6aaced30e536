"""The line search against the Wolfe conditions themselves, on functions that provoke every branch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subsetopt.solvers.line_search import LineSearch, Trial, WolfeConditions, cubic_minimiser

EMPTY = torch.zeros(1)
Phi = Callable[[float], tuple[float, float]]
LINES: dict[str, Phi] = {
    "quadratic": lambda t: ((t - 1) ** 2, 2 * (t - 1)),
    "far": lambda t: ((t - 1e4) ** 2, 2 * (t - 1e4)),
    "near": lambda t: ((t - 1e-6) ** 2, 2 * (t - 1e-6)),
    "quartic": lambda t: ((t - 3) ** 4, 4 * (t - 3) ** 3),
    "flat": lambda t: (-t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2),  # Moré & Thuente 1994, function 1
    "steep": lambda t: ((t + 0.004) ** 5 - 2 * (t + 0.004) ** 4, 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3),
    "wavy": lambda t: (-t + 0.1 * t * t + 0.1 * math.sin(5 * t), -1 + 0.2 * t + 0.5 * math.cos(5 * t)),
}


def search(
    phi: Phi,
    first_step: float,
    c1: float = 1e-4,
    c2: float = 0.9,
    budget: int = 1000,
    noise: float = 0.0,
    strong: bool = True,
) -> tuple[Trial | None, bool, list[float]]:
    steps: list[float] = []

    def trial_at(step: float) -> Trial:
        steps.append(step)
        loss, slope = phi(step)
        return Trial(step, loss, slope, abs(slope), slope * slope, noise, EMPTY, EMPTY)

    loss, slope = phi(0.0)
    start = Trial(0.0, loss, slope, abs(slope), slope * slope, noise, EMPTY, EMPTY)
    accepted, holds = LineSearch()(trial_at, start, first_step, WolfeConditions(c1, c2, noise, strong), budget)
    return accepted, holds, steps


@pytest.mark.parametrize("c2", [0.9, 0.1])
@pytest.mark.parametrize("first_step", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", LINES)
def test_accepted_step_satisfies_the_strong_wolfe_conditions(name: str, first_step: float, c2: float) -> None:
    phi = LINES[name]
    trial, holds, steps = search(phi, first_step, c2=c2)
    assert trial is not None
    assert holds
    (start, slope), (loss, new_slope) = phi(0.0), phi(trial.step)
    assert loss <= start + 1e-4 * trial.step * slope
    assert abs(new_slope) <= c2 * abs(slope)
    assert len(steps) == len(set(steps)) <= 20


@pytest.mark.parametrize("first_step", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", LINES)
def test_wolfe_conditions_admit_a_step_that_rises_again(name: str, first_step: float) -> None:
    phi = LINES[name]
    trial, holds, steps = search(phi, first_step, c2=0.1, strong=False)
    assert trial is not None
    assert holds
    (start, slope), (loss, new_slope) = phi(0.0), phi(trial.step)
    assert loss <= start + 1e-4 * trial.step * slope
    assert new_slope >= 0.1 * slope
    assert len(steps) <= len(search(phi, first_step, c2=0.1)[2])
    beyond = search(LINES["quadratic"], 1.95, c2=0.1, strong=False)  # phi' is -2 at 0 and 1.9 there
    assert beyond[2] == [1.95] and search(LINES["quadratic"], 1.95, c2=0.1)[2] != [1.95]


@given(st.floats(1e-8, 1e8), st.floats(1e-6, 1e6))
def test_quadratics_of_any_scale_are_solved_in_few_trials(minimiser: float, curvature: float) -> None:
    def phi(t: float) -> tuple[float, float]:
        return curvature * (0.5 * t * t - minimiser * t), curvature * (t - minimiser)

    trial, holds, steps = search(phi, 1.0)
    assert trial is not None
    assert holds
    assert len(steps) <= 12


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "slope"])
def test_non_finite_trials_shrink_the_step(bad: float, where: str) -> None:
    def phi(t: float) -> tuple[float, float]:
        if t > 0.02:
            return (bad, -1.0) if where == "loss" else (-t, bad)
        return -t - 0.5 * (t > 0.01), 0.1 if t > 0.01 else -1.0

    trial, holds, steps = search(phi, 1.0)
    assert trial is not None
    assert trial.step <= 0.02
    assert steps[:2] == [1.0, pytest.approx(0.1)]
    assert holds
    assert all(later < 1.0 for later in steps[1:])


def test_a_loss_of_minus_infinity_is_not_accepted() -> None:
    trial, _, _ = search(lambda t: (-math.inf, -0.5) if t > 0.02 else (-t, -1.0), 1.0)
    assert trial is not None
    assert math.isfinite(trial.loss)


def test_trials_stay_inside_the_bracket() -> None:
    """Once an upper end is known no later trial lies beyond it."""
    _, _, steps = search(LINES["near"], 1.0, c2=1e-3)
    upper = math.inf
    for step in steps:
        assert 0 < step < upper
        if LINES["near"](step)[1] >= 0:
            upper = step


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_trials_never_exceed_the_budget(budget: int) -> None:
    trial, _, steps = search(LINES["far"], 1e-9, budget=budget)
    assert len(steps) <= budget
    assert (trial is None) == (budget == 0)


def test_out_of_trials_the_lowest_decreasing_trial_serves() -> None:
    trial, holds, steps = search(LINES["far"], 1e-9, budget=3)
    assert trial is not None
    assert not holds
    assert trial.step == max(steps)


def test_ascending_function_gives_no_step() -> None:
    trial, _, steps = search(lambda t: (t, -1.0), 1.0)
    assert trial is None
    assert len(steps) <= 25


def test_approximate_wolfe_accepts_where_the_loss_is_rounding_noise() -> None:
    """At 1 + t² with noise 1e-16 the loss cannot show a decrease, the slope still can (Hager & Zhang 2005)."""

    def phi(t: float) -> tuple[float, float]:
        return 1.0 + 1e-16 * (t > 0), 1e-9 * (t - 1)

    assert search(phi, 0.9, noise=1e-15)[1]
    assert not search(lambda t: (phi(t)[0] + 1e-12 * (t > 0), phi(t)[1]), 0.9, noise=1e-15)[1]


def test_cubic_minimiser_is_exact_for_a_cubic() -> None:
    def at(t: float) -> Trial:
        return Trial(t, t**3 - 3 * t, 3 * t * t - 3, 0, 0, 0.0, EMPTY, EMPTY)

    assert cubic_minimiser(at(0.0), at(3.0)) == pytest.approx(1.0)
    assert cubic_minimiser(at(0.2), at(0.5)) == pytest.approx(1.0)


def test_where_rounding_hides_the_slope_a_smaller_one_will_do_after_three_trials() -> None:
    """Slopes jitter between -0.6 and 0.6 of the first one: |slope| <= 0.1 would be met by luck alone."""
    trial, holds, steps = search(
        lambda t: (0.0, -1.0 if t == 0 else math.copysign(0.6, t - 1)), 0.5, c2=0.1, noise=1e-9
    )
    assert holds
    assert trial is not None
    assert len(steps) == 4
