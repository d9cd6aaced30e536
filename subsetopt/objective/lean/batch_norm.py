"""Batch normalisation on batch statistics whose second derivative takes few passes over the data."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


class BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, cotangent_only: bool) -> Tensor:
        output, mean, rstd = torch.ops.aten.native_batch_norm(input, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.cotangent_only = cotangent_only
        return cast(Tensor, output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, rstd = ctx.saved_tensors
        if ctx.cotangent_only:
            input, weight = input.detach(), weight.detach()
        return (*applied(_BatchNormBackward, grad_outputs[0], input, weight, mean, rstd), None, None)


class _BatchNormBackward(torch.autograd.Function):
    """(g, x, gamma) -> (gamma r P g, sum g x^, sum g) per channel, with r = 1/std, x^ = (x - mean) r and the
    projection P a = a - mean(a) - x^ mean(a x^), which is also r times the derivative of x^: dx^ = r P dx."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(grad, input, weight, mean, rstd)
        return _batch_norm_backward(grad, input, weight, mean, rstd)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, input, weight, mean, rstd = ctx.saved_tensors
        a, b, c = cotangents
        # x^ is folded into per-channel scale and shift, so that no pass over the data is spent on forming it.
        slope, offset = _channel(b * rstd, a), _channel(c - b * mean * rstd, a)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            projected = _batch_norm_backward(a, input, weight, mean, rstd)[0]
            return projected.addcmul_(slope, input).add_(offset), None, None, None, None
        ones = torch.ones_like(weight)
        r_projected, a_normal_sum, _ = _batch_norm_backward(a, input, ones, mean, rstd)
        out = (r_projected * _channel(weight, a)).addcmul_(slope, input).add_(offset)
        n = a.numel() // len(weight)
        g_normal_sum = _normal_sum(grad, input, mean, rstd)
        # sum of a P g over each channel; r_projected already carries one factor r.
        a_projected_g = (r_projected * grad).sum([0, *range(2, grad.ndim)])
        direct = _channel(b - weight * rstd * a_normal_sum / n, a) * grad
        direct.addcmul_(_channel(-weight * rstd * g_normal_sum / n, a), a)
        through_normal = _batch_norm_backward(direct, input, ones, mean, rstd)[0]
        scale = -weight * rstd * a_projected_g / n
        through_normal.addcmul_(_channel(scale * rstd, a), input).add_(_channel(-scale * rstd * mean, a))
        return out, through_normal, a_projected_g, None, None


def _batch_norm_backward(
    grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # With batch statistics the kernel reads only the saved mean and rstd; the eps it takes is not used.
    result = torch.ops.aten.native_batch_norm_backward(
        grad, input, weight, None, None, mean, rstd, True, 0.0, [True, True, True]
    )
    return cast("tuple[Tensor, Tensor, Tensor]", tuple(result))


def _normal_sum(grad: Tensor, input: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    axes = [0, *range(2, grad.ndim)]
    return ((grad * input).sum(axes) - mean * grad.sum(axes)) * rstd


def _channel(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (like.ndim - 2))
