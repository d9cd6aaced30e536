"""Eigenvalues and effective dimension against dense algebra: torch.func.hessian, numpy.linalg.eigvalsh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from subsetopt.analysis.lanczos import Bounded, lanczos
from subsetopt.analysis.spectrum import effective_count, find_spectrum
from subsetopt.errors import SettingError
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator
from tests.objective.objective_nets import dense_loss, dense_outputs, problem

SIZE = 400
INDEX = np.arange(SIZE) / SIZE
SPECTRA = {
    "uniform": INDEX - 0.3,
    "outliers over a bulk": np.where(np.arange(SIZE) < 380, 1e-3 + 1e-2 * INDEX, 5 + INDEX),
    "two clusters": np.where(np.arange(SIZE) % 2 == 0, 1 + 1e-10 * INDEX, 3 - 1e-10 * INDEX),
    "one value repeated": np.full(SIZE, -2.0),
    "lonely negative": np.concatenate([[-1e-3], np.full(SIZE - 1, 1.0) + INDEX[1:]]),
    "six decades": 10 ** (6 * INDEX - 6),
    "zero": np.zeros(SIZE),
}


def rotated(eigenvalues: np.ndarray[Any, Any]) -> Tensor:
    """A dense symmetric matrix with these eigenvalues."""
    noise = torch.randn(len(eigenvalues), len(eigenvalues), generator=make_generator(0, "basis"), dtype=torch.float64)
    basis = torch.linalg.qr(noise).Q
    matrix = basis @ torch.diag(torch.from_numpy(eigenvalues.copy())) @ basis.T
    return (matrix + matrix.T) / 2


def products_of(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: matrix @ v


def start(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(size, generator=make_generator(seed, "start"), dtype=torch.float64).to(dtype)


def holds(number: Bounded, truth: float) -> bool:
    return number.lower <= truth <= number.upper and number.lower <= number.value <= number.upper


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("dense_limit", [0, 1000], ids=["lanczos", "written out"])
def test_eigenvalues_of_a_network_equal_those_of_the_dense_hessian(dense_limit: int, l2: float) -> None:
    model, x, y = problem("mlp", samples=40)
    objective = Objective(model, x, y, l2=l2)
    w = objective.initial()

    def loss(w: Tensor) -> Tensor:
        return dense_loss(dense_outputs(model, objective.flat, w, x), y) / len(x) + l2 / 2 * w @ w

    reference = np.linalg.eigvalsh(torch.func.hessian(loss)(w).numpy())
    found = find_spectrum(objective.linearise(w).hvp, w, damping=0.1, shift=l2, rtol=1e-12, dense_limit=dense_limit)
    assert found.exact == (dense_limit > 0) and found.products >= objective.size
    assert holds(found.smallest, reference[0]) and holds(found.largest, reference[-1])
    assert found.smallest.value == pytest.approx(reference[0], rel=1e-8)
    assert found.largest.value == pytest.approx(reference[-1], rel=1e-8)
    assert found.smallest.upper - found.smallest.lower < 1e-10 * reference[-1]
    data = np.maximum(reference - l2, 0)
    assert found.effective_dimension is not None
    error = found.effective_dimension.error if dense_limit == 0 else 1e-9
    assert found.effective_dimension.value == pytest.approx((data / (data + 0.1)).sum(), abs=error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_bounds_hold_after_any_number_of_steps(name: str, dtype: torch.dtype) -> None:
    matrix, truth = rotated(SPECTRA[name]).to(dtype), np.sort(SPECTRA[name])
    for seed, steps in enumerate([1, 2, 3, 7, 20, 60, 200, SIZE, SIZE + 5]):
        found = lanczos(products_of(matrix), start(SIZE, seed, dtype), steps=steps)
        assert holds(found.smallest, truth[0]), (steps, found.smallest)
        assert holds(found.largest, truth[-1]), (steps, found.largest)
    assert found.complete or dtype == torch.float32
    assert found.smallest.value == pytest.approx(truth[0], abs=100 * torch.finfo(dtype).eps * np.abs(truth).max())


def test_bounds_tighten_where_the_spectrum_has_gaps_long_before_the_space_is_complete() -> None:
    truth = SPECTRA["lonely negative"]
    found = lanczos(products_of(rotated(truth)), start(SIZE), steps=60)
    assert len(found.diagonal) == 60 and not found.complete
    assert found.smallest.upper < 0 and found.smallest.upper - found.smallest.lower < 1e-9


def test_an_eigenvalue_hidden_from_the_start_deceives_the_residual_but_not_the_bound() -> None:
    truth = np.concatenate([[-0.05], 1 + INDEX[1:]])
    hidden = start(SIZE)
    hidden[0] = 1e-6
    found = lanczos(lambda v: torch.from_numpy(truth) * v, hidden, steps=7)
    assert found.smallest.value - found.smallest.residual > -0.05, "the residual sees an eigenvalue near 1 only"
    assert found.smallest.lower < -0.05


def test_a_small_memory_keeps_bounds_and_quadrature_although_orthogonality_is_lost() -> None:
    truth = SPECTRA["outliers over a bulk"]
    matrix = products_of(rotated(truth))
    whole, windowed = (lanczos(matrix, start(SIZE), steps=150, memory=memory) for memory in (2**30, 3 * 8 * SIZE))
    repeated = windowed.ritz_values > 5 - 1e-9
    assert repeated.sum() > 20, "converged Ritz values reappear"
    assert holds(windowed.smallest, truth.min()) and holds(windowed.largest, truth.max())

    def count(x: Any) -> Any:
        return effective_count(x, 1e-3)

    assert windowed.mean(count) == pytest.approx(whole.mean(count), rel=1e-3)


def test_products_that_are_not_symmetric_widen_the_bounds_by_their_error() -> None:
    truth = SPECTRA["uniform"]
    noise = 1e-7 * torch.randn(SIZE, SIZE, generator=make_generator(1, "noise"), dtype=torch.float64)
    for matrix, least in ((rotated(truth), 0.0), (rotated(truth) + noise, 1e-7)):
        found = lanczos(products_of(matrix), start(SIZE), steps=SIZE)
        assert least <= found.rounding < 1e-12 + 1000 * least, "the Frobenius norm of the noise is 400 times 1e-7"
        assert holds(found.smallest, truth[0]) and holds(found.largest, truth[-1])


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_scaling_the_matrix_scales_the_results_and_changes_no_step(factor: float) -> None:
    matrix = rotated(SPECTRA["outliers over a bulk"])
    settings = {"dense_limit": 0, "max_products": 80}
    one = find_spectrum(products_of(matrix), matrix[0], damping=1e-3, **settings)
    other = find_spectrum(products_of(matrix * factor), matrix[0], damping=1e-3 * factor, **settings)
    assert one.products == other.products
    for a, b in ((one.smallest, other.smallest), (one.largest, other.largest)):
        assert np.allclose([b.value, b.lower, b.upper], np.array([a.value, a.lower, a.upper]) * factor, rtol=1e-6)
    assert one.effective_dimension is not None and other.effective_dimension is not None
    assert other.effective_dimension.value == pytest.approx(one.effective_dimension.value, rel=1e-6)


def test_error_bars_cover_the_exact_effective_dimension_as_often_as_they_say() -> None:
    truth, covered, widths = SPECTRA["six decades"], 0, []
    matrix, exact = rotated(truth), effective_count(truth, 1e-3).sum()
    for seed in range(30):
        found = find_spectrum(products_of(matrix), matrix[0], damping=1e-3, dense_limit=0, max_products=60, seed=seed)
        assert found.effective_dimension is not None and found.effective_dimension.probes == 8
        covered += abs(found.effective_dimension.value - exact) <= found.effective_dimension.error
        widths.append(found.effective_dimension.error / exact)
    assert covered >= 26, "95 % of 30 is 28.5; fewer than 26 has a probability of 0.4 %"
    assert np.mean(widths) < 0.15


def test_effective_count_is_the_trace_and_ignores_negative_curvature() -> None:
    matrix = rotated(SPECTRA["six decades"])
    damped = matrix + 1e-2 * torch.eye(SIZE, dtype=torch.float64)
    trace = float(torch.trace(torch.linalg.solve(damped, matrix)))
    assert effective_count(SPECTRA["six decades"], 1e-2).sum() == pytest.approx(trace, rel=1e-9)
    assert effective_count(SPECTRA["six decades"] + 0.5, 1e-2, shift=0.5).sum() == pytest.approx(trace, rel=1e-9)
    assert effective_count(np.array([-1.0, -1e-2, 0.0]), 1e-2).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("dense_limit", [0, 1])
def test_one_parameter(value: float, dense_limit: int) -> None:
    like = torch.ones(1, dtype=torch.float64)
    found = find_spectrum(lambda v: value * v, like, damping=1.0, dense_limit=dense_limit)
    assert found.smallest.value == found.largest.value == value
    assert found.smallest.upper - found.smallest.lower < 1e-13
    assert found.effective_dimension is not None
    assert found.effective_dimension.value == pytest.approx(max(value, 0) / (max(value, 0) + 1))
    assert (found.condition is None) == (value <= 0)


def test_condition_number_lies_within_its_bounds() -> None:
    truth = SPECTRA["outliers over a bulk"]
    matrix = rotated(truth)
    found = find_spectrum(products_of(matrix), matrix[0], dense_limit=0)
    assert found.condition is not None and holds(found.condition, truth.max() / truth.min())
    assert found.products < SIZE


def test_equal_seeds_give_equal_results_and_every_product_is_told() -> None:
    matrix = rotated(SPECTRA["uniform"])
    told: list[int] = []
    settings: dict[str, Any] = {"damping": 0.1, "dense_limit": 0, "max_products": 20, "probes": 3}
    first = find_spectrum(products_of(matrix), matrix[0], tell=told.append, **settings)
    assert told == list(range(1, first.products + 1))
    state = torch.random.get_rng_state()
    assert find_spectrum(products_of(matrix), matrix[0], **settings) == first
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dense_limit", [0, 10])
def test_a_product_that_is_not_finite_raises(dense_limit: int) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        find_spectrum(lambda v: v / 0, torch.ones(4), dense_limit=dense_limit)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"damping": 0.0}, "damping = 0.0"),
        ({"damping": float("nan")}, "damping = nan"),
        ({"probes": 1}, "probes = 1"),
        ({"max_products": 1}, "products = 1"),
        ({"rtol": 0.0}, "rtol = 0.0"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        find_spectrum(lambda v: v, torch.ones(4), **settings)
