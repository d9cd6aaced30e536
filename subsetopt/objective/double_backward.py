"""The Hessian of a loss in the model outputs, where no formula is known: by two backward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class SummedLoss(Protocol):
    """What gives the sum of a loss over samples."""

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sum of the n losses, accumulated in `dtype`."""


def double_backward(loss: SummedLoss, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the product with the Hessian of a loss in its outputs, zero where it is linear in them."""
    z = outputs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.total(z, targets, z.dtype), z, create_graph=True)

    def product(u: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(u)
        (result,) = torch.autograd.grad(gradient, z, u, retain_graph=True, materialize_grads=True)
        return result

    return product
