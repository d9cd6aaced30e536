"""Softmax whose second derivative takes four passes over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


def lean_softmax(args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool) -> Tensor | None:
    """Return the softmax of the same arguments, recorded leanly; None where it is of another dtype, or unclear."""
    named = dict(zip(("input", "dim"), args, strict=False)) | dict(kwargs)
    input, dim = named.pop("input", None), named.pop("dim", None)
    rest = {name for name, value in named.items() if value is not None and name != "_stacklevel"}
    if rest or len(args) > 2 or not isinstance(dim, int) or not isinstance(input, Tensor) or not input.ndim:
        return None
    if not input.is_floating_point():
        return None
    return cast(Tensor, applied(_Softmax, input, dim, in_cotangent_only))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int, in_cotangent_only: bool) -> Tensor:
        output = torch.ops.aten._softmax(input, dim, False)
        ctx.dim, ctx.in_cotangent_only = dim, in_cotangent_only
        ctx.save_for_backward(output)
        return cast(Tensor, output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        if ctx.in_cotangent_only or not torch.is_grad_enabled():
            output = output.detach()
        return applied(_SoftmaxBackward, grad_outputs[0], output, ctx.dim), None, None


class _SoftmaxBackward(torch.autograd.Function):
    """(g, p) -> p (g - <p, g>); symmetric in g, and its derivative in p along u is u (g - <p, g>) - g <p, u>."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        result = softmax_backward(grad, output, dim)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(output, grad, grad - (grad * output).sum(dim, keepdim=True))
        else:
            ctx.save_for_backward(output)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        output, *at_point = ctx.saved_tensors
        (u,) = cotangents
        out = softmax_backward(u, output, ctx.dim)
        if not at_point:
            return out, None, None
        grad, centred = at_point
        along = (u * output).sum(ctx.dim, keepdim=True)
        return out, (u * centred).addcmul_(grad, along, value=-1), None


def softmax_backward(grad: Tensor, output: Tensor, dim: int) -> Tensor:
    """Return p (g - <p, g>)."""
    return cast(Tensor, torch.ops.aten._softmax_backward_data(grad, output, dim, output.dtype))
