"""Smooth activations whose second derivative is one product with a tensor that is kept.

The first derivative of h = f(a) is recorded as g f'(a), a function of g and of a point p: h where torch's kernel
takes f' from the output (tanh, sigmoid), else a. Its derivative in p, which torch forms anew in each product by up to
fifteen passes over the data, is formed once and kept in place of g.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


class _Rule(NamedTuple):
    """How an activation is differentiated; `settings` are its own arguments beside the input, in their order."""

    derivative: Callable[..., Tensor]
    """(g, p, **settings) -> g f'(a), differentiable in p."""
    at_output: bool
    settings: Mapping[str, Any]


_TANH = _Rule(torch.ops.aten.tanh_backward, True, {})
_SIGMOID = _Rule(torch.ops.aten.sigmoid_backward, True, {})
_RULES: dict[Any, _Rule] = {
    torch.tanh: _TANH,
    Tensor.tanh: _TANH,
    torch.sigmoid: _SIGMOID,
    Tensor.sigmoid: _SIGMOID,
    F.gelu: _Rule(torch.ops.aten.gelu_backward, False, {"approximate": "none"}),
    F.softplus: _Rule(torch.ops.aten.softplus_backward, False, {"beta": 1.0, "threshold": 20.0}),
}


def lean_activation(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool
) -> Tensor | None:
    """Return `function(*args, **kwargs)`, recorded leanly; None where it is no activation that there is a rule for."""
    rule = _RULES.get(function)
    if rule is None or not args or not kwargs.keys() <= rule.settings.keys():
        return None
    settings = {**rule.settings, **dict(zip(rule.settings, args[1:], strict=False)), **kwargs}
    return cast(Tensor, applied(_Activation, args[0], function, rule._replace(settings=settings), in_cotangent_only))


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, function: Callable[..., Tensor], rule: _Rule, in_cotangent_only: bool
    ) -> Tensor:
        output = function(input, **rule.settings)
        ctx.rule, ctx.in_cotangent_only = rule, in_cotangent_only
        ctx.save_for_backward(output if rule.at_output else input)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (point,) = ctx.saved_tensors
        if ctx.in_cotangent_only or not torch.is_grad_enabled():
            point = point.detach()
        return applied(_ActivationBackward, grad_outputs[0], point, ctx.rule), None, None, None


class _ActivationBackward(torch.autograd.Function):
    """(g, p) -> g f'(a)."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, point: Tensor, rule: _Rule) -> Tensor:
        ctx.rule = rule
        if not ctx.needs_input_grad[1]:
            ctx.save_for_backward(point)
            return rule.derivative(grad, point, **rule.settings)
        # What this small graph saves is gone at once: hooks that count what is kept are not to see it.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            free = point.detach().requires_grad_()
            result = rule.derivative(grad.detach(), free, **rule.settings)
            (in_point,) = torch.autograd.grad(result, free, torch.ones_like(result))
        ctx.save_for_backward(point, in_point)
        return result.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        point, *in_point = ctx.saved_tensors
        to_grad = ctx.rule.derivative(cotangents[0], point, **ctx.rule.settings)
        return to_grad, in_point[0] * cotangents[0] if in_point else None, None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
