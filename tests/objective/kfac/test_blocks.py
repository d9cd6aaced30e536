"""Products with K-FAC's matrix and with its damped inverses against dense solves."""

from __future__ import annotations

import torch
from torch import nn

from subsetopt.objective import make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator
from tests.objective.kfac.kfac_nets import built, dense, fitted


def test_the_damped_inverse_is_the_dense_solve():
    layers = [nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)]
    flat = built(*layers)
    kfac = fitted(flat, torch.randn(6, 1, 3, 3, dtype=torch.float64), torch.arange(6) % 3)
    v, matrix = torch.randn(flat.size, dtype=torch.float64), dense(kfac)
    identity = torch.eye(flat.size, dtype=torch.float64)
    torch.testing.assert_close(matrix, matrix.T)
    for damping in (1e-3, 0.1):
        torch.testing.assert_close(kfac.apply(v, damping), torch.linalg.solve(matrix + damping * identity, v))
    torch.testing.assert_close(kfac.product(v) @ v, v @ matrix @ v)
    assert kfac.note == ""


def test_layers_without_curvature_are_damped_alone():
    """A saturated softmax has the Hessian zero, so that (F + damping I)^-1 v = v / damping."""
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        w = flat.initial()
        w[-2] = 1e6  # the first class's bias
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(w, torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2, make_generator(0, "g"))
    v = torch.randn(flat.size, dtype=torch.float64)
    torch.testing.assert_close(kfac.apply(v, 0.5), v / 0.5)
    assert not kfac.product(v).any()


def test_a_product_may_be_written_over_its_vector_or_added_to_another():
    flat = built(nn.Linear(200, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
    kfac = fitted(flat, torch.randn(6, 200, dtype=flat.dtype), torch.arange(6) % 2)
    v, into = torch.randn(2, flat.size, dtype=flat.dtype)
    expected, begun = kfac.apply(v, 0.1), into.clone()
    kfac.add_applied(into, v, 0.1, 0.5)
    torch.testing.assert_close(into, begun + 0.5 * expected)
    assert kfac.apply_(v, 0.1) is v and torch.equal(v, expected)
