"""Products with the Jacobian of each sample's outputs in w, for all samples at once.

The gradient that a sample leaves in a layer z = W a + b is sum g a' over the layer's rows in that sample, g the
derivative in z: one row of a plain Linear layer, one for each token, one for each position of a convolution, a being
the patch that the position sees. One backward pass gives the g of all samples (Goodfellow 2015, arXiv 1510.01799;
Rochette et al. 2019, arXiv 1912.06015, for convolutions). Models with other parameters than those of Linear and
convolution layers are mapped over samples by torch.func, which is slow for convolutions on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.layers import Layer, find_layers, recording
from subsetopt.objective.patches import CONVOLUTION, flat_weights, is_transposed, patches


class SampleJacobians(Protocol):
    """J_i (M, P), the derivative of the outputs of sample i in w, for each of n samples."""

    def pull_back(self, u: Tensor) -> Tensor:
        """Return J_i' u_i for u (n, ...outputs), shape (n, P)."""

    def push_forward(self, v: Tensor) -> Tensor:
        """Return J_i v_i for v (n, P), in the shape of the outputs."""


def sample_jacobians(flat: FlatModel, w: Tensor, x: Inputs) -> SampleJacobians:
    """Return the Jacobians at w of the samples x, by layers where those of the last two samples come out right.

    That they may not is because a module can use its layers in ways that hooks do not see: samples along another axis
    than the first, a weight that is read without calling its layer.
    """
    layers, others = find_layers(flat)
    if not others and all(layer.kronecker for layer in layers) and _right(flat, layers, w, x[-2:]):
        return LayerJacobians(flat, layers, w, x)
    return MappedJacobians(flat, w, x)


class LayerJacobians:
    """By inputs and output gradients of `layers`, which must hold all of w; the graph of one forward pass is kept."""

    def __init__(self, flat: FlatModel, layers: Sequence[Layer], w: Tensor, x: Inputs) -> None:
        self._flat, self._n = flat, len(x)
        with torch.enable_grad(), flat.at(flat.leaves(w), "deterministic") as evaluate, recording(layers):
            self.outputs = evaluate(x)
            self._calls = [(layer, self._rows(layer, a, z), z) for layer in layers for a, z in layer.calls]

    def pull_back(self, u: Tensor) -> Tensor:
        return self._gradients(u, differentiable=False)

    def push_forward(self, v: Tensor) -> Tensor:
        # <J'u, v> is linear in u, so that its derivative there is J v, wherever it is taken.
        u = torch.zeros_like(self.outputs).requires_grad_()
        with torch.enable_grad():
            (image,) = torch.autograd.grad((self._gradients(u, differentiable=True) * v).sum(), u)
        return image

    def _rows(self, layer: Layer, a: Tensor, z: Tensor) -> Tensor:
        """Return the layer's inputs by samples and rows, shape (n, rows, d)."""
        rows = patches(layer.module, a, z.shape[2:]) if isinstance(layer.module, CONVOLUTION) else a
        return rows.reshape(self._n, -1, rows.shape[-1])

    def _gradients(self, u: Tensor, differentiable: bool) -> Tensor:
        called = [z for *_, z in self._calls]
        with torch.enable_grad():
            slopes = torch.autograd.grad(
                self.outputs, called, u, retain_graph=True, create_graph=differentiable, materialize_grads=True
            )
            found = [u.new_zeros(self._n, shape.numel()) for shape in self._flat.shapes]
            for (layer, rows, _), slope in zip(self._calls, slopes, strict=True):
                last = slope.movedim(1, -1) if isinstance(layer.module, CONVOLUTION) else slope
                g = last.reshape(self._n, -1, last.shape[-1])
                if layer.weight is not None:
                    own = flat_weights(g.mT @ rows, self._flat.shapes[layer.weight], is_transposed(layer.module))
                    found[layer.weight] = found[layer.weight] + own
                if layer.bias is not None:
                    found[layer.bias] = found[layer.bias] + g.sum(1)
            return torch.cat(found, 1)


class MappedJacobians:
    """By torch.func over single samples, for any model that it can map; raises `RuntimeError` for others."""

    def __init__(self, flat: FlatModel, w: Tensor, x: Inputs) -> None:
        self._flat, self._w, self._x = flat, w, x

    def pull_back(self, u: Tensor) -> Tensor:
        def one(row: Inputs, cotangent: Tensor) -> Tensor:
            _, pull, *_ = vjp(lambda p: self._outputs(p, row), self._w)
            return cast(Tensor, pull(cotangent)[0])

        with self._flat.at(self._flat.views(self._w), "deterministic"):
            return vmap(one)(self._x, u)

    def push_forward(self, v: Tensor) -> Tensor:
        def one(row: Inputs, tangent: Tensor) -> Tensor:
            return cast(Tensor, jvp(lambda p: self._outputs(p, row), (self._w,), (tangent,))[1])

        with self._flat.at(self._flat.views(self._w), "deterministic"):
            return vmap(one)(self._x, v)

    def _outputs(self, p: Tensor, row: Inputs) -> Tensor:
        sample = row.unsqueeze(0) if isinstance(row, Tensor) else row.map(lambda part: part.unsqueeze(0))
        return self._flat.functional(self._flat.views(p), sample).squeeze(0)


def _right(flat: FlatModel, layers: Sequence[Layer], w: Tensor, x: Inputs) -> bool:
    """Whether the gradients that `layers` tell of each sample's outputs are those of the sample alone."""
    try:
        told = LayerJacobians(flat, layers, w, x)
        u = torch.linspace(-1, 2, told.outputs.numel(), dtype=w.dtype, device=w.device).view_as(told.outputs)
        gradients = told.pull_back(u)
    except (RuntimeError, IndexError, ModelError):  # rows that cannot be dealt out to the samples, or seen
        return False
    leaves = flat.leaves(w)
    for row, cotangent, gradient in zip(x.split(1), u.split(1), gradients, strict=True):
        with torch.enable_grad(), flat.at(leaves, "deterministic") as evaluate:
            alone = torch.autograd.grad(evaluate(row), leaves, cotangent, materialize_grads=True)
        exact = torch.cat([part.reshape(-1) for part in alone])
        if not torch.dist(gradient, exact) <= torch.finfo(w.dtype).eps ** 0.5 * exact.norm():
            return False
    return True
