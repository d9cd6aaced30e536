"""Convolution whose second derivative computes only what is asked for, and nothing through slow layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts


class Geometry(NamedTuple):
    """How a convolution's window moves."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    output_padding: list[int] | None = None
    """Given for a transposed convolution."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What `aten.convolution` and its backward pass are told."""
        transposed, zeros = self.output_padding is not None, [0] * len(self.stride)
        return self.stride, self.padding, self.dilation, transposed, self.output_padding or zeros, self.groups

    def channels(self, weight: Tensor) -> int:
        """Return the number of channels that come out."""
        return weight.shape[0] if self.output_padding is None else weight.shape[1] * self.groups


class Convolution(Operator):
    """y = x * W + b, or with the transpose of *; bilinear in x and W, as are its derivatives for an incoming g."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def evaluate(self, *inputs: Any) -> Evaluated:
        input, weight, bias = inputs
        return Evaluated(self._convolve(input, weight, bias), (input, weight))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        input, weight = kept
        return self._backward(grad, input, weight, list(needs)), (grad,) if curved else ()

    def change(self, kept: Any, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        input, weight = kept
        of_input, of_weight, of_bias = changes
        out = None if of_weight is None else self._convolve(input, of_weight, of_bias)
        if of_input is not None:
            through = self._convolve(of_input, weight, of_bias if out is None else None)
            out = through if out is None else out.add_(through)
        elif out is None and of_bias is not None:
            # Of the bias alone: the convolution with nothing, which has the right size.
            out = self._convolve(torch.zeros_like(input[:1]), weight, of_bias).expand(
                len(input), *[-1] * (input.ndim - 1)
            )
        return out, (of_input, of_weight)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Parts, grad: Tensor, needs: Sequence[bool]) -> Parts:
        input, weight = kept
        of_input, of_weight = seen
        to_input, to_weight, to_bias = self._backward(grad, input, weight, list(needs))
        if to_input is not None and of_weight is not None:
            to_input = _sum(to_input, self._backward(at_point[0], input, of_weight, [True, False, False])[0])
        if to_weight is not None and of_input is not None:
            to_weight = _sum(to_weight, self._backward(at_point[0], of_input, weight, [False, True, False])[1])
        return to_input, to_weight, to_bias

    def _convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return cast(Tensor, torch.ops.aten.convolution(input, weight, bias, *self.geometry.settings))

    def _backward(self, grad: Tensor, input: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor | None, ...]:
        bias_sizes = [self.geometry.channels(weight)]
        result = torch.ops.aten.convolution_backward(grad, input, weight, bias_sizes, *self.geometry.settings, mask)
        return cast("tuple[Tensor | None, ...]", tuple(result))


def _sum(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a.add_(b)
