"""Lightning callbacks: `FinishWithLBFGS` after the module's own training, `SubsetThenFinetune` before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.adapters.finish import Finish, Whole, all_rows, evaluating
from subsetopt.errors import SettingError, UserError
from subsetopt.optim import full_batch_closure
from subsetopt.required import require

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        Callback = require("lightning", "lightning").Callback


class _FullBatchCallback(Callback):  # type: ignore[misc]  # the base is known when Lightning is installed
    """Solves on fixed rows of the training data by the module's own `training_step`, in evaluation mode."""

    def __init__(
        self, max_iterations: int, tolerance_grad: float, fraction: float | None, seed: int, settings: Any
    ) -> None:
        self._finish = Finish(max_iterations, tolerance_grad, settings)
        self._fraction, self._seed, self._over = fraction, seed, False

    @property
    def summary(self) -> dict[str, Any] | None:
        """Loss, gradient_norm, stop_reason and iterations; None before."""
        return self._finish.summary

    def state_dict(self) -> dict[str, Any]:
        """Return where the solve is, for Lightning's checkpoints."""
        return {"finish": self._finish.state_dict(), "over": self._over}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was saved."""
        self._finish.load_state_dict(state_dict["finish"])
        self._over = bool(state_dict["over"])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Raise `UserError` before any training for a module whose `training_step` takes steps itself."""
        if not getattr(pl_module, "automatic_optimization", True):
            raise UserError(
                "module: automatic_optimization is False, so that training_step takes steps of its own; L-BFGS needs "
                "one that returns the loss alone"
            )

    def _solve(self, trainer: Any, module: Any, each: Any = None) -> None:
        if str(trainer.precision) not in ("32-true", "64-true"):
            raise SettingError("precision", trainer.precision, "too coarse for a line search", 'use "32-true"')
        loader = trainer.train_dataloader
        rows = all_rows(loader, trainer.global_rank, trainer.world_size, self._fraction, self._seed)
        device = trainer.strategy.root_device
        module.to(device)
        with evaluating(module), _silent(module), torch.inference_mode(False), torch.enable_grad():
            closure = full_batch_closure(module, _training_loss, Whole(rows), device=device)
            self._finish.run(module, closure, each)
        self._over = True


class FinishWithLBFGS(_FullBatchCallback):
    """After the module's own training: L-BFGS on all training data, until max|g| <= `tolerance_grad`.

    The loss is that of `training_step`, a mean over the samples of its batch, in evaluation mode (no dropout, running
    statistics of BatchNorm). With `checkpoint`, a file, Lightning's own checkpoint is written there every
    `save_every` iterations and at the end; `trainer.fit(..., ckpt_path=checkpoint)` goes on in mid-solve, exactly.
    `summary` says how it ended. Further settings are those of `subsetopt.optim.LBFGS`. Raises `UserError` in one line
    for mixed precision, data without an order, and a loss that is no mean over samples.
    """

    def __init__(
        self,
        max_iterations: int = 200,
        tolerance_grad: float = 1e-6,
        *,
        checkpoint: str | Path | None = None,
        save_every: int = 50,
        **settings: Any,
    ) -> None:
        super().__init__(max_iterations, tolerance_grad, None, 0, settings)
        self._checkpoint, self._save_every = checkpoint, save_every

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Solve, where training came to its end."""
        if not (self._over or trainer.interrupted):
            self._run(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Solve, where a checkpoint was loaded after the last epoch: Lightning then has no training to end."""
        if not (self._over or trainer.interrupted):
            self._run(trainer, pl_module)

    def _run(self, trainer: Any, module: Any) -> None:
        def each(record: Mapping[str, Any]) -> None:
            if self._checkpoint is not None and record["iteration"] % self._save_every == 0:
                trainer.save_checkpoint(self._checkpoint)

        self._solve(trainer, module, each)
        if self._checkpoint is not None:
            trainer.save_checkpoint(self._checkpoint)


class SubsetThenFinetune(_FullBatchCallback):
    """Before the module's own training: L-BFGS to the minimum of a random `fraction` of the training data.

    The rows are the same for one `seed`. A run that is resumed goes on without it.
    """

    def __init__(
        self,
        fraction: float = 0.1,
        max_iterations: int = 200,
        tolerance_grad: float = 1e-4,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise SettingError("fraction", fraction, "must lie in (0, 1]", "try 0.1")
        super().__init__(max_iterations, tolerance_grad, float(fraction), seed, settings)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Solve, where training begins."""
        if not self._over and trainer.global_step == 0:
            self._solve(trainer, pl_module)


def _training_loss(module: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the loss of `training_step`, with the arguments that it takes."""
    returned = module.training_step(batch["batch"], 0)  # type: ignore[operator]  # a LightningModule's method
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    if not isinstance(loss, Tensor):
        raise UserError(f"training_step: it returns {type(loss).__name__}; return the loss, or a dictionary with it")
    return loss


@contextmanager
def _silent(module: Any) -> Iterator[None]:
    """Let `self.log` in `training_step` do nothing: these are not steps of the trainer."""
    names = ("log", "log_dict")
    for name in names:
        module.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in names:
            module.__dict__.pop(name, None)
