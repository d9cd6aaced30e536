"""The loss and gradient of a multilayer perceptron, written out on the host: small networks are bound by overheads.

Back-propagation (Rumelhart, Hinton & Williams 1986) over blocks of rows that stay in the cache, in buffers that are
kept from call to call: on tables of some thousand rows allocation and autograd take longer than the arithmetic.
Curvature products, and other devices, are `subsetopt.objective.Objective`'s, which this equals to rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.objective import Objective
from subsetopt.objective.protocol import Linearisation, Purpose, SmoothObjective
from subsetopt.sklearn.activations import ACTIVATIONS, Array
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.output_losses import CrossEntropy, OutputLoss, SquaredError

BLOCK = 2**16  # numbers in the widest layer at once: half a megabyte
_SERIAL = itertools.count()


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


def objective_of(network: Network, sample: Sample, l2: float) -> SmoothObjective:
    """Return f(w) = sum u_i l_i(w) / sum u_i + l2/2 ||w||^2 of `network`, on its device.

    l is the cross entropy for class numbers and the mean over outputs of squared errors else.
    """
    return PerceptronObjective(network, sample, l2) if network.device.type == "cpu" else general(network, sample, l2)


def general(network: Network, sample: Sample, l2: float) -> Objective:
    """Return the same by autograd, on any device and with curvature products."""
    loss = "mse" if sample.targets.is_floating_point() else "cross_entropy"
    weights = sample.weights
    return Objective(
        network.flat, sample.inputs, sample.targets, loss, l2, sample_weight=weights, check_deterministic=False
    )


class PerceptronObjective:
    """The objective on the host."""

    def __init__(self, network: Network, sample: Sample, l2: float, block: int = BLOCK) -> None:
        self.network, self.sample, self.l2 = network, sample, l2
        self.size, self.dtype, self.device = network.size, network.dtype, network.device
        self._identity = next(_SERIAL)
        self._loss = Backpropagation(network, sample, block)

    @property
    def identity(self) -> Hashable:
        """Return what no other objective has."""
        return self._identity

    def initial(self) -> Tensor:
        """Return the network's own parameters."""
        return self.network.start.clone()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w), float64."""
        host = self.network.check(w).detach().numpy()
        return torch.tensor(self._loss.value(host) + self._penalty(host), dtype=torch.float64, device="cpu")

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w), float64, and its gradient (P,)."""
        loss, gradient = self._evaluate(self.network.check(w).detach().numpy())
        return torch.tensor(loss, dtype=torch.float64, device="cpu"), torch.from_numpy(gradient)

    def measures_on_host(
        self, w: Tensor, along: Tensor | None, purpose: Purpose
    ) -> tuple[Tensor, float, float, float, float, float]:
        """Return what a search needs of one point (see `solvers.iterate.evaluate`), without a detour by tensors."""
        host = self.network.check(w).detach().numpy()
        loss, gradient = self._evaluate(host)
        wide = gradient.astype(np.float64, copy=False)
        with np.errstate(all="ignore"):
            scaled = wide * host
            largest = max(-float(gradient.min()), float(gradient.max()))
            slope = 0.0 if along is None else float(wide @ along.numpy().astype(np.float64, copy=False))
            square, sensitivity = float(wide @ wide), float(scaled @ scaled)
        return torch.from_numpy(gradient), loss, largest, square, sensitivity, slope

    def linearise(self, w: Tensor) -> Linearisation:
        """Prepare curvature products at w, by the general objective."""
        return self._general.linearise(w)

    @cached_property
    def _general(self) -> Objective:
        return general(self.network, self.sample, self.l2)

    def _evaluate(self, w: Array) -> tuple[float, Array]:
        gradient = w * w.dtype.type(self.l2)
        loss = self._loss.add_gradient(w, gradient)
        return loss + self._penalty(w), gradient

    def _penalty(self, w: Array) -> float:
        wide = w.astype(np.float64, copy=False)
        return 0.5 * self.l2 * float(wide @ wide)


class Backpropagation:
    """The weighted mean loss of one sample on the host and its gradient, layer by layer, block by block."""

    def __init__(self, network: Network, sample: Sample, block: int) -> None:
        self._inputs: Array = sample.inputs.numpy()
        self._shapes = network.shapes
        self._function = ACTIVATIONS[network.activation]
        widths = [shape[0] for shape in self._shapes[::2]]
        rows = min(len(sample), max(1, block // max(*widths, self._inputs.shape[1])))
        dtype = self._inputs.dtype
        self._blocks = [slice(start, min(start + rows, len(sample))) for start in range(0, len(sample), rows)]
        self._losses = [_output_loss(sample, block, dtype) for block in self._blocks]
        self._ones = np.ones(rows, dtype)
        hidden = widths[:-1]
        self._sums = [np.empty((rows, width), dtype) for width in hidden]
        self._outputs = self._sums if self._function.in_place else [np.empty_like(each) for each in self._sums]
        self._deltas = [np.empty((rows, width), dtype) for width in hidden]
        self._parts = [np.empty(shape, dtype) for shape in self._shapes]

    def value(self, w: Array) -> float:
        """Return the weighted mean loss at w (P,)."""
        layers = self._layers(w)
        parts = zip(self._blocks, self._losses, strict=True)
        with np.errstate(all="ignore"):  # a line search may try points where the loss is infinite
            return sum(loss.value(self._forward(layers, rows)) for rows, loss in parts)

    def add_gradient(self, w: Array, into: Array) -> float:
        """Return the weighted mean loss at w (P,), and add its gradient to `into` (P,)."""
        layers, gradients = self._layers(w), self._layers(into)
        total = 0.0
        with np.errstate(all="ignore"):
            for rows, loss in zip(self._blocks, self._losses, strict=True):
                value, delta = loss.value_and_delta(self._forward(layers, rows))
                total += value
                self._backward(layers, rows, delta, gradients)
        return total

    def _layers(self, w: Array) -> list[tuple[Array, Array]]:
        views, start = [], 0
        for shape in self._shapes:
            size = shape[0] * shape[1] if len(shape) == 2 else shape[0]
            views.append(w[start : start + size].reshape(shape))
            start += size
        return list(zip(views[::2], views[1::2], strict=True))

    def _forward(self, layers: list[tuple[Array, Array]], rows: slice) -> Array:
        """Return the network's outputs for `rows`, one line for each output (M, n), with a line's memory together."""
        h = self._inputs[rows]
        for (weight, bias), sums, outputs in zip(layers, self._sums, self._outputs, strict=False):
            a = np.dot(h, weight.T, out=sums[: len(h)])
            a += bias
            h = outputs[: len(h)]
            self._function.apply(a, h)
        weight, bias = layers[-1]
        z: Array = np.dot(weight, h.T)
        z += bias[:, None]
        return z

    def _backward(
        self, layers: list[tuple[Array, Array]], rows: slice, delta: Array, gradients: list[tuple[Array, Array]]
    ) -> None:
        """Add what `rows` give to `gradients`; `delta` (M, n) are the derivatives of the loss in the outputs."""
        count = delta.shape[1]
        ones, across = self._ones[:count], delta
        for index in range(len(layers) - 1, -1, -1):
            h = self._outputs[index - 1][:count] if index else self._inputs[rows]
            weight, bias = gradients[index]
            weight += np.dot(across, h, out=self._parts[2 * index])
            bias += np.dot(across, ones, out=self._parts[2 * index + 1])
            if index:
                back = np.dot(across.T, layers[index][0], out=self._deltas[index - 1][:count])
                self._function.times_slope(back, self._sums[index - 1][:count], h)
                across = back.T


def _output_loss(sample: Sample, rows: slice, dtype: np.dtype[Any]) -> OutputLoss:
    total = float(len(sample)) if sample.weights is None else float(sample.weights.sum(dtype=torch.float64))
    count = rows.stop - rows.start
    weights: NDArray[np.float64] = np.ones(count) if sample.weights is None else sample.weights[rows].double().numpy()
    targets: Array = sample.targets[rows].numpy()
    kind = SquaredError if sample.targets.is_floating_point() else CrossEntropy
    return kind.of(targets, weights / total, dtype)
