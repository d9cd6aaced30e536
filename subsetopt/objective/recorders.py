"""Curvature products of one chunk: by recorded graphs, and by differences where an operator allows no other way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from subsetopt.inputs import Inputs
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.lean.mode import lean_second_derivatives, right_second_derivatives
from subsetopt.objective.losses import Loss

LayerProduct = Callable[[Sequence[Tensor]], Sequence[Tensor | None]]
"""v in the parameters' shapes -> the product in the same shapes, None where it is zero."""

Recorder = Callable[[FlatModel, Loss, Tensor, Inputs, Tensor, float], LayerProduct]
"""(model, loss, w, inputs, targets, 1/K) -> the product of one chunk."""


def record_hessian(flat: FlatModel, loss: Loss, w: Tensor, x: Inputs, y: Tensor, scale: float) -> LayerProduct:
    """Record v -> scale * (Hessian of the summed loss of one chunk) v."""
    leaves = flat.leaves(w)
    with _recording(flat, in_cotangent_only=False), flat.at(leaves, "deterministic") as evaluate:
        total = loss.total(evaluate(x), y, accumulation_dtype(w.device)) * scale
        gradients = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    curved = [index for index, gradient in enumerate(gradients) if gradient is not None and gradient.requires_grad]
    heads = [gradients[index] for index in curved]
    _require_twice_differentiable(heads)

    def product(v: Sequence[Tensor]) -> Sequence[Tensor | None]:
        if not heads:
            return [None] * len(leaves)
        cotangents = [v[index] for index in curved]
        # What checkpointing evaluates anew needs the parameters in place.
        with flat.at(leaves, "deterministic"):
            return torch.autograd.grad(heads, leaves, cotangents, retain_graph=True, allow_unused=True)

    return product


def record_gauss_newton(flat: FlatModel, loss: Loss, w: Tensor, x: Inputs, y: Tensor, scale: float) -> LayerProduct:
    """Record v -> scale * J' H_z J v for one chunk."""
    leaves = flat.leaves(w)
    with _recording(flat, in_cotangent_only=True), flat.at(leaves, "deterministic") as evaluate:
        z = evaluate(x)
        u = torch.zeros_like(z, requires_grad=True)
        pulled_back = torch.autograd.grad(z, leaves, u, create_graph=True, allow_unused=True)
    used = [index for index, part in enumerate(pulled_back) if part is not None and part.requires_grad]
    heads = [pulled_back[index] for index in used]
    _require_twice_differentiable(heads)
    output_hessian = loss.output_hessian(z, y)

    def product(v: Sequence[Tensor]) -> Sequence[Tensor | None]:
        with flat.at(leaves, "deterministic"):
            (pushed,) = torch.autograd.grad(heads, u, [v[index] for index in used], retain_graph=True)
            return torch.autograd.grad(z, leaves, output_hessian(pushed) * scale, retain_graph=True, allow_unused=True)

    return product


def _require_twice_differentiable(heads: Sequence[Tensor | None]) -> None:
    # `once_differentiable` plants a node that raises, but off every path to the parameters: autograd.grad prunes it
    # and would return products that silently lack terms.
    pending = [head.grad_fn for head in heads if head is not None]
    seen = set(pending)
    while pending:
        node = pending.pop()
        if node is None:
            continue
        if node.name().rpartition("::")[2] in ("Error", "DelayedError"):
            raise RuntimeError("an operator is marked as differentiable only once")
        new = {child for child, _ in node.next_functions} - seen
        seen |= new
        pending.extend(new)


def record_hessian_difference(
    flat: FlatModel, loss: Loss, w: Tensor, x: Inputs, y: Tensor, scale: float
) -> LayerProduct:
    """Return v -> the Hessian product of `record_hessian` by central differences of the gradient."""

    def gradient(at: Tensor) -> Tensor:
        leaves = flat.leaves(at)
        with flat.at(leaves, "deterministic") as evaluate:
            total = loss.total(evaluate(x), y, accumulation_dtype(w.device)) * scale
            parts = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])

    return lambda v: flat.views(_central_difference(gradient, w, v))


def record_gauss_newton_difference(
    flat: FlatModel, loss: Loss, w: Tensor, x: Inputs, y: Tensor, scale: float
) -> LayerProduct:
    """Return v -> the product of `record_gauss_newton` with J v by central differences of the outputs."""
    leaves = flat.leaves(w)
    z = flat.call(leaves, x, "deterministic")
    output_hessian = loss.output_hessian(z, y)

    def outputs(at: Tensor) -> Tensor:
        with torch.no_grad():
            return flat.forward(at, x, "deterministic")

    def product(v: Sequence[Tensor]) -> Sequence[Tensor | None]:
        pushed = output_hessian(_central_difference(outputs, w, v))
        with flat.at(leaves, "deterministic"):
            return torch.autograd.grad(z, leaves, pushed * scale, retain_graph=True, allow_unused=True)

    return product


def _central_difference(function: Callable[[Tensor], Tensor], w: Tensor, v: Sequence[Tensor]) -> Tensor:
    direction = torch.cat([part.reshape(-1) for part in v])
    # The step eps^(1/3) (1 + |w|) / |v| balances rounding against truncation (Nocedal & Wright 2006, section 8.1).
    length = direction.norm().clamp(min=torch.finfo(w.dtype).tiny)
    step: Tensor = torch.finfo(w.dtype).eps ** (1 / 3) * (1 + w.norm()) / length
    forward, backward = function(w + step * direction), function(w - step * direction)
    return (forward - backward) / (2 * step)


@contextmanager
def _recording(flat: FlatModel, in_cotangent_only: bool) -> Iterator[None]:
    # Lean operators have two derivatives at most: a model that takes one of its own needs torch's, which have all.
    mode = right_second_derivatives() if flat.differentiates else lean_second_derivatives(in_cotangent_only)
    # The fused attention kernels have no second derivative; the plain formula has.
    with sdpa_kernel(SDPBackend.MATH), mode:
        yield
