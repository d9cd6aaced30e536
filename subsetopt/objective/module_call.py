"""Calls of a user's module that keep to themselves what it does to its inputs and to autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from subsetopt.errors import ModelError, UserError
from subsetopt.inputs import Arguments, Inputs, Parts, Style, arguments_of, describe, each_part, style_of, version_of

InPlaceOfForward = Callable[[nn.Module, Inputs], Any]
"""What is evaluated in place of `module(x)`: a loss or residuals, which call the module as they like."""


class ModuleCall:
    """Calls `module`, whose first call in each mode tells how the others have to be made.

    Where a `function` is given, it is called as `function(module, x)` in place of the module. A module that takes its
    single tensor by name, or in a dict, has it by its `input_name`.

    `changes_inputs`: its forward pass works in place on what it is given (`nn.ReLU(inplace=True)` as first layer);
    every call then gets a copy, so that the data stay as they are. `differentiates`: its forward pass calls autograd
    (forces from an energy), which needs gradients recorded even where nobody asks for those of the parameters.
    """

    def __init__(
        self, module: nn.Module, function: InPlaceOfForward | None = None, input_name: str | None = None
    ) -> None:
        self.module, self.function, self.input_name = module, function, input_name
        # What a loss does inside, by torch.func for one, is not seen from outside.
        self.changes_inputs, self.differentiates = False, function is not None
        self._known: set[str] = set()
        self._styles: dict[tuple[str, ...], Style] = {}

    def __call__(self, x: Inputs, mode: str) -> Any:
        """Return the outputs for `x`; raises `ModelError` when this call, unlike earlier ones, has changed `x`."""
        if mode not in self._known:
            outputs = self._first(x)
            self._known.add(mode)
            return outputs
        if x.is_inference():  # neither tracked nor of use to autograd; the copy is
            return self._call(x.clone())
        version = version_of(x)
        # Detached: a forward pass may set requires_grad on its inputs, which are kept between calls.
        outputs = self._call(self.own(x.detach()))
        if version_of(x) != version:
            raise ModelError(
                "model: in some calls its forward pass changes its inputs in place; start it with x = x.clone()"
            )
        return outputs

    def own(self, x: Inputs) -> Inputs:
        """Return `x`, or a copy of it where the module would change it."""
        return x.clone() if self.changes_inputs else x

    def _call(self, x: Inputs) -> Any:
        if self.differentiates and not torch.is_grad_enabled():
            with torch.enable_grad():
                return _detached(self._plainly(x))
        return self._plainly(x)

    def _plainly(self, x: Inputs) -> Any:
        if self.function is not None:
            return self.function(self.module, x)
        if isinstance(x, Tensor) and self.input_name is None:
            return self.module(x)
        arguments, named = self.arguments(x)
        return self.module(*arguments, **named)

    def arguments(self, x: Inputs) -> Arguments:
        """Return the arguments by which the module takes `x`; how is looked up once for inputs of the same keys."""
        if self.function is not None:
            raise ModelError("loss: it calls the model itself, which cannot be traced from outside")
        if isinstance(x, Tensor):
            if self.input_name is None:
                return (x,), {}
            x = Parts([x], [self.input_name])
        if x.keys not in self._styles:
            self._styles[x.keys] = style_of(self.module, x)
        return arguments_of(x, self._styles[x.keys])

    def _first(self, x: Inputs) -> Any:
        given, watch = x.detach().clone(), _AutogradWatch()
        try:
            with watch:
                outputs = self._call(given)
        except RuntimeError:
            if torch.is_grad_enabled():
                raise
            given = x.detach().clone()
            with torch.enable_grad(), watch:
                outputs = _detached(self._plainly(given))
        self.differentiates |= watch.seen
        self.changes_inputs |= version_of(given) > 0 or not _same(given, x)
        return outputs


def outputs_of(evaluate: Callable[[Inputs], Any], x: Inputs, mode: str = "eval") -> Any:
    """Return `evaluate(x)`; raises `ModelError` where the module itself fails, as it may for a late sample."""
    try:
        return evaluate(x)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        when = {"train": "in training mode", "backward": "in its backward pass"}.get(mode, "in eval mode")
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ModelError(f"model: it fails on inputs of {describe(x)} {when}: {reason}") from error


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


def _same(a: Inputs, b: Inputs) -> bool:
    pairs = zip(each_part(a), each_part(b), strict=True)
    return all(torch.equal(x, y) or bool(((x == y) | ((x != x) & (y != y))).all()) for (_, x), (_, y) in pairs)
