"""A linear layer whose second derivative adds its terms up inside of the matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded

WORTH = 2**17
"""Numbers in inputs and outputs together from which the passes that are saved take longer than the calls."""


def lean_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, in_cotangent_only: bool) -> Tensor | None:
    """Return `F.linear` of the same arguments, recorded leanly; None where it is too small, or not as usual."""
    if weight.ndim != 2 or input.ndim < 2 or (bias is not None and bias.ndim != 1):
        return None
    if input.numel() + input.numel() // max(input.shape[-1], 1) * len(weight) < WORTH:
        return None
    return recorded(_Linear(), in_cotangent_only, input, weight, bias)


class _Linear(Operator):
    """y = x W' + b; dx = g W, dW = g'x, db = sum g."""

    def evaluate(self, *inputs: Any) -> Evaluated:
        input, weight, bias = inputs
        return Evaluated(F.linear(input, weight, bias), (input, weight))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        input, weight = kept
        rows = _rows(grad)
        to_input = (rows @ weight).view(input.shape) if needs[0] else None
        to_weight = rows.t() @ _rows(input) if needs[1] else None
        return (to_input, to_weight, rows.sum(0) if needs[2] else None), (grad,) if curved else ()

    def change(self, kept: Any, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        input, weight = kept
        of_input, of_weight, of_bias = changes
        shape = (*input.shape[:-1], len(weight))
        out = None
        if of_weight is not None:
            x = _rows(input)
            out = x @ of_weight.t() if of_bias is None else of_bias.addmm(x, of_weight.t())
        elif of_bias is not None:
            out = of_bias.expand(input.numel() // max(input.shape[-1], 1), -1)
        if of_input is not None:
            rows = _rows(of_input)
            # A bias alone, expanded, has no memory of its own to add to.
            if out is None:
                out = rows @ weight.t()
            else:
                out = out.addmm_(rows, weight.t()) if of_weight is not None else out.addmm(rows, weight.t())
        return None if out is None else out.reshape(shape), (of_input, of_weight)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Parts, grad: Tensor, needs: Sequence[bool]) -> Parts:
        input, weight = kept
        of_input, of_weight = seen
        rows, before = _rows(grad), _rows(at_point[0])
        to_input = to_weight = None
        if needs[0]:
            to_input = rows @ weight
            to_input = (to_input if of_weight is None else to_input.addmm_(before, of_weight)).view(input.shape)
        if needs[1]:
            to_weight = rows.t() @ _rows(input)
            to_weight = to_weight if of_input is None else to_weight.addmm_(before.t(), _rows(of_input))
        return to_input, to_weight, rows.sum(0) if needs[2] else None


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
