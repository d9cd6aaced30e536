"""Losses that are no mean over samples are refused whatever the chunk; all that are one pass, and agree with torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.errors import ModelError
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator, seeded_globals

N, M = 50, 4
GENERATOR = make_generator(0, "loss guard tests")
X = torch.randn(N, 5, generator=GENERATOR, dtype=torch.float64)
SORTED = torch.arange(N) * M // N  # the first rows, which a model is tried on, are all of one class
VALUES = torch.randn(N, M, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
ONE_IGNORED = torch.where(torch.arange(N) == 40, -100, SORTED)
SOME_NAN = torch.where(torch.arange(N * M).view(N, M) == 170, torch.nan, VALUES)


def model() -> nn.Module:
    with seeded_globals(0, "loss guard tests"):
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, M)).double()


def masked(z: Tensor, y: Tensor) -> Tensor:
    seen = ~y.isnan()
    return (z[seen] - y[seen]).square().mean()


def weighted_mean(z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(z, y, weight.to(z))


def contrast(z: Tensor, y: Tensor) -> Tensor:
    """InfoNCE within the batch."""
    return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")


class Drifting(nn.Module):
    """Divides by a running scale of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        loss = F.mse_loss(z, y)
        self.scale = 0.5 * self.scale + 0.5 * float(loss)
        return loss / self.scale


BAD: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, str]] = {
    "class weights": (partial(weighted_mean, weight=WEIGHT), SORTED, "not the mean over samples"),
    "weights that are nearly equal": (
        partial(weighted_mean, weight=WEIGHT / 1000 + 1),
        SORTED,
        "not the mean over samples",
    ),
    "one ignored label": (lambda z, y: F.cross_entropy(z, y), ONE_IGNORED, "not the mean over samples"),
    "root of a mean": (lambda z, y: F.mse_loss(z, y).sqrt(), VALUES, "not the mean over samples"),
    "largest of the losses": (lambda z, y: (z - y).square().mean(1).max(), VALUES, "not the mean over samples"),
    "masked entry": (masked, SOME_NAN, "not the mean over samples"),
    "variance": (lambda z, y: (z - y).var(), VALUES, "not the mean over samples"),
    "sum": (lambda z, y: F.mse_loss(z, y, reduction="sum"), VALUES, r"a sum .*use reduction='mean'"),
    "contrast": (contrast, SORTED, "depends on the samples beside it"),
    "scaled by the batch": (
        lambda z, y: F.cross_entropy(z, y, WEIGHT, reduction="none") / WEIGHT[y].sum(),
        SORTED,
        "depends on the samples beside it",
    ),
    "random": (lambda z, y: F.cross_entropy(F.dropout(z, 0.5), y), SORTED, "random numbers or keeps a state"),
    "state": (Drifting(), VALUES, "random numbers or keeps a state"),
    "matrix": (lambda z, y: (z - y).square(), VALUES, r"shape \(16, 4\).*flatten\(1\)\.mean\(1\)"),
    "mean over the samples, not the outputs": (lambda z, y: (z - y).square().mean(0), VALUES, r"returns shape \(4,\)"),
    "number": (lambda z, y: float(F.mse_loss(z, y)), VALUES, "no floating-point tensor"),  # type: ignore[dict-item]
    "detached": (lambda z, y: F.mse_loss(z.detach(), y), VALUES, "does not depend on the outputs"),
    "not finite": (lambda z, y: (z - 10).log().mean(1), VALUES, "it is nan at the starting point"),
    "targets changed": (lambda z, y: F.mse_loss(z, y.mul_(1)), VALUES, "changes the targets in place"),
    "outputs changed": (lambda z, y: F.mse_loss(z.mul_(2), y), VALUES, "changes the outputs in place"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_no_mean_over_samples_is_refused_with_its_cause(name: str, dtype: torch.dtype) -> None:
    loss, targets, message = BAD[name]
    if name in ("scaled by the batch", "weights that are nearly equal") and dtype == torch.float32:
        return  # weights written in double precision; a difference that is rounding in single
    with pytest.raises(ModelError, match=message) as caught:
        Objective(model().to(dtype), X, targets, loss)
    assert "\n" not in str(caught.value)


TOKENS = torch.randint(0, 2, (N, 2), generator=GENERATOR)
SIGNS = 2 * (SORTED % 2) - 1
GOOD: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "class weights per sample": (nn.CrossEntropyLoss(WEIGHT, reduction="none"), SORTED),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), SORTED),
    "huber": (nn.HuberLoss(delta=0.5), VALUES),
    "smooth l1": (nn.SmoothL1Loss(), VALUES),
    "positive weights": (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), (VALUES > 0).double()),
    "divergence": (lambda z, y: F.kl_div(z.log_softmax(1), y, reduction="batchmean"), VALUES.softmax(1)),
    "gaussian": (lambda z, y: F.gaussian_nll_loss(z[:, :2], y[:, :2], z[:, 2:].exp()), VALUES),
    "cosine": (lambda z, y: F.cosine_embedding_loss(z, torch.ones_like(z), y), SIGNS),
    "poisson": (nn.PoissonNLLLoss(), VALUES.abs()),
    "tokens": (lambda z, y: F.cross_entropy(z.view(-1, 2, 2).mT, y), TOKENS),
    "hinge": (nn.MultiMarginLoss(), SORTED),
    "linear and near zero": (lambda z, y: (z * y).mean(), VALUES),
    "large": (lambda z, y: 1e12 * F.mse_loss(z, y), VALUES),
    "single precision inside": (lambda z, y: F.mse_loss(z.float(), y.float()).double(), VALUES),
}


@pytest.mark.parametrize("name", GOOD)
def test_means_over_samples_agree_with_torch_whatever_the_chunk(name: str) -> None:
    loss, targets = GOOD[name]
    net = model()
    expected = loss(net(X), targets).mean()
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(expected, list(net.parameters()))])
    single = name == "single precision inside"
    for chunk_size in (None, 7):
        objective = Objective(net, X, targets, loss, chunk_size=chunk_size)
        value, found = objective.value_and_gradient(objective.initial())
        torch.testing.assert_close(value, expected.detach(), rtol=1e-6 if single else 1e-12, atol=1e-14)
        torch.testing.assert_close(found, gradient, rtol=1e-4 if single else 1e-9, atol=1e-6 if single else 1e-12)


def weighted(weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: F.cross_entropy(z, y, weight, reduction="none")


@pytest.mark.parametrize(
    "make",
    [
        lambda scale: nn.CrossEntropyLoss(scale * WEIGHT, reduction="none"),
        lambda scale: nn.CrossEntropyLoss(label_smoothing=scale / 10),
        lambda scale: weighted(scale * WEIGHT),
        lambda scale: partial(F.cross_entropy, label_smoothing=scale / 10),
        lambda scale: nn.Sequential(nn.CrossEntropyLoss(scale * WEIGHT, reduction="none"))[0].forward,
    ],
)
def test_objectives_of_losses_with_other_settings_have_other_identities(make: Callable[[float], Any]) -> None:
    one, same, other = (Objective(model(), X, SORTED, make(scale)).identity for scale in (1.0, 1.0, 2.0))
    assert one == same != other
