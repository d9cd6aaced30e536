"""Hugging Face Trainer: `FinishWithLBFGS`, a callback that ends its training with L-BFGS on all training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.adapters.finish import Finish, Whole, all_rows, evaluating
from subsetopt.errors import SettingError, UserError
from subsetopt.optim import full_batch_closure
from subsetopt.required import require

TrainerCallback = require("transformers", "transformers").TrainerCallback
IGNORED = -100  # labels without a loss


class FinishWithLBFGS(TrainerCallback):  # type: ignore[misc, valid-type]  # the base is known when transformers is installed
    """After the trainer's own steps: L-BFGS over the trainable parameters (a head, LoRA, all), on all training data.

    The loss is `model(**batch).loss` in evaluation mode. A batch counts by its labels: samples, or tokens whose label
    is not -100 (shifted by one for causal language models); `weight(batch)` says otherwise. `summary` says how it
    ended. Further settings are those of `subsetopt.optim.LBFGS`. Raises `UserError` in one line for fp16 and bf16, and
    for a loss that batches do not add up to with these weights.
    """

    def __init__(
        self,
        max_iterations: int = 100,
        tolerance_grad: float = 1e-5,
        *,
        weight: Callable[[Any], Any] | None = None,
        **settings: Any,
    ) -> None:
        self._finish, self._weight = Finish(max_iterations, tolerance_grad, settings), weight

    @property
    def summary(self) -> dict[str, Any] | None:
        """Loss, gradient_norm, stop_reason and iterations; None before."""
        return self._finish.summary

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Solve."""
        for name in ("fp16", "bf16"):
            if getattr(args, name, False):
                raise SettingError(name, True, "too coarse for a line search", f"train with {name}=False")
        rows = all_rows(
            getattr(train_dataloader, "base_dataloader", train_dataloader), args.process_index, args.world_size
        )
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        with evaluating(inner), torch.enable_grad():
            self._finish.run(inner, full_batch_closure(inner, self._loss, Whole(rows), device=args.device))

    def _loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Any]:
        inputs = batch["batch"]
        if not isinstance(inputs, Mapping):
            raise UserError(f"train_dataset: batches are {type(inputs).__name__}, not dictionaries with labels")
        outputs = model(**inputs)
        loss = outputs["loss"] if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
        if not isinstance(loss, Tensor):
            raise UserError("model: its output has no loss; give samples `labels`")
        weight = self._weight(inputs) if self._weight is not None else _label_count(model, inputs)
        return loss * weight, weight


def _label_count(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """Return by how many labels the mean loss of a batch was divided."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        return len(next(value for value in batch.values() if isinstance(value, Tensor)))
    if labels.is_floating_point():
        return len(labels)
    causal = any(part in type(model).__name__ for part in ("CausalLM", "LMHead"))
    return ((labels[..., 1:] if causal else labels) != IGNORED).sum()
