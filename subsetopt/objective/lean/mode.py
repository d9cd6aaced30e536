"""Operators whose second derivatives do no needless work, for as long as graphs for products are recorded.

torch's double backward of a convolution computes all of its outputs even when one is asked for, two of them through
slow layouts; that of batch normalisation is a chain of some thirty elementwise passes, that of an activation of three
to fifteen; average pooling on a CPU is not vectorised. Curvature products would spend most of their time there. Values
and first derivatives are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from subsetopt.objective.lean.activation import lean_activation
from subsetopt.objective.lean.applied import applied
from subsetopt.objective.lean.batch_norm import BatchNorm
from subsetopt.objective.lean.convolution import Convolution, Geometry
from subsetopt.objective.lean.pooling import lean_average_pool

_AXES: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class right_second_derivatives(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Write out what torch (2.13) differentiates wrongly twice: `torch._weight_norm`, behind `weight_norm`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_weight_norm if func is torch._weight_norm else func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return v g / ||v||, the norm over all axes but `dim` (-1: over all)."""
    axes = [*range(v.ndim)] if dim == -1 else [axis for axis in range(v.ndim) if axis != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=dim != -1)
    return v * (g / norm)


class lean_second_derivatives(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Record convolutions, batch-statistics normalisation, smooth activations and average pooling leanly.

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
            return func(*args, **kwargs)
        if func in _AXES:
            return self._convolution(_AXES[func], func, *args, **kwargs)
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is F.avg_pool2d:
            return lean_average_pool(*args, **kwargs)
        activated = lean_activation(func, args, kwargs, self._in_cotangent_only)
        return func(*args, **kwargs) if activated is None else activated

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
        return cast(Tensor, applied(Convolution, input, weight, bias, geometry, self._in_cotangent_only))

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
        return cast(Tensor, applied(BatchNorm, input, weight, bias, eps, self._in_cotangent_only))


def _per_axis(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value) if len(value) == axes else [value[0]] * axes
