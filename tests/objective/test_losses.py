"""Losses and their output Hessians against torch's own losses and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.errors import SettingError, UserError
from subsetopt.objective import CrossEntropy, MeanSquaredError, Objective, make_loss
from subsetopt.seeding import make_generator
from tests.objective.objective_nets import problem, vector_like

GENERATOR = make_generator(0, "losses")
Z = torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64) * 3
CLASSES = torch.tensor([0, 3, 1, 2, 2])
VALUES = torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64)


def smooth_l1(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets).square() + 1).sqrt().sum(1)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("cross_entropy", CLASSES),
        (CrossEntropy(label_smoothing=0.1), CLASSES),
        ("mse", VALUES),
        (smooth_l1, VALUES),
        (lambda z, y: F.cross_entropy(z, y), CLASSES),
    ],
)
def test_output_hessian_equals_that_of_autograd(loss: Any, targets: Tensor) -> None:
    kind = make_loss(loss)
    dense = torch.autograd.functional.hessian(lambda z: kind.total(z, targets, torch.float64), Z)
    u = torch.randn(5, 4, generator=make_generator(1, "u"), dtype=torch.float64)
    got = kind.output_hessian(Z, targets)(u)
    torch.testing.assert_close(got.reshape(-1), dense.reshape(20, 20) @ u.reshape(-1), rtol=1e-10, atol=1e-12)


def test_per_sample_losses_equal_torchs() -> None:
    torch.testing.assert_close(CrossEntropy().per_sample(Z, CLASSES), F.cross_entropy(Z, CLASSES, reduction="none"))
    torch.testing.assert_close(MeanSquaredError().per_sample(Z, VALUES).mean(), F.mse_loss(Z, VALUES))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_callable_per_sample_or_mean_equals_the_named_loss_over_unequal_chunks(reduction: str) -> None:
    model, x, y = problem("mlp")
    named = Objective(model, x, y, l2=0.1)
    own = Objective(model, x, y, lambda z, t: F.cross_entropy(z, t, reduction=reduction), l2=0.1, chunk_size=7)
    w = named.initial()
    v = vector_like(w)
    for a, b in zip(named.value_and_gradient(w), own.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(named.linearise(w).ggnvp(v), own.linearise(w).ggnvp(v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(named.linearise(w).hvp(v), own.linearise(w).hvp(v), rtol=1e-10, atol=1e-12)


def test_the_hessian_serves_where_a_loss_linear_in_the_outputs_has_no_gauss_newton_matrix() -> None:
    model, x, y = problem("mlp", loss="mse")
    objective = Objective(model, x, y, lambda z, t: (z * t).sum(1), chunk_size=7)
    w = objective.initial()
    v = vector_like(w)
    with pytest.warns(UserWarning, match="ggnvp by the Hessian .the loss is linear in the outputs"):
        got = objective.linearise(w).ggnvp(v)
    assert torch.equal(got, objective.linearise(w).hvp(v))
    assert bool(got.any())


def test_one_column_regression_takes_flat_targets() -> None:
    x = torch.randn(6, 3, generator=make_generator(0, "x"))
    y = torch.arange(6.0)
    model = torch.nn.Linear(3, 1)
    objective = Objective(model, x, y, "mse")
    torch.testing.assert_close(objective.value(objective.initial()).float(), F.mse_loss(model(x)[:, 0], y).detach())


def test_unusable_losses_are_refused() -> None:
    with pytest.raises(SettingError, match="neither a name nor a function"):
        make_loss(3)  # type: ignore[arg-type] # the mistake under test
    with pytest.raises(SettingError, match="label_smoothing"):
        CrossEntropy(1.0)
    with pytest.raises(UserError, match="reduction='none'"):
        make_loss(lambda z, y: F.cross_entropy(z, y)).per_sample(Z, CLASSES)
