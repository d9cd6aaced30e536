"""Small modules that the tests of objectives share, and dense references for them."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from subsetopt.objective import FlatModel
from subsetopt.seeding import make_generator, seeded_globals


class Residual(nn.Module):
    """A strided residual block with BatchNorm and a grouped convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.second = nn.Conv2d(2 * width, 2 * width, 3, padding=2, dilation=2, groups=2)
        self.shortcut = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.norm(self.first(x)))) + self.shortcut(x))


class Tied(nn.Module):
    """An autoencoder-like net with one shared weight and one frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.inner.weight
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.frozen(self.again(torch.tanh(self.inner(x))))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 3, 2),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(27, 3),
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Conv2d(2, 3, 2),
        nn.Sigmoid(),
        nn.AvgPool2d((1, 3)),
        nn.Flatten(),
        nn.Linear(9, 3),
    )


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.Tanh(),
        Residual(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
    )


NETS = {"mlp": mlp, "cnn": cnn, "pooled": pooled, "resnet": resnet, "tied": Tied}


def problem(name: str, samples: int = 23, loss: str = "cross_entropy") -> tuple[nn.Module, Tensor, Tensor]:
    """Return a float64 model with inputs and targets, the same at every call."""
    with seeded_globals(0, name):
        model = NETS[name]().double()
    generator = make_generator(1, "data")
    shape = (samples, 6) if name in ("mlp", "tied") else (samples, 1, 8, 8)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if loss == "mse":
        return model, x, torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(0, 3, (samples,), generator=generator)


def vector_like(w: Tensor, seed: int = 3) -> Tensor:
    return torch.randn(len(w), generator=make_generator(seed, "vector"), dtype=torch.float64).to(w)


class WrittenOutNorm(nn.Module):
    """Batch normalisation by its formula. (The Hessian torch.func 2.13 gives through F.batch_norm is not symmetric.)"""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        centred = x - x.mean(axes, keepdim=True)
        normal = centred / (centred.square().mean(axes, keepdim=True) + self.eps).sqrt()
        return normal * self.weight.view(shape) + self.bias.view(shape)


def dense_outputs(model: nn.Module, flat: FlatModel, w: Tensor, x: Tensor) -> Tensor:
    """Outputs by `functional_call`: no dropout, batch statistics by formula, plain torch operators."""
    model = copy.deepcopy(model).eval()
    for owner in [*model.modules()]:
        for name, child in [*owner.named_children()]:
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(owner, name, WrittenOutNorm(child))
    parameters, start = {}, 0
    for name, shape in zip(flat.names, flat.shapes, strict=True):
        parameters[name] = w[start : start + shape.numel()].view(shape)
        start += shape.numel()
    return functional_call(model, parameters, (x,))


def dense_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples of the loss, written out."""
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets, reduction="none").mean(1).sum()
    return -(outputs - outputs.logsumexp(1, keepdim=True)).gather(1, targets[:, None]).sum()
