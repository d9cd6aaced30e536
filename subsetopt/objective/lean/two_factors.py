"""Activations that multiply two things that both have derivatives: a slope that is learned (PReLU), a gate (GLU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded


def lean_prelu(args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool) -> Tensor | None:
    """Return `F.prelu` of the same arguments, recorded leanly; None where axis 1 of the input is not that of slopes."""
    named = dict(zip(("input", "weight"), args, strict=False)) | dict(kwargs)
    if len(args) > 2 or named.keys() != {"input", "weight"}:
        return None
    input, weight = named["input"], named["weight"]
    if weight.ndim != 1 or not input.numel() or (len(weight) > 1 and (input.ndim < 2 or input.shape[1] != len(weight))):
        return None
    return recorded(_PReLU(len(weight)), in_cotangent_only, input, weight)


class _PReLU(Operator):
    """y = x, or a x where x <= 0: dx = g s with s = 1 or a, da = sum of g n with n = min(x, 0).

    Where x <= 0, g dx belongs to the change of da, and g da to that of dx. Kept are s and n.
    """

    def __init__(self, slopes: int) -> None:
        self.slopes = slopes

    def evaluate(self, *inputs: Any) -> Evaluated:
        input, weight = inputs
        slope = torch.where(input > 0, torch.ones_like(weight[:1]), _beside(weight, input))
        return Evaluated(F.prelu(input, weight), (slope, input.clamp(max=0)), (input,))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        slope, negative = kept
        to_weight = self._sum(grad * negative) if needs[1] else None
        input = once[0] if curved else None
        at_point = () if input is None else (grad.masked_fill(input > 0, 0),)
        return (grad * slope if needs[0] else None, to_weight), at_point

    def change(self, kept: Any, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        slope, negative = kept
        of_input, of_weight = changes
        out = None if of_input is None else of_input * slope
        if of_weight is not None:
            bent = _beside(of_weight, negative)
            out = negative * bent if out is None else out.addcmul_(negative, bent)
        return out, changes

    def gradient_changes(self, kept: Any, at_point: Any, seen: Parts, grad: Tensor, needs: Sequence[bool]) -> Parts:
        (slope, negative), (of_input, of_weight) = kept, seen
        to_input = grad * slope if needs[0] else None
        to_weight = None
        if to_input is not None and of_weight is not None:
            to_input.addcmul_(at_point[0], _beside(of_weight, grad))
        if needs[1]:
            products = grad * negative
            to_weight = self._sum(products if of_input is None else products.addcmul_(at_point[0], of_input))
        return to_input, to_weight

    def _sum(self, products: Tensor) -> Tensor:
        """Return the sums over all axes but that of slopes, of which there may be one."""
        return products.sum().reshape(1) if self.slopes == 1 else products.sum([0, *range(2, products.ndim)])


def _beside(weight: Tensor, input: Tensor) -> Tensor:
    """Return slopes in a shape that goes with the input."""
    return weight if len(weight) == 1 else weight.view(-1, *(1,) * (input.ndim - 2))


def lean_glu(args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool) -> Tensor | None:
    """Return `F.glu` of the same arguments, recorded leanly; torch says what does not fit."""
    named = dict(zip(("input", "dim"), args, strict=False)) | dict(kwargs)
    input, dim = named.get("input"), named.get("dim", -1)
    if len(args) > 2 or not named.keys() <= {"input", "dim"} or not isinstance(input, Tensor) or not input.numel():
        return None
    if not isinstance(dim, int) or not -input.ndim <= dim < input.ndim or input.shape[dim] % 2:
        return None
    return recorded(_GLU(dim), in_cotangent_only, input)


class _GLU(Operator):
    """y = a s(b), s the logistic function: dy/da = s, dy/db = p = a s (1 - s); then s (1 - s) and p (1 - 2 s)."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def evaluate(self, *inputs: Any) -> Evaluated:
        a, b = inputs[0].chunk(2, self.dim)
        gate = b.sigmoid()
        return Evaluated(a * gate, (gate, torch.ops.aten.sigmoid_backward(a, gate)))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        gate, by_gate = kept
        if not curved:
            return (self._joined(grad, gate, by_gate),), ()
        bent = (grad * by_gate).mul_(1 - 2 * gate)
        return (self._joined(grad, gate, by_gate),), (torch.ops.aten.sigmoid_backward(grad, gate), bent)

    def change(self, kept: Any, at_point: Parts, changes: Any, curved: bool) -> tuple[Tensor | None, Parts]:
        gate, by_gate = kept
        of_a, of_b = changes[0].chunk(2, self.dim)
        return torch.addcmul(of_a * gate, of_b, by_gate), (of_a, of_b)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Any, grad: Tensor, needs: Sequence[bool]) -> Parts:
        (gate, by_gate), (crossed, bent), (of_a, of_b) = kept, at_point, seen
        result = self._joined(grad, gate, by_gate)
        to_a, to_b = result.chunk(2, self.dim)
        to_a.addcmul_(crossed, of_b)
        to_b.addcmul_(crossed, of_a).addcmul_(bent, of_b)
        return (result,)

    def _joined(self, grad: Tensor, gate: Tensor, by_gate: Tensor) -> Tensor:
        """Return g dy/da and g dy/db side by side."""
        shape = list(grad.shape)
        shape[self.dim] *= 2
        result = grad.new_empty(shape)
        for into, factor in zip(result.chunk(2, self.dim), (gate, by_gate), strict=True):
            torch.mul(grad, factor, out=into)
        return result
