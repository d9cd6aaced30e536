"""A loss of a module's parameters as a plain function of one flat vector, for `minimize`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.arguments import kind_of, require_module
from subsetopt.errors import SettingError
from subsetopt.objective.flat_model import FlatModel


class Functional:
    """w -> fun(module at w), a scalar, for w of shape (P,); differentiable in w as often as `fun` is.

    Dropout is off. `module(w)` returns an independent module with the parameters w.
    """

    def __init__(self, module: nn.Module, fun: Callable[[Any], Tensor]) -> None:
        require_module("module", module)
        if isinstance(fun, type | nn.Module) or not callable(fun):
            raise SettingError("fun", kind_of(fun), "is no loss", "give a function (module) -> scalar")
        self._flat = FlatModel(module).evaluated_by(lambda own, _: fun(own))
        self._nothing = torch.zeros(1, device=self._flat.device)

    def __call__(self, w: Tensor) -> Tensor:
        """Return the loss at w."""
        return self._flat.call(self._flat.views(self._flat.check(w)), self._nothing, "deterministic")

    def start(self) -> Tensor:
        """Return the module's own parameters, shape (P,)."""
        return self._flat.initial()

    def module(self, w: Tensor) -> nn.Module:
        """Return a new module at w, in eval mode."""
        return self._flat.module(w)


def functional(module: nn.Module, fun: Callable[[Any], Tensor]) -> tuple[Functional, Tensor]:
    """Return (f, w0): `fun(module)`, a scalar loss, as a function of the flat parameters, and the module's own w0.

    `fun` is called with a copy of `module` whose parameters are those of w, and may use it in any way, methods,
    attributes and derivatives included: `f, w0 = functional(gp, lambda gp: gp.negative_log_likelihood(x, y))`, then
    `minimize(f, w0)` and `f.module(result.x)`. Raises `SettingError` or `ModelError` for what cannot be used.
    """
    function = Functional(module, fun)
    return function, function.start()
