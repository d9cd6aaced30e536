"""Jacobians of single samples against `torch.func.jacrev`, for models whose layers tell them and others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from subsetopt.analysis.sample_jacobians import LayerJacobians, MappedJacobians, sample_jacobians
from subsetopt.objective import FlatModel
from subsetopt.seeding import make_generator, seeded_globals

SAMPLES = 5


class Twice(nn.Module):
    """One Linear layer called twice, once on tokens, followed by an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu_(self.mix(x.view(-1, 3, 4)))
        return self.head(torch.tanh(self.mix(tokens).mean(1)))


class TokensFirst(nn.Module):
    """Samples along the second axis of what its layer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(x.view(-1, 3, 4).transpose(0, 1))).sum(0))


class Unseen(nn.Module):
    """A weight that is read without calling its layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + F.linear(x, self.inner.weight).square()


class Frozen(nn.Sequential):
    """A frozen bias, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))
        self[0].bias.requires_grad_(False)
        self.add_module("idle", nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.ConvTranspose2d(1, 1, 2),
        nn.Conv2d(1, 2, 2, padding=1, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(2, 3, 2, padding="same", padding_mode="circular", dilation=2, bias=False),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


BY_LAYERS: list[Callable[[], nn.Module]] = [cnn, Twice, Frozen]
BY_MAPPING: list[Callable[[], nn.Module]] = [
    TokensFirst,
    Unseen,
    lambda: nn.Sequential(nn.Linear(12, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)),
]


def case(build: Callable[[], nn.Module]) -> tuple[FlatModel, Tensor, Tensor, Tensor]:
    """Return a flat model, w, inputs, and the Jacobians (n, M, P) of the model called on each sample alone."""
    x = torch.randn(SAMPLES, 12, generator=make_generator(0, "jacobians"), dtype=torch.float64)
    with seeded_globals(0, "init"):
        model = build().double()
        model(x)  # lazy layers
    flat = FlatModel(model)
    w = flat.initial()
    module = flat.module(w)

    def outputs(p: Tensor, row: Tensor) -> Tensor:
        return functional_call(module, dict(zip(flat.names, flat.views(p), strict=True)), (row[None],))[0]

    return flat, w, x, torch.stack([jacrev(outputs)(w, row) for row in x])


@pytest.mark.parametrize("build", BY_LAYERS + BY_MAPPING)
def test_products_are_those_of_the_dense_jacobians(build: Callable[[], nn.Module]) -> None:
    flat, w, x, dense = case(build)
    found = sample_jacobians(flat, w, x)
    assert isinstance(found, LayerJacobians if build in BY_LAYERS else MappedJacobians)
    generator = make_generator(1, "jacobians")
    u = torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)
    v = torch.randn(SAMPLES, flat.size, generator=generator, dtype=torch.float64)
    back, forward = torch.einsum("nmp,nm->np", dense, u), torch.einsum("nmp,np->nm", dense, v)
    for jacobians in (found, MappedJacobians(flat, w, x)):
        assert torch.allclose(jacobians.pull_back(u), back, rtol=1e-10, atol=1e-12)
        assert torch.allclose(jacobians.push_forward(v), forward, rtol=1e-10, atol=1e-12)
    assert all(parameter.grad is None for parameter in flat.module(w).parameters())


def test_one_sample_and_outer_modes_of_autograd_change_nothing() -> None:
    flat, w, x, dense = case(cnn)
    with torch.no_grad():
        found = sample_jacobians(flat, w, x[:1])
        u = torch.ones(1, 3, dtype=torch.float64)
        assert torch.allclose(found.pull_back(u)[0], dense[0].sum(0), rtol=1e-10, atol=1e-12)
        assert torch.allclose(found.push_forward(w[None])[0], dense[0] @ w, rtol=1e-10, atol=1e-12)
