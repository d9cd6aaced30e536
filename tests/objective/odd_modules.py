"""Modules that do what simple layers do not: call layers on parameters, differentiate, change their inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

IN, OUT = 5, 3


class LearnedToken(nn.Module):
    """A layer called on a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.norm = nn.Parameter(torch.randn(1, 4)), nn.LayerNorm(4)
        self.key, self.head = nn.Linear(IN, 4), nn.Linear(4, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.query) * self.key(x)))


class Attention(nn.Module):
    """Each input as a token; `out_proj` is a layer that is never called, only read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 4), nn.Linear(4, OUT)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.embed(x.unsqueeze(-1)))
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class Forces(nn.Module):
    """Minus the gradient of an energy in the inputs, by autograd inside the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(IN, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return -gradient[:, :OUT]


class FunctionalForces(Forces):
    """The same by torch.func, which admits no hooks on saved tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return -torch.func.vmap(torch.func.grad(lambda row: self.energy(row).sum()))(x)[:, :OUT]


class QuietForces(Forces):
    """The same, but that it switches gradients on itself."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().forward(x.clone())


class InPlace(nn.Module):
    """Centres and activates its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(IN, 4), nn.Linear(4, OUT)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).tanh_()
        return self.head(torch.tanh(self.first(x)))


class Rotation(nn.Module):
    """A complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(IN), torch.arange(IN) / 3))
        self.head = nn.Linear(2 * IN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(torch.view_as_real(x * self.turn).flatten(1)))


class Recurrent(nn.Module):
    """A GRU over the inputs as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(1, 3, batch_first=True), nn.Linear(3, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.unsqueeze(-1))[0][:, -1])


def _net(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(wrap(nn.Linear(IN, 4)), nn.Tanh(), nn.Linear(4, OUT))


def _old_weight_norm(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        return nn.utils.weight_norm(layer)


ODD: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": _net(parametrizations.weight_norm),
    "spectral_norm": _net(parametrizations.spectral_norm),
    "orthogonal": _net(parametrizations.orthogonal),
    "learned token": LearnedToken,
    "attention": Attention,
    "forces": Forces,
    "quiet forces": QuietForces,
    "functional forces": FunctionalForces,
    "in place": InPlace,
    "complex buffer": Rotation,
    "gru": Recurrent,
    "relu in place first": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(IN, 4), nn.Tanh(), nn.Linear(4, OUT)),
}
