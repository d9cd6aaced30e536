"""Normalisation within samples (LayerNorm, GroupNorm, InstanceNorm) whose second derivative takes few passes.

Each normalises rows of n numbers: x^ = (x - mean) r with r = 1/std. Scale and shift belong to the last axes
(LayerNorm) or to the channels. torch's double backward of them is a chain of some thirty elementwise passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


class _Layout(NamedTuple):
    """How a tensor falls into rows, and how scale and shift lie over it."""

    row: int
    """Numbers in a row, n."""
    affine: tuple[int, ...]
    """Shape in which scale and shift are broadcast over the input."""
    summed: tuple[int, ...]
    """Axes over which a gradient of scale or shift is summed."""


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
    layout = _Layout(torch.Size(shape).numel(), shape, tuple(range(input.ndim - len(shape))))
    plain = partial(F.layer_norm, normalized_shape=shape, eps=eps)
    return _normalised(input, weight, bias, layout, eps, plain, in_cotangent_only)


def lean_group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.group_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    if input.ndim < 2 or input.shape[1] % num_groups:
        return None
    plain = partial(F.group_norm, num_groups=num_groups, eps=eps)
    return _normalised(input, weight, bias, _of_channels(input, num_groups), eps, plain, in_cotangent_only)


def lean_instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.instance_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    if not use_input_stats or running_mean is not None or running_var is not None or input.ndim < 3:
        return None

    def plain(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(input, None, None, weight, bias, True, momentum, eps)

    return _normalised(input, weight, bias, _of_channels(input, input.shape[1]), eps, plain, in_cotangent_only)


def _of_channels(input: Tensor, groups: int) -> _Layout:
    channels, axes = input.shape[1], input.ndim - 2
    row = channels // max(groups, 1) * input.shape[2:].numel()
    return _Layout(row, (channels, *[1] * axes), (0, *range(2, input.ndim)))


def _normalised(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    layout: _Layout,
    eps: float,
    plain: Callable[..., Tensor],
    in_cotangent_only: bool,
) -> Tensor | None:
    # A bias alone, or a row of one number, whose variance is zero, are left to torch.
    if (weight is None and bias is not None) or layout.row < 2 or not input.numel():
        return None
    return cast(Tensor, applied(_RowNorm, input, weight, bias, layout, eps, plain, in_cotangent_only))


class _RowNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layout: _Layout,
        eps: float,
        plain: Callable[..., Tensor],
        cotangent_only: bool,
    ) -> Tensor:
        rows = input.reshape(-1, layout.row)
        normal, _, rstd = torch.ops.aten.native_layer_norm(rows, [layout.row], None, None, eps)
        ctx.save_for_backward(input, weight, normal, rstd)
        ctx.layout, ctx.cotangent_only, ctx.bias = layout, cotangent_only, bias is not None
        return plain(input, weight=weight, bias=bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, normal, rstd = ctx.saved_tensors
        if ctx.cotangent_only:
            input, weight = input.detach(), None if weight is None else weight.detach()
        to_input, to_weight, to_bias = applied(
            _RowNormBackward, grad_outputs[0], input, weight, normal, rstd, ctx.layout
        )
        return to_input, to_weight, to_bias if ctx.bias else None, None, None, None, None


class _RowNormBackward(torch.autograd.Function):
    """(g, x, gamma) -> (r P gamma g, sum g x^, sum g) with the projection P a = a - mean(a) - x^ mean(a x^) of each
    row, which is also r times the derivative of x^: dx^ = r P dx."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor | None, normal: Tensor, rstd: Tensor, layout: _Layout
    ) -> tuple[Tensor | None, ...]:
        scaled = grad if weight is None else grad * weight.reshape(layout.affine)
        to_input = _projected(scaled, normal, rstd, layout)
        ctx.layout, ctx.shape = layout, grad.shape
        ctx.set_materialize_grads(False)
        at_point = []
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            at_point = [grad, to_input, _row_means(scaled, normal)]
        ctx.save_for_backward(weight, normal, rstd, *at_point)
        if weight is None:
            return to_input, None, None
        to_weight = _summed(grad * normal.view(grad.shape), layout).reshape(weight.shape)
        return to_input, to_weight, _summed(grad, layout).reshape(weight.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, normal, rstd, *at_point = ctx.saved_tensors
        layout: _Layout = ctx.layout
        scale = None if weight is None else weight.reshape(layout.affine)
        a, b, c = cotangents[0], *(None if part is None else part.reshape(layout.affine) for part in cotangents[1:])
        out = input_term = weight_term = None
        if a is not None:
            through = _projected(a, normal, rstd, layout)  # r P a
            out = through if scale is None else through * scale
            if at_point:
                input_term = _through_normal(a, through, out, normal, rstd, *at_point)
                if scale is not None:
                    weight_term = _summed(through * at_point[0], layout).reshape(weight.shape)
        if b is not None:
            normal_term = b * normal.view(ctx.shape)
            out = normal_term if out is None else out.add_(normal_term)
            if at_point:
                direct = _projected(b * at_point[0], normal, rstd, layout)
                input_term = direct if input_term is None else input_term.add_(direct)
        if c is not None:
            out = c.expand(ctx.shape) if out is None else out.add_(c)
        return out, input_term, weight_term, None, None, None


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


def _projected(a: Tensor, normal: Tensor, rstd: Tensor, layout: _Layout) -> Tensor:
    """Return r P a, in the shape of a."""
    rows = a.reshape(normal.shape).contiguous()
    # Of numbers that are normal already, the kernel's mean is 0 and its 1/std is 1.
    zero, one = torch.zeros_like(rstd), torch.ones_like(rstd)
    mask = [True, False, False]
    result = torch.ops.aten.native_layer_norm_backward(rows, normal, [layout.row], zero, one, None, None, mask)[0]
    return cast(Tensor, result.mul_(rstd)).view(a.shape)


def _summed(tensor: Tensor, layout: _Layout) -> Tensor:
    # torch takes no axes for all of them.
    return tensor.sum(layout.summed) if layout.summed else tensor


def _row_means(a: Tensor, rows: Tensor) -> Tensor:
    sums: Tensor = torch.linalg.vecdot(a.reshape(rows.shape), rows)
    return sums.div_(rows.shape[1])[:, None]
