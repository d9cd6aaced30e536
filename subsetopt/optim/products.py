"""Hessian products of a closure: its graph is recorded where it calls `backward()`, and differentiated twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from subsetopt.distributed import Ranks
from subsetopt.errors import UserError
from subsetopt.optim.flat import FlatParameters

AGREEMENT = 1e-2  # relative difference of two evaluations of one gradient that rounding may explain


class _OperatorRecording(TorchFunctionMode):
    """Keeps what `backward()` is called on, in place of calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.Tensor.backward:
            return func(*args, **(kwargs or {}))
        weights = args[1] if len(args) > 1 else (kwargs or {}).get("gradient")
        self.roots.append(args[0] if weights is None else (args[0] * weights).sum())
        return None


class ClosureLinearisation:
    """Hv at the parameters as they are, for `closure` whose loss and gradient (P,) there are known.

    A closure may call `backward()` on several parts of its loss, and divide loss and gradient by one number afterwards.
    On several ranks products are means over them, as gradients are. Raises `UserError` for a gradient that is not the
    derivative of the loss, and for operations that torch cannot differentiate twice.
    """

    def __init__(
        self, flat: FlatParameters, closure: Callable[[], Any], ranks: Ranks, loss: float, gradient: Tensor
    ) -> None:
        self._flat, self._ranks = flat, ranks
        total = self._recorded(closure)
        with torch.enable_grad():
            self._gradients = _twice(
                lambda: torch.autograd.grad(total, flat.parameters, create_graph=True, materialize_grads=True)
            )
        if any(gradient.layout != torch.strided for gradient in self._gradients):
            raise UserError("closure: an embedding has sparse gradients, without second derivatives; use sparse=False")
        _refuse_once_differentiable(self._gradients)
        self._scale = self._factor(total.detach(), loss, gradient)

    def hvp(self, v: Tensor) -> Tensor:
        """Return H v, shape (P,)."""
        pairs = [(g, part) for g, part in zip(self._gradients, self._flat.split(v), strict=True) if g.requires_grad]
        if not pairs:
            return self._mean(torch.zeros_like(v))  # the loss is linear
        outputs, weights = zip(*pairs, strict=True)
        products = _twice(
            lambda: torch.autograd.grad(
                outputs, self._flat.parameters, weights, retain_graph=True, materialize_grads=True
            )
        )
        return self._mean(self._flat.joined(products)) * self._scale

    def ggnvp(self, v: Tensor) -> Tensor:
        """Raise `UserError`: a closure shows no model outputs."""
        raise UserError("closure: it shows no model outputs to build a Gauss-Newton matrix from")

    def _recorded(self, closure: Callable[[], Any]) -> Tensor:
        """Return the sum of what the closure calls `backward()` on; gradients are left as they were."""
        kept = [p.grad for p in self._flat.parameters]
        recording = _OperatorRecording()
        # The fused kernels of attention have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), recording:
            closure()
        for p, grad in zip(self._flat.parameters, kept, strict=True):
            p.grad = grad
        if not recording.roots:
            raise UserError("closure: products need its graph; let it call loss.backward() on the loss tensor itself")
        with torch.enable_grad():
            return torch.stack([root.reshape(()) for root in recording.roots]).sum()

    def _factor(self, total: Tensor, loss: float, gradient: Tensor) -> float:
        """Return by what loss and gradient were both multiplied after `backward()`."""
        own = self._mean(self._flat.joined([g.detach() for g in self._gradients]))
        root = float(self._mean(total.reshape(1).clone()))
        for factor in (1.0, loss / root if root else 1.0):
            if float((gradient - factor * own).norm()) <= AGREEMENT * float(gradient.norm()):
                return factor
        raise UserError(
            "closure: its gradient is not the derivative of its loss; leave out clipping, scaling and weight decay"
        )

    def _mean(self, vector: Tensor) -> Tensor:
        self._ranks.sum_(vector)
        return vector.div_(self._ranks.size)


def _twice(differentiate: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    try:
        return differentiate()
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not any(words in text for words in ("not implemented", "double backward", "differentiate twice")):
            raise
        raise UserError(f"closure: it has no second derivative ({text[:120]}); use LBFGS") from error


def _refuse_once_differentiable(gradients: Sequence[Tensor]) -> None:
    """Raise `UserError` where a gradient has passed through a function that torch cannot differentiate twice.

    torch puts a node there that raises, but prunes it where a leaf does not lie behind it: the product would lack terms
    without a word.
    """
    waiting = [g.grad_fn for g in gradients]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "Error":
            raise UserError("closure: a function in it is once_differentiable: it has no second derivative; use LBFGS")
        waiting += [parent for parent, _ in node.next_functions]
