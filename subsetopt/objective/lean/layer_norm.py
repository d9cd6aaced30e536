"""Layer normalisation whose second derivative takes few passes over the data.

Rows of n numbers are normalised, x^ = (x - mean) r with r = 1/std, and have a scale and shift for each place in a row.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


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
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        return None
    # A bias alone, or a row of one number, whose variance is zero, are left to torch.
    if (weight is None and bias is not None) or torch.Size(shape).numel() < 2 or not input.numel():
        return None
    return cast(Tensor, applied(_LayerNorm, input, weight, bias, shape, eps, in_cotangent_only))


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: tuple[int, ...],
        eps: float,
        cotangent_only: bool,
    ) -> Tensor:
        row = torch.Size(shape).numel()
        normal, _, rstd = torch.ops.aten.native_layer_norm(input.reshape(-1, row), [row], None, None, eps)
        ctx.save_for_backward(input, weight, normal, rstd)
        ctx.cotangent_only, ctx.bias = cotangent_only, bias is not None
        return F.layer_norm(input, shape, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, normal, rstd = ctx.saved_tensors
        if ctx.cotangent_only:
            input, weight = input.detach(), None if weight is None else weight.detach()
        to_input, to_weight, to_bias = applied(_LayerNormBackward, grad_outputs[0], input, weight, normal, rstd)
        return to_input, to_weight, to_bias if ctx.bias else None, None, None, None


class _LayerNormBackward(torch.autograd.Function):
    """(g, x, gamma) -> (r P gamma g, sum g x^, sum g) with the projection P a = a - mean(a) - x^ mean(a x^) of each
    row, which is also r times the derivative of x^: dx^ = r P dx."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor | None, normal: Tensor, rstd: Tensor
    ) -> tuple[Tensor | None, ...]:
        scaled = grad if weight is None else grad * weight
        to_input = _projected(scaled, normal, rstd)
        ctx.shape = grad.shape
        ctx.set_materialize_grads(False)
        at_point = []
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            at_point = [grad, to_input, _row_means(scaled, normal)]
        ctx.save_for_backward(weight, normal, rstd, *at_point)
        if weight is None:
            return to_input, None, None
        return to_input, (grad * normal.view(grad.shape)).sum_to_size(weight.shape), grad.sum_to_size(weight.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, normal, rstd, *at_point = ctx.saved_tensors
        a, b, c = cotangents
        out = input_term = weight_term = None
        if a is not None:
            through = _projected(a, normal, rstd)  # r P a
            out = through if weight is None else through * weight
            if at_point:
                input_term = _through_normal(a, through, out, normal, rstd, *at_point)
                if weight is not None:
                    weight_term = (through * at_point[0]).sum_to_size(weight.shape)
        if b is not None:
            normal_term = b * normal.view(ctx.shape)
            out = normal_term if out is None else out.add_(normal_term)
            if at_point:
                direct = _projected(b * at_point[0], normal, rstd)
                input_term = direct if input_term is None else input_term.add_(direct)
        if c is not None:
            out = c.expand(ctx.shape) if out is None else out.add_(c)
        return out, input_term, weight_term, None, None


def _through_normal(
    a: Tensor,
    through: Tensor,
    scaled: Tensor,
    normal: Tensor,
    rstd: Tensor,
    grad: Tensor,
    to_input: Tensor,
    mean: Tensor,
) -> Tensor:
    """Return the derivative of <a, r P h> in x, with h = gamma g, from r P h (`to_input`) and mean(h x^) (`mean`).

    It is -r mean(a x^) (r P h) - r mean(h x^) (r P a) - (r / n) x^ <h, r P a>; `through` is r P a, `scaled` gamma times
    that, so that <h, r P a> = <g, scaled>.
    """
    result = to_input.reshape(normal.shape) * (-rstd * _row_means(a, normal))
    result.addcmul_(through.view(normal.shape), -rstd * mean)
    result.addcmul_(normal, -rstd * _row_means(scaled, grad.reshape(normal.shape)))
    return result.view(a.shape)


def _projected(a: Tensor, normal: Tensor, rstd: Tensor) -> Tensor:
    """Return r P a, in the shape of a."""
    rows = a.reshape(normal.shape).contiguous()
    # Of numbers that are normal already, the kernel's mean is 0 and its 1/std is 1.
    zero, one = torch.zeros_like(rstd), torch.ones_like(rstd)
    mask = [True, False, False]
    result = torch.ops.aten.native_layer_norm_backward(rows, normal, [normal.shape[1]], zero, one, None, None, mask)[0]
    return cast(Tensor, result.mul_(rstd)).view(a.shape)


def _row_means(a: Tensor, rows: Tensor) -> Tensor:
    sums: Tensor = torch.linalg.vecdot(a.reshape(rows.shape), rows)
    return sums.div_(rows.shape[1])[:, None]
