"""Random output gradients whose covariance is the loss's output Hessian."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.objective.losses import CrossEntropy, Loss, MeanSquaredError
from subsetopt.objective.residuals import Residuals
from subsetopt.objective.sharding import SampleShare
from subsetopt.objective.torch_losses import ClassLoss
from subsetopt.objective.weighting import WeightedLoss, along, values_of


def output_noise(
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    draw: str,
    generator: torch.Generator,
    share: SampleShare | None = None,
) -> Tensor:
    """Return random u `(n, M)` with E[u u'] = the Hessian of each sample's loss in its outputs, or its gradient.

    `curvature`: u = S e with random signs e and S S' that Hessian; for cross-entropy S = diag(sqrt p) - p sqrt(p)'.
    Of a confident sample every such u is small, where `labels` (u = p - onehot(y), y drawn from the model; Martens and
    Grosse 2015, section 5) are mostly zero and seldom large, so that fewer samples do. `empirical`: u = dl/dz at the
    true targets; a loss of the user's own always takes that. For mse, `labels` are Gaussian. What is random is drawn
    for all samples of which `share` says where these belong, so that it is theirs on whichever rank they are. A sample
    of weight c has sqrt(c) u, as c copies of it would together.
    """
    share = share or SampleShare.whole(len(outputs))
    if isinstance(loss, WeightedLoss):
        noise = output_noise(loss.inner, outputs, values_of(targets), draw, generator, share)
        return noise if isinstance(targets, Tensor) else noise * along(targets, outputs).sqrt()
    if isinstance(loss, ClassLoss | Residuals) and draw != "empirical" and loss.has_spread:
        return loss.spread(outputs, targets, _signs(outputs, generator, share))
    if draw == "empirical" or not isinstance(loss, CrossEntropy | MeanSquaredError):
        z = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss.total(z, targets, z.dtype), z)
        return gradient
    z = outputs.detach()
    if isinstance(loss, MeanSquaredError):
        scale = math.sqrt(2.0 * len(z) / z.numel())
        normal = draw == "labels"
        return scale * (_normals(z, generator, share) if normal else _signs(z, generator, share))
    p = z.softmax(1)
    if draw == "labels":
        uniform = moved(_uniform(generator, share), p.device, p.dtype)
        y = (p.cumsum(1) <= uniform).sum(1).clamp_max(p.shape[1] - 1)
        return p - F.one_hot(y, p.shape[1]).to(p)
    spread = p.sqrt() * _signs(p, generator, share)
    return spread - p * spread.sum(1, keepdim=True)


def _signs(like: Tensor, generator: torch.Generator, share: SampleShare) -> Tensor:
    bits = torch.randint(0, 2, (share.total, *like.shape[1:]), generator=generator)[share.places]
    return moved(2 * bits - 1, like.device, like.dtype)


def _normals(like: Tensor, generator: torch.Generator, share: SampleShare) -> Tensor:
    drawn = torch.randn(share.total, *like.shape[1:], generator=generator, dtype=torch.float64)
    return moved(drawn[share.places], like.device, like.dtype)


def _uniform(generator: torch.Generator, share: SampleShare) -> Tensor:
    return torch.rand(share.total, 1, generator=generator, dtype=torch.float64)[share.places]
