"""The loss and gradient of a multilayer perceptron, written out on the host: small networks are bound by overheads.

Back-propagation (Rumelhart, Hinton & Williams 1986) over blocks of rows that stay in the cache, in buffers that are
kept from call to call: on tables of some thousand rows allocation and autograd take longer than the arithmetic.
Curvature products, and other devices, are `subsetopt.objective.Objective`'s, which this equals to rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.objective import FlatModel, Objective
from subsetopt.objective.protocol import Linearisation, Purpose
from subsetopt.sklearn.activations import ACTIVATIONS, Array
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


class PerceptronObjective:
    """f(w) = sum u_i l_i(w) / sum u_i + l2/2 ||w||^2 of an MLP whose parameters w holds layer by layer, weight, bias.

    l is the cross entropy for class numbers and the mean over outputs of squared errors else, as in `Objective`, which
    it equals to rounding.
    """

    def __init__(self, flat: FlatModel, activation: str, sample: Sample, l2: float) -> None:
        self.flat, self.sample, self.l2 = flat, sample, l2
        self.size, self.dtype, self.device = flat.size, flat.dtype, flat.device
        self._activation = activation
        self._identity = next(_SERIAL)

    @property
    def identity(self) -> Hashable:
        """Return what no other objective has."""
        return self._identity

    def initial(self) -> Tensor:
        """Return the network's own parameters."""
        return self.flat.initial()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w), float64."""
        if self.device.type != "cpu":
            return self._general.value(w, purpose)
        host = self.flat.check(w).detach().numpy()
        return torch.tensor(self._host.value(host) + self._penalty(host), dtype=torch.float64, device="cpu")

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w), float64, and its gradient (P,)."""
        if self.device.type != "cpu":
            return self._general.value_and_gradient(w, purpose)
        host = self.flat.check(w).detach().numpy()
        gradient = host * host.dtype.type(self.l2)
        loss = self._host.add_gradient(host, gradient) + self._penalty(host)
        return torch.tensor(loss, dtype=torch.float64, device="cpu"), torch.from_numpy(gradient)

    def linearise(self, w: Tensor) -> Linearisation:
        """Prepare curvature products at w, by the general objective."""
        return self._general.linearise(w)

    @cached_property
    def _host(self) -> Backpropagation:
        return Backpropagation(self.flat.shapes, self._activation, self.sample)

    @cached_property
    def _general(self) -> Objective:
        sample = self.sample
        loss = "mse" if sample.targets.is_floating_point() else "cross_entropy"
        return Objective(
            self.flat,
            sample.inputs,
            sample.targets,
            loss,
            self.l2,
            sample_weight=sample.weights,
            check_deterministic=False,
        )

    def _penalty(self, w: Array) -> float:
        wide = w.astype(np.float64, copy=False)
        return 0.5 * self.l2 * float(np.dot(wide, wide))


class Backpropagation:
    """The weighted mean loss of one sample on the host and its gradient, layer by layer, block by block."""

    def __init__(self, shapes: Sequence[Sequence[int]], activation: str, sample: Sample, block: int = BLOCK) -> None:
        self._inputs: Array = sample.inputs.numpy()
        self._shapes = [tuple(shape) for shape in shapes]
        self._function = ACTIVATIONS[activation]  # type: ignore[index]  # checked by `check_parameters`
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
