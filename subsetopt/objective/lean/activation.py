"""Smooth activations whose derivatives are products with tensors that are kept.

The first derivative of h = f(a) is recorded as g f'(a), a function of g and of a point p: h where torch's kernel
takes f' from the output (tanh, sigmoid), else a. Its derivative in p, which torch forms anew in each product by up to
fifteen passes over the data, is formed once and kept in place of g. So is f'(a) where it takes an exponential function
(`keep_slope`): a product needs it twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded


class _Rule(NamedTuple):
    """How an activation is differentiated; `settings` are its own arguments beside the input, in their order."""

    derivative: Callable[..., Tensor]
    """(g, p, **settings) -> g f'(a)."""
    at_output: bool
    settings: Mapping[str, Any]
    curvature: Callable[..., Tensor]
    """(a, **settings) -> f''(a), or where `at_output` (h) -> df'/dh: a new tensor."""

    @property
    def keep_slope(self) -> bool:
        return not self.at_output


def _gelu_curvature(a: Tensor, approximate: str) -> Tensor:
    """phi(a) (2 - a^2), phi the density of the standard normal distribution; by tanh, for u(a) = k (a + c a^3) and
    t = tanh(u): (1 - t^2) (k (1 + 6 c a^2) - a t u'^2)."""
    square = a.square()
    if approximate == "none":
        density = square.mul(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
        return square.neg_().add_(2).mul_(density)
    k, c = math.sqrt(2 / math.pi), 0.044715
    # tanh by the logistic function, which takes a sixth of the time.
    t = square.mul(2 * k * c).add_(2 * k).mul_(a).sigmoid_().mul_(2).sub_(1)
    bent = square.mul(3 * k * c).add_(k).square_().mul_(a).mul_(t)
    return square.mul_(6 * k * c).add_(k).sub_(bent).mul_(t.square_().neg_().add_(1))


def _silu_curvature(a: Tensor) -> Tensor:
    """s (1 - s) (2 + a (1 - 2 s)), s the logistic function."""
    s = a.sigmoid()
    return torch.mul(s, -2).add_(1).mul_(a).add_(2).mul_(s).mul_(1 - s)


def _softplus_curvature(a: Tensor, beta: float, threshold: float) -> Tensor:
    """beta s (1 - s), s the logistic function of beta a; torch is linear from beta a = threshold."""
    scaled = a * beta
    s = scaled.sigmoid()
    return torch.mul(1 - s, beta).mul_(s).masked_fill_(scaled > threshold, 0)


def _mish_curvature(a: Tensor) -> Tensor:
    """(1 - t^2) (2 s + a (s (1 - s) - 2 t s^2)), s the logistic function and t = tanh(softplus(a))."""
    s, t = a.sigmoid(), F.softplus(a).tanh_()
    inner = (1 - s).sub_(2 * t * s).mul_(a).add_(2).mul_(s)
    return inner.mul_(t.square_().neg_().add_(1))


def _elu(g: Tensor, a: Tensor, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    derivative: Tensor = torch.ops.aten.elu_backward(g, alpha, scale, input_scale, False, a)
    return derivative


def _elu_curvature(a: Tensor, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """alpha scale input_scale^2 exp(input_scale a) below zero."""
    return a.mul(input_scale).exp_().mul_(alpha * scale * input_scale**2).masked_fill_(a >= 0, 0)


def _log_sigmoid_curvature(a: Tensor) -> Tensor:
    """-s (1 - s), s the logistic function."""
    s = a.sigmoid()
    return (s - 1).mul_(s)


_SELU = {"alpha": 1.6732632423543772, "scale": 1.0507009873554805}  # Klambauer et al. (2017)
_TANH = _Rule(torch.ops.aten.tanh_backward, True, {}, lambda h: h.mul(-2))
_SIGMOID = _Rule(torch.ops.aten.sigmoid_backward, True, {}, lambda h: torch.rsub(h, 1, alpha=2))
_RULES: dict[Any, _Rule] = {
    torch.tanh: _TANH,
    Tensor.tanh: _TANH,
    torch.sigmoid: _SIGMOID,
    Tensor.sigmoid: _SIGMOID,
    F.gelu: _Rule(torch.ops.aten.gelu_backward, False, {"approximate": "none"}, _gelu_curvature),
    F.silu: _Rule(torch.ops.aten.silu_backward, False, {}, _silu_curvature),
    F.softplus: _Rule(torch.ops.aten.softplus_backward, False, {"beta": 1.0, "threshold": 20.0}, _softplus_curvature),
    F.mish: _Rule(torch.ops.aten.mish_backward, False, {}, _mish_curvature),
    F.elu: _Rule(_elu, False, {"alpha": 1.0}, _elu_curvature),
    F.celu: _Rule(
        lambda g, a, alpha: _elu(g, a, alpha, input_scale=1 / alpha),
        False,
        {"alpha": 1.0},
        lambda a, alpha: _elu_curvature(a, alpha, input_scale=1 / alpha),
    ),
    F.selu: _Rule(lambda g, a: _elu(g, a, **_SELU), False, {}, lambda a: _elu_curvature(a, **_SELU)),
    F.logsigmoid: _Rule(lambda g, a: g * torch.sigmoid(-a), False, {}, _log_sigmoid_curvature),
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
    return recorded(_Activation(function, rule._replace(settings=settings)), in_cotangent_only, args[0])


class _Activation(Operator):
    """Keeps f'(a), or the output where torch's kernel takes f' from it."""

    def __init__(self, function: Callable[..., Tensor], rule: _Rule) -> None:
        self.function, self.rule = function, rule

    def evaluate(self, *inputs: Any) -> Evaluated:
        (input,) = inputs
        output = self.function(input, **self.rule.settings)
        if self.rule.at_output:
            return Evaluated(output, (output,))
        slope = self.rule.derivative(torch.ones_like(input), input, **self.rule.settings)
        return Evaluated(output, (slope,), (input,))

    def gradients(self, kept: Any, once: Any, grad: Tensor, needs: Sequence[bool], curved: bool) -> tuple[Parts, Parts]:
        point = kept[0] if self.rule.at_output else once[0] if curved else None
        at_point = (_curvature(grad, point, self.rule),) if curved and point is not None else ()
        return (_times_slope(grad, kept[0], self.rule),), at_point

    def change(self, kept: Any, at_point: Parts, changes: Any, curved: bool) -> tuple[Tensor | None, Parts]:
        output = _times_slope(changes[0], kept[0], self.rule)
        return output, (output if self.rule.at_output else changes[0],)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Any, grad: Tensor, needs: Sequence[bool]) -> Parts:
        return (_times_slope(grad, kept[0], self.rule).addcmul_(at_point[0], seen[0]),)


def _times_slope(grad: Tensor, fixed: Tensor, rule: _Rule) -> Tensor:
    return grad * fixed if rule.keep_slope else rule.derivative(grad, fixed, **rule.settings)


def _curvature(grad: Tensor, point: Tensor, rule: _Rule) -> Tensor:
    """Return the derivative of g f'(a) in the point."""
    return rule.curvature(point, **rule.settings).mul_(grad)
