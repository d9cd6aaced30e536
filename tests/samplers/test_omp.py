"""Orthogonal matching pursuit with non-negative refits, against scipy's NNLS and planted solutions."""

import numpy as np
import pytest
from scipy.optimize import nnls

from subsetopt.samplers.omp import omp_nonnegative


def match(A, b, k, ridge=0.0):
    gram = A.T @ A
    return omp_nonnegative(lambda i: gram[:, i], A.T @ b, k, ridge)


def relative_residual(A, b, matching):
    return np.linalg.norm(A[:, matching.support] @ matching.weights - b) / np.linalg.norm(b)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_weights_are_the_nnls_fit_on_the_selected_support(seed, k):
    """Reference: scipy.optimize.nnls on the same columns."""
    generator = np.random.default_rng(seed)
    A, b = generator.normal(size=(15, 30)), generator.normal(size=15)
    matching = match(A, b, k)
    weights, _ = nnls(A[:, matching.support], b)
    np.testing.assert_allclose(matching.weights, weights, atol=1e-8)
    assert (matching.weights > 0).all() and len(matching.support) == len(set(matching.support.tolist())) <= k


@pytest.mark.parametrize("seed", range(10))
def test_without_a_limit_it_is_nnls_itself(seed):
    """Lawson and Hanson's method run to its end: the residual norm of scipy.optimize.nnls on all columns."""
    generator = np.random.default_rng(seed)
    A = np.abs(generator.normal(size=(12, 25))) if seed % 2 else generator.normal(size=(12, 25))
    b = generator.normal(size=12)
    _, best = nnls(A, b)
    matching = match(A, b, 25)
    assert np.linalg.norm(A[:, matching.support] @ matching.weights - b) == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_sparse_solution_is_found_exactly(seed):
    """Peers' sampler fault 2: their relative residual stays at 0.05 to 0.14; here every weight sits on its column."""
    generator = np.random.default_rng(seed)
    A = generator.normal(size=(200, 60))
    planted = generator.choice(60, 6, replace=False)
    w = generator.uniform(0.5, 2.0, 6)
    matching = match(A, A[:, planted] @ w, 6)
    assert dict(zip(matching.support.tolist(), matching.weights, strict=True)) == pytest.approx(
        dict(zip(planted.tolist(), w, strict=True))
    )


def test_a_column_that_is_dropped_and_picked_again_keeps_its_own_weight():
    """Correlated columns make refits drop columns and pick them again; the fit stays exact on the final support."""
    generator = np.random.default_rng(0)
    repeated = 0
    for _ in range(300):
        A = 1.0 + 0.5 * generator.normal(size=(12, 30))
        b = 1.0 + 0.3 * generator.normal(size=12)
        gram, picks = A.T @ A, []
        matching = omp_nonnegative(lambda i, gram=gram, picks=picks: picks.append(i) or gram[:, i], A.T @ b, 12)
        repeated += len(picks) > len(set(picks))
        weights, _ = nnls(A[:, matching.support], b)
        np.testing.assert_allclose(matching.weights, weights, atol=1e-7)
    assert repeated > 5


@pytest.mark.parametrize("ridge", [0.1, 10.0])
def test_the_ridge_is_that_of_an_augmented_system(ridge):
    """Reference: nnls on [A; sqrt(ridge) I]."""
    generator = np.random.default_rng(1)
    A, b = generator.normal(size=(10, 14)), generator.normal(size=10)
    matching = match(A, b, 6, ridge)
    columns = np.vstack((A[:, matching.support], np.sqrt(ridge) * np.eye(len(matching.support))))
    weights, _ = nnls(columns, np.concatenate((b, np.zeros(len(matching.support)))))
    np.testing.assert_allclose(matching.weights, weights, atol=1e-9)


def test_duplicate_and_zero_columns_do_no_harm():
    A = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    matching = match(A, np.array([2.0, 3.0]), 4)
    assert relative_residual(A, np.array([2.0, 3.0]), matching) < 1e-12
    assert len(matching.support) == 2


def test_a_zero_target_selects_nothing():
    assert len(match(np.eye(3), np.zeros(3), 2).support) == 0
    assert len(match(np.eye(3), -np.ones(3), 2).support) == 0
