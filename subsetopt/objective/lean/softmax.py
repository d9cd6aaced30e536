"""Softmax whose second derivative takes four passes over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded


def lean_softmax(args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool) -> Tensor | None:
    """Return the softmax of the same arguments, recorded leanly; None where it is of another dtype, or unclear."""
    named = dict(zip(("input", "dim"), args, strict=False)) | dict(kwargs)
    input, dim = named.pop("input", None), named.pop("dim", None)
    rest = {name for name, value in named.items() if value is not None and name != "_stacklevel"}
    if rest or len(args) > 2 or not isinstance(dim, int) or not isinstance(input, Tensor) or not input.ndim:
        return None
    if not input.is_floating_point():
        return None
    return recorded(_Softmax(dim), in_cotangent_only, input)


class _Softmax(Operator):
    """dx = p (g - <p, g>), symmetric in g; along a change u of p it changes by u (g - <p, g>) - p <u, g>."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def evaluate(self, *inputs: Any) -> Evaluated:
        output = torch.ops.aten._softmax(inputs[0], self.dim, False)
        return Evaluated(output, (output,))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        result = softmax_backward(grad, kept[0], self.dim)
        at_point = (grad - (grad * kept[0]).sum(self.dim, keepdim=True),) if curved else ()
        return (result,), at_point

    def change(self, kept: Any, at_point: Parts, changes: Any, curved: bool) -> tuple[Tensor | None, Parts]:
        output = softmax_backward(changes[0], kept[0], self.dim)
        return output, (output,)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Any, grad: Tensor, needs: Sequence[bool]) -> Parts:
        # The sum of u (g - <p, g>) is that of u g, since u sums to zero.
        bent = seen[0] * at_point[0]
        result = softmax_backward(grad, kept[0], self.dim).add_(bent)
        return (result.addcmul_(kept[0], bent.sum(self.dim, keepdim=True), value=-1),)


def softmax_backward(grad: Tensor, output: Tensor, dim: int) -> Tensor:
    """Return p (g - <p, g>)."""
    return cast(Tensor, torch.ops.aten._softmax_backward_data(grad, output, dim, output.dtype))
