"""The loss and gradient of a multilayer perceptron, written out: small networks are bound by the calls around them.

Back-propagation (Rumelhart, Hinton & Williams 1986) over blocks of rows, without autograd: on tables of some hundred
rows autograd's bookkeeping takes longer than the arithmetic. Everything else (products, other losses and layers) is
`subsetopt.objective.Objective`'s, which is made when a product is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from subsetopt.objective import FlatModel, Objective
from subsetopt.objective.protocol import Linearisation, Purpose

BLOCK = 2**22  # numbers in the widest layer at once
_SERIAL = itertools.count()

# h = f(a) and f'(a), the latter from a and h.
Activated = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], Tensor]


def _silu_slope(a: Tensor, h: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s + h * (1 - s)


def _gelu_slope(a: Tensor, h: Tensor) -> Tensor:
    density = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    below: Tensor = torch.special.ndtr(a)
    return below + a * density


ACTIVATIONS: dict[str, tuple[Activated, Slope]] = {
    "tanh": (torch.tanh, lambda a, h: 1 - h * h),
    "relu": (torch.relu, lambda a, h: (a > 0).to(a.dtype)),
    "softplus": (torch.nn.functional.softplus, lambda a, h: torch.sigmoid(a)),
    "silu": (torch.nn.functional.silu, _silu_slope),
    "gelu": (torch.nn.functional.gelu, _gelu_slope),
}


@dataclass(frozen=True)
class Sample:
    """Inputs (n, D) as the network takes them, targets (classes (n,), or (n, M)), weights (n,) or None."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None

    def take(self, rows: Tensor) -> Sample:
        """Return the samples of `rows`."""
        return Sample(self.inputs[rows], self.targets[rows], None if self.weights is None else self.weights[rows])

    def __len__(self) -> int:
        """Return n."""
        return len(self.targets)


class PerceptronObjective:
    """f(w) = sum u_i l_i(w) / sum u_i + l2/2 ||w||^2 of an MLP whose parameters w holds layer by layer, weight, bias.

    l is the cross entropy for class numbers and the mean over outputs of squared errors else, as in `Objective`, which
    it equals to rounding.
    """

    def __init__(self, flat: FlatModel, activation: str, sample: Sample, l2: float) -> None:
        self.flat, self.sample, self.l2 = flat, sample, l2
        self.size, self.dtype, self.device = flat.size, flat.dtype, flat.device
        self._activation, self._slope = ACTIVATIONS[activation]
        self._classes = not sample.targets.is_floating_point()
        total = float(len(sample)) if sample.weights is None else float(sample.weights.sum(dtype=torch.float64))
        weights = torch.ones(len(sample), device=self.device) if sample.weights is None else sample.weights
        self._shares = (weights.double() / total).to(self.dtype)
        self._identity = next(_SERIAL)
        widest = max(max(shape) for shape in flat.shapes)
        self._block = max(1, BLOCK // widest)

    @property
    def identity(self) -> Hashable:
        """Return what no other objective has."""
        return self._identity

    def initial(self) -> Tensor:
        """Return the network's own parameters."""
        return self.flat.initial()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w), float64."""
        layers = self._layers(w)
        total = self._penalty(w)
        for x, y, share in self._blocks():
            total = total + self._loss(self._forward(layers, x)[-1], y, share)[0]
        return total

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w), float64, and its gradient (P,)."""
        layers = self._layers(w)
        gradient = w.detach() * self.l2
        into = self._layers(gradient)
        total = self._penalty(w)
        for x, y, share in self._blocks():
            stages = self._forward(layers, x)
            loss, delta = self._loss(stages[-1], y, share)
            total = total + loss
            for index in range(len(layers) - 1, -1, -1):
                h = x if index == 0 else stages[2 * index - 1]
                weight, bias = into[index]
                weight.addmm_(delta.T, h)
                bias += delta.sum(0)
                if index:
                    delta = (delta @ layers[index][0]).mul_(self._slope(stages[2 * index - 2], h))
        return total, gradient

    def linearise(self, w: Tensor) -> Linearisation:
        """Prepare curvature products at w, by the general objective."""
        return self._general.linearise(w)

    @cached_property
    def _general(self) -> Objective:
        sample = self.sample
        loss = "cross_entropy" if self._classes else "mse"
        return Objective(
            self.flat,
            sample.inputs,
            sample.targets,
            loss,
            self.l2,
            sample_weight=sample.weights,
            check_deterministic=False,
        )

    def _layers(self, w: Tensor) -> list[tuple[Tensor, Tensor]]:
        views = self.flat.views(self.flat.check(w).detach())
        return list(zip(views[::2], views[1::2], strict=True))

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        sample = self.sample
        for start in range(0, len(sample), self._block):
            rows = slice(start, start + self._block)
            yield sample.inputs[rows], sample.targets[rows], self._shares[rows]

    def _forward(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> list[Tensor]:
        """Return a_1, h_1, a_2, ..., and the outputs last."""
        stages: list[Tensor] = []
        for weight, bias in layers:
            stages.append(torch.addmm(bias, stages[-1] if stages else x, weight.T))
            stages.append(self._activation(stages[-1]) if len(stages) < 2 * len(layers) - 2 else stages[-1])
        return stages[:-1]

    def _loss(self, outputs: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of losses, float64, and its gradient in the outputs."""
        if self._classes:
            logs = torch.log_softmax(outputs, 1)
            rows = targets.unsqueeze(1)
            loss = torch.dot(logs.gather(1, rows).squeeze(1).double(), shares.double())
            delta = logs.exp_()
            return -loss, delta.scatter_add_(1, rows, -torch.ones_like(rows, dtype=self.dtype)).mul_(
                shares.unsqueeze(1)
            )
        errors = outputs - targets
        loss = torch.dot(errors.square().mean(1).double(), shares.double())
        return loss, errors * (2 / errors.shape[1] * shares.unsqueeze(1))

    def _penalty(self, w: Tensor) -> Tensor:
        wide = w.detach().double()
        return 0.5 * self.l2 * torch.dot(wide, wide)
