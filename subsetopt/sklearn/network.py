"""The estimators' network: layers of `Linear` with an activation between them, and its parameters as one vector.

Its initial parameters are those that `build_model("mlp" | "linear", ...)` draws from the same seed, to the last bit.
It is made by hand since models of any kind, which `FlatModel` takes, cost more to set up than a small table to solve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self, cast

import torch
from torch import Tensor, nn

from subsetopt.errors import ModelError
from subsetopt.models.layers import Activation, make_activation
from subsetopt.objective import FlatModel
from subsetopt.seeding import make_generator


@dataclass(frozen=True)
class Network:
    """Widths from inputs to outputs, both included, and where to start from: `start` (P,), weight, bias, weight, ..."""

    widths: tuple[int, ...]
    activation: Activation
    start: Tensor

    @classmethod
    def drawn(cls, widths: Sequence[int], activation: str, seed: int, dtype: torch.dtype, device: torch.device) -> Self:
        """Draw parameters as `torch.nn.Linear` does (LeCun et al. 1998), in single precision."""
        generator = make_generator(seed, "init")
        gain = math.sqrt(2.0 / (1 + 5))
        parts = []
        for fan_in, fan_out in pairwise(widths):
            bounds = math.sqrt(3.0) * (gain / math.sqrt(fan_in)), 1 / math.sqrt(fan_in)
            for bound, count in zip(bounds, (fan_out * fan_in, fan_out), strict=True):
                part = torch.empty(count, dtype=torch.float32, device="cpu")
                parts.append(part.uniform_(-bound, bound, generator=generator))
        return cls(tuple(widths), cast(Activation, activation), torch.cat(parts).to(device, dtype))

    @classmethod
    def of(cls, module: nn.Module, activation: str, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """Return the network with the parameters of `module`, one that `module` made; in its own dtype by default."""
        weights = [parameter.detach() for parameter in module.parameters()]
        widths = (weights[0].shape[1], *(bias.shape[0] for bias in weights[1::2]))
        return cls(
            widths, cast(Activation, activation), torch.cat([part.reshape(-1) for part in weights]).to(device, dtype)
        )

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parameters in the order of w."""
        pairs = pairwise(self.widths)
        return tuple(shape for fan_in, fan_out in pairs for shape in ((fan_out, fan_in), (fan_out,)))

    @property
    def size(self) -> int:
        """P."""
        return self.start.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of w."""
        return self.start.dtype

    @property
    def device(self) -> torch.device:
        """The device of w."""
        return self.start.device

    @cached_property
    def flat(self) -> FlatModel:
        """The same for objectives of any model."""
        return FlatModel(self.module(self.start.cpu()), device=self.device)

    def check(self, w: Tensor) -> Tensor:
        """Return `w`; raises `ModelError` where its shape or dtype is another."""
        if w.shape != (self.size,) or w.dtype != self.dtype:
            raise ModelError(f"w: shape {tuple(w.shape)} {w.dtype}; expected shape ({self.size},) {self.dtype}")
        return w

    def module(self, w: Tensor) -> nn.Module:
        """Return the network as a module on the CPU with the parameters w."""
        layers: list[nn.Module] = [nn.Flatten()]
        parts = iter(w.detach().cpu().clone().split([math.prod(shape) for shape in self.shapes]))
        for fan_in, fan_out in pairwise(self.widths):
            layer = nn.Linear(fan_in, fan_out, device="meta")  # draws nothing
            layer.weight = nn.Parameter(next(parts).view(fan_out, fan_in))
            layer.bias = nn.Parameter(next(parts))
            layers += [layer, make_activation(self.activation)]
        return nn.Sequential(*layers[:-1])
