"""Factors that are taken apart in part, against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subsetopt.objective.kfac.factor import EIGH_FLOPS, RANK, SKETCH, WIDE, Factor
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


def captured(factor: Factor) -> Tensor:
    """What the basis diagonalises of the moment, in ascending order."""
    rotated = factor.basis.T @ factor.moment @ factor.basis
    torch.testing.assert_close(rotated, rotated.diagonal().diag(), rtol=0.0, atol=1e-9)
    return rotated.diagonal()


def test_a_narrow_factor_is_decomposed_whole():
    factor = refreshed(20)
    torch.testing.assert_close(captured(factor), torch.linalg.eigvalsh(moment(20)))
    assert factor.price == EIGH_FLOPS * 20**3
    assert not factor.is_wide


def test_a_wide_factor_has_the_leading_eigenvectors_for_a_fraction_of_the_price():
    factor = refreshed(WIDTH, times=2)
    exact = torch.linalg.eigvalsh(moment(WIDTH)).flip(0)
    assert factor.is_wide
    torch.testing.assert_close(captured(factor).flip(0)[:40], exact[:40], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(factor.basis.T @ factor.basis, torch.eye(RANK, dtype=torch.float64))
    assert factor.price < 0.3 * EIGH_FLOPS * WIDTH**3


def test_what_is_left_out_of_a_wide_factor_is_small_beside_the_best_of_its_rank():
    factor = refreshed(WIDTH)
    exact = torch.linalg.eigvalsh(moment(WIDTH)).flip(0)
    known = factor.basis @ factor.basis.T @ moment(WIDTH)
    assert torch.linalg.matrix_norm(moment(WIDTH) - known) < 1.5 * exact[RANK:].norm()


@pytest.mark.parametrize("d", [20, WIDTH])
def test_a_shaped_factor_has_the_shapes_of_a_refreshed_one(d):
    shaped, factor = Factor.shaped(moment(d)), refreshed(d)
    assert {name: value.shape for name, value in shaped.state("").items()} == {
        name: value.shape for name, value in factor.state("").items()
    }


def test_a_factor_survives_being_saved():
    factor = refreshed(WIDTH)
    back = Factor.from_state(factor.state("x."), "x.")
    assert all(torch.equal(value, factor.state("x.")[name]) for name, value in back.state("x.").items())
    assert back.price < refreshed(WIDTH, 0).price  # a factor that has a basis starts from it


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_change_of_a_wide_moment_is_seen_in_a_sketch(share):
    """The relative norm of a change, against that of the matrices: 16 directions see it within a third."""
    factor, other = refreshed(WIDTH), moment(WIDTH, 0.95)
    change, known = factor.change(other, share)
    exact = share * torch.linalg.matrix_norm(other - moment(WIDTH)) / torch.linalg.matrix_norm(moment(WIDTH))
    assert float(change / known) == pytest.approx(float(exact), rel=1 / 3, abs=1e-12)
    given = factor.moment
    factor.take_in(other.clone(), share)
    torch.testing.assert_close(factor.moment, torch.lerp(moment(WIDTH), other, share))
    assert torch.equal(given, moment(WIDTH)), "as a solver holds it that goes back to it"
    assert factor.decomposed.shape == (WIDTH, SKETCH)


def test_a_wide_factor_of_an_earlier_version_keeps_the_matrix_it_compares_with():
    factor, other = refreshed(WIDTH), moment(WIDTH, 0.95)
    earlier = Factor(factor.moment, factor.moment, factor.basis)
    change, _ = earlier.change(other, 0.1)
    assert float(change) == pytest.approx(float(0.1 * torch.linalg.matrix_norm(other - moment(WIDTH))))
    earlier.take_in(other, 0.1)
    torch.testing.assert_close(earlier.decomposed, moment(WIDTH))
    earlier.refresh(make_generator(0, "sketch"))
    assert earlier.decomposed.shape == (WIDTH, WIDTH)


def test_a_factor_that_keeps_few_vectors_is_wide_at_a_smaller_width_and_stays_so():
    factor = Factor.of(moment(60), vectors=16)
    factor.moment = moment(60)
    assert factor.is_wide and factor.rank == 16
    for _ in range(2):
        factor.refresh(make_generator(0, "sketch"))
    back = Factor.from_state(factor.state("x."), "x.")
    assert back.is_wide and back.rank == 16 and back.price == factor.price < 0.3 * EIGH_FLOPS * 60**3
    exact = torch.linalg.eigvalsh(moment(60)).flip(0)
    torch.testing.assert_close(captured(factor).flip(0)[:8], exact[:8], rtol=1e-2, atol=0.0)
    assert not Factor.of(moment(40), vectors=16).is_wide
    whole = Factor.from_state(refreshed(60).state("x."), "x.")
    assert not whole.is_wide and whole.rank == 60


def test_the_widest_keep_fewer_eigenvectors():
    ranks = {d: Factor.of(torch.zeros(d, d)).rank for d in (10, WIDE * RANK, 256, 785, 1449, 5000)}
    assert ranks == {10: 10, WIDE * RANK: RANK, 256: RANK, 785: 40, 1449: 24, 5000: 16}
