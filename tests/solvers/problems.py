"""The problem set of the benchmark, as objectives for tests.

`TorchObjective` is the smallest thing that fulfils the objective's contract, so that these tests stand on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from subsetopt.bench import problems
from subsetopt.objective.protocol import Purpose

rosenbrock = problems.rosenbrock


class TorchLinearisation:
    """Hessian-vector products by differentiating one stored gradient graph again and again."""

    def __init__(self, owner: TorchObjective, w: Tensor) -> None:
        self._owner = owner
        self._w = w.detach().clone().requires_grad_()
        with torch.enable_grad():
            (self._gradient,) = torch.autograd.grad(owner.fun(self._w), self._w, create_graph=True)

    def hvp(self, v: Tensor) -> Tensor:
        self._owner.products += 1
        if not self._gradient.requires_grad:
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(self._gradient, self._w, v, retain_graph=True, materialize_grads=True)
        return product

    ggnvp = hvp


class TorchObjective:
    """A scalar torch function of a flat vector as a `SmoothObjective`; counts and lists its calls."""

    def __init__(self, fun: Callable[[Tensor], Tensor], x0: Tensor, identity: Hashable = 0) -> None:
        self.fun, self.x0, self.identity = fun, x0, identity
        self.size, self.dtype, self.device = x0.numel(), x0.dtype, x0.device
        self.evaluations = self.products = self.linearisations = 0
        self.purposes: list[Purpose] = []
        self.points: list[Tensor] = []

    def initial(self) -> Tensor:
        return self.x0.detach().clone().reshape(-1)

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        return self.fun(w.detach()).double()

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        self.purposes.append(purpose)
        self.points.append(w.detach().clone())
        w = w.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.fun(w)
            (gradient,) = torch.autograd.grad(loss, w)
        return loss.detach().double(), gradient

    def linearise(self, w: Tensor) -> TorchLinearisation:
        self.linearisations += 1
        return TorchLinearisation(self, w)


class Problem(problems.Problem):
    """A problem that can be had in another dtype or scale."""

    def objective(self, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> TorchObjective:
        fun = self.fun if scale == 1.0 else lambda x: scale * self.fun(x)
        return TorchObjective(fun, self.x0.to(dtype))


PROBLEMS = {name: Problem(p.name, p.fun, p.x0, p.minimum) for name, p in problems.PROBLEMS.items()}
