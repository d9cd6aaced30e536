"""Convolution and batch normalisation whose second derivatives do no needless work.

torch's double backward of a convolution computes all of its outputs even when one is asked for, two of them through
slow layouts, and that of batch normalisation is a chain of some thirty elementwise passes. Curvature products spend
most of their time there. `lean_second_derivatives` replaces both operators while a graph for products is recorded;
values and first derivatives come from the same kernels as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_AXES: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class lean_second_derivatives(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Record convolutions and batch-statistics normalisation with lean second derivatives.

    With `in_cotangent_only` the recorded backward pass can be differentiated with respect to the incoming gradient
    only, which is all that a Jacobian-vector product by double backward needs.
    """

    def __init__(self, in_cotangent_only: bool) -> None:
        super().__init__()
        self._in_cotangent_only = in_cotangent_only

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _AXES:
            return self._convolution(_AXES[func], func, *args, **kwargs)
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self,
        axes: int,
        func: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.ndim != axes + 2:
            return func(input, weight, bias, stride, padding, dilation, groups)
        geometry = Geometry(_per_axis(stride, axes), _per_axis(padding, axes), _per_axis(dilation, axes), groups)
        return cast(Tensor, applied(_Convolution, input, weight, bias, geometry, self._in_cotangent_only))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training or running_mean is not None or weight is None or bias is None:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return cast(Tensor, applied(_BatchNorm, input, weight, bias, eps, self._in_cotangent_only))


class Geometry(NamedTuple):
    """How a convolution's window moves."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class _Convolution(torch.autograd.Function):
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
            out = through if out is None else out + through
        input_term = weight_term = None
        if ctx.needs_input_grad[1] and to_weight is not None:
            input_term = _convolution_backward(grad, input, to_weight, geometry, [True, False, False])[0]
        if ctx.needs_input_grad[2] and to_input is not None:
            weight_term = _convolution_backward(grad, to_input, weight, geometry, [False, True, False])[1]
        return out, input_term, weight_term, None, None


class _BatchNorm(torch.autograd.Function):
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


def _per_axis(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value) if len(value) == axes else [value[0]] * axes


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Return what an autograd function gives; torch says nothing of its type."""
    return function.apply(*args)
