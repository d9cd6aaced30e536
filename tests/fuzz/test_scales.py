"""Units are nobody's business: affine transforms of inputs and targets, and factors of a loss, change no result.

References: the run on the untransformed data, and exact arithmetic (a power of two moves no digit of a mantissa).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from subsetopt import Objective, SubsetTrainer, minimize
from subsetopt.data import dataset_from_arrays
from subsetopt.training.loss_scale import minimize_relative

SOLVERS = ["lbfgs", "newton-cg", "ncg"]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 3))
VALUES = np.stack([np.sin(X[:, 0]) + 0.3 * X[:, 1], X[:, 2] ** 2], axis=1) + 0.1 * RNG.normal(size=(160, 2))
LABELS = (VALUES[:, 0] > 0).astype(np.int64)

exponents = st.floats(-12, 12)
offsets = st.floats(-1e5, 1e5)  # in deviations
columns = st.lists(st.tuples(exponents, offsets, st.sampled_from([-1, 1])), min_size=3, max_size=3)


def moved(array: np.ndarray, transforms: list[tuple[float, float, int]]) -> np.ndarray:
    """Return each column in other units: sign * 10^exponent * (column + offset)."""
    pairs = zip(array.T, transforms[: array.shape[1]], strict=True)
    changed = [sign * 10**power * (column + offset) for column, (power, offset, sign) in pairs]
    return np.stack(changed, axis=1)


def fitted(x: np.ndarray, y: np.ndarray, **changes: Any) -> dict[str, Any]:
    net = nn.Sequential(nn.Linear(x.shape[1], 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) + index).view_as(parameter) / 2)
    data = dataset_from_arrays(x[:120], y[:120], x[120:], y[120:], validation_fraction=0.2)
    given = {"subset_frac": 0.5, "dtype": "float64", "max_iterations": 15, "handoff_epochs": 1.0, **changes}
    return SubsetTrainer(net, data, **given).fit().result


@lru_cache
def plain(task: str) -> dict[str, Any]:
    return fitted(X, LABELS if task == "classes" else VALUES)


@given(columns)
@settings(max_examples=5, deadline=None)
def test_units_of_the_inputs_change_no_accuracy_and_no_loss(transforms: list[tuple[float, float, int]]) -> None:
    result = fitted(moved(X, [(power, offset, 1) for power, offset, _ in transforms]), LABELS)
    for split, metrics in plain("classes")["metrics"].items():
        assert result["metrics"][split]["accuracy"] == metrics["accuracy"], split
        assert result["metrics"][split]["loss"] == pytest.approx(metrics["loss"], rel=1e-4)


@given(columns)
@settings(max_examples=5, deadline=None)
def test_units_of_the_targets_change_no_r2_and_square_into_the_loss(transforms: list[tuple[float, float, int]]) -> None:
    transforms = [(power, offset, 1) for power, offset, _ in transforms]
    result = fitted(X, moved(VALUES, transforms))
    assert result["solve"]["iterations"] == plain("values")["solve"]["iterations"]
    for split, metrics in plain("values")["metrics"].items():
        assert result["metrics"][split]["r2"] == pytest.approx(metrics["r2"], rel=1e-4), split
        standardised = metrics["standardised_loss"]
        assert result["metrics"][split]["standardised_loss"] == pytest.approx(standardised, rel=1e-4)
    one = fitted(X, 1e7 * VALUES[:, [0]].repeat(2, axis=1), handoff="none")["metrics"]["test"]
    assert one["loss"] == pytest.approx(one["standardised_loss"] * (1e7 * VALUES[:120, 0]).var(), rel=0.2)


@pytest.mark.parametrize("power", [2.0**-40, 2.0**40])
@pytest.mark.parametrize("method", SOLVERS)
def test_a_factor_of_the_loss_moves_no_bit_of_the_path_and_not_its_end(method: str, power: float) -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(VALUES)

    def solved(factor: float, solve: Any = minimize_relative, **given: Any) -> Any:
        net = nn.Sequential(nn.Linear(3, 2, dtype=torch.float64))
        nn.init.constant_(net[0].weight, 0.3)
        nn.init.zeros_(net[0].bias)
        loss = lambda z, t: factor * (z - t).square().mean(1)  # noqa: E731
        objective = Objective(net, x, y, loss)
        return solve(objective, objective.initial(), method, **given)

    reference, scaled = (solved(factor, gtol=1e-7) for factor in (1.0, power))
    assert reference.stop_reason == scaled.stop_reason == "gradient"
    assert reference.iterations == scaled.iterations > 1
    assert torch.equal(reference.x, scaled.x)
    absolute = solved(power, minimize, gtol=1e-7, max_iterations=50)
    same = (absolute.iterations, absolute.stop_reason) == (reference.iterations, "gradient")
    assert not same, "minimize keeps the absolute test of scipy and torch"


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_run_on_raw_targets_of_any_unit_neither_stops_at_once_nor_never(factor: float) -> None:
    """With raw targets of 1e6, the loss is 1e12 and the first gradient 1e6: it must not count as zero."""
    shared = {"normalize": "none", "validation_fraction": 0.2}
    results, runs = [], []
    for unit in (1.0, factor):
        net = nn.Linear(3, 2)
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
        data = dataset_from_arrays(X, unit * VALUES, **shared)
        trained = SubsetTrainer(net, data, l2=0.0, dtype="float64", handoff="none", subset_frac=0.5).fit()
        runs.append(trained.result)
        results.append(trained.result["solve"])
    assert [result["stop_reason"] for result in results] == ["gradient", "gradient"]
    assert min(result["iterations"] for result in results) > 1
    test = results[1]["gradient_test"]
    assert results[1]["gradient_norm"] <= test["gtol"] * test["loss_scale"]
    mse = [result["metrics"]["train"]["r2"] for result in runs]
    assert mse[0] == pytest.approx(mse[1], abs=1e-4)
