"""A loss of a module's parameters as a plain function of one flat vector, for `minimize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from subsetopt.arguments import kind_of, require_module
from subsetopt.errors import ModelError, SettingError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.guard import left_as_it_was
from subsetopt.objective.private_copy import copied_around_tensors


class Functional:
    """w -> fun(module at w), a scalar, for w of shape (P,); differentiable in w as often as `fun` is.

    Dropout is off. `module(w)` returns an independent module with the parameters w. `fun` is evaluated once here: where
    its backward pass calls the module again (`torch.utils.checkpoint`), each call gets a module of its own, which has
    its parameters for as long as the graph lives. Raises `ModelError` where `fun` depends on a parameter to which no
    gradient comes.
    """

    def __init__(self, module: nn.Module, fun: Callable[[Any], Tensor]) -> None:
        require_module("module", module)
        if isinstance(fun, type | nn.Module) or not callable(fun):
            raise SettingError("fun", kind_of(fun), "is no loss", "give a function (module) -> scalar")
        self._fun, self._recomputes = fun, False
        self._flat = FlatModel(module).evaluated_by(self._evaluated)
        self._nothing = torch.zeros(1, device=self._flat.device)
        for slots in self._flat.slots:
            for owner, name in slots:
                owner._parameters[name] = cast(Any, _OutOfPlace.made())
        with left_as_it_was(self._flat), torch.inference_mode(False), torch.enable_grad():
            self._try_out()

    def __call__(self, w: Tensor) -> Tensor:
        """Return the loss at w."""
        return self._at(self._flat.views(self._flat.check(w)))

    def start(self) -> Tensor:
        """Return the module's own parameters, shape (P,)."""
        return self._flat.initial()

    def module(self, w: Tensor) -> nn.Module:
        """Return a new module at w, in eval mode."""
        with self._flat.at([nn.Parameter(view) for view in self._flat.views(self.start())], "eval"):
            return self._flat.module(w)

    def _at(self, parameters: Sequence[Tensor]) -> Tensor:
        return self._flat.call(parameters, self._nothing, "deterministic")

    def _evaluated(self, own: nn.Module, _: Inputs) -> Any:
        return self._fun(copied_around_tensors(own) if self._recomputes and torch.is_grad_enabled() else own)

    def _try_out(self) -> None:
        """Find out whether the backward pass needs the parameters; what else fails is left to the first call."""
        leaves = self._flat.leaves(self.start())
        try:
            value = self._at(leaves)
            gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        except _RecomputationError:
            self._recomputes = True
            self._try_out()
        except Exception as error:
            if "use_reentrant" in str(error):
                raise ModelError(f"fun: {_REENTRANT}; checkpoint with use_reentrant=False") from error
        else:
            self._require_reached(leaves, gradients, value.detach())

    def _require_reached(self, leaves: Sequence[Tensor], gradients: Sequence[Tensor | None], value: Tensor) -> None:
        """Raise `ModelError` where a parameter without a gradient moves the value."""
        places = [place for place, gradient in enumerate(gradients) if gradient is None]
        plain = [leaf.detach() for leaf in leaves]
        if not places or not torch.equal(self._at(plain).detach(), value):  # nothing can be told of random values
            return
        for place in places:
            moved = plain[place] + 0.1 * (1 + plain[place].abs())
            if not torch.equal(self._at([*plain[:place], moved, *plain[place + 1 :]]).detach(), value):
                raise ModelError(
                    f"fun: its value depends on {self._flat.names[place]}, but no gradient comes to it; take it out of "
                    "no_grad or detach, checkpoint with use_reentrant=False, or freeze it with requires_grad_(False)"
                )


_REENTRANT = "its module is checkpointed in a way that autograd.grad cannot pass"


class _RecomputationError(ModelError):
    """A module was called in the backward pass, when the parameters of that call are no longer in place."""


class _OutOfPlace(Tensor):
    """Stands for a parameter between calls: whatever is done with it raises, in place of being wrong."""

    @staticmethod
    def made() -> _OutOfPlace:
        """Return one."""
        return Tensor._make_subclass(_OutOfPlace, torch.empty(0, device="cpu"))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Raise."""
        raise _RecomputationError(
            "fun: its module is called outside of fun, as by a checkpoint that the starting point does not have; "
            "checkpoint at every point alike, or at none"
        )

    def __deepcopy__(self, memo: Any) -> _OutOfPlace:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _OutOfPlace.made, ()


def functional(module: nn.Module, fun: Callable[[Any], Tensor]) -> tuple[Functional, Tensor]:
    """Return (f, w0): `fun(module)`, a scalar loss, as a function of the flat parameters, and the module's own w0.

    `fun` is called with a copy of `module` whose parameters are those of w, and may use it in any way, methods,
    attributes and derivatives included: `f, w0 = functional(gp, lambda gp: gp.negative_log_likelihood(x, y))`, then
    `minimize(f, w0)` and `f.module(result.x)`. Raises `SettingError` or `ModelError` for what cannot be used.
    """
    function = Functional(module, fun)
    return function, function.start()
