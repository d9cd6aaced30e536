"""Chunked loss, gradient, Hessian and Gauss-Newton products against dense float64 references by torch.func."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subsetopt.objective import Objective
from tests.objective.objective_nets import NETS, dense_loss, dense_outputs, problem, vector_like

L2 = 0.03
CASES = [(name, loss) for name in NETS for loss in ("cross_entropy", "mse")]


def dense_references(name: str, loss: str, chunk_size: int) -> tuple[Objective, Tensor, Tensor, Tensor, Tensor, Tensor]:
    model, x, y = problem(name, loss=loss)
    objective = Objective(model, x, y, loss=loss, l2=L2, chunk_size=chunk_size, indices=[*range(20), 3, 3])
    samples = objective.n_samples
    w = objective.initial()
    rows = objective.rows

    def value(at: Tensor) -> Tensor:
        total = 0.5 * L2 * at.dot(at)
        for start, stop in objective.edges:
            part = rows[start:stop]
            total = total + dense_loss(dense_outputs(model, objective.flat, at, x[part]), y[part]) / samples
        return total

    gauss_newton = L2 * torch.eye(len(w), dtype=torch.float64)
    for start, stop in objective.edges:
        part = rows[start:stop]
        jacobian = torch.func.jacrev(lambda at, part=part: dense_outputs(model, objective.flat, at, x[part]))(w)
        z = dense_outputs(model, objective.flat, w, x[part])
        output_hessian = torch.func.hessian(lambda z, part=part: dense_loss(z, y[part]))(z)
        size = z.numel()
        J, H = jacobian.reshape(size, -1), output_hessian.reshape(size, size)
        gauss_newton += J.T @ H @ J / samples
    return objective, w, value(w), torch.func.grad(value)(w), torch.func.hessian(value)(w), gauss_newton


@pytest.mark.parametrize("chunk_size", [22, 7, 8])
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_value_gradient_hvp_ggnvp_equal_dense_algebra(name: str, loss: str, chunk_size: int) -> None:
    """Unequal chunks, duplicated rows, L2, tied and frozen parameters, BatchNorm per chunk: to 1e-10."""
    objective, w, value, gradient, hessian, gauss_newton = dense_references(name, loss, chunk_size)
    got_value, got_gradient = objective.value_and_gradient(w)
    assert got_value.dtype == torch.float64 and got_value.shape == ()
    torch.testing.assert_close(got_value, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(objective.value(w), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(got_gradient, gradient, rtol=0, atol=1e-10)
    products = objective.linearise(w)
    for seed in (1, 2):
        v = vector_like(w, seed)
        torch.testing.assert_close(products.hvp(v), hessian @ v, rtol=0, atol=1e-10)
        torch.testing.assert_close(products.ggnvp(v), gauss_newton @ v, rtol=0, atol=1e-10)
    assert products.note == ""


@pytest.mark.parametrize("memory", [0, 60_000])
@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_products_with_recomputed_chunks_equal_stored_ones(name: str, memory: int) -> None:
    model, x, y = problem(name)
    stored = Objective(model, x, y, l2=L2, chunk_size=5)
    sparse = Objective(model, x, y, l2=L2, chunk_size=5, linearisation_memory=memory)
    w = stored.initial()
    v = vector_like(w)
    a, b = stored.linearise(w), sparse.linearise(w)
    assert torch.equal(a.hvp(v), b.hvp(v)) and torch.equal(a.ggnvp(v), b.ggnvp(v))
    assert torch.equal(a.hvp(v), b.hvp(v))
    assert a.stored_chunks("hvp") == 5
    assert b.stored_chunks("hvp") < 5 and (memory == 0) == (b.stored_chunks("ggnvp") == 0)


def test_hvp_is_symmetric_and_ggn_is_positive_semidefinite() -> None:
    model, x, y = problem("resnet")
    objective = Objective(model, x, y, chunk_size=6)
    products = objective.linearise(objective.initial() * 1.5)
    vectors = [vector_like(objective.initial(), seed) for seed in range(4)]
    a, b = vectors[:2]
    torch.testing.assert_close(a.dot(products.hvp(b)), b.dot(products.hvp(a)), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(a.dot(products.ggnvp(b)), b.dot(products.ggnvp(a)), rtol=1e-10, atol=1e-13)
    assert all(v.dot(products.ggnvp(v)) >= 0 for v in vectors)


def test_hvp_does_not_drift_in_200_products() -> None:
    """Peers fault 8: products that accumulate into .grad drift (1.7e-6 to 6.4e-6)."""
    model, x, y = problem("cnn")
    objective = Objective(model, x, y, l2=L2, chunk_size=6, dtype=torch.float32)
    w = objective.initial()
    v = vector_like(w)
    products = objective.linearise(w)
    first = products.hvp(v)
    for _ in range(200):
        last = products.hvp(v)
    assert torch.equal(first, last)


def test_products_belong_to_the_w_of_linearise_even_if_it_changes_in_place() -> None:
    model, x, y = problem("mlp")
    objective = Objective(model, x, y, chunk_size=6)
    w, v = objective.initial(), vector_like(objective.initial())
    expected = objective.linearise(w).hvp(v)
    products = objective.linearise(w)
    w.zero_()
    assert torch.equal(products.hvp(v), expected)
