"""Convolution whose second derivative computes only what is asked for, and nothing through slow layouts."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


class Geometry(NamedTuple):
    """How a convolution's window moves."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, cotangent_only: bool
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry, ctx.cotangent_only = geometry, cotangent_only
        ctx.bias = bias is not None
        return _convolve(input, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        mask = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias and ctx.needs_input_grad[2]]
        if ctx.cotangent_only:
            input, weight = input.detach(), weight.detach()
        return (*applied(_ConvolutionBackward, grad_outputs[0], input, weight, ctx.geometry, mask), None, None)


class _ConvolutionBackward(torch.autograd.Function):
    """(g, x, W) -> (gx, gW, gb); linear in g and bilinear in (g, W) and (g, x)."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, input, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _convolution_backward(grad, input, weight, geometry, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, input, weight = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        to_input, to_weight, to_bias = cotangents
        out: Tensor | None = None
        if to_weight is not None:
            out = _convolve(input, to_weight, to_bias, geometry)
        elif to_bias is not None:
            out = to_bias.reshape(-1, *[1] * (grad.ndim - 2)).expand_as(grad)
        if to_input is not None:
            through = _convolve(to_input, weight, None, geometry)
            # A sum over `to_bias` alone is a view that repeats one number.
            out = through if out is None else through.add_(out)
        input_term = weight_term = None
        if ctx.needs_input_grad[1] and to_weight is not None:
            input_term = _convolution_backward(grad, input, to_weight, geometry, [True, False, False])[0]
        if ctx.needs_input_grad[2] and to_input is not None:
            weight_term = _convolution_backward(grad, to_input, weight, geometry, [False, True, False])[1]
        return out, input_term, weight_term, None, None


def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    zeros = [0] * len(stride)
    result = torch.ops.aten.convolution(input, weight, bias, stride, padding, dilation, False, zeros, groups)
    return cast(Tensor, result)


def _convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> tuple[Tensor | None, ...]:
    stride, padding, dilation, groups = geometry
    zeros, bias_sizes = [0] * len(stride), [weight.shape[0]]
    result = torch.ops.aten.convolution_backward(
        grad, input, weight, bias_sizes, stride, padding, dilation, False, zeros, groups, mask
    )
    return cast("tuple[Tensor | None, ...]", tuple(result))
