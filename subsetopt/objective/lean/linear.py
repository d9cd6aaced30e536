"""A linear layer whose second derivative adds its terms up inside of the matrix products."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied

WORTH = 2**17
"""Numbers in inputs and outputs together from which the passes that are saved take longer than the calls."""


def lean_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, in_cotangent_only: bool) -> Tensor | None:
    """Return `F.linear` of the same arguments, recorded leanly; None where it is too small, or not as usual."""
    if weight.ndim != 2 or input.ndim < 2 or (bias is not None and bias.ndim != 1):
        return None
    if input.numel() + input.numel() // max(input.shape[-1], 1) * len(weight) < WORTH:
        return None
    return cast(Tensor, applied(_Linear, input, weight, bias, in_cotangent_only))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, cotangent_only: bool) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.cotangent_only, ctx.bias = cotangent_only, bias is not None
        return F.linear(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        mask = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias and ctx.needs_input_grad[2]]
        if ctx.cotangent_only:
            input, weight = input.detach(), weight.detach()
        return (*applied(_LinearBackward, grad_outputs[0], input, weight, mask), None)


class _LinearBackward(torch.autograd.Function):
    """(g, x, W) -> (g W, g'x, sum g); linear in g and bilinear in (g, W) and (g, x)."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, input, weight)
        ctx.set_materialize_grads(False)
        rows = _rows(grad)
        to_input = (rows @ weight).view(input.shape) if mask[0] else None
        to_weight = rows.t() @ _rows(input) if mask[1] else None
        return to_input, to_weight, rows.sum(0) if mask[2] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, input, weight = ctx.saved_tensors
        a, b, c = cotangents
        out = input_term = weight_term = None
        if b is not None:
            x = _rows(input)
            out = x @ b.t() if c is None else torch.addmm(c, x, b.t())
            if ctx.needs_input_grad[1]:
                input_term = (_rows(grad) @ b).view(input.shape)
        elif c is not None:
            out = c.expand(grad.numel() // len(c), -1) if a is None else c.repeat(grad.numel() // len(c), 1)
        if a is not None:
            rows = _rows(a)
            out = rows @ weight.t() if out is None else out.addmm_(rows, weight.t())
            if ctx.needs_input_grad[2]:
                weight_term = _rows(grad).t() @ rows
        return None if out is None else out.reshape(grad.shape), input_term, weight_term, None


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
