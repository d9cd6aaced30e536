"""`NewtonCG(params)` with `step(closure)`: trust-region Newton for closures, without a learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from subsetopt.errors import SettingError
from subsetopt.optim.base import ClosureOptimizer
from subsetopt.optim.closure import Closure
from subsetopt.optim.settings import StepSettings, read_count, read_rate, read_settings
from subsetopt.solvers import newton_cg

_NO_RATE = (
    "subsetopt.optim.NewtonCG: it has no learning rate, so lr = {} has no effect (the trust radius adapts); leave out "
    "the scheduler, or lr. Said once."
)
_UNUSED = {"lr": 1.0, "history_size": None, "line_search_fn": None, "keep_curvature": True}


class NewtonCG(ClosureOptimizer):
    """Trust-region Newton-CG with exact Hessian products, for the same closures as `LBFGS`.

    `closure` clears the gradients, computes the loss, calls `backward()` and returns the loss; once per iteration it
    is called to record its graph, from which products come by double backward, and the graph of the whole loss stays
    in memory for that long. There is no learning rate: the trust radius adapts, and outlives new data. `lr` is there
    for frameworks and schedulers that write one; a value other than 1 is warned of once, and has no effect. A step ends
    after `max_iter` iterations, after the iteration that reaches `max_eval` calls (None: 2.5 max_iter), at
    max|g| <= `tolerance_grad`, or when w or the loss changes by less than `tolerance_change`. `max_products` bounds
    the products of one iteration (None: by memory, 20 to 300).

    State, checkpoints, `fixed_closure`, `weight_decay`, `maximize`, `infeasible` and `process_group` are as in
    `LBFGS`. Raises `SettingError` for what `LBFGS` refuses and for complex parameters; `UserError` for a closure whose
    gradient is not the derivative of its loss, or that cannot be differentiated twice.
    """

    def __init__(
        self,
        params: Iterable[Any],
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 0.0,
        max_products: int | None = None,
        *,
        lr: float = 1.0,
        fixed_closure: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        infeasible: type[Exception] | tuple[type[Exception], ...] = (),
        process_group: Any = "default",
    ) -> None:
        defaults = {
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "max_products": max_products,
            "lr": lr,
            "fixed_closure": fixed_closure,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        self._rate_warned = False
        super().__init__(params, defaults, process_group, infeasible)
        self._make_solver(self._settings())
        if any(p.is_complex() for p in self.param_groups[0]["params"]):
            raise SettingError("params", "complex", "products are of real numbers", "use torch.view_as_real")

    def step(self, closure: Closure | None = None) -> Any:
        """Make up to `max_iter` iterations; return what `closure` gave at the point where the step began."""
        rate = read_rate(self.param_groups[0]["lr"])
        if rate != 1.0 and not self.__dict__.get("_rate_warned"):
            self._rate_warned = True
            warnings.warn(_NO_RATE.format(rate), stacklevel=3)
        return super().step(closure)

    def _settings(self) -> StepSettings:
        group = {**self.param_groups[0], **_UNUSED}
        if group["max_eval"] is None:
            group["max_eval"] = read_count("max_iter", group["max_iter"]) * 5 // 2
        return read_settings(group)

    def _make_solver(self, settings: StepSettings) -> newton_cg.NewtonCG:
        products = self.param_groups[0]["max_products"]
        return newton_cg.NewtonCG(
            gtol=settings.tolerance_grad,
            max_products=None if products is None else read_count("max_products", products),
        )
