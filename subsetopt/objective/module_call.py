"""Calls of a user's module that keep to themselves what it does to its inputs and to autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from subsetopt.errors import ModelError, UserError


class ModuleCall:
    """Calls `module`, whose first call in each mode tells how the others have to be made.

    `changes_inputs`: its forward pass works in place on what it is given (`nn.ReLU(inplace=True)` as first layer);
    every call then gets a copy, so that the data stay as they are. `differentiates`: its forward pass calls autograd
    (forces from an energy), which needs gradients recorded even where nobody asks for those of the parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.changes_inputs = self.differentiates = False
        self._known: set[str] = set()

    def __call__(self, x: Tensor, mode: str) -> Any:
        """Return the outputs for `x`; raises `ModelError` when this call, unlike earlier ones, has changed `x`."""
        if mode not in self._known:
            outputs = self._first(x)
            self._known.add(mode)
            return outputs
        if x.is_inference():  # neither tracked nor of use to autograd; the copy is
            return self._call(x.clone())
        version = x._version
        # Detached: a forward pass may set requires_grad on its inputs, which are kept between calls.
        outputs = self._call(self.own(x.detach()))
        if x._version != version:
            raise ModelError(
                "model: in some calls its forward pass changes its inputs in place; start it with x = x.clone()"
            )
        return outputs

    def own(self, x: Tensor) -> Tensor:
        """Return `x`, or a copy of it where the module would change it."""
        return x.clone() if self.changes_inputs else x

    def _call(self, x: Tensor) -> Any:
        if self.differentiates and not torch.is_grad_enabled():
            with torch.enable_grad():
                return _detached(self.module(x))
        return self.module(x)

    def _first(self, x: Tensor) -> Any:
        given, watch = x.detach().clone(), _AutogradWatch()
        try:
            with watch:
                outputs = self._call(given)
        except RuntimeError:
            if torch.is_grad_enabled():
                raise
            given = x.detach().clone()
            with torch.enable_grad(), watch:
                outputs = _detached(self.module(given))
        self.differentiates |= watch.seen
        self.changes_inputs |= given._version > 0 or not _same(given, x)
        return outputs


def outputs_of(evaluate: Callable[[Tensor], Any], x: Tensor, mode: str = "eval") -> Any:
    """Return `evaluate(x)`; raises `ModelError` where the module itself fails, as it may for a late sample."""
    try:
        return evaluate(x)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        when = {"train": "in training mode", "backward": "in its backward pass"}.get(mode, "in eval mode")
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ModelError(f"model: it fails on inputs of shape {tuple(x.shape)} {x.dtype} {when}: {reason}") from error


class _AutogradWatch(TorchFunctionMode):
    """Sees whether autograd is called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.seen |= func in _AUTOGRAD
        return func(*args, **(kwargs or {}))


_AUTOGRAD = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
