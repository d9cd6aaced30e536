"""Any differentiable torch function of one tensor as an objective."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic, plain
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.protocol import Meter, Purpose


class FunctionObjective:
    """f(x) for `fun`, a twice differentiable torch function of one tensor of the shape, dtype and device of `x0`.

    Solvers see x flattened to (P,); `fun` sees the shape of `x0`. Raises `UserError` when `x0` is not a real
    floating-point tensor, or when `fun` does not return a real scalar that depends on x. One call counts as one sample.
    """

    def __init__(self, fun: Callable[[Tensor], Tensor], x0: Tensor, meter: Meter | None = None) -> None:
        if not isinstance(x0, Tensor) or not x0.is_floating_point():
            given = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
            raise UserError(f"x0: {given}; give a tensor of floating-point numbers, such as torch.zeros(3)")
        if x0.numel() == 0:
            raise UserError("x0: it has no elements; there is nothing to minimise")
        self.fun = fun
        self.shape = x0.shape
        self.meter: Meter = CountingMeter() if meter is None else meter
        self._x0 = plain(x0).reshape(-1).clone()

    @property
    def size(self) -> int:
        """P, the number of elements of x."""
        return self._x0.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x0."""
        return self._x0.dtype

    @property
    def device(self) -> torch.device:
        """The device of x0."""
        return self._x0.device

    @property
    def identity(self) -> Hashable:
        """The same as long as the function object is; what it reads from outside cannot be seen."""
        return id(self.fun)

    def initial(self) -> Tensor:
        """Return a fresh copy of x0, flattened to (P,)."""
        return self._x0.clone()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w) as a float64 scalar tensor, without synchronising."""
        self.meter.charge("forward", 1, purpose)
        with exact_arithmetic(self.device), torch.no_grad():
            return self._scalar(self.fun(w.detach().view(self.shape))).to(accumulation_dtype(self.device))

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w), a float64 scalar tensor, and its gradient, a new tensor of shape (P,)."""
        self.meter.charge("gradient", 1, purpose)
        with exact_arithmetic(self.device):
            x, value = self._evaluate(w)
            (gradient,) = torch.autograd.grad(value, x)
            return value.detach().to(accumulation_dtype(self.device)), gradient.detach().clone()

    def linearise(self, w: Tensor) -> FunctionLinearisation:
        """Return Hessian products at w; the graph is recorded, and charged, at the first one."""
        return FunctionLinearisation(self, w)

    def _evaluate(self, w: Tensor) -> tuple[Tensor, Tensor]:
        x = plain(w).detach().requires_grad_()
        value = self._scalar(self.fun(x if x.shape == self.shape else x.view(self.shape)))  # a view is recorded, too
        if not value.requires_grad:
            raise UserError(
                "fun: its value does not depend on x through torch operations; do not detach x or use numpy"
            )
        return x, value

    def _scalar(self, value: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            raise UserError(f"fun: it returns {type(value).__name__}; return a scalar tensor")
        if value.numel() != 1:
            raise UserError(f"fun: it returns shape {tuple(value.shape)}; return a scalar, for example its .sum()")
        if not value.is_floating_point():
            raise UserError(f"fun: it returns {value.dtype}; return a real floating-point scalar")
        return value.reshape(())


class FunctionLinearisation:
    """Hessian products of a plain function at one point."""

    def __init__(self, objective: FunctionObjective, w: Tensor) -> None:
        self._objective, self._w = objective, w.detach().clone()
        self._graph: tuple[Tensor, Tensor | None] | None = None

    def hvp(self, v: Tensor) -> Tensor:
        """Return H v, shape (P,); zero where the function is linear."""
        with exact_arithmetic(self._objective.device):
            x, gradient = self._recorded()
            self._objective.meter.charge("hvp", 1, "product")
            if gradient is None:
                return torch.zeros_like(v)
            (product,) = torch.autograd.grad(gradient, x, v.detach(), retain_graph=True, materialize_grads=True)
            return product

    def ggnvp(self, v: Tensor) -> Tensor:
        """Raise `UserError`: a plain function has no model outputs to build a Gauss-Newton matrix from."""
        raise UserError("curvature = 'ggn': a plain function has no model outputs; use curvature='hessian'")

    def _recorded(self) -> tuple[Tensor, Tensor | None]:
        if self._graph is None:
            self._objective.meter.charge("linearise", 1, "product")
            x, value = self._objective._evaluate(self._w)
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            self._graph = x, gradient if gradient.requires_grad else None
        return self._graph
