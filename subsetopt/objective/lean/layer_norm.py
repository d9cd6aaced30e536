"""Layer and RMS normalisation whose second derivative takes few passes over the data.

Rows of n numbers are normalised, x^ = (x - mean) r with r = 1/std (of RMS without the mean), and have a scale and shift
for each place in a row. x^ changes by r P dx and r by -r mean(dx x^) r, with P a = a - mean(a) - x^ mean(a x^).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded


def lean_layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.layer_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    shape = _row(input, normalized_shape)
    # A bias alone, or a row of one number, whose variance is zero, are left to torch.
    if shape is None or (weight is None and bias is not None) or shape.numel() < 2:
        return None
    return recorded(_LayerNorm(shape, eps), in_cotangent_only, input, weight, bias)


def lean_rms_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.rms_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    shape = _row(input, normalized_shape)
    if shape is None:
        return None
    return recorded(_RMSNorm(shape, eps), in_cotangent_only, input, weight)


def _row(input: Tensor, normalized_shape: Any) -> torch.Size | None:
    """Return the shape of a row; None where the input has none such."""
    shape = torch.Size([normalized_shape] if isinstance(normalized_shape, int) else normalized_shape)
    fits = len(shape) > 0 and input.shape[-len(shape) :] == shape and input.numel() > 0
    return shape if fits and input.is_floating_point() else None


class _RowNorm(Operator):
    """Layer norm by its kernels; RMS norm overrides what has no mean. Kept are x, gamma, the means and r."""

    def __init__(self, shape: torch.Size, eps: float | None) -> None:
        self.shape, self.eps = shape, eps
        self.axes = tuple(range(-len(shape), 0))

    def normal(self, x: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return weight x^ + bias."""
        raise NotImplementedError

    def through(
        self, grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        """Return r P (weight g), the sum over rows of g x^, and that of g."""
        raise NotImplementedError

    def row_means(self, a: Tensor, x: Tensor, mean: Tensor | None, rstd: Tensor, weight: Tensor | None) -> Tensor:
        """Return mean(weight a x^) of each row."""
        sums = self.row_sums(a * x, weight)
        sums = sums if mean is None else sums.addcmul_(self.row_sums(a, weight), mean, value=-1)
        return sums.mul_(rstd).div_(self.shape.numel())

    def row_sums(self, a: Tensor, weight: Tensor | None) -> Tensor:
        """Return the sums over rows of weight times a, in the shape of `rstd`."""
        if weight is None:
            return a.sum(self.axes, keepdim=True)
        sums = a.reshape(-1, self.shape.numel()) @ weight.reshape(-1)
        return sums.view(*a.shape[: -len(self.shape)], *[1] * len(self.shape))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        x, weight, mean, rstd = kept
        gradients = self.through(grad, x, weight, mean, rstd, [needs[0] or curved, *needs[1:]])
        if not curved:
            return gradients, ()
        return gradients, (grad, gradients[0], self.row_means(grad, x, mean, rstd, weight))

    def change(self, kept: Any, at_point: Any, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        x, weight, mean, rstd = kept
        of_x, of_weight, of_bias = (*changes, None)[:3]
        out = None if of_weight is None else self.normal(x, rstd, of_weight, of_bias)
        through = along = shrunk = to_weight = None
        if of_x is not None:
            (through, *_) = self.through(of_x, x, None, mean, rstd, [True, False, False])
            assert through is not None
            if curved:
                shrunk = self.row_means(of_x, x, mean, rstd, None).mul_(rstd)
                crossed = at_point[0] * through
                along = self.row_sums(crossed, weight).div_(self.shape.numel())
                to_weight = None if weight is None else crossed.sum_to_size(self.shape)
            if out is not None:
                out.addcmul_(through, weight)
            else:
                out = through.clone() if weight is None else through * weight
        if of_bias is not None and of_weight is None:
            out = of_bias.expand(x.shape) if out is None else out.add_(of_bias)
        return out, (of_weight, through, shrunk, along, to_weight)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Any, grad: Tensor, needs: Sequence[bool]) -> Parts:
        x, weight, mean, rstd = kept
        before, to_input, product = at_point
        of_weight, through, shrunk, along, to_weight = seen
        result = self.through(grad, x, weight, mean, rstd, needs)
        if to_weight is not None and result[1] is not None:
            result[1].add_(to_weight)
        if result[0] is None:
            return result
        if of_weight is not None:
            (scaled, *_) = self.through(before, x, of_weight, mean, rstd, [True, False, False])
            assert scaled is not None
            result[0].add_(scaled)
        if through is not None:
            result[0].addcmul_(to_input, -shrunk).addcmul_(through, product.mul(-rstd))
            bent = along * rstd.square()  # x^ times `along` and r, taken away
            result[0].addcmul_(x, -bent)
            if mean is not None:
                result[0].add_(bent.mul_(mean))
        return result


class _LayerNorm(_RowNorm):
    def evaluate(self, *inputs: Any) -> Evaluated:
        input, weight, bias = inputs
        output, mean, rstd = torch.ops.aten.native_layer_norm(input, self.shape, weight, bias, self.eps)
        return Evaluated(output, (input, weight, mean, rstd))

    def normal(self, x: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, self.shape, weight.contiguous(), bias, self.eps or 0.0)

    def through(
        self, grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        mask = [needs[0], needs[1] and weight is not None, needs[2] and weight is not None]
        kernel = torch.ops.aten.native_layer_norm_backward
        return list(kernel(grad, x, self.shape, mean, rstd, weight, weight, mask))


class _RMSNorm(_RowNorm):
    """x^ = x r with r = 1/sqrt(mean(x^2) + eps), so that P a = a - x^ mean(a x^)."""

    def evaluate(self, *inputs: Any) -> Evaluated:
        input, weight = inputs
        eps = torch.finfo(input.dtype).eps if self.eps is None else self.eps
        rstd = input.square().mean(self.axes, keepdim=True).add_(eps).rsqrt_()
        return Evaluated(F.rms_norm(input, self.shape, weight, self.eps), (input, weight, None, rstd))

    def normal(self, x: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return (x * weight).mul_(rstd)

    def through(
        self, grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        to_x = to_weight = None
        if needs[0]:
            to_x = grad * rstd if weight is None else (grad * weight).mul_(rstd)
            to_x.addcmul_(x, self.row_means(grad, x, mean, rstd, weight).mul_(-rstd.square()))
        if needs[1] and weight is not None:
            to_weight = (grad * x).mul_(rstd).sum_to_size(self.shape)
        return [to_x, to_weight]
