"""Factors that are taken apart in part, against dense decompositions and dense Kronecker products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subsetopt.objective.kfac_factor import EIGH_FLOPS, RANK, WIDE, Factor, spectral_product
from subsetopt.seeding import make_generator

WIDTH = WIDE * RANK + 8


def moment(d: int, decay: float = 0.9) -> Tensor:
    basis = torch.linalg.qr(torch.randn(d, d, generator=make_generator(d, "basis"), dtype=torch.float64)).Q
    return basis @ (decay ** torch.arange(d, dtype=torch.float64)).diag() @ basis.T


def refreshed(d: int, times: int = 1) -> Factor:
    factor = Factor.of(moment(d))
    factor.moment = moment(d)
    for _ in range(times):
        factor.refresh(make_generator(0, "sketch"))
    return factor


def dense(factor: Factor) -> Tensor:
    """Return the matrix that a factor stands for."""
    known = factor.basis @ factor.basis.T
    rest = factor.rest * (torch.eye(len(known), dtype=known.dtype) - known)
    return factor.basis @ factor.spectrum.diag() @ factor.basis.T + rest


def test_a_narrow_factor_is_decomposed_whole():
    factor = refreshed(20)
    torch.testing.assert_close(dense(factor), moment(20))
    assert float(factor.rest) == 0.0
    assert factor.price == EIGH_FLOPS * 20**3
    torch.testing.assert_close(factor.eigenvalues.sort().values, torch.linalg.eigvalsh(moment(20)))


def test_a_wide_factor_has_the_leading_eigenvalues_the_trace_and_a_fraction_of_the_price():
    factor = refreshed(WIDTH, times=2)
    exact = torch.linalg.eigvalsh(moment(WIDTH)).flip(0)
    torch.testing.assert_close(factor.spectrum.flip(0)[:40], exact[:40], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(factor.eigenvalues.sum(), exact.sum())
    assert len(factor.eigenvalues) == WIDTH
    torch.testing.assert_close(factor.basis.T @ factor.basis, torch.eye(RANK, dtype=torch.float64))
    assert factor.price < 0.3 * EIGH_FLOPS * WIDTH**3


def test_what_is_left_out_of_a_wide_factor_is_small_beside_the_best_of_its_rank():
    factor = refreshed(WIDTH)
    exact = torch.linalg.eigvalsh(moment(WIDTH)).flip(0)
    assert torch.linalg.matrix_norm(dense(factor) - moment(WIDTH)) < 1.5 * exact[RANK:].norm()


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 10), (WIDTH, 3), (4, WIDTH), (WIDTH, WIDTH + 1)])
def test_a_spectral_product_is_that_of_the_kronecker_product(inputs, outputs):
    a, g = refreshed(inputs), refreshed(outputs)
    matrix = torch.randn(outputs, inputs, generator=make_generator(1, "matrix"), dtype=torch.float64)
    product = spectral_product(a, g, matrix, lambda spectrum: spectrum)
    torch.testing.assert_close(product, dense(g) @ matrix @ dense(a))
    damped = spectral_product(a, g, matrix, lambda spectrum: 1.0 / (spectrum + 0.01))
    again = dense(g) @ damped @ dense(a) + 0.01 * damped  # (G (x) A + 0.01 I) applied to the solution
    torch.testing.assert_close(again, matrix)


def test_a_factor_survives_being_saved():
    factor = refreshed(WIDTH)
    back = Factor.from_state(factor.state("x."), "x.")
    assert all(torch.equal(value, factor.state("x.")[name]) for name, value in back.state("x.").items())
    assert back.price < refreshed(WIDTH, 0).price  # a factor that has a basis starts from it
