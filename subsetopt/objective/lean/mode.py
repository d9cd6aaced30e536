"""Operators whose second derivatives do no needless work, for as long as graphs for products are recorded.

torch's double backward of a convolution computes all of its outputs even when one is asked for, two of them through
slow layouts; that of batch normalisation is a chain of some thirty elementwise passes, that of an activation of three
to fifteen, that of layer and group normalisation some thirty; average pooling on a CPU is not vectorised. Curvature
products would spend most of their time there. Values and first derivatives are those of torch, to rounding; what a rule
does not cover is left to torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from subsetopt.objective.lean.activation import lean_activation
from subsetopt.objective.lean.attention import lean_attention, lean_multi_head_attention
from subsetopt.objective.lean.channel_norm import lean_batch_norm, lean_group_norm, lean_instance_norm
from subsetopt.objective.lean.convolution import Convolution, Geometry
from subsetopt.objective.lean.layer_norm import lean_layer_norm, lean_rms_norm
from subsetopt.objective.lean.linear import lean_linear
from subsetopt.objective.lean.lstm import lean_lstm
from subsetopt.objective.lean.matmul import lean_matmul
from subsetopt.objective.lean.operator import recorded
from subsetopt.objective.lean.pooling import lean_average_pool
from subsetopt.objective.lean.softmax import lean_softmax
from subsetopt.objective.lean.two_factors import lean_glu, lean_prelu

_AXES: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED: dict[Any, int] = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}


class right_second_derivatives(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Write out what torch (2.13) differentiates twice wrongly (`weight_norm`) or not at all (`nn.EmbeddingBag`)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _RIGHT.get(func, func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return v g / ||v||, the norm over all axes but `dim` (-1: over all)."""
    axes = [*range(v.ndim)] if dim == -1 else [axis for axis in range(v.ndim) if axis != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=dim != -1)
    return v * (g / norm)


def _embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, **options: Any) -> Tensor:
    """Return the sums or means of the rows that each bag picks: a row of `input`, or from one of `offsets` to the next.

    Maxima, too, of bags that are rows of `input`; those of others stay with torch.
    """
    mode, padding, factors = (options.get(name) for name in ("mode", "padding_idx", "per_sample_weights"))
    ragged = offsets is not None or input.ndim != 2 or not input.numel()
    if (mode == "max" and ragged) or input.is_nested or options.get("max_norm") is not None:
        return F.embedding_bag(input, weight, offsets, **options)
    if mode == "max":
        return _largest_of_bags(input, weight, padding)
    indices = input.reshape(-1)
    if offsets is None:
        bag = torch.arange(len(input), device=input.device).repeat_interleave(input.shape[1])
        bags = len(input)
    else:
        bags = len(offsets) - bool(options.get("include_last_offset"))
        places = torch.arange(len(indices), device=input.device)
        bag = torch.searchsorted(offsets[:bags].long(), places, right=True) - 1
    kept = torch.ones_like(indices) if padding is None else indices != padding % len(weight)
    each = kept.to(weight.dtype) if factors is None else kept * factors.reshape(-1)
    picked = F.embedding(indices, weight) * each[:, None]
    total = weight.new_zeros(bags, weight.shape[1]).index_add(0, bag, picked)
    if mode == "sum":
        return total
    return total / weight.new_zeros(bags).index_add(0, bag, kept.to(weight.dtype)).clamp_min(1.0)[:, None]


def _largest_of_bags(input: Tensor, weight: Tensor, padding: int | None) -> Tensor:
    """Return the largest number of each column among the rows that a bag picks, 0 where all are padding."""
    picked = F.embedding(input, weight)
    if padding is None:
        return picked.max(1).values
    dropped = (input == padding % len(weight))[..., None]
    largest: Tensor = picked.masked_fill(dropped, -math.inf).max(1).values
    return largest.masked_fill(dropped.all(1), 0.0)


_RIGHT: dict[Any, Callable[..., Any]] = {torch._weight_norm: _weight_norm, F.embedding_bag: _embedding_bag}


_BY_ARGUMENTS: dict[Any, Callable[[Sequence[Any], Mapping[str, Any], bool], Any]] = {
    F.multi_head_attention_forward: lean_multi_head_attention,
    torch.lstm: lean_lstm,
    F.glu: lean_glu,
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), lean_prelu),
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), lean_softmax),
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__), lean_matmul),
}
_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: lean_linear,
    F.layer_norm: lean_layer_norm,
    F.rms_norm: lean_rms_norm,
    F.batch_norm: lean_batch_norm,
    F.group_norm: lean_group_norm,
    F.instance_norm: lean_instance_norm,
    F.scaled_dot_product_attention: lean_attention,
}


class lean_second_derivatives(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Record convolutions, linear layers, attention, normalisation, smooth activations and the like leanly.

    What has no rule is as `right_second_derivatives` has it; two modes would take turns at each operator within these.
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
        if torch._C._are_functorch_transforms_active():
            # A model that calls torch.vmap and the like, under which these functions have no rule.
            return _RIGHT.get(func, func)(*args, **kwargs)
        if func in _AXES:
            return self._convolution(_AXES[func], func, *args, **kwargs)
        if func in _TRANSPOSED:
            return self._transposed(_TRANSPOSED[func], func, *args, **kwargs)
        if func is F.avg_pool2d:
            return lean_average_pool(*args, **kwargs)
        found = self._by_rule(func, args, kwargs)
        return _RIGHT.get(func, func)(*args, **kwargs) if found is None else found

    def _by_rule(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the result recorded by a rule that may be for some arguments only; None where there is none."""
        rule = _RULES.get(func)
        if rule is not None:
            return rule(*args, **kwargs, in_cotangent_only=self._in_cotangent_only)
        by_arguments = _BY_ARGUMENTS.get(func)
        if by_arguments is not None:
            return by_arguments(args, kwargs, self._in_cotangent_only)
        return lean_activation(func, args, kwargs, self._in_cotangent_only)

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
        return recorded(Convolution(geometry), self._in_cotangent_only, input, weight, bias)

    def _transposed(
        self,
        axes: int,
        func: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        if input.ndim != axes + 2:
            return func(input, weight, bias, stride, padding, output_padding, groups, dilation)
        strides, paddings, further = _per_axis(stride, axes), _per_axis(padding, axes), _per_axis(output_padding, axes)
        geometry = Geometry(strides, paddings, _per_axis(dilation, axes), groups, further)
        return recorded(Convolution(geometry), self._in_cotangent_only, input, weight, bias)


def _per_axis(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value) if len(value) == axes else [value[0]] * axes
