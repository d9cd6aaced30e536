"""Products of batches of matrices whose second derivative adds its terms up inside of the products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded


def lean_matmul(args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool) -> Tensor | None:
    """Return the product of two tensors (..., n, m) and (..., m, l) of the same leading axes; None for all others."""
    if len(args) != 2 or kwargs or not all(isinstance(part, Tensor) for part in args):
        return None
    a, b = args
    if a.ndim < 3 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2] or a.dtype != b.dtype:
        return None
    if not (a.is_floating_point() and a.numel() and b.numel() and (a.requires_grad or b.requires_grad)):
        return None
    return recorded(_Product(), in_cotangent_only, a, b)


class _Product(Operator):
    """y = a b; da = g b', db = a'g."""

    def evaluate(self, *inputs: Any) -> Evaluated:
        return Evaluated(torch.matmul(*inputs), inputs)

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        a, b = kept
        gradients = (grad @ b.mT if needs[0] else None, a.mT @ grad if needs[1] else None)
        return gradients, (grad,) if curved else ()

    def change(self, kept: Any, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        a, b = kept
        of_a, of_b = changes
        out = None if of_a is None else of_a @ b
        if of_b is not None:
            out = a @ of_b if out is None else _add_product(out, a, of_b)
        return out, changes

    def gradient_changes(self, kept: Any, at_point: Any, seen: Parts, grad: Tensor, needs: Sequence[bool]) -> Parts:
        a, b = kept
        of_a, of_b = seen
        to_a = grad @ b.mT if needs[0] else None
        if to_a is not None and of_b is not None:
            _add_product(to_a, at_point[0], of_b.mT)
        to_b = a.mT @ grad if needs[1] else None
        if to_b is not None and of_a is not None:
            _add_product(to_b, of_a.mT, at_point[0])
        return to_a, to_b


def _add_product(into: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add a b to a tensor whose memory is in one piece."""
    into.view(-1, *into.shape[-2:]).baddbmm_(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]))
    return into
