"""Smooth activations whose derivatives are products with tensors that are kept.

The first derivative of h = f(a) is recorded as g f'(a), a function of g and of a point p: h where torch's kernel
takes f' from the output (tanh, sigmoid), else a. Its derivative in p, which torch forms anew in each product by up to
fifteen passes over the data, is formed once and kept in place of g. So is f'(a) where it takes an exponential function
(`keep_slope`): a product needs it twice.
"""

from __future__ import annotations

import math
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
    curvature: Callable[..., Tensor | None] = lambda point, **settings: None
    """(a, **settings) -> f''(a); None where autograd is to find it."""

    @property
    def keep_slope(self) -> bool:
        return not self.at_output


def _gelu_curvature(a: Tensor, approximate: str) -> Tensor | None:
    """phi(a) (2 - a^2), phi the density of the standard normal distribution."""
    if approximate != "none":
        return None
    square = a.square()
    density = square.mul(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return square.neg_().add_(2).mul_(density)


def _silu_curvature(a: Tensor) -> Tensor:
    """s (1 - s) (2 + a (1 - 2 s)), s the logistic function."""
    s = a.sigmoid()
    return torch.mul(s, -2).add_(1).mul_(a).add_(2).mul_(s).mul_(1 - s)


_TANH = _Rule(torch.ops.aten.tanh_backward, True, {})
_SIGMOID = _Rule(torch.ops.aten.sigmoid_backward, True, {})
_RULES: dict[Any, _Rule] = {
    torch.tanh: _TANH,
    Tensor.tanh: _TANH,
    torch.sigmoid: _SIGMOID,
    Tensor.sigmoid: _SIGMOID,
    F.gelu: _Rule(torch.ops.aten.gelu_backward, False, {"approximate": "none"}, _gelu_curvature),
    F.silu: _Rule(torch.ops.aten.silu_backward, False, {}, _silu_curvature),
    F.softplus: _Rule(torch.ops.aten.softplus_backward, False, {"beta": 1.0, "threshold": 20.0}),
}


def lean_activation(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool
) -> Tensor | None:
    """Return `function(*args, **kwargs)`, recorded leanly; None where it is no activation that there is a rule for."""
    rule = _RULES.get(function)
    if rule is None or not args or kwargs.get("inplace"):
        return None
    kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
    if len(args) > 1 + len(rule.settings) or not kwargs.keys() <= rule.settings.keys():
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
        slope = rule.derivative(torch.ones_like(input), input, **rule.settings) if rule.keep_slope else None
        if in_cotangent_only and slope is not None:
            ctx.save_for_backward(slope)
        else:
            ctx.save_for_backward(slope, output if rule.at_output else input)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        slope, *point = ctx.saved_tensors
        if not torch.is_grad_enabled() and slope is not None:
            return grad_outputs[0] * slope, None, None, None
        at = point[0] if point and not ctx.in_cotangent_only else None
        at = at if at is None or torch.is_grad_enabled() else at.detach()
        fixed = slope if slope is not None else point[0].detach()
        return applied(_ActivationBackward, grad_outputs[0], at, fixed, ctx.rule), None, None, None


class _ActivationBackward(torch.autograd.Function):
    """(g, p) -> g f'(a); `fixed` is f'(a) where that is kept, else p."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, point: Tensor | None, fixed: Tensor, rule: _Rule) -> Tensor:
        ctx.rule = rule
        if ctx.needs_input_grad[1] and point is not None:
            ctx.save_for_backward(fixed, _curvature(grad, point, rule))
        else:
            ctx.save_for_backward(fixed)
        return _times_slope(grad, fixed, rule)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        fixed, *in_point = ctx.saved_tensors
        to_grad = _times_slope(cotangents[0], fixed, ctx.rule)
        return to_grad, in_point[0] * cotangents[0] if in_point else None, None, None


def _times_slope(grad: Tensor, fixed: Tensor, rule: _Rule) -> Tensor:
    return grad * fixed if rule.keep_slope else rule.derivative(grad, fixed, **rule.settings)


def _curvature(grad: Tensor, point: Tensor, rule: _Rule) -> Tensor:
    """Return the derivative of g f'(a) in the point."""
    known = rule.curvature(point.detach(), **rule.settings)
    if known is not None:
        return known.mul_(grad)
    # What this small graph saves is gone at once: hooks that count what is kept are not to see it.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
        free = point.detach().requires_grad_()
        result = rule.derivative(grad.detach(), free, **rule.settings)
        return torch.autograd.grad(result, free, torch.ones_like(result))[0]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
