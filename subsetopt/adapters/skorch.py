"""skorch: `FinishWithLBFGS`, a callback that ends a net's own training with L-BFGS on all training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from subsetopt.adapters.finish import Finish, Whole, all_rows, evaluating
from subsetopt.optim import full_batch_closure
from subsetopt.required import require

Callback = require("skorch", "skorch").callbacks.Callback


class FinishWithLBFGS(Callback):  # type: ignore[misc, valid-type]  # the base is known when skorch is installed
    """After the net's own epochs: L-BFGS on all of its training data, until max|g| <= `tolerance_grad`.

    The loss is the net's criterion, a mean over the samples of a batch, with the module in evaluation mode. `summary_`
    says how it ended, and `history[-1]` has `lbfgs_loss`. A further `partial_fit` solves again. `settings` are further
    arguments of `subsetopt.optim.LBFGS`.
    """

    def __init__(
        self, max_iterations: int = 200, tolerance_grad: float = 1e-6, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.max_iterations, self.tolerance_grad, self.settings = max_iterations, tolerance_grad, settings

    def initialize(self) -> FinishWithLBFGS:
        """Check the settings before any training."""
        self._make()
        return self

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Solve on what the net was fitted on; the net's own split is held out as it was before."""
        data, _ = net.get_split_datasets(X, y)
        loader = all_rows(net.get_iterator(data, training=False))
        modules = nn.ModuleList([net.module_, *([net.criterion_] if isinstance(net.criterion_, nn.Module) else [])])

        def loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
            inputs, targets = batch["batch"]
            value: Tensor = net.get_loss(net.infer(inputs), targets, X=inputs, training=True)
            return value

        with evaluating(modules):
            closure = full_batch_closure(modules, loss, Whole(loader), device=net.device, process_group=None)
            self.summary_ = self._make().run(modules, closure)
        if net.history:
            net.history.record("lbfgs_loss", self.summary_["loss"])

    def _make(self) -> Finish:
        settings = {"process_group": None, **(self.settings or {})}
        return Finish(self.max_iterations, self.tolerance_grad, settings)
